"""The per-token head: a small adaLN MLP that denoises one token given the transformer's output for it.

The network is MAR's ``SimpleMLPAdaLN`` (Li et al., "Autoregressive Image Generation without Vector Quantization",
2024); MAGI uses three blocks of width 1024 (appendix, "Diffusion Head"). This file knows the network, its loss and
how to run a sampler over it quickly. It does not know which tokens are masked, where the condition comes from, or
where noise comes from.

``sample_reference`` is the specification of sampling; ``sample`` computes the same numbers with everything that does
not depend on the state moved out of the loop.

Shapes: R rows (tokens), C channels of a token, D width of the transformer, W width of the head, M noisy copies of a
token, S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from magi.choices import check_choices
from magi.model import diffusion
from magi.model.diffusion import Denoise, Spacing
from magi.model.head_layers import HeadLayers, OutputLayer, ResidualBlock, TimeEmbedding
from magi.model.hoisted import CompiledNetwork, HoistedNetwork

Kind = Literal["diffusion", "flow"]
Solver = Literal["ddpm", "ddim", "dpm++", "euler", "heun"]

SOLVERS: dict[Kind, tuple[Solver, ...]] = {"diffusion": ("ddpm", "ddim", "dpm++"), "flow": ("euler", "heun")}
MOST_STEPS = 100_000  # of a training schedule, whoever wrote the configuration
SPACINGS: dict[Solver, Spacing] = {"ddpm": "full", "ddim": "trimmed", "dpm++": "log-snr"}  # unless asked for another


@dataclass(frozen=True)
class HeadConfig:
    """Size and kind of the head; the defaults are the paper's."""

    kind: Kind = "diffusion"
    depth: int = 3
    width: int = 1024
    train_steps: int = 1000  # steps of a diffusion's training schedule; what a flow's t = 1 is to the time embedding
    time_dim: int = 256  # sines and cosines that describe t

    def __post_init__(self) -> None:
        check_choices(self)
        if self.depth < 0 or self.width < 1 or not 1 <= self.train_steps <= MOST_STEPS:
            raise ValueError(f"{self}: expected depth >= 0, width >= 1 and train_steps from 1 to {MOST_STEPS:,}")
        if self.time_dim < 2 or self.time_dim % 2:
            raise ValueError(f"time_dim is {self.time_dim}; expected an even number, half cosines and half sines")


def training_times(config: HeadConfig, uniform: NDArray[np.float64]) -> Tensor:
    """Map uniform numbers to training times of the same shape (...,): int64 in 0 .. train_steps - 1, or for a flow
    float32 in [0, 1)."""
    if config.kind == "flow":
        return torch.from_numpy(uniform).float()
    return torch.from_numpy((uniform * config.train_steps).astype(np.int64))


class DiffusionHead(nn.Module):
    """Models p(token | z) for a continuous token by denoising it.

    Args:
        token_channels: C, channels of a token.
        cond_width: D, width of the condition z.
        config: size and kind.
    """

    def __init__(self, token_channels: int, cond_width: int, config: HeadConfig) -> None:
        super().__init__()
        self.token_channels = token_channels
        self.config = config
        width = config.width
        self.time_embed = TimeEmbedding(config.time_dim, width)
        self.cond_embed = nn.Linear(cond_width, width)
        self.input_proj = nn.Linear(token_channels, width)
        # A ModuleList is not generic; the cast tells the type checker what is in it.
        self.blocks = cast(Sequence[ResidualBlock], nn.ModuleList([ResidualBlock(width) for _ in range(config.depth)]))
        out_channels = 2 * token_channels if config.kind == "diffusion" else token_channels
        self.output = OutputLayer(width, out_channels)
        self.reset_parameters()

    @property
    def layers(self) -> HeadLayers:
        """What a token passes through in one evaluation."""
        return HeadLayers(self.input_proj, self.blocks, self.output)

    def reset_parameters(self) -> None:
        """MAR's initialisation: every block starts as the identity and the output as zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        for layer in (self.time_embed.expand, self.time_embed.project):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (*(block.modulation for block in self.blocks), self.output.modulation, self.output.linear):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """The plain network.

        Args:
            x: (R, C) noisy tokens.
            t: (R,) int64 timesteps in [0, train_steps), or for a flow float times in [0, 1].
            z: (R, D) condition.

        Returns:
            (R, 2C) predicted noise and variance value for a diffusion, (R, C) velocity for a flow. Leading shapes that
            broadcast will do in place of R.
        """
        y = F.silu(self._embed_time(t) + self.cond_embed(z))  # (R, W)
        x = self.input_proj(x.to(self.input_proj.weight.dtype))
        for block in self.blocks:
            x = block(x, y)
        return self.output(x, y)

    def _embed_time(self, t: Tensor) -> Tensor:
        """(...) -> (..., W). A flow's unit interval is stretched over the same angles as a diffusion's timesteps."""
        return self.time_embed(t * self.config.train_steps if self.config.kind == "flow" else t)

    def loss(self, z: Tensor, target: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Return each token's training losses: ``mse``, and for a diffusion ``vb`` (``diffusion.learned_range_loss``).

        To train on M noisy copies of every token (MAR's ``diffusion_batch_mul``) give ``t`` and ``noise`` a leading
        M: the condition is embedded once for all of them.

        Args:
            z: (R, D) condition.
            target: (R, C) clean tokens.
            t: (R,) or (M, R) times from ``training_times``.
            noise: (R, C) or (M, R, C) standard normal.

        Returns:
            Tensors of t's shape in float32 or wider.
        """
        if self.config.kind == "flow":
            x = diffusion.flow_interpolate(target, noise, t)
            error = self(x, t, z).to(x.dtype) - diffusion.flow_velocity(target, noise)
            return {"mse": error.square().mean(dim=-1)}
        schedule = diffusion.cosine_schedule(self.config.train_steps)
        output = self(diffusion.diffuse(schedule, target, t, noise), t, z)
        mse, vb = diffusion.learned_range_loss(schedule, output, x=target, t=t, noise=noise)
        return {"mse": mse, "vb": vb}

    @torch.no_grad()
    def sample(
        self,
        z: Tensor,
        noise: Tensor,
        *,
        num_steps: int = 100,
        solver: Solver = "ddpm",
        spacing: Spacing | None = None,
        temperature: float = 1.0,
        compiled: bool = False,
    ) -> Tensor:
        """Draw one token per row.

        Args:
            z: (R, D) condition.
            noise: (num_steps + 1, R, C) standard normal, float32 or wider; the state of the sampler has its precision
                whatever that of the weights. All solvers but ``ddpm`` read row 0 alone, and accept (1, R, C).
            num_steps: denoising steps S.
            solver: ``ddpm``, ``ddim`` or ``dpm++`` for a diffusion head, ``euler`` or ``heun`` for a flow head.
            spacing: which trained timesteps are visited (``diffusion.respace``); by default what suits the solver,
                ``full`` for ``ddpm``, as in MAR. ``trimmed`` is the robust choice for a briefly trained head.
            temperature: factor on the noise added at each step (``ddpm``), or on the initial noise if none is added.
            compiled: evaluate the network in compiled code, which a C compiler makes on the spot; on a CPU.

        Returns:
            (R, C) tokens in the precision of the noise.

        Raises:
            ValueError: if the solver or the spacing does not fit the head, the noise has the wrong number of rows, or
                there is no compiled code for the head's type or device.
        """

        cond = self.cond_embed(z.to(self.cond_embed.weight.dtype))

        def hoisted(times: Tensor) -> Denoise:
            network = CompiledNetwork if compiled else HoistedNetwork
            return network(cond, self._embed_time(times), self.layers)

        return self._solve(hoisted, noise, num_steps=num_steps, solver=solver, spacing=spacing, temperature=temperature)

    @torch.no_grad()
    def sample_reference(
        self,
        z: Tensor,
        noise: Tensor,
        *,
        num_steps: int = 100,
        solver: Solver = "ddpm",
        spacing: Spacing | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """The specification of ``sample``, the plain network at every step: the same arguments, the same (R, C)."""

        def network(times: Tensor) -> Denoise:
            return lambda i, x: self(x, times[i].expand(len(x)), z)

        return self._solve(network, noise, num_steps=num_steps, solver=solver, spacing=spacing, temperature=temperature)

    def _solve(
        self,
        network: Callable[[Tensor], Denoise],
        noise: Tensor,
        *,
        num_steps: int,
        solver: Solver,
        spacing: Spacing | None,
        temperature: float,
    ) -> Tensor:
        """Run a solver over the denoiser that ``network`` makes of the times (grid,) at which the solver calls it."""
        kind = self.config.kind
        if solver not in SOLVERS[kind]:
            choices = ", ".join(SOLVERS[kind])
            raise ValueError(f"solver {solver!r} does not fit a head of kind {kind!r}; expected {choices}")
        if len(noise) != num_steps + 1 and (solver == "ddpm" or len(noise) != 1):
            raise ValueError(f"noise has {len(noise)} rows; {num_steps} steps of {solver!r} expect {num_steps + 1}")
        if kind == "flow":
            if spacing is not None:
                raise ValueError(f"spacing is {spacing!r}; a flow head takes uniform steps, leave it None")
            dtype = torch.promote_types(self.input_proj.weight.dtype, torch.float32)
            times = diffusion.flow_times(num_steps, noise.device, dtype)
            denoise = network(times if solver == "heun" else times[:-1])  # Euler never looks at where it arrives
            integrate = diffusion.sample_flow_euler if solver == "euler" else diffusion.sample_flow_heun
            return integrate(denoise, noise[0], num_steps=num_steps, temperature=temperature)
        trained = diffusion.cosine_schedule(self.config.train_steps)
        schedule = diffusion.respace(trained, num_steps, spacing or SPACINGS[solver])
        denoise = network(diffusion.call_order(schedule, noise.device))
        if solver == "ddpm":
            compiled = isinstance(denoise, CompiledNetwork) and noise.dtype == denoise.dtype  # which is the state's
            loop = CompiledNetwork.ddpm_loop if compiled else None
            return diffusion.sample_ddpm(denoise, noise, schedule=schedule, temperature=temperature, loop=loop)
        solve = diffusion.sample_ddim if solver == "ddim" else diffusion.sample_dpm_solver_pp
        return solve(denoise, noise[0], schedule=schedule, temperature=temperature)

    def load_mar_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the state dict of a head published with MAR, whose layers are ours under other names.

        Args:
            state: the head's own tensors, or a whole MAR checkpoint, of which the keys under ``diffloss.net.`` are
            read.

        Raises:
            ValueError: if a tensor is missing, unexpected or of another shape.
        """
        prefix = "diffloss.net."
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        names = mar_key_map(self.config.depth)
        if state.keys() != names.keys():
            missing, unexpected = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
            raise ValueError(f"no MAR head of depth {self.config.depth}: missing {missing}, unexpected {unexpected}")
        own = self.state_dict()
        for key, name in names.items():
            found, expected = tuple(state[key].shape), tuple(own[name].shape)
            if found != expected:
                raise ValueError(f"MAR's {key} has shape {found}; this head expects {expected}")
        self.load_state_dict({name: state[key] for key, name in names.items()})


def mar_key_map(depth: int) -> dict[str, str]:
    """Return MAR's name of each tensor -> ours, for a head of ``depth`` blocks. Shapes and meaning are the same."""
    layers = {
        "time_embed.mlp.0": "time_embed.expand",
        "time_embed.mlp.2": "time_embed.project",
        "cond_embed": "cond_embed",
        "input_proj": "input_proj",
        "final_layer.linear": "output.linear",
        "final_layer.adaLN_modulation.1": "output.modulation",
    }
    for i in range(depth):
        layers |= {
            f"res_blocks.{i}.in_ln": f"blocks.{i}.norm",
            f"res_blocks.{i}.mlp.0": f"blocks.{i}.expand",
            f"res_blocks.{i}.mlp.2": f"blocks.{i}.project",
            f"res_blocks.{i}.adaLN_modulation.1": f"blocks.{i}.modulation",
        }
    return {f"{theirs}.{part}": f"{ours}.{part}" for theirs, ours in layers.items() for part in ("weight", "bias")}

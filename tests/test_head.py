"""Claims about the per-token head: it is MAR's network, it trains, and its fast sampler equals the plain one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from magi.model.diffusion import Spacing
from magi.model.head import SOLVERS, DiffusionHead, HeadConfig, Kind, Solver, mar_key_map, training_times

C, D, W = 4, 10, 24  # token channels, condition width, head width
EVERY_SOLVER = [(kind, solver) for kind, solvers in SOLVERS.items() for solver in solvers]


def make_head(kind: Kind = "diffusion", *, depth: int = 3, dtype: torch.dtype = torch.float64) -> DiffusionHead:
    """A head whose every tensor matters: the zeros and ones of the initialisation are replaced by noise."""
    head = DiffusionHead(C, D, HeadConfig(kind, depth=depth, width=W))
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    return head.to(dtype)


def inputs(rows: int, *, steps: int = 20, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A condition (R, D) and noise (S + 1, R, C)."""
    rng = torch.Generator().manual_seed(rows)
    z, noise = torch.randn(rows, D, generator=rng), torch.randn(steps + 1, rows, C, generator=rng)
    return z.to(dtype), noise.to(dtype)


# ---------------------------------------------------------------- the network is MAR's

MAR_SHAPES: dict[str, tuple[int, ...]] = {
    "time_embed.mlp.0": (W, 256),
    "time_embed.mlp.2": (W, W),
    "cond_embed": (W, D),
    "input_proj": (W, C),
    **{f"res_blocks.{i}.in_ln": (W,) for i in range(3)},
    **{f"res_blocks.{i}.mlp.{j}": (W, W) for i in range(3) for j in (0, 2)},
    **{f"res_blocks.{i}.adaLN_modulation.1": (3 * W, W) for i in range(3)},
    "final_layer.linear": (2 * C, W),
    "final_layer.adaLN_modulation.1": (2 * W, W),
}


def mar_weights() -> dict[str, Tensor]:
    """Random tensors with the names and shapes of a head published with MAR, three blocks deep."""
    rng = torch.Generator().manual_seed(1)
    weights = {}
    for name, shape in MAR_SHAPES.items():
        weights[f"{name}.weight"] = torch.randn(shape, generator=rng, dtype=torch.float64) / math.sqrt(shape[-1])
        weights[f"{name}.bias"] = torch.randn(shape[:1], generator=rng, dtype=torch.float64)
    return weights


def mar_network(weights: dict[str, Tensor], x: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """MAR's head written from its description: one line a layer, over its own key names."""

    def linear(name: str, inputs: Tensor) -> Tensor:
        return inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normalise(inputs: Tensor) -> Tensor:
        centred = inputs - inputs.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    angles = t[:, None].double() * 10_000.0 ** (-torch.arange(128, dtype=torch.float64) / 128)
    time = linear("time_embed.mlp.2", F.silu(linear("time_embed.mlp.0", torch.cat([angles.cos(), angles.sin()], -1))))
    y = F.silu(time + linear("cond_embed", z))
    x = linear("input_proj", x)
    for i in range(3):
        shift, scale, gate = linear(f"res_blocks.{i}.adaLN_modulation.1", y).split(W, dim=-1)
        norm = weights[f"res_blocks.{i}.in_ln.weight"] * normalise(x) + weights[f"res_blocks.{i}.in_ln.bias"]
        hidden = F.silu(linear(f"res_blocks.{i}.mlp.0", norm * (1 + scale) + shift))
        x = x + gate * linear(f"res_blocks.{i}.mlp.2", hidden)
    shift, scale = linear("final_layer.adaLN_modulation.1", y).split(W, dim=-1)
    return linear("final_layer.linear", normalise(x) * (1 + scale) + shift)


@pytest.mark.parametrize("whole_checkpoint", [False, True])
def test_mar_weights_give_mars_outputs(whole_checkpoint: bool) -> None:
    """A head published with MAR, alone or inside a whole checkpoint, computes the same function here under our
    names."""
    weights = mar_weights()
    state = weights
    if whole_checkpoint:
        state = {f"diffloss.net.{name}": tensor for name, tensor in weights.items()} | {"mask_token": torch.zeros(1)}
    head = DiffusionHead(C, D, HeadConfig(width=W)).double()
    head.load_mar_state_dict(state)
    z, noise = inputs(50)
    t = torch.arange(0, 1000, 20)
    torch.testing.assert_close(head(noise[0], t, z), mar_network(weights, noise[0], t, z), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("depth", [0, 1, 6])
def test_key_map_names_every_tensor_once(depth: int) -> None:
    """MAR's names and ours correspond one to one, at every depth."""
    names = mar_key_map(depth)
    head = DiffusionHead(C, D, HeadConfig(depth=depth, width=W))
    assert sorted(names.values()) == sorted(head.state_dict())
    assert depth != 3 or names.keys() == mar_weights().keys()


def test_foreign_weights_are_refused() -> None:
    """A missing, an unexpected or a misshapen tensor is named; nothing is loaded by halves."""
    head = DiffusionHead(C, D, HeadConfig(width=W)).double()
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    weights = mar_weights()
    without = {name: tensor for name, tensor in weights.items() if name != "cond_embed.bias"}
    with pytest.raises(ValueError, match=r"missing \['cond_embed.bias'\], unexpected \[\]"):
        head.load_mar_state_dict(without)
    with pytest.raises(ValueError, match=r"missing \[\], unexpected \['more'\]"):
        head.load_mar_state_dict(weights | {"more": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"input_proj.weight has shape \(24, 5\); this head expects \(24, 4\)"):
        head.load_mar_state_dict(weights | {"input_proj.weight": torch.zeros(W, 5)})
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_parameter_count_of_the_paper() -> None:
    """The default head on a transformer of width 1280 and tokens of 16 channels has 20.5 million parameters, as
    counted here layer by layer from the appendix's "3 blocks with a dimension of 1024"."""
    width = 1024
    embeddings = (256 + 1) * width + (width + 1) * width + (1280 + 1) * width + (16 + 1) * width
    block = 2 * width + 2 * (width + 1) * width + (width + 1) * 3 * width
    output = (width + 1) * 2 * width + (width + 1) * 32
    with torch.device("meta"):
        head = DiffusionHead(16, 1280, HeadConfig())
    assert sum(parameter.numel() for parameter in head.parameters()) == embeddings + 3 * block + output == 20_524_064


# ---------------------------------------------------------------- initialisation and training


def test_initial_head_predicts_zero() -> None:
    """The last layer starts at zero, so the first prediction is zero noise and a variance in the middle of its
    range."""
    head = DiffusionHead(C, D, HeadConfig(width=W))
    z, noise = inputs(7, dtype=torch.float32)
    assert (head(noise[0], torch.arange(7), z) == 0).all()
    losses = head.loss(z, torch.zeros(7, C), torch.full((7,), 500), noise[0])
    torch.testing.assert_close(losses["mse"], noise[0].square().mean(-1))


def test_initialisation_is_mars() -> None:
    """Modulations and output zero, time MLP normal with std 0.02, other weights Xavier uniform, biases 0, norms the
    identity."""
    torch.manual_seed(0)
    head = DiffusionHead(C, 200, HeadConfig(width=100))
    for name, parameter in head.named_parameters():
        if name.endswith("norm.weight"):
            assert (parameter == 1).all(), name
        elif name.endswith("bias") or "modulation" in name or name == "output.linear.weight":
            assert (parameter == 0).all(), name
        elif name.startswith("time_embed"):
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.05), name
        else:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert bound * 0.9 < float(parameter.detach().abs().max()) <= bound, name


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_gradients_reach_every_parameter(kind: Kind) -> None:
    """The zeros of the initialisation open one after the other: the first step moves the output, the second the
    modulations, and by the third every parameter has a gradient."""
    torch.manual_seed(0)
    head = DiffusionHead(C, D, HeadConfig(kind, width=W))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    z, noise = inputs(64, dtype=torch.float32)
    t = training_times(head.config, np.random.default_rng(0).random((64,)))
    for _ in range(3):
        optimizer.zero_grad()
        torch.stack([part.mean() for part in head.loss(z, noise[1], t, noise[0]).values()]).sum().backward()
        optimizer.step()
    silent = [name for name, parameter in head.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_copies_share_one_condition(kind: Kind) -> None:
    """M noisy copies of the tokens give the losses of M separate calls, but the condition is embedded once."""
    head = make_head(kind)
    z, noise = inputs(6)
    t = training_times(head.config, np.random.default_rng(0).random((3, 6)))
    embedded: list[torch.Size] = []
    head.cond_embed.register_forward_hook(lambda module, args, output: embedded.append(output.shape))
    together = head.loss(z, noise[9], t, noise[:3])
    assert embedded == [(6, W)]
    for name, losses in together.items():
        separate = torch.stack([head.loss(z, noise[9], t[i], noise[i])[name] for i in range(3)])
        torch.testing.assert_close(losses, separate, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_time_embedding_ignores_autocast(kind: Kind) -> None:
    """The MLP of the time is float32 in training as it is in sampling: under autocast it gives the same bits, while
    the layers around it are in bfloat16."""
    head = make_head(kind, dtype=torch.float32)
    t = training_times(head.config, np.random.default_rng(0).random((50,)))
    seen: list[Tensor] = []
    head.time_embed.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    z, noise = inputs(50, dtype=torch.float32)
    head(noise[0], t, z)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(noise[0], t, z).dtype == torch.bfloat16
    expected, found = seen
    assert found.dtype == torch.float32 and torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_losses_under_autocast_are_float32(kind: Kind) -> None:
    """Only the matrix products run in bfloat16; the losses come out in float32 and a few thousandths from the exact
    ones."""
    head = make_head(kind, dtype=torch.float32)
    z, noise = inputs(200, dtype=torch.float32)
    t = training_times(head.config, np.random.default_rng(0).random((200,)))
    exact = head.loss(z, noise[1], t, noise[0])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = head.loss(z, noise[1], t, noise[0])
    for name in exact:
        assert rounded[name].dtype == torch.float32
        torch.testing.assert_close(rounded[name].mean(), exact[name].mean(), rtol=0.01, atol=0)


def test_bfloat16_weights_still_tell_times_apart() -> None:
    """bfloat16 has 8 bits, so 997 to 1000 are one number in it; the angles are computed wider and the embeddings
    differ."""
    head = make_head(dtype=torch.bfloat16)
    embedded = head.time_embed(torch.tensor([997, 998, 999])).float()
    assert (embedded[0] - embedded[1]).abs().max() > 0.01
    assert (embedded[1] - embedded[2]).abs().max() > 0.01


def test_flow_times_use_the_whole_embedding() -> None:
    """A flow's t = 0.4 looks to the network like timestep 400 of 1000; on [0, 1] itself most sinusoids would not
    move. So a flow head with a diffusion head's weights, but for the outputs it lacks, computes the diffusion head's
    first half."""
    head, flow = make_head(), make_head("flow")
    output = {f"output.linear.{name}": head.get_parameter(f"output.linear.{name}")[:C] for name in ("weight", "bias")}
    flow.load_state_dict(head.state_dict() | output)
    z, noise = inputs(5)
    t = torch.tensor([0, 100, 400, 999, 1000])
    torch.testing.assert_close(flow(noise[0], t.double() / 1000, z), head(noise[0], t, z)[:, :C])


def test_times_are_drawn_over_the_whole_range() -> None:
    """Whole steps 0 .. train_steps - 1 for a diffusion, [0, 1) for a flow, as a function of the generator alone."""
    diffusion_head = DiffusionHead(C, D, HeadConfig(width=W, train_steps=50))
    t = training_times(diffusion_head.config, np.random.default_rng(0).random((4, 500)))
    assert t.dtype == torch.int64 and t.shape == (4, 500)
    assert t.unique().tolist() == list(range(50))
    assert torch.equal(t, training_times(diffusion_head.config, np.random.default_rng(0).random((4, 500))))
    flow = training_times(HeadConfig("flow"), np.random.default_rng(0).random((4000,)))
    assert flow.dtype == torch.float32 and 0 <= float(flow.min()) < 0.01 and 0.99 < float(flow.max()) < 1
    assert float(flow.mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("kind", "solver", "spacing"), [("diffusion", "ddpm", "trimmed"), ("flow", "heun", None)])
def test_training_teaches_a_conditional_distribution(kind: Kind, solver: Solver, spacing: Spacing | None) -> None:
    """Tokens N(2z, 0.5^2) with z = +-1 are learned in a second: samples have each condition's quartiles. The
    tolerance is for the short training (quartiles, because a head this young still throws a few tokens far out), and
    is half of what a head that ignored z, or the noise, or the spread would be wrong by."""
    torch.manual_seed(0)
    head = DiffusionHead(2, 1, HeadConfig(kind, depth=1, width=32))
    steps = 300
    optimizer = torch.optim.AdamW(head.parameters(), lr=8e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        z = torch.randint(0, 2, (256, 1)) * 2.0 - 1
        losses = head.loss(
            z, 2 * z + 0.5 * torch.randn(256, 2), training_times(head.config, rng.random((256,))), torch.randn(256, 2)
        )
        optimizer.zero_grad()
        torch.stack([part.mean() for part in losses.values()]).sum().backward()
        optimizer.step()
        schedule.step()
    quartiles = 0.6745 * 0.5 * torch.tensor([-1.0, 0.0, 1.0])
    for sign in (-1.0, 1.0):
        z, noise = torch.full((1000, 1), sign), torch.randn(26, 1000, 2)
        tokens = head.sample(z, noise, num_steps=25, solver=solver, spacing=spacing)
        found = tokens.flatten().quantile(torch.tensor([0.25, 0.5, 0.75]))
        torch.testing.assert_close(found, 2 * sign + quartiles, rtol=0, atol=0.17)


# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize("rows", [1, 40, 700])
@pytest.mark.parametrize(("kind", "solver"), EVERY_SOLVER)
def test_fast_sampling_equals_the_reference(kind: Kind, solver: Solver, rows: int) -> None:
    """Moving work out of the loop reorders additions at most: in float64 the tokens agree to 1e-12 of their size. 1,
    40 and 700 rows modulate all 20 steps at once, 16 at a time, and one at a time."""
    head = make_head(kind)
    z, noise = inputs(rows)
    fast = head.sample(z, noise, num_steps=20, solver=solver, temperature=0.9)
    slow = head.sample_reference(z, noise, num_steps=20, solver=solver, temperature=0.9)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12 * float(slow.abs().max()))


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_fast_sampling_at_any_depth(depth: int) -> None:
    """The loop over blocks has no special case."""
    head = make_head(depth=depth)
    z, noise = inputs(3)
    slow = head.sample_reference(z, noise, num_steps=20)
    torch.testing.assert_close(head.sample(z, noise, num_steps=20), slow, rtol=0, atol=1e-12 * float(slow.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "solver"), EVERY_SOLVER)
def test_sampling_in_lower_precision(kind: Kind, solver: Solver, dtype: torch.dtype) -> None:
    """With narrow weights the state stays in the noise's float32, and tokens are those of the same weights in float64
    up to the rounding of the network's outputs, 2^-8 for bfloat16."""
    head = make_head(kind, dtype=dtype)
    z, noise = inputs(5, dtype=torch.float32)
    tokens = head.sample(z.to(dtype), noise, num_steps=20, solver=solver)
    assert tokens.dtype == torch.float32
    exact = head.double().sample(z.to(dtype).double(), noise.double(), num_steps=20, solver=solver)
    tolerance = 1e-4 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(tokens.double(), exact, rtol=0, atol=tolerance * float(exact.abs().max()))


class OperationCounter(TorchDispatchMode):
    """Counts tensor operations that do work; views do none."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rows", [1, 4, 16, 64, 256])
def test_operations_per_denoising_step(rows: int) -> None:
    """Three blocks and 100 ancestral steps take at most 30 operations a step, all included; the plain network takes
    nearly twice as many. At a few rows a step costs what its operations cost to launch, so this is the head's speed
    without a clock."""
    head = make_head(dtype=torch.float32)
    z, noise = inputs(rows, steps=100, dtype=torch.float32)
    head.sample(z, noise)  # tables are computed once per process
    with OperationCounter() as fast:
        head.sample(z, noise)
    assert fast.operations / 100 <= 30
    with OperationCounter() as slow:
        head.sample_reference(z, noise)
    assert slow.operations > 1.9 * fast.operations


def test_rows_do_not_see_each_other() -> None:
    """A token is a function of its own condition and noise, whoever else is in the batch."""
    head = make_head()
    z, noise = inputs(50)
    together = head.sample(z, noise, num_steps=20)
    alone = head.sample(z[7:9], noise[:, 7:9], num_steps=20)
    torch.testing.assert_close(together[7:9], alone, rtol=0, atol=1e-12 * float(together.abs().max()))


@pytest.mark.parametrize(("kind", "solver"), EVERY_SOLVER)
def test_noise_decides_the_sample(kind: Kind, solver: Solver) -> None:
    """No hidden randomness: the same noise gives the same bits, and other noise gives other tokens."""
    head = make_head(kind)
    z, noise = inputs(4)
    first, other = (head.sample(z, rows, num_steps=20, solver=solver) for rows in (noise, noise.flip(0)))
    assert torch.equal(first, head.sample(z, noise, num_steps=20, solver=solver))
    assert not torch.isclose(first, other).any()


@pytest.mark.parametrize(("kind", "solver"), [case for case in EVERY_SOLVER if case[1] != "ddpm"])
def test_deterministic_solvers_need_one_row_of_noise(kind: Kind, solver: Solver) -> None:
    """They add none on the way, so the rows after the first change nothing and may be left out."""
    head = make_head(kind)
    z, noise = inputs(4)
    full = head.sample(z, noise, num_steps=20, solver=solver)
    assert torch.equal(full, head.sample(z, noise[:1], num_steps=20, solver=solver))


def test_spacing_is_the_solvers_own_unless_given() -> None:
    """ddpm visits MAR's timesteps by default; naming them changes nothing, naming others does."""
    head = make_head()
    z, noise = inputs(4)
    default = head.sample(z, noise, num_steps=20)
    assert torch.equal(default, head.sample(z, noise, num_steps=20, spacing="full"))
    assert not torch.isclose(default, head.sample(z, noise, num_steps=20, spacing="trimmed")).any()


def test_sampling_mistakes_are_named() -> None:
    """Each message holds what was asked for and what would do."""
    z, noise = inputs(4)
    with pytest.raises(ValueError, match="solver 'euler' does not fit a head of kind 'diffusion'; expected ddpm, ddim"):
        make_head().sample(z, noise, num_steps=20, solver="euler")
    with pytest.raises(ValueError, match="solver 'ddpm' does not fit a head of kind 'flow'; expected euler, heun"):
        make_head("flow").sample(z, noise, num_steps=20)
    with pytest.raises(ValueError, match="noise has 21 rows; 30 steps of 'ddpm' expect 31"):
        make_head().sample(z, noise, num_steps=30)
    with pytest.raises(ValueError, match="noise has 1 rows; 20 steps of 'ddpm' expect 21"):
        make_head().sample(z, noise[:1], num_steps=20)
    with pytest.raises(ValueError, match="spacing is 'full'; a flow head"):
        make_head("flow").sample(z, noise, num_steps=20, solver="euler", spacing="full")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "edm"}, "kind must be one of 'diffusion', 'flow'; got 'edm'"),
        ({"time_dim": 7}, "time_dim is 7"),
        ({"width": 0}, "width=0.*expected depth >= 0, width >= 1"),
    ],
)
def test_impossible_heads_are_refused(options: dict[str, Any], message: str) -> None:
    """A configuration is checked where it is made, not where it first fails."""
    with pytest.raises(ValueError, match=message):
        HeadConfig(**options)

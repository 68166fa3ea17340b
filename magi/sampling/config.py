"""How to sample: steps, solver, temperature, and what a long rollout remembers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from magi.choices import check_choices
from magi.model.diffusion import Spacing
from magi.model.embeddings import TimeMode
from magi.model.head import SOLVERS, HeadConfig, Solver
from magi.sampling.noise import NoiseSource

LATER: dict[str, Any] = {"head_steps_last": None, "compiled_head": False, "cuda_graphs": None}


@dataclass(frozen=True)
class SampleConfig:
    """How frames are sampled. A model brings its settings; where it has none, the defaults are the paper's (A.4)."""

    mask_steps: int = 64
    """Steps in which the tokens of a frame are revealed; at most one per token is made."""
    head_steps: int = 100
    """Denoising steps of the diffusion head per token."""
    head_steps_last: int | None = None
    """Denoising steps in the last mask step of a frame, if fewer are enough once most of it is there; in between they
    change evenly (DiSA). None is as many as in the first."""
    solver: Solver | None = None
    """None is the head's own: ddpm for the diffusion head (MAR), euler for the flow head."""
    spacing: Spacing | None = None
    """Which of the schedule's times a diffusion solver visits. None is what suits the solver: for ddpm MAR's own, from
    the very last step, where a small error of the head grows 300-fold; "trimmed" leaves these out and is far safer for
    small heads."""
    temperature: float = 1.0
    """Scale of the noise ddpm adds at each step (MAR); of the noise they start from for the solvers that add none."""
    time_mode: TimeMode = "interpolate"
    """Temporal positions past the trained length: squeezed into it (the paper) or counted on."""
    window: int | None = None
    """Most frames in sight, the one under construction included; None is all. When the window is full the newest half
    is kept and re-read from time 0, so memory is bounded and a rollout may be endless."""
    observation_noise: float = 0.0
    """Noise added to finished frames before they are looked at, within the trained range; its level is told to the
    model."""
    noise_source: NoiseSource = "device"
    """Whose random numbers a seed stands for: NumPy's, or others that are computed where the model is, which on a GPU
    is far quicker. Either way a seed is the same video on every device."""
    deterministic: bool = False
    """One video at a time, so that a seed gives the same bits at every batch size."""

    compiled_head: bool = False
    """On a CPU: evaluate the head in C, made on the spot by the machine's compiler. The same up to rounding, and
    several times faster where tokens are few."""
    cuda_graphs: bool | None = None
    """On CUDA: record what a mask step launches, once for every number of frames before and of tokens revealed, and
    launch it as a whole from then on. The same numbers, three to six times as fast, from the first frame on. None is
    wherever there is CUDA."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name, value in (
            ("mask_steps", self.mask_steps),
            ("head_steps", self.head_steps),
            ("head_steps_last", self.head_steps_last),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if self.window is not None and self.window < 2:
            raise ValueError(f"window must hold at least 2 frames, one seen and one made; got {self.window}")

    def described(self) -> dict[str, Any]:
        """All settings as plain data; those that came after the first release only where they are used, so that what
        was written down before they existed still means the same."""
        return {name: value for name, value in asdict(self).items() if name not in LATER or value != LATER[name]}

    def head_steps_at(self, mask_step: int, *, mask_steps: int) -> int:
        """Denoising steps of one mask step, 0-based, of so many that are made."""
        if self.head_steps_last is None or mask_steps == 1:
            return self.head_steps
        return round(self.head_steps + (self.head_steps_last - self.head_steps) * mask_step / (mask_steps - 1))

    def solver_for(self, head: HeadConfig) -> Solver:
        """The solver that samples from a head: the one that was asked for, or the head's own.

        Raises:
            ValueError: the solver does not fit the kind of the head.
        """
        solvers = SOLVERS[head.kind]
        if self.solver is not None and self.solver not in solvers:
            expected = ", ".join(solvers)
            raise ValueError(f"solver {self.solver!r} does not fit a head of kind {head.kind!r}; expected {expected}")
        return self.solver or solvers[0]

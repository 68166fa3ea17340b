"""Training runs of a toy with the real loop and the real loader, and ways to disturb them. Nothing here is a claim."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from magi.data.clips import Clips
from magi.data.loader import batches
from magi.distributed import Distributed
from magi.model.config import MagiConfig
from magi.model.draws import TrainingDraws, draw_training
from magi.model.magi import Magi
from magi.seeds import generator
from magi.training import loop
from magi.training.loop import Evaluate, TrainConfig
from magi.training.optim import OptimConfig
from magi.training.state import TrainingState
from tests.toys import tiny

MODEL = tiny(latent_channels=3, latent_height=4, latent_width=4, num_frames=3, depth=1, noise_embedding="add")
RUN = TrainConfig(
    total_samples=40, batch_size=4, precision="fp32", optim=OptimConfig(lr=1e-2, warmup_samples=16),
    ema_half_life=30, ema_ramp=0.05, checkpoint_every=12, log_every=4, evaluate_every=16,
)  # fmt: skip
"""Ten steps; checkpoints of the steps 3, 6, 9 and 10, of which two are kept."""
NEVER = 1 << 30


class Noise:
    """Clips of 4 x 4 pixels, each a function of its position."""

    def clips(self, samples: Sequence[int]) -> Clips:
        frames = [generator(0, "toy", i).integers(0, 256, (3, 3, 4, 4), dtype="uint8") for i in samples]
        video = torch.stack([torch.from_numpy(clip) for clip in frames])
        interval = torch.tensor([1 + i % MODEL.max_interval for i in samples])
        return Clips(video=video, interval=interval, sample=torch.tensor(samples))


def run(
    folder: Path,
    *,
    config: TrainConfig = RUN,
    model: MagiConfig = MODEL,
    dtype: torch.dtype = torch.float32,
    here: Distributed | None = None,
    at: int = NEVER,
    event: Callable[[], None] | None = None,
    poison: float = math.nan,
    watch: Callable[[nn.Module, int], Any] | None = None,
    evaluate: Evaluate | None = None,
) -> TrainingState:
    """Start or resume a run in a folder.

    Args:
        at: a sample. When its batch is due, `event` happens; without an event, the sample is multiplied by `poison`.
        watch: is called with the model and the step's number before every step.
    """
    torch.manual_seed(0)
    network, here = Magi(model).to(dtype), here or Distributed()

    def stream(start: int) -> Generator[Clips, None, None]:
        first = start
        clips = batches(
            Noise(), batch_size=config.batch_size, start=start, rank=here.rank, world_size=here.world_size,
            parts=config.parts,
        )  # fmt: skip
        parts = (config.parts or here.world_size) // here.world_size
        for number, batch in enumerate(clips):
            if number % parts == 0:
                if event is not None and first <= at < first + config.batch_size:
                    event()
                first += config.batch_size
            yield batch

    def prepare(clips: Clips, step: int) -> tuple[Tensor, Tensor, TrainingDraws]:
        if watch is not None:
            watch(network, step)
        latents = clips.video.to(dtype) / 127.5 - 1
        if event is None:
            latents[clips.sample == at] *= poison
        return latents, clips.interval, draw_training(model, config.seed, step=step, samples=clips.sample.tolist())

    return loop.train(
        network,
        stream,
        prepare=prepare,
        config=config,
        resolved={"model": asdict(model), "train": asdict(config)},
        run_dir=folder,
        distributed=here,
        evaluate=evaluate,
    )


def score(samples: int, model: nn.Module) -> Iterator[tuple[str, float]]:
    """An evaluation: a number that depends on every averaged weight and on the position."""
    yield "score", float(sum(p.double().sum() for p in model.parameters())) + samples


class Crash(Exception):
    """An error of the test's own."""


def crash() -> None:
    """End the run without warning."""
    raise Crash


def terminate() -> None:
    """What a scheduler does: the handler may only take note, and a second signal must act at once."""
    os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def everything(state: TrainingState) -> dict[str, Tensor]:
    """All numbers of a run: weights, their average, the optimizer's moments, the counters."""
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in state.ema.model.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        tensors |= {f"{key}.{name}": value for key, value in state.optimizer.state[parameter].items()}
    return {**tensors, "samples": torch.tensor(state.samples), "step": torch.tensor(state.step)}


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Every tensor equal, bit for bit."""
    assert found.keys() == expected.keys()
    different = [name for name, value in expected.items() if not torch.equal(found[name], value)]
    assert not different, f"{len(different)} of {len(expected)} tensors differ, {different[0]} first"


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The run's log without what measures time."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "samples_per_second"} for line in lines]


def checkpoints(folder: Path) -> list[str]:
    """Names of the checkpoints in a run's folder, oldest first."""
    return sorted(path.name for path in folder.glob("step-*"))


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's tensors as they are now."""
    return {name: value.clone() for name, value in model.state_dict().items()}

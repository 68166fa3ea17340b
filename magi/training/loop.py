"""The training loop: one straight function, for the video model and the autoencoder alike.

Position is the only clock. Data order, masks, noise, learning rate, averaging and every periodic action are functions
of the samples seen and the seed, so running the same command again resumes the run bit for bit. The loop knows neither
data nor metrics: it is handed a source of clips, a function that turns clips into the module's inputs, and a function
that evaluates.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.choices import check_choices
from magi.distributed import Distributed
from magi.graphs import Inputs
from magi.locks import only_writer
from magi.seeds import generator
from magi.training.determinism import MEANING, level_of, make_deterministic
from magi.training.ema import Ema
from magi.training.gradients import Losses, check_parts, fast_gradient, tree_gradient
from magi.training.graphs import Compute, GraphedStep, Outputs
from magi.training.log import MetricsLog, Rate, announce, show_progress
from magi.training.optim import OptimConfig, build_optimizer, learning_rate
from magi.training.saving import Saver
from magi.training.sharding import Sharding, blank_copy, mesh_of, shard, shard_alike, unsharded, whole
from magi.training.state import TrainingState

Evaluate = Callable[[int, nn.Module], Iterable[tuple[str, float]]]
PERIODS = ("checkpoint_every", "log_every", "evaluate_every")


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number  # of the signal; 0 in a process that heard only from the others


class NonFiniteError(ValueError):
    """The loss or a gradient is not finite; the weights were not touched."""


@dataclass(frozen=True)
class TrainConfig:
    """How long and how to train. Every period is in samples."""

    total_samples: int = 2_000_000
    batch_size: int = 128
    """Samples per optimizer step over all processes."""
    parts: int | None = None
    """Parts of a batch, computed one after the other, which saves memory; None is one for each process. With a number
    dropout, too, does not depend on how many processes there are."""
    reduction: Literal["fast", "tree"] = "fast"
    """How the parts' gradients are summed: as they come, or in a fixed tree, the same bits on any number of processes,
    for log2(processes) messages of the gradient's size. A tree needs powers of two."""
    sharding: Sharding = "none"
    """Among several processes: each has all weights (none), all share one copy of weights, average and moments (full),
    or those of each machine do (hybrid). The same to rounding, in a fraction of the memory and with more to send."""
    seed: int = 0
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16 autocast with float32 weights and losses ("crucial for convergence", A.3), or plain float32."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema_half_life: float = 887_000
    """Half-life of the weight average; .9999 per step at batch 128 (A.3)."""
    ema_ramp: float = 0.0
    """Early on the half-life is this share of the samples seen (EDM2: .05), so that short runs forget their beginning;
    0 is no ramp, as MAR."""
    checkpoint_every: int = 100_000
    keep_checkpoints: int = 2
    log_every: int = 2_000
    evaluate_every: int = 100_000
    workers: int = 0
    """Processes that decode ahead; 0 loads in the training process."""
    tensorboard: bool = False
    deterministic: bool = False
    """On a GPU: take kernels that sum in one order, which may be slower, so that the same command gives the same bits.
    A CPU's always do."""
    cuda_graphs: bool = False
    """Record what a step launches and launch it as a whole: the same numbers, and several times as many steps of a
    small model on a GPU. One process only."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("total_samples", "batch_size", "parts", *PERIODS, "keep_checkpoints"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.total_samples % self.batch_size:
            raise ValueError(f"total_samples {self.total_samples} is not a multiple of batch_size {self.batch_size}")
        if not self.ema_half_life > 0:
            raise ValueError(f"ema_half_life must be above 0 samples, got {self.ema_half_life}")
        if not self.ema_ramp >= 0:
            raise ValueError(f"ema_ramp must not be negative, got {self.ema_ramp}; 0 is no ramp")
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}; 0 loads in the training process")


def due(samples: int, batch: int, every: int) -> bool:
    """Whether a multiple of `every` was passed by the step that ended at `samples`."""
    return samples // every > (samples - batch) // every


@contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Turn the first SIGINT or SIGTERM into a number the loop reads at its step boundary, 0 without one.

    A second signal acts at once.
    """
    asked: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        for each in previous:
            signal.signal(each, signal.SIG_DFL)

    for number in previous:
        signal.signal(number, note)
    try:
        yield lambda: asked[0] if asked else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train(
    model: nn.Module,
    batches: Callable[[int], Generator[Any, None, None]],
    *,
    prepare: Callable[[Any, int], Inputs],
    config: TrainConfig,
    resolved: Mapping[str, Any],
    run_dir: Path,
    distributed: Distributed,
    evaluate: Evaluate | None = None,
) -> TrainingState:
    """Train `model` to `config.total_samples`, resuming from the newest valid checkpoint in `run_dir` if there is one.

    Args:
        model: a module whose call returns a dictionary of scalars, "loss" among them.
        batches: from a position in samples to this process's parts of batches from there on.
        prepare: from a part of a batch and the optimizer step to the module's inputs on its device.
        config: lengths, periods, optimizer.
        resolved: the whole configuration, saved beside every checkpoint and compared on resume.
        run_dir: checkpoints and `metrics.jsonl` go here.
        distributed: this process among the others.
        evaluate: yields (name, value) for the averaged model at a position; the loop does not know what it measures.

    Raises:
        Interrupted: a signal came; the state is saved.
        NonFiniteError: before the weights could be harmed.
        CheckpointError: the folder holds another run, or nothing intact.
        ValueError: another process is training into it.
    """
    with only_writer(run_dir) if distributed.is_first else nullcontext():
        return _train(
            model, batches, prepare=prepare, config=config, resolved=resolved, run_dir=run_dir,
            distributed=distributed, evaluate=evaluate,
        )  # fmt: skip


def _train(
    model: nn.Module,
    batches: Callable[[int], Generator[Any, None, None]],
    *,
    prepare: Callable[[Any, int], Inputs],
    config: TrainConfig,
    resolved: Mapping[str, Any],
    run_dir: Path,
    distributed: Distributed,
    evaluate: Evaluate | None,
) -> TrainingState:
    """`train`, in a folder that is this run's."""
    run_dir.mkdir(parents=True, exist_ok=True)
    if config.deterministic:
        make_deterministic()
    level = level_of(
        distributed.device, deterministic=config.deterministic, tree=config.reduction == "tree" and bool(config.parts)
    )
    distributed.print_once(f"determinism {level}: {MEANING[level]}")
    model, ema = placed(model, config, distributed)
    state = TrainingState(model, ema, build_optimizer(model, config.optim))
    if resume(state, run_dir, resolved, distributed):
        distributed.print_once(f"resuming from step {state.step} at {state.samples:,} samples")

    compute = step_of(model, config, distributed)
    own_parts = distributed.share(config.parts or distributed.world_size)
    rate = Rate()
    rate.update(state.samples)

    with (
        MetricsLog(run_dir, state.log_bytes, tensorboard=config.tensorboard)
        if distributed.is_first
        else nullcontext() as log,
        stop_requests() as stop_asked,
        closing(batches(state.samples)) as stream,
        Saver(run_dir, resolved, distributed, keep=config.keep_checkpoints, level=level) as saver,
    ):
        while state.samples < config.total_samples:
            seen: list[int] = []  # samples of this process
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(config.optim, state.samples, config.total_samples)
            losses, norm = compute(
                prepared(part, next(stream), prepare, seed=config.seed, step=state.step, seen=seen)
                for part in own_parts
            )
            refuse_non_finite(losses["loss"], norm, state, seen, run_dir, distributed)
            state.optimizer.step()
            state.step += 1
            state.samples += config.batch_size
            ema.update(model, samples=state.samples, batch=config.batch_size)

            last = state.samples >= config.total_samples
            if due(state.samples, config.batch_size, config.log_every) or last:
                rate.update(state.samples)
                means = {name: float(distributed.all_reduce_mean(value.detach())) for name, value in losses.items()}
                report(log, state, means, float(norm), rate, config)
            if evaluate is not None and (due(state.samples, config.batch_size, config.evaluate_every) or last):
                judge(log, state.samples, dict(evaluate(state.samples, ema.whole())))
            stop, writing, failed = distributed.each_any(bool(stop_asked()), saver.is_writing, saver.has_failed)
            if not writing:
                announce(saver.commit(failed=failed))
            if due(state.samples, config.batch_size, config.checkpoint_every) or last or stop:
                if log is not None:
                    state.log_bytes = log.sync()
                announce(saver.begin(state))
            if last or stop:
                announce(saver.finish())
            if stop and not last:
                raise Interrupted(
                    f"stopped at {state.samples:,} of {config.total_samples:,} samples; "
                    "run the same command again to resume",
                    stop_asked(),
                )
    return state


def placed(model: nn.Module, config: TrainConfig, distributed: Distributed) -> tuple[nn.Module, Ema]:
    """The model and its average where they are trained: on this process's device, or cut among all processes.

    Raises:
        ValueError: there is nobody to share with.
    """
    paced = partial(Ema, half_life_samples=config.ema_half_life, ramp=config.ema_ramp)
    model = model.train()
    if config.sharding == "none":
        model = model.to(distributed.device)
        return model, paced(model)
    mesh, blank = mesh_of(config.sharding, distributed), blank_copy(model)
    model = shard(model, mesh)
    average = shard_alike(blank_copy(blank), model, mesh, distributed.device)
    return model, paced(model, average=average, whole=lambda: unsharded(average, blank))


def resume(state: TrainingState, run_dir: Path, resolved: Mapping[str, Any], distributed: Distributed) -> bool:
    """Take up the newest checkpoint that is whole; whether there is one. The first process looks for all of them.

    Raises:
        CheckpointError: there are checkpoints and none is whole, or it is of another run.
    """
    newest, damaged = None, -2
    try:
        if distributed.is_first:
            checkpoint.sweep(run_dir)
            newest = checkpoint.newest_valid(run_dir)
    except CheckpointError:
        distributed.from_first(damaged)
        raise
    step = distributed.from_first(-1 if newest is None else checkpoint.step_of(newest))
    if step == damaged:
        raise CheckpointError(f"{run_dir}: the first process found no checkpoint that is whole; see what it says")
    if step >= 0:
        state.load(checkpoint.step_directory(run_dir, step), resolved)
    return step >= 0


def prepared(
    part: int, batch: Any, prepare: Callable[[Any, int], Inputs], *, seed: int, step: int, seen: list[int]
) -> Inputs:
    """The module's inputs for one part of a batch; dropout is seeded for it, its samples are noted in `seen`."""
    seen.extend(int(sample) for sample in batch.sample)
    torch.manual_seed(int(generator(seed, "dropout", step, part).integers(1 << 63)))
    return prepare(batch, step)  # outside autocast: a tokenizer encodes in its own precision


def step_of(model: nn.Module, config: TrainConfig, distributed: Distributed) -> Compute:
    """From the inputs of a step, part by part, to its mean losses and the norm of its gradient, which is at the
    parameters.

    Raises:
        ValueError: graphs are asked for where there can be none; parts that the processes cannot share.
    """
    parts, tree = config.parts or distributed.world_size, config.reduction == "tree"
    if tree and config.sharding != "none":
        raise ValueError(f"reduction tree sums whole gradients, which sharding {config.sharding} has not; choose one")
    check_parts(parts, batch_size=config.batch_size, world_size=distributed.world_size, tree=tree)
    if config.cuda_graphs and (distributed.world_size > 1 or parts > 1):
        raise ValueError(
            f"cuda_graphs is for one process and whole batches; this run has {distributed.world_size} and {parts} "
            "parts: leave it off"
        )
    parameters = list(model.parameters())

    def loss_of(module: nn.Module, inputs: Inputs) -> Losses:
        with torch.autocast(distributed.device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext():
            losses: Losses = module(*inputs)
        return losses

    gradient = (
        tree_gradient(model, loss_of, distributed, parts=parts)
        if tree
        else fast_gradient(
            model, loss_of, distributed, own_parts=parts // distributed.world_size, sharded=config.sharding != "none"
        )
    )

    def compute(own: Iterable[Inputs]) -> Outputs:
        losses = gradient(own)
        return losses, whole(nn.utils.clip_grad_norm_(parameters, config.optim.clip))

    return GraphedStep(compute, parameters) if config.cuda_graphs else compute


def refuse_non_finite(
    loss: Tensor, norm: Tensor, state: TrainingState, samples: list[int], run_dir: Path, distributed: Distributed
) -> None:
    """Stop every process before the optimizer if any of them met a loss or gradient that is not finite.

    Raises:
        NonFiniteError: naming the step; the samples of each process that met it are in `nonfinite-step-N-rank-R.json`;
            of every process where losses are summed in a tree, which knows but their sum.
    """
    loss = loss.detach()
    own_loss_is_bad = not bool(torch.isfinite(loss))
    if not distributed.any(own_loss_is_bad or not bool(torch.isfinite(norm))):
        return
    some_loss_is_bad = distributed.any(
        own_loss_is_bad
    )  # asked of all: gradients are shared, a loss tells whose clips it was
    if own_loss_is_bad or not some_loss_is_bad:
        record = {
            "step": state.step,
            "samples": samples,
            "loss": str(float(loss)),
            "gradient norm": str(float(norm)),
        }
        (run_dir / f"nonfinite-step-{state.step}-rank-{distributed.rank}.json").write_text(json.dumps(record))
    raise NonFiniteError(
        f"{run_dir}: loss {float(loss):g}, gradient norm {float(norm):g} at step {state.step}; stopped before the "
        "weights were touched. nonfinite-step-*.json names the clips; look at them, or lower --train.optim.lr"
    )


def report(
    log: MetricsLog | None,
    state: TrainingState,
    means: Mapping[str, float],
    norm: float,
    rate: Rate,
    config: TrainConfig,
) -> None:
    """Write one line of metrics and show where the run is."""
    if log is None:
        return
    step = {"grad_norm": norm, "lr": state.optimizer.param_groups[0]["lr"]}
    pace = {"samples_per_second": round(rate.per_second, 2)}
    log.write({"samples": state.samples, "step": state.step, **means, **step, **pace})
    show_progress(state.samples, config.total_samples, means, rate)


def judge(log: MetricsLog | None, samples: int, scores: Mapping[str, float]) -> None:
    """Write and show what an evaluation found."""
    if log is None:
        return
    log.write({"samples": samples, **scores})
    announce("  " + "  ".join(f"{name} {value:.4g}" for name, value in scores.items()))

"""Claims about training: it learns, samples seen are its only clock, and two processes are one."""

from __future__ import annotations

import json
import math
import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn

from magi import distributed
from magi.experiments.data import DataConfig
from magi.model.config import MagiConfig
from magi.model.draws import draw_training
from magi.model.magi import Magi
from magi.sampling.config import SampleConfig
from magi.training import optim
from magi.training.ema import Ema, half_life
from magi.training.loop import Interrupted, NonFiniteError, TrainConfig, due
from magi.training.optim import OptimConfig, learning_rate
from tests.toy_runs import (
    MODEL,
    RUN,
    assert_same_bits,
    checkpoints,
    copy_of,
    everything,
    metrics,
    run,
    score,
    terminate,
)  # fmt: skip
from tests.toys import FLOW, intervals, random_latents, tiny, trained_looking

# --- learning ---


def test_the_loss_falls_on_one_batch() -> None:
    """Clips, masks, times and noise held fixed, there is one answer to learn by heart, and a model whose gradients are
    right gets most of the way in some dozens of steps."""
    config = tiny(depth=1, head=replace(FLOW, depth=1, width=32))
    torch.manual_seed(0)
    model, latents = Magi(config), random_latents(config, 1).float()
    draws, pace = draw_training(config, 0, step=0, samples=[0]), torch.tensor([2])
    optimizer, losses = optim.build_optimizer(model, OptimConfig(lr=1e-2)), []
    for _ in range(80):
        loss = model(latents, pace, draws)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0], losses[::10]


def test_ctf_learns_to_look_at_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """In clips that stand still the first frame cannot be known and every later one can be copied from the past. After
    100 steps the loss on new clips tells the two apart, which it could not without history."""
    config = tiny(
        latent_channels=1, latent_width=4, num_frames=3, depth=1, width=32, mlp_width=64, clean_probability=1.0,
        head=replace(FLOW, depth=1, width=32), head_repeats=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Magi(config)
    optimizer = optim.build_optimizer(model, OptimConfig(lr=1e-2))

    def loss(step: int, videos: int) -> Tensor:
        still = torch.randn(videos, 1, 1, 4, 4, generator=torch.Generator().manual_seed(step)).expand(-1, 3, -1, -1, -1)
        draws = draw_training(config, 0, step=step, samples=range(step * videos, (step + 1) * videos))
        return model(still, torch.ones(videos, dtype=torch.long), draws)["loss"]

    for step in range(100):
        now = loss(step, 16)
        optimizer.zero_grad()
        now.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()

    losses, of_tokens = [], model.head.loss
    monkeypatch.setattr(
        model.head, "loss", lambda *inputs: losses.append(of_tokens(*inputs)["mse"]) or of_tokens(*inputs)
    )
    with torch.no_grad():
        loss(1000, 48)
    first, *later = losses[0].reshape(4, 48, 3, -1).mean(dim=(0, 1, 3)).tolist()
    assert max(later) < 0.4 * first, (first, later)


# --- optimizer, schedule, average ---


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointed_blocks_have_the_same_gradients(dropout: float) -> None:
    """What a block computes again is what it computed, dropout included: not a bit of any gradient changes. That far
    less is kept meanwhile is counted in `test_plan.py`."""
    config = tiny(dropout=dropout)
    gradients = []
    for checkpointed in (False, True):
        model = trained_looking(config, dtype=torch.float32).train()
        model.transformer.checkpointed = checkpointed
        torch.manual_seed(0)
        draws = draw_training(config, 0, step=0, samples=range(2))
        model(random_latents(config).float(), intervals(config), draws)["loss"].backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient is None if gradients[1][name] is None else torch.equal(gradient, gradients[1][name]), name


def test_decay_groups_are_mars() -> None:
    """MAR decays matrices and tables and spares vectors (norms, biases) and the whole head. With no gradient AdamW only
    decays, so one step shows who is spared: the others shrink by the factor 1 - lr x decay."""
    model = trained_looking(tiny())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = optim.build_optimizer(model, OptimConfig(lr=0.5, weight_decay=0.02))
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == len(before)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        spared = name.startswith("head.") or parameter.ndim == 1
        torch.testing.assert_close(parameter.detach(), before[name] * (1.0 if spared else 0.99), rtol=1e-12, atol=0)
    decayed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {"embedding.position", "embedding.interval.weight", "head_position"} <= decayed
    assert not any("norm" in name or name.endswith("bias") for name in decayed)


def test_learning_rate_is_a_function_of_samples() -> None:
    """Linear from 0 to the peak over the warm-up, then constant as MAR; or falling linearly to zero over a tail; or a
    cosine to a tenth. Nothing counts steps, so a doubled batch meets the same rate at the same sample."""
    constant = OptimConfig(lr=2.0, warmup_samples=1000)
    assert learning_rate(constant, 0, 10_000) == pytest.approx(0.002)
    assert learning_rate(constant, 499, 10_000) == pytest.approx(1.0)
    assert [learning_rate(constant, s, 10_000) for s in (1000, 5000, 9999)] == [2.0] * 3
    tail = replace(constant, decay="tail", decay_samples=4000)
    assert [learning_rate(tail, s, 10_000) for s in (6000, 8000, 9000)] == pytest.approx([2.0, 1.0, 0.5])
    cosine = replace(constant, decay="cosine")
    assert [learning_rate(cosine, s, 10_000) for s in (1000, 5500, 10_000)] == pytest.approx([2.0, 1.1, 0.2])
    with pytest.raises(ValueError, match="'none' with decay_samples 5"):
        OptimConfig(decay_samples=5)


def test_periods_are_met_whatever_the_batch() -> None:
    """An action every 10 samples happens once per multiple of 10 passed, also when no step ends on one."""
    for batch in (1, 3, 4, 10, 25):
        ends = range(batch, 301, batch)
        happened = [end for end in ends if due(end, batch, 10)]
        assert happened == sorted({min(end for end in ends if end >= m) for m in range(10, ends[-1] + 1, 10)})


@pytest.mark.parametrize(
    ("kind", "name", "wrong"),
    [
        *((TrainConfig, name, 0) for name in ("batch_size", "total_samples", "keep_checkpoints", "ema_half_life")),
        *((TrainConfig, name, 0) for name in ("checkpoint_every", "log_every", "evaluate_every")),
        *((TrainConfig, name, -1) for name in ("total_samples", "workers", "ema_ramp")),
        *((OptimConfig, name, wrong) for name in ("lr", "clip") for wrong in (0.0, -1.0, math.nan)),
        *((OptimConfig, name, -1) for name in ("warmup_samples", "decay_samples", "weight_decay")),
        *((OptimConfig, "betas", wrong) for wrong in ((0.9, 1.0), (-0.1, 0.9), (0.9,))),
        *((MagiConfig, name, 0) for name in ("patch", "depth", "heads", "num_frames", "head_repeats")),
        *((MagiConfig, name, 0) for name in ("masks_per_clip", "max_interval", "noise_buckets")),
        *((MagiConfig, name, 0.0) for name in ("noise_max", "mask_ratio_std")),
        *((MagiConfig, "dropout", wrong) for wrong in (-0.1, 1.0)),
        *((TrainConfig, name, "fp16") for name in ("precision",)),
        *((OptimConfig, name, "linear") for name in ("decay",)),
        *((SampleConfig, name, "gpu") for name in ("noise_source", "time_mode", "solver", "spacing")),
        *((MagiConfig, name, "frames") for name in ("forcing", "noise_embedding", "noise_granularity", "noise_mix")),
        *((MagiConfig, name, "frames") for name in ("noise_bucketing", "mask_ratio_granularity")),
        (DataConfig, "kind", "films"),
    ],
)
def test_settings_without_a_meaning_are_refused(kind: Any, name: str, wrong: object) -> None:
    """A period of 0 divides by zero after the first step, a depth of 0 is no transformer, a dropout of 1 lets nothing
    through, and a misspelt word would be taken for whatever the code does last: refused where they are stated, by name
    and with the value."""
    with pytest.raises(ValueError, match=rf"^{name} must .*got '?{re.escape(str(wrong))}"):
        kind(**{name: wrong})


def test_an_average_without_ramp_is_slow_from_the_start() -> None:
    """With a ramp of 0 the half-life holds from the first sample on: after one of them the average is half way."""
    model = Weight(0.0)
    ema = Ema(model, half_life_samples=400, ramp=0)
    model.weight.data.fill_(1.0)
    for samples in range(8, 401, 8):
        ema.update(model, samples=samples, batch=8)
    assert float(ema.model.weight) == pytest.approx(0.5, abs=1e-12)


class Weight(nn.Module):
    """One number, and a buffer."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(()))


@pytest.mark.parametrize("batch", [1, 8, 100])
def test_average_moves_half_way_in_a_half_life(batch: int) -> None:
    """When the weights jump and then stand still, one half-life of samples later the average is half way, two later
    three quarters: 1 - 2^(-n / half-life), whatever the batch size. Buffers are copied."""
    model = Weight(0.0)
    ema = Ema(model, half_life_samples=400)
    model.weight.data.fill_(1.0)
    model.count.fill_(7.0)
    start = 1_000_000  # far past the ramp
    for samples in range(start + batch, start + 800 + 1, batch):
        ema.update(model, samples=samples, batch=batch)
        expected = 1 - 0.5 ** ((samples - start) / 400)
        assert float(ema.model.weight) == pytest.approx(expected, abs=1e-12)
    assert float(ema.model.weight) == pytest.approx(0.75, abs=1e-12) and float(ema.model.count) == 7.0
    assert not ema.model.weight.requires_grad and not ema.model.training


def test_a_young_average_forgets_its_start() -> None:
    """While the half-life is a share r of the samples seen, n, the rate is ln 2 / (r n): from n to m samples the weight
    of the past falls by (n / m)^(ln 2 / r), a power law. With r = .05 nothing is left of the first tenth of a run."""
    model = Weight(1.0)
    ema = Ema(model, half_life_samples=1e9, ramp=0.05)
    model.weight.data.fill_(0.0)
    for samples in range(10_001, 11_001):
        ema.update(model, samples=samples, batch=1)
    assert float(ema.model.weight) == pytest.approx((10_000 / 11_000) ** (math.log(2) / 0.05), rel=2e-3)
    assert 0.1 ** (math.log(2) / 0.05) < 1e-13
    assert half_life(0.9999, 128) == pytest.approx(887_184, abs=1)
    assert 0.5 ** (128 / half_life(0.9999, 128)) == pytest.approx(0.9999, abs=1e-12)


def test_the_loop_averages_every_step(tmp_path: Path) -> None:
    """The average that is saved and evaluated is the one recomputed here from the weights before each step."""
    seen: list[dict[str, Tensor]] = []
    state = run(tmp_path, watch=lambda model, _step: seen.append(copy_of(model)))
    weights = [*seen[1:], state.model.state_dict()]
    average = {name: value.double() for name, value in seen[0].items()}
    for step, now in enumerate(weights, start=1):
        memory = min(RUN.ema_half_life, RUN.ema_ramp * 4 * step)
        keep = 0.5 ** (4 / memory)
        average = {name: keep * value + (1 - keep) * now[name].double() for name, value in average.items()}
    for name, value in state.ema.model.state_dict().items():
        torch.testing.assert_close(value.double(), average[name], rtol=1e-5, atol=1e-6)
    moved = max(float((average[name] - seen[0][name]).abs().max()) for name in average)
    lag = max(float((average[name] - weights[-1][name]).abs().max()) for name in average)
    assert moved > 1e-3 and lag > 1e-3, "an average equal to an end would show nothing"


def test_evaluation_sees_the_average_and_leaves_the_model_alone(tmp_path: Path) -> None:
    """What is evaluated is the averaged model, in evaluation mode, every so many samples and at the end. An evaluation
    that fails costs the run that stop and no more: the weights in training were never touched."""
    seen = []

    def evaluate(samples: int, model: nn.Module) -> Iterator[tuple[str, float]]:
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        seen.append(samples)
        yield "score", 1.5

    def fail(samples: int, _model: nn.Module) -> Iterator[tuple[str, float]]:
        yield "score", 1 / (32 - samples)

    state = run(tmp_path / "sound", evaluate=evaluate)
    assert seen == [16, 32, 40] and state.model.training
    assert [line["samples"] for line in metrics(tmp_path / "sound") if "score" in line] == seen
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "failed", evaluate=fail)
    assert_same_bits(everything(run(tmp_path / "failed")), everything(state))


def test_inputs_are_prepared_in_full_precision(tmp_path: Path) -> None:
    """Autocast is for the model that is trained. A tokenizer that encoded under it would give latents of 8 bits, on
    which no sampled video is ever conditioned."""
    seen: dict[str, list[bool]] = {"prepare": [], "model": []}

    def watch(model: nn.Module, step: int) -> None:
        seen["prepare"].append(torch.is_autocast_enabled("cpu"))
        if step == 0:
            model.register_forward_pre_hook(lambda *_: seen["model"].append(torch.is_autocast_enabled("cpu")))

    run(tmp_path, config=replace(RUN, total_samples=8, precision="bf16"), watch=watch)
    assert seen == {"prepare": [False, False], "model": [True, True]}


# --- numbers that are not finite ---


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e30])
def test_a_non_finite_step_is_not_made(poison: float, tmp_path: Path) -> None:
    """Loss and gradient norm are looked at before the optimizer: one NaN would otherwise be in every weight and moment
    after a single step. The samples are named in a file, and without the bad clip the run continues as if it had
    never been there. Squares of 1e30 are infinite in float32 though the pixels are finite."""
    seen: dict[str, Any] = {}

    def watch(model: nn.Module, step: int) -> None:
        seen.update(model=model, step=step, before=copy_of(model))

    with pytest.raises(NonFiniteError, match="at step 5; stopped before the weights were touched") as caught:
        run(tmp_path / "poisoned", at=22, poison=poison, evaluate=score, watch=watch)
    assert seen["step"] == 5 and "\n" not in str(caught.value)
    assert all(torch.equal(value, seen["before"][name]) for name, value in seen["model"].state_dict().items())
    record = json.loads((tmp_path / "poisoned" / "nonfinite-step-5-rank-0.json").read_text())
    assert record["step"] == 5 and record["samples"] == [20, 21, 22, 23]
    healed = everything(run(tmp_path / "poisoned", evaluate=score))
    assert_same_bits(healed, everything(run(tmp_path / "sound", evaluate=score)))


def test_an_infinite_gradient_of_a_finite_loss_is_seen(tmp_path: Path) -> None:
    """A loss may be finite where its derivative is not; the norm of all gradients shows it."""

    def spoil(model: nn.Module, step: int) -> None:
        if step == 2:
            model.head.output.linear.bias.register_hook(lambda gradient: gradient * math.inf)

    with pytest.raises(NonFiniteError, match=r"gradient norm (nan|inf) at step 2"):
        run(tmp_path, watch=spoil)


# --- several processes ---

SHORT = replace(RUN, total_samples=24)


def gradients_into(seen: list[dict[str, Tensor]]) -> Callable[[nn.Module, int], None]:
    """A watcher that keeps the gradients of the step before: the loop clears them only after the next forward pass."""

    def watch(model: nn.Module, _step: int) -> None:
        seen.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    return watch


def take_part(rank: int, port: int, folder: str) -> None:
    """One of two processes: a run in float64, one with a bad clip on one side, one stopped on one side."""
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank)
    )
    with distributed.session("cpu") as here:
        gradients: list[dict[str, Tensor]] = []
        state = run(Path(folder, "two"), config=SHORT, dtype=torch.float64, here=here, watch=gradients_into(gradients))
        torch.save((gradients[1], everything(state)), Path(folder, f"rank-{rank}.pt"))
        outcomes = []
        for name, at, event in (("nan", 6, None), ("term", 8, terminate if rank == 1 else lambda: None)):
            try:
                run(Path(folder, name), config=SHORT, here=here, at=at, event=event)
            except (NonFiniteError, Interrupted) as error:
                outcomes.append(f"{type(error).__name__} {error}")
        Path(folder, f"rank-{rank}.txt").write_text("\n".join(outcomes))


def test_two_processes_are_one(tmp_path: Path) -> None:
    """Ratios are drawn per global batch and all else per sample, so two halves of a batch are the batch: the averaged
    gradients of two processes are those of one, and some steps later the weights still are. A bad clip or a signal in
    one process stops both at the same step, with one checkpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(take_part, (port, str(tmp_path)), nprocs=2)
    gradients: list[dict[str, Tensor]] = []
    one = run(tmp_path / "one", config=SHORT, dtype=torch.float64, watch=gradients_into(gradients))
    expected, names = everything(one), dict(Magi(MODEL).named_parameters()).keys()
    largest = max(float(value.abs().max()) for value in gradients[1].values())
    for rank in (0, 1):
        found_gradients, found = torch.load(tmp_path / f"rank-{rank}.pt")
        assert found_gradients.keys() == gradients[1].keys() == names
        for name, value in gradients[1].items():
            assert float((found_gradients[name] - value).abs().max()) < 1e-9 * largest, name
        for name, value in expected.items():
            # Adam divides by the gradient's size, which for the bias of the keys is nothing but rounding
            if not name.endswith("qkv.bias"):
                torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9)
        outcomes = (tmp_path / f"rank-{rank}.txt").read_text().splitlines()
        assert "NonFiniteError" in outcomes[0] and "at step 1" in outcomes[0]
        assert outcomes[1].startswith("Interrupted stopped at 12 of 24")
    assert checkpoints(tmp_path / "term") == ["step-00000003"]
    for two, alone in zip(metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True):
        assert two == pytest.approx(alone, rel=1e-9)

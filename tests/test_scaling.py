"""Claims about the planner of many GPUs: it counts what processes hold, its rings are rings, its page is current."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch.utils._python_dispatch import TorchDispatchMode

from magi import distributed
from magi.experiments.planning import GPUS
from magi.experiments.scaling import Cluster, held_bytes, plan_step
from magi.model import plan
from magi.model.config import PRESETS
from magi.model.draws import draw_training
from magi.model.magi import Magi
from magi.training.loop import TrainConfig, placed, step_of
from magi.training.optim import build_optimizer
from magi.training.sharding import Sharding, held
from tests.test_parts import free_port
from tests.toy_runs import MODEL

ROOT = Path(__file__).parents[1]
H200 = GPUS["h200"]
WIDE = replace(MODEL, width=32, mlp_width=128, depth=2, heads=2)


class Sent(TorchDispatchMode):
    """Counts what processes ask each other for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def count(rank: int, port: int, size: int, machines: int, sharding: Sharding, told: str) -> None:
    """Train a step and count this process's bytes and what it asked the others for."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(size), RANK=str(rank),
        LOCAL_RANK=str(rank % (size // machines)), LOCAL_WORLD_SIZE=str(size // machines),
    )  # fmt: skip
    with distributed.session("cpu") as here:
        torch.manual_seed(0)
        config = TrainConfig(sharding=sharding, precision="fp32", batch_size=size, total_samples=size)
        model, ema = placed(Magi(WIDE), config, here)
        optimizer = build_optimizer(model, config.optim)
        shape = (1, WIDE.num_frames, WIDE.latent_channels, WIDE.latent_height, WIDE.latent_width)
        inputs = torch.randn(shape), torch.ones(1, dtype=torch.long), draw_training(WIDE, 0, step=0, samples=[rank])
        with Sent() as sent:
            step_of(model, config, here)([inputs])
        optimizer.step()
        tensors = [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None)]
        tensors += [*ema.model.parameters(), *(s for p in model.parameters() for s in moments(optimizer, p))]
        Path(told, f"{rank}.json").write_text(json.dumps({"bytes": sum(held(t).nbytes for t in tensors), **sent.calls}))


def moments(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> list[torch.Tensor]:
    """Adam's two of a parameter."""
    return [optimizer.state[parameter][key] for key in ("exp_avg", "exp_avg_sq")]


@pytest.mark.parametrize(("sharding", "size", "machines"), [("none", 2, 1), ("full", 4, 1), ("hybrid", 4, 2)])
def test_processes_hold_what_is_planned(sharding: Sharding, size: int, machines: int, tmp_path: Path) -> None:
    """Weights, gradients, moments and average of a real step, counted in every process: the planner's number to 10 %,
    the rows that do not divide evenly, of a model this small. A sharded one gathers each block in both passes and the
    rest once, and scatters the sum of each once, as the planner's three rounds have it."""
    arguments = (free_port(), size, machines, sharding, str(tmp_path))
    torch.multiprocessing.start_processes(count, arguments, nprocs=size, start_method="fork")
    told = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    planned = held_bytes(WIDE, sharding, gpus=size, cluster=Cluster(gpus=size // machines))
    assert sum(each["bytes"] for each in told) / size == pytest.approx(planned, rel=0.1)
    if sharding != "none":
        blocks = WIDE.depth
        assert all(each["_allgather_base_"] == 2 * blocks + 1 for each in told)
        assert all(each["_reduce_scatter_base_"] == blocks + 1 for each in told)


def test_memory_of_a_gpu_is_what_was_planned() -> None:
    """Peaks that CUDA's allocator counted in whole training steps, of four sizes of model, with blocks kept or computed
    again: within 5 % of the plan."""
    speed = json.loads((ROOT / "results/gpu/suite-h100-2026-11-27.json").read_text())["speed"]
    rows = {name: row for name, row in speed.items() if name.startswith("memory to train")}
    assert len(rows) == 6
    for name, row in rows.items():
        _, _, _, preset, _, batch, *rest = name.replace(",", "").split()
        kept = plan.activation_bytes(PRESETS[preset], checkpointed=bool(rest))
        states = plan.training_bytes(sum(plan.count_parameters(PRESETS[preset]).values()))
        planned = sum(states.values()) - states["EMA"] + int(batch) * kept
        assert row["measured"] == pytest.approx(planned, rel=0.05)


def test_rings_by_hand() -> None:
    """8 GPUs of one machine send seven eighths of the gradient twice, or three times for rows; 16 in two machines send
    an eighth of it each, twice a half; and parts gather anew."""
    gradient = 4 * sum(plan.count_parameters(PRESETS["xl"]).values())
    settings = {"gpu": H200, "utilisation": 0.4, "batch": 128}
    links = Cluster(gpus=8, inside=1e9, across=1e9, reached=1.0)
    one = plan_step(PRESETS["xl"], "none", gpus=8, cluster=links, **settings)
    assert one.inside_seconds == pytest.approx(2 * 7 / 8 * gradient / 1e9) and one.across_seconds == 0
    full = plan_step(PRESETS["xl"], "full", gpus=8, cluster=links, **settings)
    assert full.inside_seconds == pytest.approx(1.5 * one.inside_seconds)
    again = plan_step(PRESETS["xl"], "full", gpus=8, cluster=links, parts=32, **settings)
    assert again.inside_seconds == pytest.approx(4 * full.inside_seconds)
    assert again.activation_bytes == pytest.approx(full.activation_bytes / 4)
    two = plan_step(PRESETS["xl"], "hybrid", gpus=16, cluster=links, **settings)
    assert two.across_seconds == pytest.approx(2 * 1 / 2 * gradient / 8 / 1e9)
    assert two.clips == 8 and two.compute_seconds == pytest.approx(one.compute_seconds / 2)
    assert two.efficiency < 1 and two.exposed_seconds > 0
    with pytest.raises(ValueError, match="a batch of 128 clips in 3 parts cannot be shared evenly by 3 GPUs"):
        plan_step(PRESETS["xl"], "none", gpus=3, **settings)


def test_the_page_is_the_planner(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The table in docs/scaling.md is what the command prints."""
    from magi.experiments import scaling

    monkeypatch.setattr("sys.argv", ["scaling"])
    scaling.main()
    assert capsys.readouterr().out.strip() in (ROOT / "docs/scaling.md").read_text()

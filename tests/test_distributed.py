"""Claims about one process or many behind one interface, the choice of a device, and threads."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as group
import torch.multiprocessing

from magi import distributed
from magi.distributed import Distributed
from magi.threads import configure_threads


def collect(rank: int, port: int, folder: str) -> None:
    """One of two processes: call every collective and write down what this one saw."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank)
    )
    with distributed.session("cpu") as here:
        value = torch.tensor([1.0, 10.0]) * (rank + 1)
        results = {
            "mean": here.all_reduce_mean(value).tolist(),
            "max": here.all_reduce_max(value).tolist(),
            "value": value.tolist(),
            "any": [here.any(rank == 1), here.any(False), here.any(True)],
            "rank": [here.rank, here.world_size, here.local_rank, here.is_first],
        }
        here.print_once("printed")
        here.barrier()
    results["left"] = not group.is_initialized()
    Path(folder, f"{rank}.txt").write_text(repr(results))


def test_two_processes_agree(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Both processes see the mean and maximum of both, a condition that only one of them met, and their own input
    unchanged; only the first prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(collect, (port, str(tmp_path)), nprocs=2)
    for rank in (0, 1):
        assert eval((tmp_path / f"{rank}.txt").read_text()) == {
            "mean": [1.5, 15.0],
            "max": [2.0, 20.0],
            "value": [rank + 1.0, 10.0 * (rank + 1)],
            "any": [True, False, True],
            "rank": [rank, 2, rank, rank == 0],
            "left": True,
        }
    assert capfd.readouterr().out.count("printed") == 1


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun the same calls return their own input, and nothing is initialised."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.session("cpu") as here:
        assert here == Distributed() and here.is_first and not group.is_initialized()
        value = torch.tensor([1.0, 2.0], requires_grad=True)
        for result in (here.all_reduce_mean(value), here.all_reduce_max(value)):
            assert torch.equal(result, value) and result is not value and not result.requires_grad
        assert here.any(True) and not here.any(False)
        here.barrier()


def test_devices_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" takes the best device present; one that is absent is refused rather than replaced."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert distributed.pick_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"device cuda was asked for, but torch \S+ finds only cpu here"):
        distributed.pick_device("cuda")
    with pytest.raises(ValueError, match="auto, cpu, cuda or mps, got 'gpu'"):
        distributed.pick_device("gpu")  # type: ignore[arg-type]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert distributed.pick_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert distributed.pick_device("auto") == torch.device("cuda")


def test_impossible_places_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes cannot share mps, nor can the third find a place on two GPUs: said before any of them waits."""
    for name, value in {"WORLD_SIZE": "3", "RANK": "2", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(ValueError, match="mps serves one process, but WORLD_SIZE is 3"):
        distributed.initialise("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="LOCAL_RANK is 2, but this machine has 2 CUDA devices"):
        distributed.initialise("cuda")


def test_threads_are_set_before_torch() -> None:
    """OpenMP reads its environment when torch is imported, so the module must not import it; torch then has the threads
    asked for."""
    program = """
import os, sys
from magi.threads import configure_threads
assert "torch" not in sys.modules
configure_threads(1)
import torch
print(torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"])
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1", "1", "passive"]


def test_threads_leave_the_environment_its_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user exported stays when nothing is asked for; an explicit number overrules it, even after torch."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = torch.get_num_threads()
    configure_threads()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["OMP_NUM_THREADS"]) == ("active", "3")
    assert torch.get_num_threads() == before
    try:
        configure_threads(2)
        assert os.environ["OMP_NUM_THREADS"] == "2" and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    configure_threads()
    assert "OMP_NUM_THREADS" not in os.environ, "two of 64 cores are this process's"
    monkeypatch.delattr(os, "sched_getaffinity")
    configure_threads()
    assert os.environ["OMP_NUM_THREADS"] == "8"
    with pytest.raises(ValueError, match="at least 1, got 0"):
        configure_threads(0)

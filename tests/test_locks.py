"""Claims about folders that have one writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from magi.locks import only_writer
from tests.toy_runs import run


def holding(folder: Path, then: str = "print('held', flush=True)") -> list[str]:
    """A program that holds a folder."""
    imports = "from pathlib import Path; from magi.locks import only_writer; import os, time"
    program = f"{imports}\nwith only_writer(Path({str(folder)!r})): {then}"
    return [sys.executable, "-c", program]


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    """A second process is told in one line who has it; the first to end lets go. The holder may take it again."""
    with only_writer(tmp_path):
        with only_writer(tmp_path):
            pass
        refused = subprocess.run(holding(tmp_path), capture_output=True, text=True, check=False)
    assert f"is being written by process {os.getpid()} on " in refused.stderr and "held" not in refused.stdout
    assert subprocess.run(holding(tmp_path), capture_output=True, text=True).stdout == "held\n"


def test_children_hold_nothing(tmp_path: Path) -> None:
    """A killed writer's children, who may live on for some seconds, keep nobody out: the same command can go on at
    once."""
    fork = "child = os.fork(); child and print(child, flush=True); time.sleep(60)"
    with subprocess.Popen(holding(tmp_path, fork), stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        child = int(writer.stdout.readline())
        try:
            writer.kill()
            writer.wait()
            with only_writer(tmp_path):
                os.kill(child, 0)  # still there
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_run_has_one_writer(tmp_path: Path) -> None:
    """A second training into the folder of a running one would mix two runs: it is refused before it reads or sweeps
    anything."""
    with subprocess.Popen(holding(tmp_path, "print(flush=True); time.sleep(60)"), stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        litter = tmp_path / ".tmp-step-00000001-of-the-other"
        litter.mkdir()
        with pytest.raises(ValueError, match=f"is being written by process {writer.pid} on .*; wait for it or stop it"):
            run(tmp_path)
        writer.kill()
    assert litter.exists()
    run(tmp_path)
    assert not litter.exists()

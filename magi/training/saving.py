"""Checkpoints that are written while training goes on.

At a step's end the numbers are copied, which is all that training waits for; a thread of each process writes its part
onto the disk. When all parts are there the first process gives the checkpoint its name and says so, at the end of some
later step: what is announced is durable.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.distributed import Distributed
from magi.training.determinism import Level
from magi.training.log import announce
from magi.training.state import TrainingState


@dataclass
class Pending:
    """A checkpoint on its way."""

    directory: Path
    temporary: Path
    parts: int
    samples: int
    thread: threading.Thread | None  # None in a process that writes nothing
    error: Exception | None = None


class Saver:
    """Saves the states of one run. All processes make the same calls."""

    def __init__(
        self, run_dir: Path, config: Mapping[str, Any], distributed: Distributed, *, keep: int, level: Level = "D0"
    ) -> None:
        """Save into a folder.

        Args:
            run_dir: of the run.
            config: the whole configuration, which is saved beside the state.
            distributed: this process among the others.
            keep: how many whole checkpoints stay.
            level: of determinism, which is kept with them.
        """
        self.run_dir, self.config, self.distributed, self.keep = run_dir, config, distributed, keep
        self.level = level
        self._pending: Pending | None = None
        self._known: set[str] = set()  # checkpoints that this run has written: they need not be read again

    @property
    def is_writing(self) -> bool:
        """Whether this process has something that is not yet on the disk."""
        return self._pending is not None and self._pending.thread is not None and self._pending.thread.is_alive()

    @property
    def has_failed(self) -> bool:
        """Whether this process could not write its part."""
        return self._pending is not None and self._pending.error is not None

    def begin(self, state: TrainingState) -> str | None:
        """Copy the state and begin to write it; at once done if that step was already saved. A checkpoint that is still
        on its way is waited for, since there is never more than one, and announced."""
        message = self.finish()
        directory = checkpoint.step_directory(self.run_dir, state.step)
        is_there = self.distributed.is_first and already_there(directory)
        attempt = self.distributed.from_first(-1 if is_there else secrets.randbelow(1 << 32))
        if attempt < 0:
            return message
        temporary = self.run_dir / f"{checkpoint.TEMPORARY}{directory.name}-{attempt:08x}"
        parts = state.parts(self.distributed.world_size)
        own = state.own_part(self.distributed.rank, self.distributed.world_size)
        position = {**state.position, "processes": self.distributed.world_size, "determinism": self.level}
        documents = {"config.json": dict(self.config), "state.json": position}
        self._pending = Pending(directory, temporary, parts, state.samples, None)
        if self.distributed.rank < parts:
            write = partial(self._write, self._pending, own, documents if self.distributed.is_first else {})
            self._pending.thread = threading.Thread(target=write, name="checkpoint")
            self._pending.thread.start()
        return message

    def _write(
        self, pending: Pending, tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any]
    ) -> None:
        try:
            if not self.run_dir.is_dir():  # not made again: under its name may be another disk by now
                raise CheckpointError(f"the folder {self.run_dir} has vanished")
            checkpoint.write_part(pending.temporary, tensors, documents, part=self.distributed.rank)
        except Exception as error:
            pending.error = error  # for the training to raise

    def commit(self, *, failed: bool = False) -> str | None:
        """Give the checkpoint that all processes have written its name, and delete those that are too many.

        Args:
            failed: whether any process could not write its part; all of them know, and raise.

        Returns:
            What to announce, in the first process; None if there is nothing to commit.

        Raises:
            CheckpointError: it could not be written; those before are untouched.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        if failed or pending.error is not None:
            raise self._not_written(pending) from pending.error
        if not self.distributed.is_first:
            return None
        try:
            checkpoint.commit(pending.temporary, pending.directory, parts=pending.parts)
        except OSError as error:
            pending.error = error
            raise self._not_written(pending) from error
        self._known.add(pending.directory.name)
        checkpoint.prune(self.run_dir, self.keep, known=self._known)
        return f"saved {pending.directory} at {pending.samples:,} samples"

    def finish(self) -> str | None:
        """Wait for the checkpoint that is on its way, if there is one, and commit it."""
        if self._pending is None:
            return None
        if self._pending.thread is not None:
            self._pending.thread.join()
        message = self.commit(failed=self.distributed.any(self.has_failed))
        self.distributed.barrier()
        return message

    def _not_written(self, pending: Pending) -> CheckpointError:
        """What to raise when a checkpoint could not be written; what there is of it goes."""
        if self.distributed.is_first:
            shutil.rmtree(pending.temporary, ignore_errors=True)  # it may be what fills the disk
        before = [path.name for path in checkpoint.steps(self.run_dir)[:1]]
        return CheckpointError(
            f"{pending.directory} could not be written: {pending.error or 'another process says why'}. The checkpoint "
            f"before it is {before[0] if before else 'none'}, untouched; put that right and run the same command again"
        )

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """What was begun is finished, also when the training broke off, if that needs no other process."""
        if self._pending is not None and self._pending.thread is not None:
            self._pending.thread.join()
            if self._pending.parts == 1 and self._pending.error is None:
                announce(self.commit())


def already_there(directory: Path) -> bool:
    """Whether a checkpoint of this name is there and whole; a damaged one, which this run was resumed past, is kept for
    inspection under a name that is no checkpoint's."""
    if not directory.exists():
        return False
    try:
        checkpoint.verify(directory)
    except CheckpointError:
        directory.rename(directory.with_name(f"damaged-{directory.name}-{uuid.uuid4().hex[:8]}"))
        return False
    return True

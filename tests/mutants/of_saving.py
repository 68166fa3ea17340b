"""Planted bugs in how a run is saved, cut among processes, and put together again."""

from __future__ import annotations

from typing import Any

from pytest import MonkeyPatch
from torch import Tensor

from magi import checkpoint
from magi.training import saving, sharding, state
from magi.training.ema import Ema
from tests.mutants.mutant import Mutant

SAVING, SHARDING = "tests/test_saving.py::", "tests/test_sharding.py::"


def saves_what_is_being_trained(patch: MonkeyPatch) -> None:
    """No copy is made: the thread writes tensors that the next step changes."""
    to = Tensor.to

    def alias(self: Tensor, *arguments: Any, **options: Any) -> Tensor:
        options.pop("copy", None)
        return to(self, *arguments, **options)

    patch.setattr(Tensor, "to", alias)


def forgets_the_one_before(patch: MonkeyPatch) -> None:
    """A save that is due while another is on its way takes its place."""
    begin = saving.Saver.begin

    def hasty(self: saving.Saver, run: state.TrainingState) -> str | None:
        self._pending = None
        return begin(self, run)

    patch.setattr(saving.Saver, "begin", hasty)


def swallows_errors(patch: MonkeyPatch) -> None:
    """What goes wrong in the thread is forgotten."""
    patch.setattr(saving.Pending, "error", property(lambda _self: None, lambda _self, _error: None), raising=False)
    patch.setattr(checkpoint, "commit", lambda *_, **__: None)


def takes_rows_from_the_end(patch: MonkeyPatch) -> None:
    """On resume each process reads as many rows as are its own, and others."""

    def mirrored(tensor: Tensor) -> slice:
        rows = sharding.rows_of(tensor)
        return rows if rows.start is None else slice(tensor.shape[0] - rows.stop, tensor.shape[0] - rows.start)

    patch.setattr(state, "rows_of", mirrored)


def averages_nothing(patch: MonkeyPatch) -> None:
    """The average of a run that is cut stays at its first weights."""
    update = Ema.update

    def some(self: Ema, *arguments: Any, **options: Any) -> None:
        if self._whole is None:
            update(self, *arguments, **options)

    patch.setattr(Ema, "update", some)


CUT, RESUMED = (SHARDING + f"test_sharded_training_is_training[{way}]" for way in ("2 full", "1 none then 4 hybrid"))

SAVING_MUTANTS = [
    Mutant(
        "a save holds what is being trained",
        saves_what_is_being_trained,
        (SAVING + "test_a_checkpoint_is_of_the_moment_it_was_begun",),
    ),
    Mutant("a save is lost to the next", forgets_the_one_before, (SAVING + "test_never_two_at_a_time",)),
    Mutant("errors of the thread are lost", swallows_errors, (SAVING + "test_what_is_not_written_is_not_announced",)),
    Mutant("rows of another process are read", takes_rows_from_the_end, (RESUMED,)),
    Mutant("the average is cut and forgotten", averages_nothing, (CUT,)),
]

"""Claims about the tests themselves: they see bugs. Three of the catalogue here, all of them in `make mutants`."""

from __future__ import annotations

import pytest

from tests.mutants.catalogue import MUTANTS
from tests.mutants.run import outcomes, survived

SAMPLE = [
    "a masked frame sees its own observation",
    "commit skipped: keys from the masked pass",
    "the average never moves",
]


@pytest.mark.parametrize("name", SAMPLE)
def test_a_planted_bug_turns_tests_red(name: str) -> None:
    """The bug is planted in the running code, so each of the tests named with it must fail, and pass again without
    it."""
    (mutant,) = [mutant for mutant in MUTANTS if mutant.name == name]
    assert survived(mutant) == []
    assert outcomes(mutant.tests[:1]).passed == {mutant.tests[0]}


def test_the_catalogue_is_sound() -> None:
    """Every bug has a name of its own and at least one test that must find it."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30
    assert all(mutant.tests for mutant in MUTANTS)

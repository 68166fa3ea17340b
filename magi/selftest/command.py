"""`magi selftest`: provoke faults in real runs on this machine, and tell in a table what came of them."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from magi import __version__
from magi.checkpoint import write_whole
from magi.cli.arguments import Common, CommonOptions, parse
from magi.report.console import table
from magi.selftest import toy
from magi.selftest.crashes import crash_saves
from magi.selftest.damage import damage_checkpoints
from magi.selftest.elastic import change_processes
from magi.selftest.endless import roll_endlessly
from magi.selftest.files import damage_files
from magi.selftest.kills import kill_trainings
from magi.selftest.outcome import Outcome, told
from magi.selftest.planted import plant_bugs
from magi.selftest.restarts import restart_trainings
from magi.selftest.seeds import repeat_seeds
from magi.selftest.videos import damage_videos

Name = Literal["kills", "crashes", "damage", "files", "videos", "elastic", "restarts", "seeds", "endless", "planted"]
Level = Literal["quick", "full"]
TESTS: dict[Name, tuple[Callable[..., Outcome], dict[Level, int]]] = {
    "kills": (kill_trainings, {"quick": 40, "full": 1000}),
    "crashes": (crash_saves, {"quick": 200, "full": 200}),
    "damage": (damage_checkpoints, {"quick": 100, "full": 1000}),
    "files": (damage_files, {"quick": 2000, "full": 20_000}),
    "videos": (damage_videos, {"quick": 300, "full": 10_000}),
    "elastic": (change_processes, {"quick": 20, "full": 200}),
    "restarts": (restart_trainings, {"quick": 1, "full": 10}),
    "seeds": (repeat_seeds, {"quick": 8, "full": 30}),
    "endless": (roll_endlessly, {"quick": 60, "full": 2000}),
    "planted": (plant_bugs, {"quick": 20, "full": 20}),
}
"""By name the test and how many trials each level makes; where a test makes all there are, at least how many."""


@dataclass(frozen=True)
class SelftestArguments:
    """Does this installation keep its promises, on this machine?

    $ magi selftest
    $ magi selftest --level full --json selftest.json

    Real trainings, of a second each, are killed, their checkpoints damaged, their processes made more and fewer; a save
    is cut off at every moment; damaged and malicious files are read; videos are made again in other ways, and without
    end. What must be the same is compared bit for bit. At last bugs are planted, which these tests must see.

    quick takes about two minutes, full about an hour. The exit code is 1 if a promise was broken; the table says how to
    provoke it again.
    """

    level: Level = "quick"
    """How many trials."""
    only: tuple[Name, ...] = ()
    """Some of the tests; all unless named."""
    seed: int = 0
    """Of what is random about the faults."""
    json: Path | None = None
    """Write the table to this file too."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(SelftestArguments, words, usage="selftest")
    outcomes: list[tuple[str, Outcome]] = []
    toy.prepare()
    for name in arguments.only or tuple(TESTS):
        test, trials = TESTS[name]
        with tempfile.TemporaryDirectory(prefix="magi-selftest-") as folder:
            outcome = test(Path(folder), trials=trials[arguments.level], seed=arguments.seed, say=_teller(name))
        outcomes.append((name, outcome))
        for failure in outcome.failures[:5]:
            print(f"{name}: {failure}", flush=True)
    print(table(told(outcomes), words=(0, 2, 3)))
    if arguments.json is not None:
        write_whole(arguments.json, json.dumps(record(arguments.level, outcomes), indent=1) + "\n")
    return 0 if all(outcome.kept for _, outcome in outcomes) else 1


def record(level: Level, outcomes: Sequence[tuple[str, Outcome]]) -> dict[str, object]:
    """The table as plain data, with machine and date."""
    import torch

    from magi.bench.measure import machine  # loads torch

    rows = [
        {"name": name, **asdict(outcome), "kept": outcome.kept, "bound": outcome.bound} for name, outcome in outcomes
    ]
    return {"magi": __version__, "machine": machine(torch.device("cpu")), "level": level, "rows": rows}


def _teller(name: str) -> Callable[[str], None]:
    start = time.perf_counter()
    return lambda message: print(f"{name}, {time.perf_counter() - start:.0f} s: {message}", flush=True)

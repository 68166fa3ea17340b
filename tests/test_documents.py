"""What the documents say of the code and of the results is so: figures, files, names and commands."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from magi.cli import VERBS
from magi.evaluation.world import HORIZONS
from magi.model import plan
from magi.model.config import PRESETS
from magi.report.studies import read_study
from magi.reproduce.document import document

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in [
    *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("magi/pretrained/*/*.md")
]}  # fmt: skip
QUOTED = re.compile(r"`([^`]+)`")
ROWS = {  # of the README's table of results, and where their numbers are
    "position error, px: MAGI": "position error, model",
    "… last given frame held": "position error, copy last",
    "… constant velocity": "position error, constant velocity",
    "PSNR, dB: MAGI": "PSNR, model",
    "… last given frame through the tokenizer": "PSNR, copy last",
    "… the tokenizer alone": "PSNR, tokenizer",
    "right bodies and no others, share of frames": "count correct, model",
}


@pytest.mark.parametrize("interval", [1, 2])
def test_the_readme_tells_the_results(interval: int) -> None:
    """Its tables are those of `results/`, to the digits they are given with: at every horizon, for every line."""
    results = json.loads((ROOT / f"results/world64-interval{interval}.json").read_text(encoding="utf-8"))
    assert results["test"]["frozen"] and results["clips"] == 256 and results["model"] == "world64"
    _, _, after = DOCUMENTS["README.md"].partition(f"(`results/world64-interval{interval}.json`")
    table = [line.strip("| ").split(" | ") for line in after.split("\n\n")[1].splitlines()]
    assert [int(cell) for cell in table[0][1:]] == list(HORIZONS)
    told = {name: cells for name, *cells in table[2:]}
    assert told.keys() == ROWS.keys()
    for name, cells in told.items():
        for horizon, cell in zip(HORIZONS, cells, strict=True):
            digits = len(cell.partition(".")[2])
            assert f"{results['scores'][ROWS[name]][horizon - 1]:.{digits}f}" == cell, (name, horizon)


def test_the_reproduction_is_told_from_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/reproduction.md is what the studies' files make of it; the README gives no other verdict."""
    monkeypatch.chdir(ROOT)
    assert DOCUMENTS["docs/reproduction.md"] == document(Path("results/reproduce/gpu"))
    verdicts = {study.title: study.verdict for study in map(read_study, RESULTS.glob("reproduce/gpu/[0-9]*.json"))}
    _, _, section = DOCUMENTS["README.md"].partition("## The paper in miniature")
    told = [line.strip("| ").split(" | ") for line in section.partition("\n## ")[0].splitlines() if line[:1] == "|"]
    assert len(told) == 8
    for title, verdict, _ in told[2:]:
        assert verdicts[title] == verdict, title


def test_files_that_are_named_exist() -> None:
    """Every path of the repository that stands in code quotes or links leads somewhere."""
    pattern = re.compile(r"[`(]((?:magi|tests|docs|results|checkpoints)/[\w./-]*\w)[`)]")
    named = {(document, path) for document, text in DOCUMENTS.items() for path in pattern.findall(text)}
    assert len(named) > 40
    assert not {(document, path) for document, path in named if not (ROOT / path).exists()}


def test_names_in_the_readmes_table_exist() -> None:
    """What its table from the paper to the code names, beside files, is there: a module, or a name of one."""
    _, _, section = DOCUMENTS["README.md"].partition("## The paper, statement by statement")
    named = {
        name for line in section.splitlines() if line.startswith("| ") for name in QUOTED.findall(line.split("|")[2])
    }
    modules = [
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for room in ("model", "sampling")
        for path in (ROOT / "magi" / room).glob("[a-z]*.py")
    ]
    names = {
        name.partition(".")[0].partition("[")[0] for name in named if "/" not in name and not name.startswith("magi ")
    }
    assert len(names) > 10
    known = {name for module in modules for name in (*vars(module), module.__name__.rpartition(".")[2])}
    assert not names - known


def test_commands_that_are_named_exist() -> None:
    """`magi VERB` in a document is a verb of the command line."""
    verbs = {verb for text in DOCUMENTS.values() for verb in re.findall(r"`magi ([a-z]+)", text)}
    assert len(verbs) >= 7 and verbs <= set(VERBS)


def test_the_size_of_the_papers_model_is_told() -> None:
    """808.7 M by our count, in every document that gives a size of `xl`."""
    millions = sum(plan.count_parameters(PRESETS["xl"]).values()) / 1e6
    assert f"{millions:.1f} M" in DOCUMENTS["README.md"] and f"{millions:.1f} M" in DOCUMENTS["docs/method.md"]

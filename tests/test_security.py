"""Claims about what the code never does, read from the code itself; docs: SECURITY.md."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from magi.selftest.command import TESTS

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "magi").rglob("*.py"))

FORBIDDEN = {
    "torch.load", "torch.jit.load", "torch.hub.load", "pandas.read_pickle", "eval", "exec", "compile",
    "builtins.eval", "builtins.exec", "os.system", "os.popen", "subprocess.getoutput", "yaml.load", "yaml.load_all",
    "yaml.unsafe_load", "yaml.full_load", "shutil.unpack_archive", "tarfile.open", "tempfile.mktemp",
}  # fmt: skip
READERS = {"pickle", "_pickle", "marshal", "shelve", "dbm", "dill", "cloudpickle", "joblib"}
"""Modules of which nothing may be used: what they read can run."""
MAY = {
    "tokenizers/published/untrusted.py",  # what is converted on purpose, in a process of its own
    "tokenizers/published/placed.py",  # TorchScript that the user trusts
    "evaluation/detectors/files.py",  # a published network, by its pinned hash alone
    "selftest/traps.py",  # makes what must not be read
    "selftest/planted.py",  # bugs to be found
}
METHODS = {"extractall", "read_pickle"}


def names_of(tree: ast.AST) -> dict[str, str]:
    """What imported names stand for: np for numpy, loads for pickle.loads."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def harmful(source: str) -> Iterator[str]:
    """Lines that unpickle, evaluate, unpack, or ask a shell, whatever these are called there."""
    tree = ast.parse(source)
    names = names_of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for module in modules:
                if module.partition(".")[0] in READERS:
                    yield f"line {node.lineno}: import {module}"
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            name = names.get(first, first) + dot + rest
            asked = {word.arg: getattr(word.value, "value", True) for word in node.keywords}
            if name in FORBIDDEN or name.rpartition(".")[2] in METHODS:
                yield f"line {node.lineno}: {name}"
            if asked.get("shell") or asked.get("allow_pickle") or asked.get("weights_only") is False:
                yield f"line {node.lineno}: {name} as code"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_can_run(path: Path) -> None:
    """No file but those that are there for it; YAML is read as plain data, and archives are not unpacked."""
    if str(path.relative_to(ROOT / "magi")) not in MAY:
        assert not list(harmful(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "from cloudpickle import load as read", "import joblib as j",
        "import torch\ntorch.load(path)", "from torch import load\nload(path)", "import torch as t\nt.load(path)",
        "import torch\ntorch.jit.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)", "eval(words)", "import builtins\nbuiltins.exec(words)",
        "import subprocess\nsubprocess.run(words, shell=True)", "import os\nos.system(words)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)", "from yaml import load\nload(text)",
        "import tarfile\ntarfile.open(path)", "archive.extractall(place)", "from os import popen as p\np(words)",
    ],
)  # fmt: skip
def test_what_could_run_is_seen(source: str) -> None:
    """Under its own name and under another."""
    assert list(harmful(source))
    assert not list(harmful("import yaml, numpy as np\nyaml.safe_load(text)\nnp.load(path, allow_pickle=False)"))


def test_the_exceptions_are_there() -> None:
    """A name on the list that no file has any more would hide the next one."""
    assert {str(path.relative_to(ROOT / "magi")) for path in FILES} >= MAY


@pytest.mark.parametrize("package", ["torch", "safetensors", "av", "pillow"])
def test_least_versions_are_those_of_the_page(package: str) -> None:
    """What SECURITY.md calls the least is what the installation asks for, and what is installed is no older."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (asked,) = [line for line in project["dependencies"] if line.startswith(f"{package}>")]
    least = asked.partition(">=")[2].partition(",")[0]
    assert f"| {package} {least}" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert numbers(version(package)) >= numbers(least)


def numbers(text: str) -> tuple[int, ...]:
    """2.13.0+cpu as (2, 13, 0)."""
    return tuple(int(part) for part in text.partition("+")[0].split(".") if part.isdigit())


def test_security_rules_of_the_linter_are_on() -> None:
    """All of them for the package; the one exception, assertions, is the house rule for what only a bug can cause."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in lint["select"] and [rule for rule in lint["ignore"] if rule.startswith("S")] == ["S101"]
    assert set(lint["per-file-ignores"]) == {"tests/*"}


def test_exceptions_to_these_rules_say_why() -> None:
    """On the line itself, each a single rule."""
    lines = [line for path in FILES for line in path.read_text(encoding="utf-8").splitlines() if "noqa: S" in line]
    bandit = [line for line in lines if re.search(r"noqa: S\d", line)]
    assert bandit and all(re.search(r"# noqa: S\d+, \w+ \w+", line) for line in bandit), bandit


def test_the_page_names_what_is_there() -> None:
    """Files, tests and promises that SECURITY.md points to exist."""
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:magi|tests)/[\w/]+\.py)`", page)
    assert len(named) > 12 and not [name for name in named if not (ROOT / name).is_file()]
    asked = [name for words in re.findall(r"`magi selftest --only ([\w ]+)`", page) for name in words.split()]
    assert asked and set(asked) <= TESTS.keys()

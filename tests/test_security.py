"""Claims about what the code never does, read from the code itself; docs: SECURITY.md."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "magi").rglob("*.py"))

FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "torch.jit.load", "joblib.load", "marshal.loads",
    "eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "shutil.unpack_archive",
    "tempfile.mktemp",
}  # fmt: skip
MAY = {
    "tokenizers/published/untrusted.py",  # what is converted on purpose, in a process of its own
    "tokenizers/published/placed.py",  # TorchScript that the user trusts
    "evaluation/detectors/files.py",  # a published network, by its pinned hash alone
    "selftest/traps.py",  # makes what must not be read
    "selftest/planted.py",  # bugs to be found
}
METHODS = {"extractall", "read_pickle"}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_can_run(path: Path) -> None:
    """No file but those that are there for it unpickles, evaluates, unpacks or asks a shell; YAML is read as plain
    data, and whatever reads tensors of torch says so."""
    allowed = str(path.relative_to(ROOT / "magi")) in MAY
    for name, call in calls(path):
        asked = {word.arg: getattr(word.value, "value", True) for word in call.keywords}
        harmful = name in FORBIDDEN or name.rpartition(".")[2] in METHODS
        harmful = harmful or bool(asked.get("shell") or asked.get("allow_pickle"))
        assert allowed or not harmful, f"line {call.lineno}: {name}"


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

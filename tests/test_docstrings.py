"""Every public name says what it is, and every public function of tensors says their shapes. Read from the source, not
by import."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "magi"
FILES = sorted(PACKAGE.rglob("*.py"))
SHAPE = re.compile(r"\((?:\.\.\.|[\w' .*+/-]+,[^)]*)\)|scalar|element by element|state dict")


def public(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Public classes and functions of a module, and public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                        yield f"{node.name}.{member.name}", member


def is_override(name: str) -> bool:
    """`forward` is documented by its class where it adds nothing to say."""
    return name.endswith(".forward")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_public_name_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if tree.body:
        assert ast.get_docstring(tree), f"{path}: the module does not say what it knows"
    silent = [name for name, node in public(tree) if not ast.get_docstring(node) and not is_override(name)]
    assert not silent, f"{path}: no docstring: {', '.join(silent)}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "model").glob("*.py")), ids=lambda p: p.name)
def test_functions_of_tensors_say_their_shapes(path: Path) -> None:
    """In the model a shape is half of what a function means. A class may say it for its forward."""
    vague = []
    for name, node in public(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and "Tensor" in ast.unparse(node.args) and not is_override(name):
            doc = ast.get_docstring(node) or ""
            if not SHAPE.search(doc):
                vague.append(name)
    assert not vague, f"{path.name}: no shape in the docstring of {', '.join(vague)}"


def test_shape_pattern_can_fail() -> None:
    """The search would not accept just any parenthesis."""
    assert not SHAPE.search("Does something (or other things) with tensors")
    assert SHAPE.search("tokens (B, T, N, C)")

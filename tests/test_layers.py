"""The architecture as claims: who may import whom, read from the source without importing it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS: list[set[str]] = [  # from the bottom up; imports only point down
    {"video", "distributed", "seeds", "threads", "checkpoint", "pretrained", "choices", "locks", "graphs"},
    {"model", "tokenizers", "data"},
    {"sampling"},
    {"training", "evaluation"},
    {"report"},
    {"experiments", "bench"},
    {"reproduce"},
    {"cli"},
    {"selftest"},  # runs the commands
]
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
CORE = {"torch", "numpy", "einops", "safetensors"}
FACADE = {"__init__", "__main__"}  # `import magi` and `python -m magi`: they name rooms, and live in none
SHELL = {"cli", "selftest"}  # where the libraries of the command line may be imported at the top

FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted((ROOT / "magi").rglob("*.py"))}
TREES = {name.removesuffix(".__init__"): ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def room(module: str) -> str:
    """`magi.data.world` is in the room `data`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The modules an import statement names: `from magi import checkpoint` names a module, not a value."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    else:
        assert node.level == 0 and node.module is not None, "imports are written in full"
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in TREES else node.module


def imports(module: str, *, at_top: bool = False) -> set[str]:
    """Everything a module imports, or what it needs to be imported itself."""
    nodes = TREES[module].body if at_top else ast.walk(TREES[module])
    return {name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for name in targets(node)}


def test_every_room_has_a_layer() -> None:
    """A new folder must be given its place before anything may import it."""
    assert {room(module) for module in TREES} - FACADE <= HEIGHT.keys()


@pytest.mark.parametrize("module", sorted(TREES))
def test_imports_point_down(module: str) -> None:
    """No import, not even inside a function, reaches its own layer's other rooms or a higher layer."""
    here = room(module)
    if here in FACADE:
        return
    for name in imports(module):
        if name.split(".")[0] == "magi" and room(name) not in {here, "__init__"}:
            assert HEIGHT[room(name)] < HEIGHT[here], f"{module} imports {name}"


def test_the_report_only_draws() -> None:
    """What it shows was handed to it: it knows no training, no sampler, no tokenizer and no data."""
    known = {name for module in TREES if room(module) == "report" for name in imports(module)}
    assert {name for name in known if name.startswith("magi.sampling")} == {"magi.sampling.config"}
    assert not {room(name) for name in known if name.startswith("magi.")} & {"training", "tokenizers", "data"}


def test_there_are_no_cycles() -> None:
    """Modules can be put in an order in which each is imported after all that it imports."""
    graph = {module: {name for name in imports(module) if name in TREES} - {module} for module in TREES}
    for module, names in graph.items():
        if room(module) not in FACADE:
            names.discard("magi")  # holds the version; what it names of the rooms it imports only when asked
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", sorted(module for module in TREES if room(module) not in SHELL))
def test_the_core_needs_four_libraries(module: str) -> None:
    """A bare GPU image has these: codecs, plots and metrics are imported in the functions that use them."""
    outside = {name.split(".")[0] for name in imports(module, at_top=True)} - {"magi"} - sys.stdlib_module_names
    assert outside <= CORE, f"{module} needs {outside - CORE} to be imported"


def test_importing_and_asking_for_the_version_do_not_wait_for_torch() -> None:
    """In a fresh interpreter, neither `import magi` nor `magi --help` loads a library of numbers."""
    code = (
        "import sys, magi, magi.cli; assert magi.cli.main(['--help']) == magi.cli.main(['--version']) == 0;"
        "heavy = {'torch', 'numpy', 'tyro'} & sys.modules.keys(); sys.exit(str(heavy) if heavy else 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert found.returncode == 0, found.stderr
    assert "usage: magi VERB" in found.stdout

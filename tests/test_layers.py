"""Imports go one way, torch stays where it belongs, and no file grows beyond what one can read in a sitting."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import slimfer

SOURCE = Path(slimfer.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
GROUND = {
    "errors", "files", "images", "labels", "preprocess", "metrics", "timing", "protobuf", "shapes", "artifact", "runs",
    "version", "toml", "shipped", "calibration", "download", "home", "mistakes", "answers",
}  # fmt: skip

# Each room may import itself and the rooms named; the order of the rows is the order of the floors.
ROOMS: dict[str, set[str]] = {
    "ground": set(),
    "data": {"ground"},
    "model": {"ground", "data"},
    "train": {"ground", "data", "model"},
    "runtime": {"ground"},
    "web": {"ground", "runtime"},
    "compress": {"ground", "data", "model", "train", "runtime"},
    "report": {"ground"},
    "export": {"ground", "data", "model", "train", "compress", "runtime"},
    "recipes": {"ground", "train", "compress"},
    "cli": {"ground", "data", "model", "train", "compress", "runtime", "report", "export", "recipes", "web"},
    "top": {"ground", "runtime", "cli"},
}
TORCH_FREE = {"ground", "data", "runtime", "web", "report"}
MAX_LINES = 420


def name_of(path: Path) -> str:
    return ".".join(("slimfer", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


def room_of(module: str) -> str:
    parts = module.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return "top"
    return "ground" if parts[1] in GROUND else parts[1]


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_floors_are_in_order() -> None:
    seen: set[str] = set()
    for room, below in ROOMS.items():
        assert below <= seen, f"{room} imports {below - seen}, which stands above it"
        seen.add(room)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    room = room_of(name_of(path))
    assert room in ROOMS, f"{name_of(path)} is in no room"
    for imported in imports(ast.parse(path.read_text())):
        if imported.partition(".")[0] == "slimfer":
            target = room_of(imported)
            assert target == room or target in ROOMS[room], f"{name_of(path)} ({room}) imports {imported} ({target})"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_torch_stays_in_its_rooms(path: Path) -> None:
    if room_of(name_of(path)) in TORCH_FREE:
        found = {name.partition(".")[0] for name in imports(ast.parse(path.read_text()))}
        assert not found & {"torch", "safetensors", "onnx"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_stand_at_the_top(path: Path) -> None:
    if room_of(name_of(path)) == "cli":
        return  # verbs import their room when they run, so that --help stays quick
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = [n.lineno for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not inside, f"import inside {function.name}, lines {inside}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_torch_free_rooms_import_without_the_training_side() -> None:
    rooms = TORCH_FREE - {"report"} | {"cli", "recipes"}
    names = [name_of(p) for p in MODULES if room_of(name_of(p)) in rooms]
    block = "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'safetensors', 'matplotlib', 'jinja2']))"
    code = f"{block}; import importlib; [importlib.import_module(name) for name in {names!r}]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The house rules that a machine can check: imports only point down."""

import ast
from pathlib import Path

import pytest

import atgnn

ROOT = Path(atgnn.__file__).parent
FLOORS = [
    {"costs", "crew", "distributed", "errors", "grids", "memory", "shipped", "startup"},
    {"files", "pipes"},
    {"audio", "frontend", "labels", "recorders", "synthetic"},
    {"graph", "metrics", "tags"},
    {"model", "data", "onnx_tagger"},
    {"baselines", "trained_on"},
    {"networks"},
    {"checkpoint"},
    {"convert", "encoder", "packs"},
    {"tagger", "doctor"},
    {"embeddings", "events", "explain", "formats", "learn", "scoring"},
    {"archive", "export", "hear_api", "hf", "others", "review", "search"},
    {"calibrate", "evaluate", "prepare", "training"},
    {"comparison"},
    {"app"},
    {"terminal"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def modules():
    return [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]


def room(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "atgnn":
                names = [f"atgnn.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("atgnn.")}
    return rooms - {"__version__"}


def test_every_room_has_a_floor():
    assert {room(path) for path in modules()} == set(FLOOR)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own = room(path)
    for other in imported_rooms(path) - {own}:
        assert FLOOR[other] < FLOOR[own], f"{own} imports {other}, which is not below it"


def test_the_check_sees_an_upward_import(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from atgnn import audio\ndef f():\n    from atgnn.cli import main\n")
    assert imported_rooms(wrong) == {"audio", "cli"}

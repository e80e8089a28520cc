"""The structure of the package, held by tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "stackflower"
LOW = [
    *sorted((ROOT / "stages").rglob("*.py")),
    *sorted((ROOT / "text").rglob("*.py")),
    *sorted((ROOT / "evaluation").rglob("*.py")),
    *sorted((ROOT / "objectives").glob("*.py")),
    *sorted((ROOT / "penalties").glob("*.py")),
]


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", LOW, ids=lambda path: str(path.relative_to(ROOT)))
def test_parts_know_nothing_of_training(path: Path) -> None:
    forbidden = ("stackflower.training", "stackflower.commands", "stackflower.cli", "click", "accelerate")
    wrong = [name for name in imports(path) if name.startswith(forbidden)]
    assert not wrong


def test_only_the_trainer_calls_backward() -> None:
    callers = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "backward"
    }
    # the classifier and an encoder trained before are no parts of the game, and the cost of a step is counted on meta tensors
    assert callers == {"training/step.py", "commands/train_text.py", "evaluation/classifier.py", "training/cost.py"}


def test_nothing_is_unpickled() -> None:
    for path in ROOT.rglob("*.py"):
        assert not {"pickle", "dill", "joblib"} & imports(path), path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path


def test_files_and_functions_stay_readable() -> None:
    for path in ROOT.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 70, f"{path}: {node.name}"

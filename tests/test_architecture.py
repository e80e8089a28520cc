"""The structure of the package, held by tests."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent / "stackflower"


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_only_the_trainer_calls_backward() -> None:
    callers = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "backward"
    }
    # the classifier and an encoder trained before are no parts of the game, and the cost of a step is counted on meta tensors
    assert callers == {
        "training/step.py",
        "commands/train_text.py",
        "evaluation/classifier_training.py",
        "training/cost.py",
    }


def test_nothing_is_unpickled() -> None:
    for path in set(ROOT.rglob("*.py")) - {ROOT / "utils" / "pickles.py"}:  # whose reader runs nothing
        assert not {"pickle", "dill", "joblib"} & imports(path), path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path


def test_only_commands_print() -> None:
    """What a library caller gets goes through `logging`."""
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] not in ("commands", "cli.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                assert not (isinstance(node, ast.Call) and ast.unparse(node.func) == "print"), f"{path}: {node.lineno}"


LONG = {  # what may be longer than 300 lines, and why
    "cli.py": "one line for each option of each command",
    "data/synthetic/flower.py": "frozen: the shapes of the rendered flowers",
    "data/synthetic/grammar.py": "frozen: the words and sentences of their captions",
}


def test_files_and_functions_stay_readable() -> None:
    for path in ROOT.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if str(path.relative_to(ROOT)) not in LONG:
            assert len(text.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < (60 if node.name == "__init__" else 50), (
                    f"{path}: {node.name}"
                )


def test_the_root_holds_the_composition_alone() -> None:
    """Every part is in a room; a new module at the root needs a reason in docs/architecture.md."""
    assert {path.name for path in ROOT.glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "adversary.py",
        "build.py",
        "cli.py",
        "errors.py",
        "options.py",
        "pipeline.py",
        "registry.py",
    }

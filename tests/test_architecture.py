"""The structure of the package, held by tests."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from conftest import ROOT as REPOSITORY

import stackflower

ROOT = REPOSITORY / "stackflower"
TESTS = REPOSITORY / "tests"


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
    # The classifier and an encoder trained before are not trained against each other; the cost of a step is counted on
    # meta tensors.
    assert callers == {
        "training/step.py",
        "training/text.py",
        "evaluation/classifier/fitting.py",
        "training/cost.py",
    }


def test_nothing_is_unpickled() -> None:
    for path in set(ROOT.rglob("*.py")) - {ROOT / "formats" / "pickles.py"}:  # whose reader runs nothing
        assert not {"pickle", "dill", "joblib"} & imports(path), path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path


LONG = {  # what may be longer than 300 lines, and why
    "data/synthetic/flower.py": "frozen: the shapes of the rendered flowers",
    "data/synthetic/grammar.py": "frozen: the words and sentences of their captions",
}


def docstring_lines(node: ast.AST) -> int:
    """Return the number of lines of the docstrings in a node."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [
        each.body[0]
        for each in ast.walk(node)
        if isinstance(each, documented) and ast.get_docstring(each, clean=False) is not None
    ]
    return sum((docstring.end_lineno or 0) - docstring.lineno + 1 for docstring in docstrings)


def test_files_and_functions_stay_readable() -> None:
    """Docstrings do not count: those of public functions are as long as a reader needs."""
    for path in ROOT.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        if str(path.relative_to(ROOT)) not in LONG:
            assert len(text.splitlines()) - docstring_lines(tree) <= 300, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                signature = node.body[0].lineno - node.lineno  # one line per parameter in a long one
                length = (node.end_lineno or 0) - node.lineno - signature - docstring_lines(node)
                assert length < 50, f"{path}: {node.name} {length}"


def test_the_root_holds_the_composition_alone() -> None:
    """Every part is in a room; a new module at the root needs a reason in docs/architecture.md."""
    assert {path.name for path in ROOT.glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "adversary.py",
        "build.py",
        "cli.py",
        "declarations.py",
        "errors.py",
        "options.py",
        "pipeline.py",
        "registry.py",
    }


def below_commands() -> list[Path]:
    return [path for path in ROOT.rglob("*.py") if path.name != "cli.py" and "commands" not in path.parts]


def test_the_library_knows_no_command_line() -> None:
    """Below commands/, nothing imports click, prints, or names a flag: messages name parameters."""
    for path in below_commands():
        assert "click" not in imports(path), path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path}:{node.lineno}"
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                flag = re.search(r"(?<![\w-])--[a-z][a-z-]+", node.value)
                assert flag is None or "pip install" in node.value, f"{path}:{node.lineno} {flag[0]}"


def test_commands_are_used_by_the_command_line_alone() -> None:
    for path in [*below_commands(), *(ROOT.parent / "benchmarks").glob("*.py")]:
        assert not {name for name in imports(path) if name.startswith("stackflower.commands")}, path
    assert len((ROOT / "cli.py").read_text(encoding="utf-8").splitlines()) < 100


def test_a_command_imports_the_library_when_it_runs() -> None:
    """`stackflower COMMAND --help` must not wait for torch."""
    names = sorted(path.stem for path in (ROOT / "commands").glob("*.py") if path.stem != "__init__")
    code = "; ".join(
        [*(f"import stackflower.commands.{name}" for name in names), "import sys", "assert 'torch' not in sys.modules"]
    )
    subprocess.run([sys.executable, "-c", code], check=True)


ARROW = re.compile(r"^ +(\w+)(?:\[.*?\])? --> (\w+)(?:\[.*?\])?$", re.MULTILINE)


def room_of(module: str) -> str | None:
    """The folder or file at the package's root that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "stackflower" and not parts[1].startswith("_") else None


def imported_rooms() -> dict[str, set[str]]:
    """For each room, the rooms that it imports from at run time."""
    rooms: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        room = room_of(".".join(("stackflower", *path.relative_to(ROOT).with_suffix("").parts)))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        guarded = [
            node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ]
        skipped = {inner for node in guarded for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if room and isinstance(node, ast.ImportFrom) and node.module and node not in skipped:
                names = (
                    [f"{node.module}.{alias.name}" for alias in node.names]
                    if node.module == "stackflower"
                    else [node.module]
                )
                rooms.setdefault(room, set()).update(
                    other for name in names if (other := room_of(name)) and other != room
                )
    return rooms


def reach(rooms: dict[str, set[str]], start: str) -> set[str]:
    """Every room that can be reached from a room by at least one import."""
    reached: set[str] = set()
    waiting = set(rooms.get(start, ()))
    while waiting:
        room = waiting.pop()
        if room not in reached:
            reached.add(room)
            waiting |= rooms.get(room, set())
    return reached


def test_the_figure_of_the_architecture_shows_the_imports() -> None:
    """Each arrow is an import; imports that lead along other arrows are left out."""
    rooms = imported_rooms()
    direct = {
        (room, other)
        for room, others in rooms.items()
        for other in others
        if not any(other in reach(rooms, between) for between in others - {other})
    }
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    figure = page.partition("```mermaid")[2].partition("```")[0]
    drawn = {(one, other) for one, other in ARROW.findall(figure)}
    assert drawn == direct, "\n".join(f"    {one} --> {other}" for one, other in sorted(direct))


def test_every_public_method_has_a_docstring_or_inherits_one() -> None:
    missing = []
    for module_info in pkgutil.walk_packages(stackflower.__path__, "stackflower."):
        if module_info.name == "stackflower.__main__":
            continue
        module = importlib.import_module(module_info.name)
        for name, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ != module.__name__ or name.startswith("_"):
                continue
            for attribute, value in vars(cls).items():
                function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
                is_method = inspect.isfunction(function) or isinstance(value, property)
                is_field = attribute in inspect.get_annotations(cls)
                public = is_method and not is_field and not attribute.startswith("_")
                if public and not inspect.getdoc(getattr(cls, attribute)):
                    missing.append(f"{module.__name__}.{name}.{attribute}")
    assert not missing, missing


def test_tests_mirror_the_package() -> None:
    """Every folder of tests/ is a folder of the package; names of files are unique, as pytest imports them by name."""
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("*.py")}
    assert {str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()} == set()
    names = Counter(path.name for path in TESTS.rglob("*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_files_of_tests_stay_readable() -> None:
    long = {
        str(path.relative_to(TESTS)): len(path.read_text(encoding="utf-8").splitlines()) for path in TESTS.rglob("*.py")
    }
    assert {name: count for name, count in long.items() if count > 400} == {}

"""The examples run as they are, on less data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

EXAMPLES = ROOT / "examples"
SCRIPTS = {
    "train_with_callback.py": ["--data", "flowers", "--images", "32", "--out", "run"],
    "own_discriminator.py": ["--data", "flowers", "--images", "32", "--out", "run"],
    "score_another_generator.py": ["--samples", "48"],
}


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from stackflower.data.synthetic.image_folder import write_image_folder

    folder = tmp_path_factory.mktemp("examples") / "flowers"
    write_image_folder("synthetic-flowers", str(folder), count=64, validation=70, test=70, resolution=76, seed=0)
    return folder


def test_every_example_is_tested_and_short() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SCRIPTS)
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 60, path


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_example_script_runs(name: str, flowers: Path, tmp_path: Path) -> None:
    arguments = [str(flowers) if argument == "flowers" else argument for argument in SCRIPTS[name]]
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_notebook_runs(tmp_path: Path) -> None:
    """Its code cells, in order, in one process; without Jupyter, which tests need not install."""
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 6 and all(not cell.get("outputs") for cell in notebook["cells"])
    code = "\n".join(cells).replace("IMAGES = 3_000", "IMAGES = 48")
    assert "IMAGES = 48" in code
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs" / "notebook" / "generator.safetensors").is_file()

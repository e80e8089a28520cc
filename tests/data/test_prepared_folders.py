"""`data prepare` into a folder: interrupted, in the way of another, or damaged."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import posix
from sample_data import jpeg, picture, sidecar

from stackflower.data import prepared
from stackflower.data.opening import open_source
from stackflower.errors import DataError

INTERRUPTED = """
import os, signal, sys
from stackflower.data import prepared
without = prepared._write_kept
def then_killed(*given):
    without(*given)
    os.kill(os.getpid(), signal.SIGKILL)
prepared._write_kept = then_killed
from stackflower.cli import main
main(sys.argv[1:])
"""


@posix
def test_a_preparation_killed_after_images_were_left_out_resumes(tmp_path: Path, stackflower) -> None:
    root = sidecar(tmp_path / "data")
    (root / "3.png").write_bytes((root / "3.png").read_bytes()[:40])
    command = ["data", "prepare", "data", "out", "--size", "16", "--on-error", "skip"]
    killed = subprocess.run([sys.executable, "-c", INTERRUPTED, *command], cwd=tmp_path, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    stackflower(*command)
    images = np.load(tmp_path / "out" / "train" / "images.npy")
    assert len(images) == 5 and (images.max((1, 2, 3)) > 0).all()


def test_a_full_disk_is_told_and_the_preparation_resumes(
    tmp_path: Path, stackflower, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar(tmp_path / "data")

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full, raising=False)
        said = stackflower("data", "prepare", "data", "out", "--size", 16, code=2).output
    assert "No space left on device" in said and "Free some disk space and rerun" in said
    stackflower("data", "prepare", "data", "out", "--size", 16)


def test_a_folder_of_the_users_beside_ours_is_kept(tmp_path: Path, stackflower) -> None:
    sidecar(tmp_path / "data")
    (tmp_path / "out" / ".train-notes").mkdir(parents=True)
    assert ".train-notes" in stackflower("data", "prepare", "data", "out", "--size", 16, code=2).output
    assert (tmp_path / "out" / ".train-notes").exists()


def test_a_damaged_prepared_folder_is_refused(tmp_path: Path, stackflower) -> None:
    root = tmp_path / "data"
    for number in range(4):
        picture(root / f"{number}.png")
    rows = [{"file_name": f"{number}.png", "text": "a", "label": number} for number in range(4)]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stackflower("data", "prepare", "data", "out", "--size", 16)
    file = tmp_path / "out" / "train" / "rows.jsonl"
    whole = file.read_text()
    damage = {
        whole.replace('"label": 0', '"label": "0"'): "has the label '0'",
        whole[: whole.rindex("{")]: "images and rows differ in number",
        whole[:-5]: "ends in the middle of a line",
        whole.replace('"label": 0', f'"label": {10**30}'): "a label must be an integer",
        whole.replace('"file_name": "0.png"', '"file_name": 5'): "does not name its file",
        "[]\n" * 4: "is damaged",
        whole.replace('"text": ["a"]', '"text": []', 1): "has no caption",
    }
    for text, why in damage.items():
        file.write_text(text)
        assert why in stackflower("data", "check", "out", code=2).output


def test_a_name_that_is_not_utf_8_is_left_out_by_name(tmp_path: Path, stackflower) -> None:
    root = sidecar(tmp_path / "data", 2)
    try:
        with open(bytes(root) + b"/\xff.png", "wb") as file:
            file.write(jpeg())
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    stackflower("data", "prepare", "data", "out", "--size", 16, "--on-error", "skip")
    assert "\\xff.png has a name that is not UTF-8" in (tmp_path / "out" / "left-out.txt").read_text()


def test_a_preparation_that_waited_for_one_of_other_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waited for another of other data says so."""
    one, other = (open_source(str(sidecar(tmp_path / name, count))) for name, count in (("one", 2), ("other", 3)))
    lock = prepared.FileLock

    def waits(path: Path) -> Any:
        monkeypatch.undo()
        prepared.prepare_into(one, "train", 16, tmp_path / "out")
        return lock(path)

    monkeypatch.setattr(prepared, "FileLock", waits)
    with pytest.raises(DataError, match="holds other data"):
        prepared.prepare_into(other, "train", 16, tmp_path / "out")

"""Files of a run that are missing, damaged or of another kind are named in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stackflower.runs.folder import Run


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("config.json", "config.json is missing"),
        ("generator.safetensors", "generator.safetensors is missing"),
    ],
)
def test_a_missing_file_of_a_run_is_named(stackflower, tmp_path: Path, trained: Path, gone: str, message: str) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / gone).unlink()
    assert message in stackflower("sample", "run", "a red flower", code=2).output


def test_damaged_files_of_a_run_are_named(stackflower, tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "generator.safetensors").write_bytes(b"\x00" * 100)
    assert "is damaged" in stackflower("sample", "run", "a red flower", code=2).output
    for path in (tmp_path / "run" / "checkpoints").glob("*/discriminator-16.safetensors"):
        path.unlink()
    assert "delete" in stackflower("train", "--resume", "run", "--images", 200, code=2).output
    (tmp_path / "run" / "config.json").write_text("{")
    assert "is damaged" in stackflower("sample", "run", "a red flower", code=2).output


def _edit(path: Path, change) -> None:  # type: ignore[no-untyped-def]
    values = json.loads(path.read_text())
    path.write_text(json.dumps(change(values)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: {**v, "run": [1, 2]}, "config.run = [1, 2]: it should be"),
        (lambda v: {**v, "run": {**v["run"], "stage": "one"}}, "stage = 'one': allowed are 1, 2"),
        (lambda v: {**v, "text_dim": "many"}, "config.text_dim = 'many': it should be a valid integer"),
        (lambda v: {**v, "length": [["a"]]}, "config.length"),
        (lambda v: {**v, "length": [[1]]}, "config.length = [[1]]: it should be complete."),
        (lambda v: {k: value for k, value in v.items() if k != "encoder"}, "config.encoder is missing"),
        (lambda v: {**v, "colour": "red"}, "Unknown setting config.colour"),
        (lambda v: [v], "it should be a table"),
        (lambda v: {**v, "run": {**v["run"], "generator": None}}, "generator = None"),
        (
            lambda v: {**v, "run": {**v["run"], "below": {"conditioning": {"name": [1]}, "run": "x", "stage": 1}}},
            "set the previous stage with",
        ),
    ],
)
def test_a_configuration_with_impossible_values_is_refused(
    stackflower, tmp_path: Path, trained: Path, change, message
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    _edit(tmp_path / "run" / "config.json", change)
    for command in (
        ["sample", "run", "a red flower"],
        ["train", "--resume", "run"],
        ["report", "run"],
        ["eval", "run"],
    ):
        assert message in stackflower(*command, code=2).output, command


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: {}, "state.images is missing"),
        (lambda v: {**v, "files": {}}, "it names no files"),
        (lambda v: {**v, "files": {"a\0b": "0"}}, "is missing or damaged"),
        (lambda v: {**v, "images": "many"}, "state.images = 'many': it should be a valid integer"),
        (lambda v: {**v, "plateaus": {"generator": {"colour": 1}}}, "it should be 'scale', 'best', 'total' or 'count'"),
        (lambda v: {**v, "plateaus": {"generator": {"scale": "x"}}}, "it should be a valid number"),
        (lambda v: {**v, "rate_scale": -1}, "state.rate_scale = -1: it should be greater than 0"),
        (lambda v: 3, "it should be a table"),
    ],
)
def test_a_state_of_a_checkpoint_with_impossible_values_is_refused(
    stackflower, tmp_path: Path, trained: Path, change, message
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*/state.json"):
        _edit(path, change)
    output = stackflower("train", "--resume", "run", "--images", 200, code=2).output
    assert message in output and "delete" in output.lower()


@pytest.mark.parametrize("name", ["optimizer-generator", "rng-0", "generator", "discriminator-16"])
def test_a_file_of_another_kind_in_a_checkpoint_is_refused(
    stackflower, tmp_path: Path, trained: Path, name: str
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    for path in Run(tmp_path / "run").list_checkpoints():
        shutil.copyfile(path / "optimizer-discriminator.safetensors", path / f"{name}.safetensors")
    output = stackflower("train", "--resume", "run", "--images", 200, code=2).output
    assert (
        f"{name}.safetensors is missing or damaged, or belongs to another checkpoint" in output and "delete" in output
    )


def test_a_run_resumes_though_its_metrics_are_a_folder(stackflower, tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    said = stackflower("train", "--resume", "run", "--images", 104).output
    assert "metrics.jsonl could not be written" in said


def test_lines_of_metrics_that_are_no_json_objects_are_dropped(stackflower, tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    good = metrics.read_bytes()
    nested = b"[" * 200_000 + b"\n"
    metrics.write_bytes(b"\xff\xfe\n3\n{}\n" + nested + b'{"images": "x"}\n' + good)
    assert len(Run(tmp_path / "run").read_metrics()) == len(good.splitlines())
    stackflower("train", "--resume", "run", "--images", 104)
    assert metrics.read_bytes().startswith(good)

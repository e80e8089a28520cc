"""The sample command: what it writes, and that wrong input gets a sentence and exit code 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def test_a_grid_of_too_many_images_is_refused(stackflower, trained: Path) -> None:
    output = stackflower("sample", trained, "a", "--per-caption", 10**8, "--grid", "--out", "x.png", code=2).output
    assert "at most 10,000" in output


def test_sample_prints_where_it_wrote(stackflower, tmp_path: Path, trained: Path) -> None:
    out = stackflower("sample", trained, "a red flower", "--out", "one.png").stdout
    assert out.strip() == "one.png" and Image.open(tmp_path / "one.png").size == (16, 16)
    stackflower("sample", trained, "a red flower", "a blue flower", "--per-caption", 3, "--out", "many")
    rows = [json.loads(line) for line in (tmp_path / "many" / "metadata.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == [f"{c:05d}-{k:02d}.png" for c in range(2) for k in range(3)]
    assert rows[3]["text"] == "a blue flower" and (tmp_path / "many" / "00001-02.png").exists()


@pytest.mark.parametrize(("suffix", "kind"), [(".jpg", "JPEG"), (".JPEG", "JPEG"), (".webp", "WEBP"), (".png", "PNG")])
def test_the_suffix_of_a_file_sets_its_format(
    suffix: str, kind: str, stackflower, tmp_path: Path, trained: Path
) -> None:
    for name, flags in (("one", []), ("grid", ["--grid", "--per-caption", 2]), ("between", ["--interpolate", 3])):
        stackflower("sample", trained, "a red flower", "--out", f"{name}{suffix}", *flags)
        with Image.open(tmp_path / f"{name}{suffix}") as image:
            assert image.format == kind


@pytest.mark.parametrize("suffix", [".heic", ".svg", ".xbm"])
def test_a_format_that_cannot_be_written_is_refused(suffix: str, stackflower, tmp_path: Path, trained: Path) -> None:
    for flags in ([], ["--interpolate", 3]):
        said = stackflower("sample", trained, "a red flower", "--out", f"x{suffix}", *flags, code=2).output
        assert f"can't write images as {suffix}" in said and not (tmp_path / f"x{suffix}").exists()


def test_a_name_with_a_dot_is_a_folder_unless_it_is_that_of_an_image(
    stackflower, tmp_path: Path, trained: Path
) -> None:
    (tmp_path / "taken.jpg").mkdir()
    for name in ("v1.5", "taken.jpg"):
        stackflower("sample", trained, "a red flower", "--out", name)
        assert (tmp_path / name / "00000-00.png").is_file()


def test_sample_is_seeded_and_independent_of_the_batch(stackflower, tmp_path: Path, trained: Path) -> None:
    for name, arguments in {"a": [], "b": ["--batch-size", 2], "c": ["--seed", 1]}.items():
        stackflower("sample", trained, "a red flower", "--per-caption", 5, "--out", name, *arguments)
    read = {name: [np.asarray(Image.open(p)) for p in sorted((tmp_path / name).glob("*.png"))] for name in "abc"}
    assert all(abs(one.astype(int) - two).max() <= 1 for one, two in zip(read["a"], read["b"], strict=True))
    assert any((one != two).any() for one, two in zip(read["a"], read["c"], strict=True))


def test_sample_grid_has_the_captions(stackflower, tmp_path: Path, trained: Path) -> None:
    stackflower("sample", trained, "a red flower", "یک گل آبی", "--per-caption", 4, "--grid", "--out", "grid.png")
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width >= 4 * 16 * 2 and picture.height > 2 * 16 * 2 + 20


def test_sample_reads_captions_from_text_and_metadata_files(stackflower, tmp_path: Path, trained: Path) -> None:
    (tmp_path / "captions.txt").write_text("a red flower\n\n红色的花\n", encoding="utf-8")
    stackflower("sample", trained, "--captions", "captions.txt", "--out", "one")
    (tmp_path / "metadata.jsonl").write_text('{"text": ["a", "b"]}\n{"text": "c"}\n')
    stackflower("sample", trained, "--captions", "metadata.jsonl", "--out", "two")
    assert len(list((tmp_path / "one").glob("*.png"))) == len(list((tmp_path / "two").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "No caption given"),
        (["  "], "Caption 1 is empty"),
        (["a", "b", "--out", "x.png"], "name a folder, or add --grid"),
        (["--captions", "none.txt"], "none.txt does not exist"),
        (["a", "--captions", "none.txt"], "not both"),
    ],
)
def test_wrong_calls_of_sample_get_a_sentence(stackflower, trained: Path, arguments: list[str], message: str) -> None:
    assert message in stackflower("sample", trained, *arguments, code=2).output


def test_captions_that_are_given_are_checked_as_those_of_data(stackflower, trained: Path) -> None:
    stackflower("sample", trained, "petal " * 1_000, "--out", "long.png")
    with Image.open("long.png") as picture:
        assert picture.size == (16, 16)
    said = stackflower("sample", trained, "petal " * 1_001, "--out", "x.png", code=2).output
    assert "Caption 1 has 1,001 words; at most 1,000 are allowed" in said
    Path("captions.txt").write_text("a flower\n_\n", encoding="utf-8")
    for captions in (["--captions", "captions.txt"], ["a flower", "_"]):
        said = stackflower("sample", trained, *captions, "--out", "x", code=2).output
        assert "The text encoder ngram finds no word in 1 of 2 distinct captions: '_'." in said
    assert "half of a surrogate pair" in stackflower("sample", trained, "a \udcff", "--out", "x", code=2).output
    one, other = (Path(f"{name}.png") for name in "ab")
    stackflower("sample", trained, " a  red\nflower", "--out", one)
    stackflower("sample", trained, "a red flower", "--out", other)
    assert one.read_bytes() == other.read_bytes()


def test_drawing_with_another_encoder_than_was_trained_with_is_refused(
    stackflower, tmp_path: Path, trained: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    values = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    for change in ({"encoder": "ngram-1 dim=64"}, {"run": {**values["run"], "text": {"name": "ngram", "dim": 32}}}):
        (tmp_path / "run" / "config.json").write_text(json.dumps({**values, **change}), encoding="utf-8")
        assert "was trained with another text encoder" in stackflower("sample", "run", "a red flower", code=2).output


def test_sampling_again_leaves_no_picture_of_before(stackflower, tmp_path: Path, trained: Path) -> None:
    stackflower("sample", trained, "a red flower", "a blue flower", "--per-caption", 2, "--out", "drawn")
    (tmp_path / "drawn" / "mine.png").write_bytes(b"precious")
    stackflower("sample", trained, "a red flower", "--out", "drawn")
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [
        "00000-00.png",
        "metadata.jsonl",
        "mine.png",
    ]

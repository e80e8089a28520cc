"""What a training says about captions that its text encoder can't represent."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from conftest import TINY_NETWORKS, settings
from sample_data import write_images


def write_data(folder: Path, captions: list[str]) -> None:
    root = write_images(folder, *(f"{number}.jpg" for number in range(len(captions))))
    rows = [json.dumps({"file_name": f"{n}.jpg", "text": text}) for n, text in enumerate(captions)]
    (root / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")


def test_captions_that_an_encoder_cannot_tell_apart_are_refused_before_training(stackflower, tmp_path: Path) -> None:
    write_data(tmp_path / "data", ["红色的花", "蓝色的花", *(f"flower {number}" for number in range(6))])
    small = settings("text.dim=16", "text.channels=8", "text.length=60")
    flags = ["--data", "data", "--images", 8, "--out", "run", *TINY_NETWORKS]
    said = stackflower("train", *flags, "--text", "char-cnn-rnn", *small, code=2).output
    assert "can read no letter or digit of 2 of 8 distinct captions: '红色的花', '蓝色的花'" in said
    assert "drops 5 characters outside its alphabet (红, 色, 的, 花, 蓝) in 2 of 8 distinct captions" in said
    assert "--text ngram, which reads any script" in said and not Path("run").exists()
    said = stackflower("train-text", "--data", "data", "--text", "char-cnn-rnn", *small, "--out", "e", code=2).output
    assert "can read no letter or digit of 2 of 8 distinct captions" in said
    said = stackflower("train", *flags, "--text", "ngram").output
    assert "text encoder ngram" not in said and Path("run").exists()


def test_one_caption_of_all_images_is_a_warning(stackflower, tmp_path: Path) -> None:
    write_data(tmp_path / "data", ["a photo of a flower"] * 8)
    said = stackflower("train", "--data", "data", "--images", 8, "--out", "run", *TINY_NETWORKS).output
    assert said.count("Warning: All 8 images have the same caption, 'a photo of a flower'") == 1


def test_the_captions_of_a_stream_are_checked_too(stackflower, tmp_path: Path) -> None:
    write_images(tmp_path / "images", *(f"{number}.jpg" for number in range(8)))
    with tarfile.open(tmp_path / "train-000.tar", "w") as shard:
        for number in range(8):
            shard.add(tmp_path / "images" / f"{number}.jpg", f"{number}.jpg")
            text = tarfile.TarInfo(f"{number}.txt")
            text.size = 1
            shard.addfile(text, io.BytesIO(b"_"))
    flags = ["--data", "train-{000..000}.tar", "--images", 8, "--out", "run", *TINY_NETWORKS]
    said = stackflower("train", *flags, code=2).output
    assert "Warning: All 8 images have the same caption, '_'" in said
    assert "The text encoder ngram finds no word in the caption: '_'." in said

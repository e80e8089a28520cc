"""Own data: what is read, what is refused, what is told; the prepared cache; batches."""

from __future__ import annotations

import dataclasses
import json
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_NETWORKS, real_data, settings
from PIL import Image
from safetensors.torch import load_file

from stackflower.data.images import crop_and_flip, load_square
from stackflower.data.prepared import Prepared, prepare
from stackflower.data.source import Rows
from stackflower.data.sources.folder import FolderSource
from stackflower.data.synthetic import source as synthetic_source
from stackflower.data.synthetic.attributes import ATTRIBUTES
from stackflower.data.synthetic.source import SyntheticFlowers
from stackflower.errors import DataError
from stackflower.text.cache import embed
from stackflower.text.encoders.ngram import NgramEncoder
from stackflower.training.batches.assembly import Batches
from stackflower.training.batches.batch import Drawing
from stackflower.training.batches.negatives import NegativeSampler
from stackflower.training.batches.prepared import PreparedBatches


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (90, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    if mode == "I;16":
        Image.fromarray(values[..., 0].astype(np.uint16) * 256).save(path)
    else:
        Image.fromarray(values).convert(mode).save(path)


def folder(path: Path, rows: list[dict], name: str = "metadata.jsonl") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    for number in range(12):
        picture(tmp_path / "good" / f"{number}.jpg")
    captions = ["a red flower", "une fleur rouge", "红色的花", "گل سرخ", "красный цветок", "🌹 rose"]
    rows = [
        {
            "file_name": f"{n}.jpg",
            "text": captions if n % 2 else captions[n // 2],
            "label": n % 3,
            "class_name": f"class {n % 3}",
        }
        for n in range(12)
    ]
    return folder(tmp_path / "good", rows)


def test_a_folder_is_read(good: Path) -> None:
    source = FolderSource(path=str(good))
    data = prepare(source, "train", 32)
    assert data.images.shape == (12, 32, 32, 3) and data.images.dtype == torch.uint8
    assert [len(captions) for captions in data.captions] == [1, 6] * 6
    assert data.labels is not None and data.labels.tolist() == [n % 3 for n in range(12)]
    assert data.rows.class_names[2] == "class 2" and source.splits() == ["train"]


def test_csv_and_split_folders(tmp_path: Path) -> None:
    for split in ("train", "val"):
        picture(tmp_path / split / "deep" / "a b.png")
        (tmp_path / split / "metadata.csv").write_text(
            'file_name,text,label\n"deep/a b.png","[""red"", ""rot""]",4\n', encoding="utf-8-sig"
        )
    source = FolderSource(path=str(tmp_path))
    assert source.splits() == ["train", "validation"]
    assert source.rows("validation") == Rows(captions=[["red", "rot"]], labels=[4], files=["deep/a b.png"])


def test_metadata_beside_the_folders_of_splits(stackflower, tmp_path: Path) -> None:
    """One file for all splits, as Hugging Face's ImageFolder allows."""
    names = [f"{folder}/{number}.png" for folder in ("train", "val", "test") for number in range(3)]
    for name in names:
        picture(tmp_path / name)
    rows = [{"file_name": name.replace("/", "\\"), "text": f"flower {name}"} for name in names]
    written = tmp_path / "metadata.jsonl"
    written.write_text("\n".join(map(json.dumps, rows)))
    source = FolderSource(path=str(tmp_path))
    assert source.splits() == ["train", "validation", "test"]
    assert source.check() == ([], [f"{split}: 3 images, 3 captions." for split in source.splits()])
    for split, folder in (("train", "train"), ("validation", "val"), ("test", "test")):
        assert source.rows(split).files == [f"{folder}/{number}.png" for number in range(3)]
        assert source.rows(split).captions == [[f"flower {folder}/{number}.png"] for number in range(3)]
    before = source.fingerprint("test")
    written.write_text("\n".join(map(json.dumps, [*rows[:-1], {**rows[-1], "text": "another"}])))
    assert FolderSource(path=str(tmp_path)).fingerprint("test") != before
    picture(tmp_path / "more" / "9.png")
    written.write_text("\n".join(map(json.dumps, [*rows[1:], {"file_name": "more/9.png", "text": "a rose"}])))
    said = stackflower("data", "check", tmp_path, code=2).output
    assert "names more/9.png, which is in no folder of a split (train, val, test)" in said and "1 problem." in said
    assert "1 images in" in said and "have no row in metadata.jsonl and are not used (train/0.png)" in said
    (tmp_path / "train" / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": "its own"}))
    said = stackflower("data", "check", tmp_path, code=2).output
    assert "2 rows of" in said and "folders with metadata of their own (train)" in said
    assert "names more/9.png, which is in no folder of a split (val, test, train)" in said and "1 problem." in said
    source = FolderSource(path=str(tmp_path), skip_bad=True)
    assert source.rows("train").captions == [["its own"]] and len(source.rows("test")) == 3
    for folder in ("val", "test"):
        (tmp_path / folder / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": "its own"}))
    said = stackflower("data", "check", tmp_path).output
    assert "metadata.jsonl is not used: every folder of a split (train, val, test) has metadata." in said


def test_a_broken_line_of_the_metadata_of_all_splits_counts_once(stackflower, tmp_path: Path) -> None:
    names = [f"{folder}/{number}.png" for folder in ("train", "val", "test") for number in range(2)]
    for name in names:
        picture(tmp_path / name)
    rows = [json.dumps({"file_name": name, "text": "a flower"}) for name in names]
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join([*rows, "{", json.dumps({"file_name": "gone.png", "text": "a"})])
    )
    (tmp_path / "metadata.csv").write_text("file_name,text\ntrain/0.png,another\n")
    said = stackflower("data", "check", tmp_path, code=2).output
    assert "2 problems." in said and said.count("metadata.csv is not used: metadata.jsonl is beside it.") == 1


def test_folders_of_splits_without_one_for_training_are_told(stackflower, tmp_path: Path) -> None:
    for name in ("0.png", "test/1.png"):
        picture(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("a flower")
    said = stackflower("data", "check", tmp_path).output
    assert "has no folder train, so test are no splits but part of the training data" in said
    folder(tmp_path, [{"file_name": name, "text": "a flower"} for name in ("0.png", "test/1.png")])
    folder(tmp_path / "test", [{"file_name": "1.png", "text": "another"}])
    said = stackflower("data", "check", tmp_path).output
    assert "has no folder train" in said and "Not used: test/metadata.jsonl." in said
    (tmp_path / "metadata.jsonl").unlink()
    said = stackflower("data", "check", tmp_path, code=2).output
    assert "There is test/metadata.jsonl; the folder for training is named train." in said


def test_a_drawn_validation_split_follows_the_metadata_it_is_drawn_from(tmp_path: Path) -> None:
    """Also where those beside the folders, of the test split, stay as they are."""
    for name in [f"train/{number}.png" for number in range(8)] + ["test/0.png"]:
        picture(tmp_path / name)
    folder(tmp_path, [{"file_name": "test/0.png", "text": "a flower"}])
    for count in (8, 4):
        folder(tmp_path / "train", [{"file_name": f"{n}.png", "text": f"{count} {n}"} for n in range(count)])
        source = FolderSource(path=str(tmp_path), held_out=0.5, skip_bad=True)
        both = [prepare(source, split, 16).rows for split in ("train", "validation")]
        assert sorted(name for rows in both for name in rows.files) == [f"{n}.png" for n in range(count)]


def test_images_are_cropped_and_flipped_each_in_its_own_way() -> None:
    images = torch.randint(0, 256, (5, 9, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    index, corner = torch.tensor([3, 0, 3, 4]), torch.tensor([[0, 3, 1, 2], [3, 0, 2, 1]])
    mirror, upside_down = torch.tensor([False, True, False, True]), torch.tensor([False, False, True, True])
    found = crop_and_flip(images, index, corner, mirror, upside_down, 6)
    for row, (top, left) in enumerate(corner.T.tolist()):
        crop = images[index[row], top : top + 6, left : left + 6].permute(2, 0, 1)
        crop = crop.flip(2) if mirror[row] else crop
        assert torch.equal(found[row], crop.flip(1) if upside_down[row] else crop)
    none = torch.zeros(4, dtype=torch.bool)
    upright = crop_and_flip(images, index, corner, mirror, None, 6)
    assert torch.equal(upright, crop_and_flip(images, index, corner, mirror, none, 6))


def test_the_second_start_opens_the_cache(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(FolderSource(path=str(good)), "train", 32)
    monkeypatch.setattr(FolderSource, "fill", lambda *arguments: pytest.fail("decoded twice"))
    began = time.monotonic()
    second = prepare(FolderSource(path=str(good)), "train", 32)
    assert time.monotonic() - began < 1 and torch.equal(first.images, second.images) and first.rows == second.rows


def test_a_changed_picture_or_caption_is_noticed(good: Path) -> None:
    before = FolderSource(path=str(good)).fingerprint("train")
    picture(good / "3.jpg", size=(100, 80))
    changed = FolderSource(path=str(good)).fingerprint("train")
    (good / "metadata.jsonl").write_text(
        (good / "metadata.jsonl").read_text(encoding="utf-8").replace("rouge", "bleue"), encoding="utf-8"
    )
    assert len({before, changed, FolderSource(path=str(good)).fingerprint("train")}) == 3


@pytest.mark.parametrize("mode", ["L", "CMYK", "I;16", "RGBA", "P", "LA", "1"])
def test_pictures_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture(path, mode)
    array = load_square(path, 32)
    assert array.shape == (32, 32, 3) and array.dtype == np.uint8 and array.std() > 5


def test_transparency_is_laid_over_white_and_16_bits_are_scaled(tmp_path: Path) -> None:
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (load_square(tmp_path / "clear.png", 8) == 255).all()
    Image.fromarray(np.full((40, 40), 32768, dtype=np.uint16)).save(tmp_path / "half.png")
    assert abs(int(load_square(tmp_path / "half.png", 8)[0, 0, 0]) - 128) <= 1


def bomb(path: Path) -> None:
    """A tiny file that says it is 60,000 × 60,000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"not a picture"), "can't be read as an image"),
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:900]), "can't be read as an image"),
        (bomb, "make it smaller"),
    ],
    ids=["unreadable", "empty", "truncated", "bomb"],
)
def test_pictures_that_cannot_be_read(stackflower, good: Path, spoil, message: str) -> None:
    spoil(good / "3.jpg")
    spoil(good / "5.jpg")
    for command in (["data", "check", good], ["train", "--data", good, "--images", 8, "--out", "run"]):
        out = stackflower(*command, code=2).output
        assert message in out and "3.jpg" in out and "5.jpg" in out
    assert not Path("run").exists()
    kept = prepare(FolderSource(path=str(good), skip_bad=True), "train", 32)
    assert len(kept.images) == len(kept.captions) == 10
    assert [len(captions) for captions in kept.captions] == [1, 6, 1, 1, 1, 6, 1, 6, 1, 6]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"file_name": "gone.jpg", "text": "a"}, "names gone.jpg, which does not exist"),
        ({"file_name": "1.jpg", "text": "a"}, "names 1.jpg a second time"),
        ({"text": "a"}, 'has no "file_name"'),
        ({"file_name": "99.jpg"}, "has no caption"),
        ({"file_name": "99.jpg", "text": []}, "has no caption"),
        ({"file_name": "99.jpg", "text": "   "}, "has an empty caption"),
        ({"file_name": "99.jpg", "text": ["fine", ""]}, "has an empty caption"),
        ({"file_name": "99.jpg", "text": "petal " * 10_000}, "has a caption of 10,000 words"),
        ({"file_name": "99.jpg", "text": "a", "label": "rose"}, "has the label 'rose'"),
        ([1, 2], "is not a JSON object"),
    ],
)
def test_rows_that_cannot_be_used(stackflower, good: Path, row: object, message: str) -> None:
    picture(good / "99.jpg")
    with (good / "metadata.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\nnot json\n")
    for command in (["data", "check", good], ["train", "--data", good, "--images", 8, "--out", "run"]):
        out = stackflower(*command, code=2).output
        assert f"line 13 {message}" in out and "line 14 is not JSON" in out


def test_a_folder_without_metadata_names_what_is_there(stackflower, tmp_path: Path) -> None:
    picture(tmp_path / "bare" / "1.png")
    (tmp_path / "bare" / "metadata.json").write_text("{}")
    out = stackflower("train", "--data", tmp_path / "bare", code=2).output
    assert "has no metadata.jsonl, metadata.csv or metadata.parquet. There is metadata.json: rename it" in out


def test_a_picture_without_a_row_is_warned_of(stackflower, good: Path) -> None:
    picture(good / "orphan.png")
    out = stackflower("train", "--data", good, "--images", 8, "--out", "run", *TINY_NETWORKS).output
    assert "1 images in" in out and "orphan.png" in out
    assert "orphan.png" in stackflower("data", "check", good).output


def test_own_data_from_start_to_score(stackflower, good: Path) -> None:
    """Ten-caption, multi-script data through train, sample and resume."""
    options = [
        "--set",
        "generator.resolution=16",
        "--set",
        "generator.channels=4",
        "--set",
        "discriminator.channels=4",
        "--batch-size",
        4,
    ]
    stackflower("train", "--data", good, "--images", 16, "--out", "run", *options, "--set", "train.captions_averaged=4")
    stackflower("sample", "run", "红色的花", "--out", "x.png")
    stackflower("train", "--resume", "run", "--images", 24)


def test_made_data_is_an_image_folder(stackflower, tmp_path: Path) -> None:
    stackflower(
        "data",
        "make",
        "synthetic-flowers",
        "--out",
        "flowers",
        "--count",
        10,
        "--validation",
        4,
        "--test",
        8,
        "--resolution",
        64,
    )
    source = FolderSource(path=str(tmp_path / "flowers"))
    rows = source.rows("train")
    assert len(rows) == 10 and set(rows.attributes) == set(ATTRIBUTES) and rows.mentioned_attributes is not None
    source_rows = SyntheticFlowers(count=10, validation=4).rows("train")
    for column in ("captions", "labels", "attributes", "mentioned_attributes"):
        assert getattr(rows, column) == getattr(source_rows, column), column
    assert "No problems" in stackflower("data", "check", "flowers").output
    assert (
        "already exists and is not empty"
        in stackflower("data", "make", "synthetic-flowers", "--out", "flowers", code=2).output
    )
    assert "10" in stackflower("data", "info", "flowers").output
    assert "10 images" in stackflower("data", "prepare", "flowers").output


def test_flowers_drawn_by_several_processes_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SyntheticFlowers(count=200)
    monkeypatch.setattr(synthetic_source, "IMAGES_PER_PROCESS", 100)
    monkeypatch.setattr(synthetic_source.os, "cpu_count", lambda: 2)
    images = np.lib.format.open_memmap(tmp_path / "images.npy", mode="w+", dtype=np.uint8, shape=(200, 64, 64, 3))
    told = []
    source.fill("train", images, told.append)
    assert sum(told) == 200
    plain = np.empty_like(np.asarray(images))
    source.fill("train", plain, lambda done: None)
    assert np.array_equal(images, plain)


# ---- batches


def batches(**options: object) -> Batches:
    data = prepare(SyntheticFlowers(count=48), "train", 76)
    table = embed(data.flatten_captions(), NgramEncoder(dim=32))
    usual = {"resolution": 64, "seed": 3, "draw_noise": lambda count, g: torch.randn(count, 5, generator=g)}
    return PreparedBatches(data, table.__getitem__, Drawing(**(usual | options)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"latents_per_caption": 2, "interpolated": 0.5},
        {"interpolated": 0.75, "averaged": 2},
        {"hard_negatives": 3, "averaged": 4, "flip_vertical": True},
        {"contrasted": 5},
    ],
    ids=str,
)
def test_shares_of_a_batch_make_the_whole(options: dict[str, Any]) -> None:
    make = batches(**options)
    whole = make(16, 8)
    halves = [make(16, 8, slice(0, 4)), make(16, 8, slice(4, 8))]
    for name, values in vars(whole).items():
        if name != "others":
            assert torch.equal(values, torch.cat([getattr(half, name) for half in halves])), name
    for part in (*halves, *whole.split(2)):
        assert part.others is whole.others is None or all(map(torch.equal, part.others, whole.others))


def test_a_batch_has_captions_of_any_images_besides_its_own() -> None:
    data, _ = shared_captions()
    flat = data.flatten_captions()
    batch = telling(data, contrasted=200)(0, 60)
    drawn = [flat[number] for number in batch.others.embedding.argmax(1).tolist()]
    assert set(drawn) == set(flat)
    known = dict(zip((flat[number] for number in batch.caption.tolist()), batch.label.tolist(), strict=True))
    assert [known[text] for text in drawn] == batch.others.label.tolist(), "texts that read the same are of one class"
    plain = telling(data)(0, 60)
    assert torch.equal(plain.images, batch.images) and torch.equal(plain.noise, batch.noise) and plain.others is None


def test_a_process_embeds_what_its_share_needs() -> None:
    make, embedded = batches(latents_per_caption=2, hard_negatives=3), []
    lookup = make.captions.embed
    make.captions.embed = lambda captions: embedded.append(captions.numel()) or lookup(captions)
    make(0, 16, slice(4, 8))
    assert sum(embedded) == 4 + 4 * 3


def test_every_picture_comes_once_an_epoch_in_another_order() -> None:
    make = batches()
    first, second = make.indices(0, 48), make.indices(48, 48)
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(48))
    assert first.tolist() != second.tolist()
    assert torch.equal(make.indices(40, 20), torch.cat([first[40:], second[:12]]))


def test_crops_are_of_the_picture_and_half_are_mirrored() -> None:
    make = batches()
    batch = make(0, 48)
    assert batch.images.shape == (48, 3, 64, 64) and batch.images.abs().max() <= 1
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    mirrored = 0
    for image, index in zip(batch.images, make.indices(0, 48).tolist(), strict=True):
        original = make.images[index].permute(2, 0, 1).float() / 127.5 - 1
        windows = original.unfold(1, 64, 1).unfold(2, 64, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        plain, flipped = ((windows - x).abs().amax((1, 2, 3)).min() < 1e-5 for x in (image, image.flip(2)))
        assert plain or flipped
        mirrored += bool(flipped and not plain)
    assert 10 <= mirrored <= 38
    assert not torch.equal(batches(flip=False)(0, 48).images, batch.images)


def test_averaged_captions_are_different_ones_of_the_picture() -> None:
    make = batches(averaged=4)
    found = make(0, 48).text
    for row, index in zip(found, make.indices(0, 48).tolist(), strict=True):
        own = make.captions.embed.__self__[6 * index : 6 * index + 6]
        sums = torch.stack([own[list(c)].mean(0) for c in combinations(range(6), 4)])
        assert (sums - row).abs().amax(1).min() < 1e-5
    assert torch.allclose(batches(averaged=6)(0, 8).text, batches(averaged=9)(0, 8).text, atol=1e-5)


def test_of_several_negative_captions_the_most_similar_is_taken() -> None:
    make = batches(hard_negatives=8)
    batch, plain = make(0, 48), batches()(0, 48)
    own = (batch.negative_text * batch.text).sum(1)
    assert own.mean() > (plain.negative_text * plain.text).sum(1).mean()
    labels = SyntheticFlowers(count=48).rows("train").labels
    for wrong, index in zip(batch.negative_text, make.indices(0, 48).tolist(), strict=True):
        (rows,) = (make.captions.embed.__self__ == wrong).all(1).nonzero(as_tuple=True)
        assert labels is not None and any(labels[row // 6] != labels[index] for row in rows.tolist())


def test_noises_per_caption_repeats_neighbours() -> None:
    batch = batches(latents_per_caption=2)(0, 8)
    assert torch.equal(batch.fake_text[0::2], batch.fake_text[1::2]) and torch.equal(
        batch.fake_text[0::2], batch.text[0::2]
    )


def test_interpolated_texts_lie_halfway_between_two_captions() -> None:
    plain, batch = batches(latents_per_caption=2)(0, 8), batches(latents_per_caption=2, interpolated=0.5)(0, 8)
    assert torch.equal(batch.fake_text[4:], plain.fake_text[4:]) and torch.equal(
        batch.fake_label[4:], plain.fake_label[4:]
    )
    for row in (0, 2):
        expected = (plain.fake_text[row] + plain.fake_text[row - 2]) / 2
        assert torch.allclose(batch.fake_text[row], expected) and torch.equal(
            batch.fake_text[row], batch.fake_text[row + 1]
        )
    assert (batch.fake_label[:4] < 0).all() and torch.equal(batch.images, plain.images)


def test_labels_go_with_the_pictures_and_with_what_is_drawn() -> None:
    whole = batches(latents_per_caption=2)(0, 8)
    assert torch.equal(whole.fake_label[0::2], whole.label[0::2])
    assert torch.equal(whole.fake_label[1::2], whole.label[0::2])
    parts = whole.split(2)
    assert torch.equal(torch.cat([part.label for part in parts]), whole.label)
    assert torch.equal(batches(latents_per_caption=2)(0, 8, slice(4, 8)).fake_label, whole.fake_label[4:])


# ---- real pictures


def test_real_flowers_are_read_and_their_cache_opens_at_once() -> None:
    source = FolderSource(path=str(real_data() / "flowers-96"))
    data = prepare(source, "validation", 76)
    assert len(data.images) == 737 and all(len(captions) == 6 for captions in data.captions)
    began = time.monotonic()
    prepare(FolderSource(path=str(real_data() / "flowers-96")), "validation", 76)
    assert time.monotonic() - began < 1


def test_real_anime_faces_are_an_image_folder() -> None:
    rows = FolderSource(path=str(real_data() / "anime-faces-64")).rows("train")
    assert len(rows) == 12_000 and all("hair" in captions[0] for captions in rows.captions)


def test_the_errors_are_ours(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        FolderSource(path=str(tmp_path / "none"))


def test_drawn_flowers_at_any_size_up_to_256() -> None:
    source = SyntheticFlowers(count=8)
    small = prepare(source, "train", 19).images.float()
    large = prepare(source, "train", 76).images.float()
    averaged = large.unflatten(1, (19, 4)).unflatten(3, (19, 4)).mean((2, 4))
    assert (small - averaged).abs().max() <= 0.51


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"attributes": "red"}, "has the attributes 'red'"),
        ({"mentioned_attributes": [["colour"], []]}, "not a list of attribute names for each of its 1 captions"),
        ({"mentioned_attributes": ["colour"]}, "not a list of attribute names"),
    ],
)
def test_columns_that_cannot_be_used(stackflower, good: Path, row: dict, message: str) -> None:
    picture(good / "99.jpg")
    with (good / "metadata.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"file_name": "99.jpg", "text": "a", "label": 1} | row) + "\n")
    assert message in stackflower("data", "check", good, code=2).output


def test_labels_of_some_rows_only_are_told(good: Path) -> None:
    picture(good / "99.jpg")
    with (good / "metadata.jsonl").open("a", encoding="utf-8") as lines:
        lines.write('{"file_name": "99.jpg", "text": "a"}\n')
    (warning,) = FolderSource(path=str(good)).warnings("train")
    assert "12 of 13 rows" in warning and "negative caption" in warning


def test_without_labels_pictures_with_the_same_captions_are_of_one_class() -> None:
    rows = Rows(
        captions=[["red hair"], ["blue hair"], ["red hair"], ["red hair", "blue eyes"], ["blue eyes", "red hair"]]
    )
    data = Prepared(torch.zeros(5, 4, 4, 3, dtype=torch.uint8), rows, "")
    assert data.classes().tolist() == [0, 1, 0, 2, 2]
    others = NegativeSampler(data.classes(), 5)(torch.zeros(200, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert set(others.tolist()) == {1, 3, 4}
    assert Prepared(data.images, dataclasses.replace(rows, labels=[7] * 5), "").classes().tolist() == [7] * 5


def shared_captions() -> tuple[Prepared, list[list[str]]]:
    """Templates and tags are shared by pictures that are not alike: "big" is wrong for none that is big."""
    captions = [["a red flower", "big"], ["a red flower", "small"], ["a blue flower", "big"]] * 20
    return Prepared(torch.zeros(60, 4, 4, 3, dtype=torch.uint8), Rows(captions), ""), captions


def telling(data: Prepared, **options: Any) -> Batches:
    """Batches whose embeddings tell the numbers of the captions."""
    count = len(data.flatten_captions())
    drawing = Drawing(4, 0, lambda count, generator: torch.zeros(count, 1), **options)
    return PreparedBatches(data, lambda numbers: torch.nn.functional.one_hot(numbers, count).float(), drawing)


def test_without_labels_texts_that_read_the_same_are_of_one_class() -> None:
    data, _ = shared_captions()
    flat = data.flatten_captions()
    make = telling(data, latents_per_caption=2)
    batch = make(0, 60)
    texts = [flat[number] for number in batch.caption.tolist()]
    for row, label in enumerate(batch.label.tolist()):
        assert [texts[other] == texts[row] for other in range(60)] == (batch.label == label).tolist()
    drawn = [flat[number] for number in batch.fake_text.argmax(1).tolist()]
    assert [batch.label[texts.index(text)].item() for text in drawn] == batch.fake_label.tolist()


@pytest.mark.parametrize("averaged", [2, 4])
def test_without_labels_averaged_wrong_captions_are_not_the_pictures_own(averaged: int) -> None:
    data, captions = shared_captions()
    data.rows.captions[:] = [
        [*texts, "in a garden" if row % 6 < 3 else "in a vase"] for row, texts in enumerate(captions)
    ]
    flat = data.flatten_captions()
    make = telling(data, averaged=averaged)

    def shared() -> int:
        count = 0
        for picture, wrong in zip(make.indices(0, 60).tolist(), make(0, 60).negative_text, strict=True):
            theirs = {flat[number] for number in wrong.nonzero().flatten().tolist()}
            assert len(theirs) == min(averaged, 3)
            count += len(theirs & set(data.captions[picture]))
        return count

    looked = shared()
    make.negatives.shared = None  # as if it did not look
    assert looked < shared() / 2


def test_without_labels_a_wrong_caption_is_none_of_the_pictures_own() -> None:
    data, captions = shared_captions()
    flat = data.flatten_captions()
    batches = telling(data, hard_negatives=2)
    seen = set()
    for first in range(0, 600, 60):
        batch = batches(first, 60)
        assert torch.equal(batch.negative_text.argmax(1), batch.negative_caption)
        for picture, wrong in zip(batches.indices(first, 60).tolist(), batch.negative_caption.tolist(), strict=True):
            assert flat[wrong] not in captions[picture]
            seen.add((picture % 3, flat[wrong]))
    assert seen == {
        (0, "small"),
        (0, "a blue flower"),
        (1, "big"),
        (1, "a blue flower"),
        (2, "small"),
        (2, "a red flower"),
    }


def test_a_damaged_cache_is_made_again(stackflower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKFLOWER_CACHE", str(tmp_path / "cache"))
    arguments = ("train", "--images", 8, *TINY, *settings("data.count=24"))
    stackflower(*arguments, "--out", "first")
    damage = {"rows.jsonl": b'{"captions": [], "asked": 1}', "images.npy": b"\x93NUMPY", "*.safetensors": b"half"}
    for number, (name, content) in enumerate(damage.items()):
        (path,) = (tmp_path / "cache").rglob(name)
        path.write_bytes(content)
        stackflower(*arguments, "--out", f"again-{number}")
        one, two = (load_file(tmp_path / run / "generator.safetensors") for run in ("first", f"again-{number}"))
        assert all(torch.equal(one[key], two[key]) for key in one), name

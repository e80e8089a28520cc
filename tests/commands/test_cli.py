"""The command line as a whole, and its commands that score, list and embed."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest
from conftest import TINY

from stackflower.commands.console import LazyGroup


def test_scores_carry_their_protocol(stackflower, trained: Path, tmp_path: Path) -> None:
    stackflower(
        "data",
        "make",
        "synthetic-flowers",
        "--out",
        "data",
        "--count",
        60,
        "--validation",
        24,
        "--test",
        24,
        "--resolution",
        64,
    )
    out = stackflower(
        "train-classifier",
        "--data",
        "data",
        "--out",
        "c.safetensors",
        "--resolution",
        16,
        "--network",
        "plain",
        "--epochs",
        1,
    )
    assert "held-out accuracy" in out.stdout
    command = ["eval", trained, "--extractor", "domain", "--weights", "c.safetensors", "--splits", 2]
    scores = json.loads(stackflower(*command, "--json").stdout)
    assert scores["inception_score_mean"] >= 1 and scores["real_inception_score_mean"] >= 1
    assert set(scores["caption_accuracy"]) >= {"colour", "shape", "centre", "all_mentioned"}
    assert scores["diversity_within_caption"]["value"] >= 0 and scores["frechet_distance"] >= 0
    protocol = scores["protocol"]
    assert {
        "extractor",
        "weights_sha256",
        "images",
        "captions",
        "splits",
        "seed",
        "shuffle",
        "resize",
        "truncation",
    } <= protocol.keys()
    assert "weights" in scores["scored"]
    assert scores == json.loads(stackflower(*command, "--json").stdout), "the same seed, the same scores"
    text = stackflower(*command, "--metrics", "is").stdout
    assert "Inception Score" in text and "real images" in text and "Fréchet" not in text
    stackflower("sample", trained, "a red flower", "--per-caption", 8, "--out", "drawn")
    folder = json.loads(
        stackflower("eval", "--images", "drawn", "--data", "data", *command[2:], "--metrics", "is,fid", "--json").stdout
    )
    assert folder["protocol"]["images"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval"], "Give one or more run folders, --images DIR or --real SPLIT."),
        (
            ["eval", "RUN", "--metrics", "iss"],
            "Allowed: captions, cosine, diversity, fid, is, kid, ms-ssim, nearest, prdc, r-precision, similarity",
        ),
        (["eval", "RUN", "--extractor", "inception-v3", "--weights", "no.pth"], "--extractor domain"),
        (["eval", "RUN", "--extractor", "domain", "--weights", "no.safetensors"], "`stackflower train-classifier"),
        (["eval", "RUN", "--extractor", "vgg"], "Unknown extractor 'vgg'"),
        (["eval", "--images", "."], "name the data to compare with, as in --data"),
        (
            ["eval", "--images", ".", "--data", "synthetic-flowers", "--metrics", "diversity"],
            "--metrics diversity needs a subject that generates images",
        ),
        (["eval", "--images", "nowhere", "--data", "synthetic-flowers"], "this folder or archive does not exist"),
        (["ls", "generators"], "Did you mean 'generator'?"),
        (["embed"], "No caption given"),
        (["data", "check", "nowhere"], "does not exist. SOURCE takes a folder of images with captions"),
        (["data", "info", "nowhere"], "does not exist. SOURCE takes a folder of images with captions"),
        (["data", "prepare", "nowhere"], "does not exist. SOURCE takes a folder of images with captions"),
        (["data", "shard", "nowhere", "shards"], "does not exist. SOURCE takes a folder of images with captions"),
        (["eval", "RUN", "--metrics", "is,fidd"], "unknown metric 'fidd'. Did you mean 'fid'? Allowed: "),
        (["eval", "RUN", "--metrics", "is,ms-sim"], "unknown metric 'ms-sim'. Did you mean 'ms-ssim'? Allowed: "),
        (["embed", "a", "--out", "x.csv"], "the name must end in .npy"),
        (["data", "make", "flowers", "--out", "x"], "Allowed: synthetic-flowers"),
    ],
)
def test_wrong_calls_of_other_commands_get_a_sentence(
    stackflower, trained: Path, arguments: list[str], message: str
) -> None:
    assert message in stackflower(*[str(trained) if part == "RUN" else part for part in arguments], code=2).output


def test_ls_lists_every_part_with_its_distribution(stackflower) -> None:
    from stackflower import registry

    rows = json.loads(stackflower("ls", "--json").stdout)["parts"]
    listed = {(row["kind"], row["name"]) for row in rows}
    assert listed >= {(entry.kind, entry.name) for entry in registry.list_entries()}
    assert all(row["description"] and row["from"] for row in rows)
    assert "matching" in stackflower("ls", "discriminator").stdout


def test_embed_writes_unit_vectors_and_prints_similarities(stackflower, tmp_path: Path) -> None:
    stackflower("embed", "a red flower", "a blue flower", "--out", "e.npy")
    table = np.load(tmp_path / "e.npy")
    assert table.shape[0] == 2 and np.allclose(np.linalg.norm(table, axis=1), 1)
    assert "a red flower" in stackflower("embed", "a red flower").stdout


def test_the_help_of_a_command_has_examples(stackflower) -> None:
    for command in ("train", "sample", "eval", "embed", "train-classifier"):
        assert "Examples:" in stackflower(command, "--help").output


def test_every_command_prints_json(stackflower, tmp_path: Path) -> None:
    make = ("data", "make", "synthetic-flowers", "--out", "d", "--count", 16, "--validation", 2, "--test", 2)
    assert json.loads(stackflower(*make, "--json").stdout)["count"] == 16
    assert json.loads(stackflower("data", "prepare", "d", "--json").stdout)["size"] == 76
    done = json.loads(stackflower("train", "--images", 16, "--out", "run", *TINY, "--json").stdout)
    assert done["images"] == 16 and done["run"] == "run" and done["stopped"] is None
    assert Path(done["samples"][-1]).exists()
    from stackflower.cli import main

    context = click.Context(main)
    groups = [main, main.get_command(context, "data")]
    for group in groups:
        assert isinstance(group, LazyGroup)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if not isinstance(command, LazyGroup):
                assert {"as_json", "quiet", "verbose"} <= {parameter.name for parameter in command.params}, name

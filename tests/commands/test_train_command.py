"""The train command: what it prints, and that wrong input gets a sentence and exit code 2."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from conftest import FEW, TINY


def test_the_first_line_says_which_recipe_and_why(stackflower) -> None:
    out = stackflower("train", "--stage", 1, "--images", 16, *TINY).output
    first = out.splitlines()[0]
    assert first.startswith("Recipe quickstart") and "--recipe stackgan is the recipe of the paper" in first


def test_quickstart_is_the_default_also_with_a_gpu(stackflower, monkeypatch: pytest.MonkeyPatch) -> None:
    from stackflower.training.request import TrainingRequest, choose_recipe

    monkeypatch.setattr("stackflower.utils.devices.has_accelerator", lambda: True)
    assert choose_recipe(TrainingRequest())[0] == "quickstart"


def test_precedence_is_recipe_then_flags_then_set(stackflower, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'description = "mine"\n[train]\nimages = 100\nbatch_size = 10\n[generator]\nchannels = 2\n'
    )

    def resolved(*arguments: object) -> dict:
        out = stackflower("train", "--recipe", "mine.toml", *FEW, *arguments, "--dry-run").stdout
        return json.loads(out[out.index("{") : out.rindex("}") + 1])

    assert resolved()["train"]["batch_size"] == 10
    assert resolved("--batch-size", 20)["train"]["batch_size"] == 20
    assert resolved("--batch-size", 20, "--set", "train.batch_size=30")["train"]["batch_size"] == 30
    assert resolved("--epochs", 2)["train"] | {"images": None, "epochs": 2.0} == resolved("--epochs", 2)["train"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "stackgam"], "Unknown recipe 'stackgam'. Did you mean 'stackgan'?"),
        (["--discriminator", "matchin"], "Unknown discriminator 'matchin'. Did you mean 'matching'?"),
        (["--set", "generator.chanels=3"], "has no option 'chanels'. Did you mean 'channels'?"),
        (["--set", "generator.channels"], "it should be PART.OPTION=VALUE"),
        (["--set", "train.batch=3"], "Unknown setting train.batch."),
        (["--set", "trian.images=3"], "Unknown section or key 'trian'."),
        (["--set", "train.images=-3"], "it should be greater than 0"),
        (
            ["--set", "generator.resolution=48"],
            "generator.resolution is 48, but must be a power of two from 16 up (16, 32, 64",
        ),
        (["--penalty", "r1=much"], "the weight must be a number"),
        (["--penalty", "r3"], "Unknown penalty 'r3'"),
        (["--text", "nagram"], "Unknown text encoder 'nagram'. Did you mean 'ngram'?"),
        (["--data", "no-such-folder"], "no-such-folder' does not exist. --data takes a folder of images with captions"),
        (["--stage", "4"], "--stage 4"),
        (["--resume", "nowhere"], "Run folder nowhere does not exist."),
        (["--resume"], "runs/ contains no run to resume."),
        (["--recipe", "stackgan", "--penalty", "mode-seeking"], "use --set train.latents_per_caption=2"),
        (["--set", "penalties.r1.every=0"], "it should be greater than 0"),
        (["--set", "train.interpolated=2"], "--set train.interpolated=2: it should be less than or equal to 1"),
        (["--set", "generator.channels=0"], "--set generator.channels=0: it should be greater than 0"),
        (
            ["--set", "train.load_size=48"],
            "train.load_size = 48 is lower than the resolution of the generated images (64 px)",
        ),
        (
            ["--set", "optimizer.generator=3"],
            "it should be a table per network, as in [optimizer.generator] lr = 2e-4.",
        ),
        (["--set", "optimizer.generatr.lr=1"], "Unknown section optimizer.generatr. Did you mean 'generator'?"),
        (["--set", "recipe=[1]"], "recipe = [1]: it should be the name of a recipe"),
        (["--batch-size", "100000000000"], "--batch-size 100000000000: it should be less than or equal to 65536"),
        (["--set", "train=5"], "`train=5`: it should be a table"),
        (["--set", "below=3"], "set the previous stage with --below RUN"),
        (["--set", "below.run=x"], "set the previous stage with --below RUN"),
        (["--text", "rnn", "--set", "text.word_dim=0"], "--set text.word_dim=0: it should be greater than 0"),
        (["--epochs", "inf"], "'inf' is not a finite number"),
        (["--set", "train.epochs=nan"], "--epochs nan: it should be a finite number"),
        (["--set", "train.load_size=0"], "--set train.load_size=0: it should be greater than 0"),
        (["--penalty", "r1=-5"], "--set penalties.r1.weight=-5.0: it should be greater than or equal to 0 (part 'r1')"),
        (["--objective", "wasserstein", "--penalty", "r1=0"], "lets the discriminator's scores grow without bound"),
        (
            ["--recipe", "began", "--set", "objective.gamma=-1"],
            "--set objective.gamma=-1: it should be greater than or equal to 0",
        ),
        (["--set", "generator.dropout=1"], "--set generator.dropout=1: it should be less than 1"),
        (["--recipe", "stackgan", "--set", "train.load_size=300"], "can be prepared at 16 to 256 px"),
        (["--resume", "a", "--out", "b"], "leave out --out b"),
        (["--report-to", "paper"], "allowed are tensorboard"),
        (["--mixed-precision", "fp16"], "needs a GPU"),
        (["--time-limit", "soon"], "is not a duration; write it as 90s, 20m or 1h30m"),
        (
            ["--batch-size", "7", "--gradient-accumulation", "2"],
            "must be divisible by gradient_accumulation × latents_per_caption = 4",
        ),
    ],
)
def test_wrong_calls_of_train_get_a_sentence(stackflower, tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in stackflower("train", *arguments, code=2).output
    assert not list(tmp_path.iterdir())


@pytest.mark.extras
def test_a_text_model_that_does_not_exist_is_named(stackflower) -> None:
    pytest.importorskip("transformers")
    assert "can't be loaded" in stackflower("train", "--text", "/no/such/model", code=2).output


def test_a_text_model_without_its_library_names_the_extra(stackflower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # as where it is not installed
    output = stackflower("train", "--text", "/no/such/model", code=2).output
    assert 'needs transformers: pip install "stackflower[text]"' in output


def test_all_mistakes_are_told_at_once(stackflower) -> None:
    out = stackflower(
        "train", "--set", "generator.a=1", "--set", "train.b=2", "--objective", "what", "--penalty", "r3", code=2
    ).output
    assert all(word in out for word in ("'a'", "train.b", "'what'", "'r3'"))


def test_a_broken_recipe_file_is_refused_in_a_sentence(stackflower, tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("train = [")
    assert "is not TOML" in stackflower("train", "--recipe", "broken.toml", code=2).output
    (tmp_path / "odd.toml").write_text('description = "x"\ngenerator = 3\n[train]\nimages = "many"\n')
    out = stackflower("train", "--recipe", "odd.toml", code=2).output
    assert "generator = 3" in out and "train.images = 'many'" in out


def test_a_folder_that_holds_something_is_not_overwritten(stackflower, tmp_path: Path, trained: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    assert "is not empty" in stackflower("train", "--out", "full", "--images", 8, *TINY, code=2).output
    assert f"with --resume {trained}" in stackflower("train", "--out", trained, "--images", 8, *TINY, code=2).output


def test_resuming_with_another_configuration_names_what_differs(stackflower, trained: Path) -> None:
    out = stackflower("train", "--resume", trained, "--batch-size", 4, "--objective", "bce", code=2).output
    assert "train.batch_size is 8 in the run and 4 here" in out and "objective" in out
    assert (
        "leave out --recipe to resume it"
        in stackflower("train", "--resume", trained, "--recipe", "stackgan", code=2).output
    )


def test_seeds_that_are_too_large_are_refused(stackflower, trained: Path) -> None:
    assert "is not in the range" in stackflower("train", "--seed", 2**64, code=2).output
    assert "is not in the range" in stackflower("sample", trained, "a", "--seed", 2**64, code=2).output
    assert "it should be less than" in stackflower("train", "--set", f"seed={2**63}", code=2).output
    assert "it should be less than" in stackflower("train", "--set", f"data.seed={2**64}", code=2).output


def test_a_cache_that_cannot_be_written_is_named(stackflower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STACKFLOWER_CACHE", str(tmp_path / "file" / "cache"))
    output = stackflower("train", "--out", "run", "--images", 8, *TINY, code=2).output
    assert "STACKFLOWER_CACHE" in output and "can't be written" in output


def test_the_last_lines_of_training_can_be_typed(stackflower, tmp_path: Path) -> None:
    output = stackflower("train", "--out", "a run", "--images", 16, *TINY).output
    told = next(line for line in output.splitlines() if line.startswith("Generate:"))
    name, *arguments = shlex.split(told.partition(":")[2])
    assert name == "stackflower" and arguments[:2] == ["sample", "a run"] and len(arguments) == 3
    assert (
        "drawn" in stackflower(*arguments, "--out", "drawn").output and (tmp_path / "drawn" / "00000-00.png").exists()
    )

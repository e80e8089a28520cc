"""The command line: what it prints, and that bad input gets a sentence and exit code 2."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from conftest import TINY, settings
from PIL import Image

from stackflower.commands.console import LazyGroup
from stackflower.errors import ConfigError
from stackflower.runs.folder import Run

FEW = settings("data.count=48", "data.validation=16", "data.test=16")


def test_dry_run_resolves_everything_and_creates_nothing(stackflower, tmp_path: Path) -> None:
    out = stackflower("train", "--stage", 1, "--recipe", "stackgan", "--dry-run").output
    assert "Recipe stackgan." in out.splitlines()[0]
    assert "FLOPs of a step" in out and "memory for training" in out and "generator parameters" in out
    assert '"kl_weight": 2.0' in out and "images per epoch" in out
    assert "the run would be runs/stackgan-1" in out
    assert not list(tmp_path.iterdir())


def test_dry_run_finds_what_the_run_would_stop_at(stackflower, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.json").write_text("{}")
    assert "needs another --out" in stackflower("train", "--out", "taken", "--dry-run", code=2).output
    assert "--report-to carrier" in stackflower("train", "--report-to", "carrier", "--dry-run", code=2).output


def test_a_penalty_joins_the_recipes_or_changes_its_weight(stackflower) -> None:
    def penalties(*flags: str) -> object:
        text = stackflower("train", "--recipe", "quickstart", *FEW, "--dry-run", *flags).stdout
        return json.JSONDecoder().raw_decode(text)[0]["penalties"]

    plain = penalties()
    assert penalties("--penalty", "r1=2.5") == {**plain, "r1": {**plain["r1"], "weight": 2.5}}
    assert penalties("--penalty", "none") == {}
    assert penalties("--penalty", "none", "--penalty", "r1=1") == {"r1": {"weight": 1.0, "every": 1}}


def test_dry_run_refuses_sizes_and_writes_out_every_default(stackflower) -> None:
    out = stackflower("train", "--recipe", "quickstart", "--set", "train.load_size=48", "--dry-run", code=2).output
    assert "train.load_size = 48 is less than the 64 px" in out
    values = json.JSONDecoder().raw_decode(stackflower("train", "--recipe", "quickstart", "--dry-run").stdout)[0]
    assert values["generator"]["norm"] == "batch" and values["objective"]["contrast"] == 1.0


def test_dry_run_counts_critic_steps_and_the_memory_of_activations(stackflower) -> None:
    def found(label: str, *flags: str) -> float:
        out = stackflower("train", "--recipe", "stackgan", *FEW, "--mixed-precision", "no", "--dry-run", *flags).stdout
        return float(re.search(rf"{label} +(?:about )?([\d.e+,]+)", out)[1].replace(",", ""))

    steps = [found("FLOPs of a step", "--set", f"train.critic_steps={count}") for count in (1, 2, 3)]
    assert steps[2] - steps[1] == pytest.approx(steps[1] - steps[0], rel=0.01) and steps[1] > 1.4 * steps[0]
    small, large = (found("memory for training", "--batch-size", str(size)) for size in (64, 128))
    assert 700 < small < 1500, "weights are not counted once for every picture"
    assert small < large < 2 * small, "the weights' part does not grow with the batch"


def test_dry_run_counts_what_a_step_costs(stackflower) -> None:
    """The paper's Stage-I: parameters by hand, and FLOPs that double with the batch."""
    out = stackflower("train", "--recipe", "stackgan", "--set", "text.dim=1024", "--dry-run").output
    widths = [1024, 512, 256, 128, 64]
    generator = 228 * 1024 * 16 + 2 * 1024 + sum(9 * a * b + 2 * b for a, b in itertools.pairwise(widths)) + 9 * 64 * 3
    conditioning = 1024 * 256 + 256
    assert f"{generator + conditioning:,}" in out

    def flops(batch: int) -> float:
        text = stackflower("train", "--recipe", "stackgan", *FEW, "--batch-size", batch, "--dry-run").output
        return float(next(line for line in text.splitlines() if line.startswith("FLOPs")).split()[4])

    assert flops(128) == pytest.approx(2 * flops(64), rel=0.01)


def test_the_first_line_says_which_recipe_and_why(stackflower) -> None:
    out = stackflower("train", "--stage", 1, "--images", 16, *TINY).output
    first = out.splitlines()[0]
    assert first.startswith("Recipe quickstart") and "--recipe stackgan is the paper's" in first


def test_quickstart_is_the_default_on_every_machine(stackflower, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_naming_the_part_that_is_there_changes_nothing(stackflower) -> None:
    plain = stackflower("train", "--recipe", "quickstart", "--dry-run").stdout
    assert stackflower("train", "--recipe", "quickstart", "--discriminator", "matching", "--dry-run").stdout == plain


def test_swapping_a_part_by_flag_drops_the_other_parts_options(stackflower) -> None:
    out = stackflower(
        "train", "--recipe", "stackgan", "--conditioning", "projection", "--objective", "hinge", "--dry-run"
    ).output
    assert '"name": "projection"' in out and "kl_weight" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "stackgam"], "There is no recipe 'stackgam'. Did you mean 'stackgan'?"),
        (["--discriminator", "matchin"], "There is no discriminator called 'matchin'. Did you mean 'matching'?"),
        (["--set", "generator.chanels=3"], "has no option 'chanels'. Did you mean 'channels'?"),
        (["--set", "generator.channels"], "it should be PART.OPTION=VALUE"),
        (["--set", "train.batch=3"], "There is no setting train.batch."),
        (["--set", "trian.images=3"], "There is no section or key 'trian'."),
        (["--set", "train.images=-3"], "it should be greater than 0"),
        (
            ["--set", "generator.resolution=48"],
            "generator.resolution is 48, but must be a power of two from 16 up (16, 32, 64",
        ),
        (["--penalty", "r1=much"], "the weight must be a number"),
        (["--penalty", "r3"], "There is no penalty called 'r3'"),
        (["--text", "nagram"], "Unknown text encoder 'nagram'. Did you mean 'ngram'?"),
        (["--data", "no-such-folder"], "no-such-folder'. --data takes a folder of images with captions"),
        (["--stage", "4"], "--stage 4"),
        (["--resume", "nowhere"], "Run folder nowhere does not exist."),
        (["--resume"], "runs/ contains no run to resume."),
        (["--recipe", "stackgan", "--penalty", "mode-seeking"], "use --set train.latents_per_caption=2"),
        (["--set", "penalties.r1.every=0"], "it should be greater than 0"),
        (["--set", "train.interpolated=2"], "train.interpolated = 2: it should be less than or equal to 1"),
        (["--set", "generator.channels=0"], "generator.channels = 0: it should be greater than 0"),
        (["--set", "train.load_size=48"], "train.load_size = 48 is less than the 64 px that are generated"),
        (["--set", "optimizer.generator=3"], "it should be a table for each, as in [optimizer.generator] lr = 2e-4."),
        (["--set", "optimizer.generatr.lr=1"], "There is no optimizer.generatr. Did you mean 'generator'?"),
        (["--set", "recipe=[1]"], "recipe = [1]: it should be the name of a recipe"),
        (["--batch-size", "100000000000"], "train.batch_size = 100000000000: it should be less than or equal to 65536"),
        (["--set", "train=5"], "train = 5: it should be a table"),
        (["--set", "below=3"], "the previous stage is set by --below RUN"),
        (["--set", "below.run=x"], "the previous stage is set by --below RUN"),
        (["--text", "rnn", "--set", "text.word_dim=0"], "text.word_dim = 0: it should be greater than 0"),
        (["--epochs", "inf"], "'inf' is not a finite number"),
        (["--set", "train.epochs=nan"], "train.epochs = nan: it should be a finite number"),
        (["--set", "train.load_size=0"], "train.load_size = 0: it should be greater than 0"),
        (["--penalty", "r1=-5"], "penalty.weight = -5.0: it should be greater than or equal to 0 (part 'r1')"),
        (["--objective", "wasserstein", "--penalty", "r1=0"], "lets the discriminator's scores grow without bound"),
        (
            ["--recipe", "began", "--set", "objective.gamma=-1"],
            "objective.gamma = -1: it should be greater than or equal to 0",
        ),
        (["--set", "generator.dropout=1"], "generator.dropout = 1: it should be less than 1"),
        (["--recipe", "stackgan", "--set", "train.load_size=300"], "can be prepared at 16 to 256 px"),
        (["--resume", "a", "--out", "b"], "leave out --out b"),
        (["--report-to", "paper"], "allowed are tensorboard"),
        (["--mixed-precision", "fp16"], "needs a GPU"),
        (["--time-limit", "soon"], "is not a duration; write it as 90s, 20m or 1h30m"),
        (["--batch-size", "7", "--gradient-accumulation", "2"], "must divide"),
    ],
)
def test_wrong_calls_get_a_sentence(stackflower, tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in stackflower("train", *arguments, code=2).output
    assert not list(tmp_path.iterdir())


@pytest.mark.extras
def test_a_text_model_that_is_not_there(stackflower) -> None:
    pytest.importorskip("transformers")
    assert "can't be loaded" in stackflower("train", "--text", "/no/such/model", code=2).output


def test_a_text_model_without_its_library_names_the_extra(stackflower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # as where it is not installed
    output = stackflower("train", "--text", "/no/such/model", code=2).output
    assert 'needs transformers: pip install "stackflower[text]"' in output


def test_a_recipes_crop_goes_with_its_resolution(stackflower) -> None:
    def planned(*flags: str) -> object:
        text = stackflower("train", "--recipe", "quickstart", *FEW, "--dry-run", *flags).stdout
        return json.JSONDecoder().raw_decode(text)[0]["train"]["load_size"]

    assert planned() == 66 and planned("--generator", "tree", "--set", "generator.resolution=64") == 66
    assert planned("--generator", "tree") is None and planned("--set", "generator.resolution=128") is None
    assert planned("--generator", "tree", "--set", "train.load_size=256") == 256


def test_all_mistakes_are_told_at_once(stackflower) -> None:
    out = stackflower(
        "train", "--set", "generator.a=1", "--set", "train.b=2", "--objective", "what", "--penalty", "r3", code=2
    ).output
    assert all(word in out for word in ("'a'", "train.b", "'what'", "'r3'"))


def test_a_broken_recipe_file(stackflower, tmp_path: Path) -> None:
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
    assert "keeps its recipe" in stackflower("train", "--resume", trained, "--recipe", "stackgan", code=2).output


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("config.json", "config.json is missing"),
        ("generator.safetensors", "generator.safetensors is missing"),
    ],
)
def test_a_half_deleted_run(stackflower, tmp_path: Path, trained: Path, gone: str, message: str) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / gone).unlink()
    assert message in stackflower("sample", "run", "a red flower", code=2).output


def test_damaged_files_in_a_run(stackflower, tmp_path: Path, trained: Path) -> None:
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
        (lambda v: {**v, "colour": "red"}, "There is no setting config.colour"),
        (lambda v: [v], "it should be a table"),
        (lambda v: {**v, "run": {**v["run"], "generator": None}}, "generator = None"),
        (
            lambda v: {**v, "run": {**v["run"], "below": {"conditioning": {"name": [1]}, "run": "x", "stage": 1}}},
            "the previous stage is set by",
        ),
    ],
)
def test_a_configuration_of_a_run_that_is_not_one(stackflower, tmp_path: Path, trained: Path, change, message) -> None:
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
def test_a_state_of_a_checkpoint_that_is_not_one(stackflower, tmp_path: Path, trained: Path, change, message) -> None:
    shutil.copytree(trained, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*/state.json"):
        _edit(path, change)
    output = stackflower("train", "--resume", "run", "--images", 200, code=2).output
    assert message in output and "delete" in output.lower()


@pytest.mark.parametrize("name", ["optimizer-generator", "rng-0", "generator", "discriminator-16"])
def test_a_file_of_a_checkpoint_that_is_of_another_kind(stackflower, tmp_path: Path, trained: Path, name: str) -> None:
    shutil.copytree(trained, tmp_path / "run")
    for path in Run(tmp_path / "run").list_checkpoints():
        shutil.copyfile(path / "optimizer-discriminator.safetensors", path / f"{name}.safetensors")
    output = stackflower("train", "--resume", "run", "--images", 200, code=2).output
    assert f"{name}.safetensors is missing or damaged, or belongs to another checkpoint" in output and "delete" in output


def test_metrics_that_are_a_folder(stackflower, tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    said = stackflower("train", "--resume", "run", "--images", 104).output
    assert "metrics.jsonl could not be written" in said


def test_metrics_that_are_no_text(stackflower, tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    good = metrics.read_bytes()
    nested = b"[" * 200_000 + b"\n"
    metrics.write_bytes(b"\xff\xfe\n3\n{}\n" + nested + b'{"images": "x"}\n' + good)
    assert len(Run(tmp_path / "run").read_metrics()) == len(good.splitlines())
    stackflower("train", "--resume", "run", "--images", 104)
    assert metrics.read_bytes().startswith(good)


def test_seeds_that_are_too_large(stackflower, trained: Path) -> None:
    assert "is not in the range" in stackflower("train", "--seed", 2**64, code=2).output
    assert "is not in the range" in stackflower("sample", trained, "a", "--seed", 2**64, code=2).output
    assert "it should be less than" in stackflower("train", "--set", f"seed={2**63}", code=2).output
    assert "it should be less than" in stackflower("train", "--set", f"data.seed={2**64}", code=2).output


def test_a_cache_that_cannot_be_made(stackflower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STACKFLOWER_CACHE", str(tmp_path / "file" / "cache"))
    output = stackflower("train", "--out", "run", "--images", 8, *TINY, code=2).output
    assert "STACKFLOWER_CACHE" in output and "can't be written" in output


# ---- sample


def test_memory_does_not_grow_with_the_images_of_a_caption(trained: Path) -> None:
    """The first images of a hundred million are there at once, and the same as of a few."""
    import itertools as it

    from stackflower import Pipeline

    pipeline = Pipeline.from_run(trained, "cpu")
    few = list(pipeline.generate(["a red flower", "a blue flower"], per_caption=70, batch_size=32))
    many = list(it.islice(pipeline.generate(["a red flower", "a blue flower"], per_caption=10**8, batch_size=32), 2))
    assert all((one == other).all() for one, other in zip(few[:2], many, strict=True))
    middle = pipeline.generate(["a red flower", "a blue flower"], per_caption=10**8, part=(1, 2), batch_size=1)
    assert next(middle).shape[0] == 1


def test_a_grid_has_a_limit(stackflower, trained: Path) -> None:
    output = stackflower("sample", trained, "a", "--per-caption", 10**8, "--grid", "--out", "x.png", code=2).output
    assert "at most 10,000" in output


def test_the_last_lines_of_training_can_be_typed(stackflower, tmp_path: Path) -> None:
    output = stackflower("train", "--out", "a run", "--images", 16, *TINY).output
    told = next(line for line in output.splitlines() if line.startswith("Generate:"))
    name, *arguments = shlex.split(told.partition(":")[2])
    assert name == "stackflower" and arguments[:2] == ["sample", "a run"] and len(arguments) == 3
    assert (
        "drawn" in stackflower(*arguments, "--out", "drawn").output and (tmp_path / "drawn" / "00000-00.png").exists()
    )


def test_sample_prints_where_it_wrote(stackflower, tmp_path: Path, trained: Path) -> None:
    out = stackflower("sample", trained, "a red flower", "--out", "one.png").stdout
    assert out.strip() == "one.png" and Image.open(tmp_path / "one.png").size == (16, 16)
    stackflower("sample", trained, "a red flower", "a blue flower", "--per-caption", 3, "--out", "many")
    rows = [json.loads(line) for line in (tmp_path / "many" / "metadata.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == [f"{c:05d}-{k:02d}.png" for c in range(2) for k in range(3)]
    assert rows[3]["text"] == "a blue flower" and (tmp_path / "many" / "00001-02.png").exists()


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


def test_sample_from_files_of_captions(stackflower, tmp_path: Path, trained: Path) -> None:
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
def test_wrong_sampling(stackflower, trained: Path, arguments: list[str], message: str) -> None:
    assert message in stackflower("sample", trained, *arguments, code=2).output


def test_a_caption_of_ten_thousand_words_can_be_drawn(stackflower, trained: Path) -> None:
    stackflower("sample", trained, "petal " * 10_000, "--out", "long.png")


def test_pipeline_from_python(trained: Path) -> None:
    from stackflower import Pipeline

    pictures = Pipeline.from_run(trained)("a red flower", per_caption=3, seed=0)
    assert len(pictures) == 3 and all(
        isinstance(picture, Image.Image) and picture.size == (16, 16) for picture in pictures
    )
    again = Pipeline.from_run(trained)(["a red flower"], per_caption=3, seed=0)
    assert all(one.tobytes() == two.tobytes() for one, two in zip(pictures, again, strict=True))
    assert len(Pipeline.from_run(trained)("a red flower", truncation=0.5)) == 1
    assert len(Pipeline.from_run(trained)("a red flower", truncation=0.01)) == 1
    for wrong in (0.001, float("nan")):
        with pytest.raises(ConfigError, match=r"at least 0\.01"):
            Pipeline.from_run(trained)("a red flower", truncation=wrong)


# ---- eval, ls, embed


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
            "allowed are captions, cosine, diversity, fid, is, kid, ms-ssim, nearest, prdc, r-precision, similarity",
        ),
        (["eval", "RUN", "--extractor", "inception-v3", "--weights", "no.pth"], "--extractor domain"),
        (["eval", "RUN", "--extractor", "domain", "--weights", "no.safetensors"], "`stackflower train-classifier"),
        (["eval", "RUN", "--extractor", "vgg"], "There is no extractor called 'vgg'"),
        (["eval", "--images", "."], "name the data to compare with, as in --data"),
        (
            ["eval", "--images", ".", "--data", "synthetic-flowers", "--metrics", "diversity"],
            "--metrics diversity generates",
        ),
        (["eval", "--images", "nowhere", "--data", "synthetic-flowers"], "this folder does not exist"),
        (["ls", "generators"], "Did you mean 'generator'?"),
        (["embed"], "No caption given"),
        (["embed", "a", "--out", "x.csv"], "written as .npy"),
        (["data", "make", "flowers", "--out", "x"], "Allowed: synthetic-flowers"),
    ],
)
def test_other_wrong_calls(stackflower, trained: Path, arguments: list[str], message: str) -> None:
    assert message in stackflower(*[str(trained) if part == "RUN" else part for part in arguments], code=2).output


def test_ls_lists_every_part_with_its_distribution(stackflower) -> None:
    from stackflower import registry

    rows = json.loads(stackflower("ls", "--json").stdout)["parts"]
    assert {(row["kind"], row["name"]) for row in rows} >= {(entry.kind, entry.name) for entry in registry.entries()}
    assert all(row["description"] and row["from"] for row in rows)
    assert "matching" in stackflower("ls", "discriminator").stdout


def test_embed(stackflower, tmp_path: Path) -> None:
    stackflower("embed", "a red flower", "a blue flower", "--out", "e.npy")
    table = np.load(tmp_path / "e.npy")
    assert table.shape[0] == 2 and np.allclose(np.linalg.norm(table, axis=1), 1)
    assert "a red flower" in stackflower("embed", "a red flower").stdout


def test_every_help_has_examples(stackflower) -> None:
    for command in ("train", "sample", "eval", "embed", "train-classifier"):
        assert "Examples:" in stackflower(command, "--help").output


def test_a_run_without_checkpoints_keeps_its_model(stackflower, tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = (tmp_path / "run" / "generator.safetensors").read_bytes()
    out = stackflower("train", "--resume", "run", "--images", 128, code=2).output
    assert "no checkpoint (run/checkpoints is empty or missing)" in out
    assert (tmp_path / "run" / "generator.safetensors").read_bytes() == before
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()


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

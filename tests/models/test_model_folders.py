"""Model folders: what is saved is loaded again, every part of it, and damage is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import posix, symlink
from safetensors.torch import load_file, save_file
from tiny_parts import CAPTIONS, FILES, C, T, make_encoder, small

import stackflower as sf
from stackflower import registry
from stackflower.build import build_stage
from stackflower.config.schema import Part, PreviousStage
from stackflower.errors import ConfigError, ModelError
from stackflower.models.describe import describe_networks
from stackflower.models.folder import load_model, save_model
from stackflower.models.record import FORMAT, ModelRecord, read_record
from stackflower.pipeline import Pipeline
from stackflower.stages.base import Refiner, Stage
from stackflower.text.base import TextEncoder
from stackflower.text.encoders.ngram import NgramEncoder

TEXT = Part("ngram", {"dim": T})


def describe_stage(generator: str, conditioning: str = "augmentation", stages: int = 1) -> PreviousStage:
    """Describe tiny networks; a generator that refines images, or more stages, come with the stages before them."""
    below = None
    if stages > 1 or issubclass(registry.get("generator", generator), Refiner):
        below = describe_stage("stage1" if stages < 3 else "stage2", stages=max(stages - 1, 1))
    number = 1 if below is None else below.stage + 1
    resolution = 32 if generator == "attention" else 16 * 2 ** (number - 1)
    options = {**small("generator", generator)}
    if "resolution" in options:
        options["resolution"] = resolution
    if below is not None and "factor" in registry.get_options("generator", generator):
        options = {"factor": 2, **{key: value for key, value in options.items() if key != "resolution"}}
    return PreviousStage(
        "", number, Part(conditioning, small("conditioning", conditioning)), Part(generator, options), 1.0, below
    )


def build(description: PreviousStage, seed: int = 0) -> Stage:
    """Build a stage whose weights and statistics differ from those of a new one."""
    torch.manual_seed(seed)
    stage: Stage | None = build_stage(description, T, NgramEncoder.word_dim)
    whole = stage
    while stage is not None:
        for value in stage.state_dict().values():
            if value.dtype.is_floating_point:
                value.add_(torch.rand_like(value) * 0.05)
        if stage.generator.reference_batch is not None:
            stage.set_reference_batch(torch.randn(4, T), stage.draw_noise(4, torch.Generator().manual_seed(1)))
        stage = stage.previous
    assert whole is not None
    return whole


def make_record(stage: Stage, description: PreviousStage, encoder: TextEncoder, text: Part = TEXT) -> ModelRecord:
    return ModelRecord(
        FORMAT,
        sf.__version__,
        encoder.dim,
        max(stage.resolutions),
        encoder.fingerprint(),
        text.to_dict(),
        describe_networks(description),
        captions=["a red flower", "a blue flower"],
        word_dim=encoder.word_dim,
    )


def draw(stage: Stage, encoder: TextEncoder) -> torch.Tensor:
    return torch.cat(list(Pipeline(stage, encoder, "cpu").generate(["a red flower", "a blue flower"], per_caption=2)))


@pytest.mark.parametrize(
    ("generator", "conditioning", "stages"),
    [
        *((name, "augmentation", 1) for name in registry.list_parts("generator")),
        *(("stage1", name, 1) for name in registry.list_parts("conditioning") if name != "augmentation"),
        ("stage2", "augmentation", 3),
    ],
)
def test_images_of_a_saved_model_are_the_same(generator: str, conditioning: str, stages: int, tmp_path: Path) -> None:
    description, encoder = describe_stage(generator, conditioning, stages), NgramEncoder(dim=T)
    stage = build(description)
    save_model(tmp_path / "model", stage, encoder, make_record(stage, description, encoder))
    again, encoder_again, record = load_model(tmp_path / "model")
    assert torch.equal(draw(stage, encoder), draw(again, encoder_again))
    weights = sorted(path.name for path in (tmp_path / "model").glob("*.safetensors"))
    assert len(weights) == description.stage and set(weights) <= record.files.keys()


@pytest.mark.parametrize("name", sorted(set(registry.list_parts("text")) - {"huggingface"}))
def test_every_encoder_travels_with_its_model(name: str, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    encoder = make_encoder(name, tmp_path / "files")
    options = {"path": str(tmp_path / "files" / FILES[name])} if name in FILES else {}
    description = describe_stage("stage1")
    torch.manual_seed(0)
    stage = build_stage(description, encoder.dim)
    save_model(tmp_path / "model", stage, encoder, make_record(stage, description, encoder, Part(name, options)))
    expected = encoder.encode(CAPTIONS)
    shutil.rmtree(tmp_path / "files")
    (tmp_path / "model").rename(tmp_path / "moved")
    _, again, record = load_model(tmp_path / "moved")
    assert torch.equal(again.encode(CAPTIONS), expected)
    assert str(tmp_path) not in record.to_json()


@pytest.mark.extras
def test_a_model_of_transformers_travels_with_its_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "flower"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    options = {"model": str(tmp_path / "bert")}
    encoder = registry.create("text", "huggingface", **options)
    assert isinstance(encoder, TextEncoder)
    description = describe_stage("stage1")
    stage = build_stage(description, encoder.dim)
    record = make_record(stage, description, encoder, Part("huggingface", options))
    save_model(tmp_path / "model", stage, encoder, record)
    expected = encoder.encode(["a red flower"])
    shutil.rmtree(tmp_path / "bert")
    _, again, record = load_model(tmp_path / "model")
    assert torch.equal(again.encode(["a red flower"]), expected) and str(tmp_path) not in record.to_json()


@pytest.mark.parametrize("half", [False, True])
def test_a_run_becomes_a_model_without_paths(trained: Path, tmp_path: Path, half: bool) -> None:
    pipeline = Pipeline.from_run(trained, "cpu")
    pipeline.save_pretrained(tmp_path / "flowers", half=half, license="cc0-1.0")
    model = Pipeline.from_pretrained(tmp_path / "flowers", "cpu")
    one, two = ([*made("a red flower", per_caption=4)] for made in (pipeline, model))
    distance = max(
        abs(a - b) for x, y in zip(one, two, strict=True) for a, b in zip(x.tobytes(), y.tobytes(), strict=True)
    )
    assert distance <= (2 if half else 0)
    types = {value.dtype for value in load_file(tmp_path / "flowers" / "generator.safetensors").values()}
    assert (torch.float16 in types) == half
    names = sorted(path.name for path in (tmp_path / "flowers").iterdir())
    assert names == ["README.md", "config.json", "generator.safetensors", "samples.jpg"]
    for name in ("README.md", "config.json"):
        text = (tmp_path / "flowers" / name).read_text(encoding="utf-8")
        assert str(trained.parent) not in text and "optimizer" not in text and "discriminator" not in text
    assert read_record(tmp_path / "flowers").captions == sf.Run(trained).read_captions() != []
    model.save_pretrained(tmp_path / "again", half=half)  # a model can be saved, too
    assert (tmp_path / "again" / "generator.safetensors").read_bytes() == (
        tmp_path / "flowers" / "generator.safetensors"
    ).read_bytes()


def test_a_model_has_no_discriminator_and_no_checkpoints(trained: Path, tmp_path: Path) -> None:
    Pipeline.from_run(trained, "cpu").save_pretrained(tmp_path / "flowers")
    with pytest.raises(ConfigError, match="`best_of` needs the folder of a run"):
        Pipeline.from_pretrained(tmp_path / "flowers", with_discriminator=True)
    with pytest.raises(ConfigError, match="`checkpoint` needs the folder of a run"):
        Pipeline.from_pretrained(tmp_path / "flowers", checkpoint="best")
    assert Pipeline.from_pretrained(trained, with_discriminator=True).adversary is not None  # a run is fine


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A model folder, which the test may change."""
    Pipeline.from_run(trained, "cpu").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(model: Path, change: Callable[[dict], object]) -> None:  # type: ignore[type-arg]
    path = model / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def pickle_weights(model: Path) -> None:
    (model / "generator.safetensors").rename(model / "generator.pt")


def flip_a_byte(model: Path) -> None:
    content = bytearray((model / "generator.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "generator.safetensors").write_bytes(content)


def write_other_weights(model: Path) -> None:
    """Weights of another size, with their right checksum."""
    from stackflower.utils.checksum import compute_sha256

    state = load_file(model / "generator.safetensors")
    name = next(iter(state))
    save_file({**state, name: torch.zeros(3)}, model / "generator.safetensors")
    edit(model, lambda v: v["files"].update({"generator.safetensors": compute_sha256(model / "generator.safetensors")}))


def lead_out(model: Path) -> None:
    (model.parent / "secret.safetensors").write_bytes((model / "generator.safetensors").read_bytes())
    (model / "generator.safetensors").unlink()
    symlink(model / "generator.safetensors", model.parent / "secret.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: (m / "config.json").unlink(), "config.json is missing"),
        (lambda m: (m / "config.json").write_text("{"), "config.json is damaged"),
        (lambda m: (m / "config.json").write_text("[]"), "config = \\[\\]: it should be a table"),
        (lambda m: (m / "generator.safetensors").unlink(), "generator.safetensors is missing"),
        (flip_a_byte, "its SHA-256 is not the one in config.json"),
        (write_other_weights, "does not match the networks in config.json"),
        (pickle_weights, "generator.pt is pickled, and is never read"),
        (lead_out, "is a link out of the folder"),
        (lambda m: edit(m, lambda v: v.update(format=FORMAT + 1, stackflower="9.0")), "written by Stackflower 9.0"),
        (lambda m: edit(m, lambda v: v.update(text_dim="many")), "config.text_dim = 'many'"),
        (lambda m: edit(m, lambda v: v["networks"].pop("generator")), "not described completely"),
        (lambda m: edit(m, lambda v: v["networks"].update(stage=10**9)), "is described as the stage 1"),
        (lambda m: edit(m, lambda v: v["networks"]["generator"].update(channels=6)), "does not match the networks"),
        (
            lambda m: edit(m, lambda v: v["networks"]["generator"].update(channels=10**9)),
            r"generator.channels to 1e\+09",
        ),
        (lambda m: edit(m, lambda v: v["networks"]["generator"].update(mapping_layers=10**9)), "mapping_layers to"),
        (lambda m: edit(m, lambda v: v["text"].update(dim=10**12)), r"text.dim to 1e\+12"),
        (lambda m: edit(m, lambda v: v["text"].update(dim=65)), "two sizes of the text embeddings"),
        (lambda m: edit(m, lambda v: v.update(text_dim=10**12)), r"text_dim to 1e\+12"),
        (lambda m: edit(m, lambda v: v["networks"]["generator"].update(name="nothing")), "Unknown generator"),
        (lambda m: edit(m, lambda v: v["files"].update({"../../etc/passwd": "0"})), "leads out of the folder"),
        (lambda m: edit(m, lambda v: v["files"].clear()), "has no checksum of generator.safetensors"),
        (lambda m: edit(m, lambda v: v.update(encoder="ngram-0")), "was trained with another text encoder"),
        (lambda m: edit(m, lambda v: v.update(resolution=10**9)), "gives a resolution of 1000000000, not 16"),
        (lambda m: edit(m, lambda v: v["networks"].update(load_ratio=1e300)), r"load_ratio = 1e\+300 should be"),
    ],
)
def test_damage_of_a_model_is_named(stackflower, model: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(model)
    with pytest.raises((ModelError, sf.errors.RunError), match=message):
        Pipeline.from_pretrained(model)
    stackflower("sample", model, "a red flower", code=2)


def test_a_model_does_not_replace_other_files(trained: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.from_run(trained, "cpu")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("1")
    for folder in (tmp_path / "thesis", trained, tmp_path / "thesis" / "chapter.txt"):
        with pytest.raises(ModelError):
            pipeline.save_pretrained(folder)
    assert (trained / "metrics.jsonl").exists()
    pipeline.save_pretrained(tmp_path / "model")
    pipeline.save_pretrained(tmp_path / "model", half=True)  # a model may be replaced
    assert read_record(tmp_path / "model").precision == "fp16"


def test_a_failed_export_keeps_the_old_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline.from_pretrained(model, "cpu")
    (model / "generator-stage1.safetensors").write_bytes(b"of an earlier model")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("stackflower.models.folder.save_file", fail)
        with pytest.raises(ModelError, match="No space left on device"):
            pipeline.save_pretrained(model)
    assert Pipeline.from_pretrained(model, "cpu").resolution == 16
    pipeline.save_pretrained(model)
    names = sorted(path.name for path in model.iterdir())
    assert names == ["README.md", "config.json", "generator.safetensors", "samples.jpg"]


@posix
def test_models_can_be_read_by_others_and_unreadable_ones_get_a_sentence(model: Path) -> None:
    assert {path.stat().st_mode & 0o444 for path in model.iterdir()} == {0o444}
    if os.geteuid():
        (model / "generator.safetensors").chmod(0)
        with pytest.raises(ModelError, match="can't be read: Permission denied"):
            Pipeline.from_pretrained(model)


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    description, encoder = describe_stage("stage1"), NgramEncoder(dim=T)
    stage = build(description)
    stage.state_dict()[next(name for name, value in stage.state_dict().items() if value.ndim > 1)].mul_(1e9)
    with pytest.raises(ModelError, match="beyond the range of float16; leave out `half`"):
        save_model(tmp_path / "model", stage, encoder, make_record(stage, description, encoder), "fp16")


@pytest.fixture
def unscored(trained: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run without the scores that other tests may have written."""
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("scores"))
    return tmp_path / "run"


def test_the_card_says_what_it_is(unscored: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.from_run(unscored, "cpu")
    pipeline.save_pretrained(
        tmp_path / "m", captions=["a <b>red</b> flower", "two"], title="ada/flowers", license="cc-by-4.0", data="petals"
    )
    card = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: stackflower\npipeline_tag: text-to-image\nlicense: cc-by-4.0\n")
    assert "datasets:\n- petals\n" in card and 'from_pretrained("ada/flowers")' in card
    assert 'pipeline("a <b>red</b> flower", per_caption=8)' in card
    assert "was not scored" in card and "96" in card and "samples.jpg" in card
    pipeline.save_pretrained(tmp_path / "m", data='my: "photos"\n- x')
    assert '\ndatasets:\n- "my: \\"photos\\"\\n- x"\n' in (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(ConfigError):
        pipeline.save_pretrained(tmp_path / "m", captions=[""])


def test_the_card_lists_scores_of_these_weights(unscored: Path, tmp_path: Path) -> None:
    scores = {
        "inception_score_mean": 2.5,
        "inception_score_mean_interval": [2.0, 3.0],
        "caption_accuracy": {"colour": 0.75, "colour_interval": [0.5, 1.0]},
        "metrics": ["is"],
        "scored": {"images_seen": 96},
        "protocol": {"split": "test", "data_key": "hidden", "trained_on": "/home/ada/photos", "images": 1000},
    }
    (tmp_path / "run" / "scores").mkdir()
    (tmp_path / "run" / "scores" / "a.json").write_text(json.dumps(scores))
    (tmp_path / "run" / "scores" / "b.json").write_text(json.dumps({**scores, "scored": {"images_seen": 48}}))
    (tmp_path / "run" / "scores" / "c.json").write_text("damaged")
    Pipeline.from_run(tmp_path / "run", "cpu").save_pretrained(tmp_path / "m")
    card = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert card.count("| Inception score | 2.5 | 2 to 3 |") == 1 and "Caption accuracy: colour | 0.75" in card
    assert (
        "split: test; trained on: photos; images: 1000" in card and "hidden" not in card and "- inception_score" in card
    )


def test_odd_scores_of_a_model_are_left_out_of_its_card(model: Path, tmp_path: Path) -> None:
    odd = [
        {},
        {"values": {"a": "x", "b": 2.0, "c": 3.0}, "intervals": {"b": [1], "c": 4}, "protocol": 5},
        {"values": 3},
    ]
    edit(model, lambda values: values.update(scores=odd))
    Pipeline.from_pretrained(model, "cpu").save_pretrained(tmp_path / "again")
    card = (tmp_path / "again" / "README.md").read_text(encoding="utf-8")
    assert "| B | 2 |  |" in card and "| C | 3 |  |" in card and "| A |" not in card


def test_pipelines_that_were_built_by_hand_are_not_saved(tmp_path: Path) -> None:
    pipeline = Pipeline(build(describe_stage("stage1")), NgramEncoder(dim=T), "cpu")
    with pytest.raises(ConfigError, match="Only a pipeline that was loaded"):
        pipeline.save_pretrained(tmp_path / "model")


def test_the_size_of_a_condition() -> None:
    assert build(describe_stage("stage1")).conditioning.dim == C


def test_a_model_is_scored_like_the_run_it_comes_from(trained: Path, tmp_path: Path) -> None:
    Pipeline.from_run(trained, "cpu").save_pretrained(tmp_path / "model")
    options = {"metrics": ("is", "fid"), "samples": 16, "progress_bar": False}
    data = sf.Run(trained).read_config().data.to_dict()
    run, model = (sf.evaluate(subject, data=data, **options) for subject in (trained, tmp_path / "model"))
    assert run["frechet_distance"] == model["frechet_distance"]
    assert model["scored"]["model"] == str(tmp_path / "model") and model["scored"]["images_seen"] == 96
    with pytest.raises(ConfigError, match="`checkpoint=best` applies to runs"):
        sf.evaluate(tmp_path / "model", data=data, checkpoint="best", **options)


def test_a_model_of_unknown_data_needs_their_name(trained: Path, tmp_path: Path) -> None:
    Pipeline.from_run(trained, "cpu").save_pretrained(tmp_path / "model")
    edit(tmp_path / "model", lambda values: values["training"].update(data="my-photos"))
    with pytest.raises(ConfigError, match="was trained on my-photos, whose folder a model does not record"):
        sf.evaluate(tmp_path / "model", samples=16, progress_bar=False)

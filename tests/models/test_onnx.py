"""Exported stages, run by ONNX Runtime."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stackflower import __version__, registry
from stackflower.data.images import to_uint8
from stackflower.errors import ComponentError, ConfigError, MissingDependency, ModelError
from stackflower.models.onnx import OPSET, export_onnx, name_outputs, read_metadata
from stackflower.recipes.load import describe_recipes, has_later_stage, load_recipe
from stackflower.stages.base import Generator, Stage

T = 12
TOLERANCE = 1e-3
TINY = {"resolution": 16, "channels": 4, "noise_dim": 5, "code_dim": 9}
TINY_OF = {"tree": {"resolution": 64}, "fastgan": {"resolution": 128}, "stage2": {"resolution": 32}}


def shrink(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a recipe's part, with tiny sizes and all that shapes the network."""
    sizes = {"dim": 6} if kind == "conditioning" else TINY | TINY_OF.get(values["name"], {})
    options = registry.get_options(kind, values["name"])
    small = values | {name: size for name, size in sizes.items() if name in options}
    return {name: value for name, value in small.items() if "weight" not in name and name not in ("factor", "dropout")}


def uses_words(generator: str) -> bool:
    """Whether a generator needs the words of captions, which an ONNX file can't have."""
    return bool(registry.get("generator", generator).uses_words)  # type: ignore[attr-defined]


def list_structures() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """The distinct tiny networks of all recipes and their later stages, by the first recipe of each."""
    structures = {}
    for name in sorted(describe_recipes()):
        for stage in (1, 2) if has_later_stage(name) else (1,):
            recipe = load_recipe(name, stage)
            if uses_words(recipe["generator"]["name"]):
                continue
            parts = tuple(shrink(kind, recipe[kind]) for kind in ("conditioning", "generator"))
            structures.setdefault(json.dumps(parts, sort_keys=True), (f"{name}-{stage}", parts))
    return dict(structures.values())


STRUCTURES = list_structures()
TINY_STAGE1 = {"name": "stage1", "resolution": 16, "channels": 4, "noise_dim": 5}
STYLED = ({"name": "augmentation", "dim": 6}, TINY_STAGE1 | {"style": True, "mapping_layers": 2})


def create(kind: str, options: dict[str, Any], **context: int) -> Any:
    return registry.create(kind, options["name"], **{k: v for k, v in options.items() if k != "name"}, **context)


def build(conditioning: dict[str, Any], generator: dict[str, Any], previous: Stage | None = None) -> Stage:
    """A stage with weights that differ from those that an identity or a zero start with."""
    torch.manual_seed(0)
    if generator["name"] == "stage2" and previous is None:
        previous = build({"name": "augmentation", "dim": 6}, TINY_STAGE1)
    context = {} if previous is None else {"previous_resolution": previous.resolutions[-1]}
    head = create("conditioning", conditioning, text_dim=T)
    stage = Stage(head, create("generator", generator, condition_dim=head.dim, **context), previous)
    for name, value in stage.state_dict().items():
        if value.is_floating_point() and "reference" not in name:
            nn.init.uniform_(value, 0.5, 1.5) if name.endswith("running_var") else nn.init.normal_(value, 0.0, 0.3)
    return stage.eval()


def draw(stage: Stage, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, T, generator=generator), stage.draw_noise(count, generator)


def run(path: Path, embedding: Tensor, noise: Tensor) -> dict[str, Tensor]:
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    arrays = session.run(names, {"embedding": embedding.numpy(), "noise": noise.numpy()})
    return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}


def check(stage: Stage, path: Path) -> None:
    """The file generates the images of the stage, for one caption and for five."""
    for count in (1, 5):
        embedding, noise = draw(stage, count)
        with torch.no_grad():
            generated = stage(embedding, noise)
        images = run(path, embedding, noise)
        assert list(images) == name_outputs(stage)
        for expected, image in zip((*generated.previous, *generated.images), images.values(), strict=True):
            assert expected.std() > 0.01, "a constant image shows nothing"
            assert image.shape == expected.shape and torch.allclose(image, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.extras
@pytest.mark.parametrize("name", STRUCTURES)
def test_every_recipe_generates_the_same_images_as_in_torch(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    stage = build(*STRUCTURES[name])
    export_onnx(stage, T, tmp_path / "model.onnx")
    check(stage, tmp_path / "model.onnx")


def test_the_structures_cover_every_generator_and_conditioning() -> None:
    used = list(STRUCTURES.values())
    exported = {name for name in registry.list_parts("generator") if not uses_words(name)}
    assert {generator["name"] for _, generator in used} == exported
    assert {conditioning["name"] for conditioning, _ in used} == set(registry.list_parts("conditioning"))


@pytest.mark.extras
def test_a_third_stage_gives_the_images_of_all_three(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    conditioning = {"name": "augmentation", "dim": 6}
    first = build(conditioning, TINY_STAGE1 | {"noise": "uniform"})
    second = build(conditioning, {"name": "stage2", "resolution": 32, "channels": 4}, first)
    third = build(conditioning, {"name": "stage2", "resolution": 64, "channels": 4, "shortcut": True}, second)
    path = tmp_path / "new" / "model.onnx"
    export_onnx(third, T, path)
    check(third, path)
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    metadata = read_metadata(path)
    assert metadata["stackflower"] == __version__ and metadata["opset"] == str(OPSET) and metadata["text_dim"] == str(T)
    assert json.loads(metadata["resolutions"]) == [16, 32, 64]
    assert json.loads(metadata["noise"]) == [["normal", 6], ["uniform", 5], ["normal", 6], ["normal", 6]]
    assert "stackflower/stages" not in path.read_bytes().decode("latin-1"), "no paths of source files"


@pytest.mark.extras
def test_half_halves_the_file_and_hardly_changes_images(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    stage = build(*STYLED)
    nn.init.normal_(stage.generator.to_image.weight, 0.0, 0.05)  # images that are not saturated
    sizes = []
    for half in (False, True):
        export_onnx(stage, T, tmp_path / "model.onnx", half=half)
        sizes.append((tmp_path / "model.onnx").stat().st_size)
    embedding, noise = draw(stage, 5)
    images = to_uint8(run(tmp_path / "model.onnx", embedding, noise)["images_16"]).int()
    expected = to_uint8(stage(embedding, noise).images[0].detach()).int()
    assert 0 < (images - expected).abs().max() <= 2
    assert sizes[1] < 0.75 * sizes[0]  # of so small a network, weights are half of the file


class LengthGenerator(Generator):
    """Generator whose code fixes the number of images."""

    resolutions, noise_dim = (16,), 3

    def generate(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        return (noise.reshape(len(noise), 3, 1, 1).expand(-1, -1, 16, 16) + condition.mean(),)


class SearchGenerator(LengthGenerator):
    """Generator with an operation that depends on values."""

    def generate(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        return (noise[:, :, None, None].expand(-1, -1, 16, 16) * (1 if noise.sum() > 0 else 2),)


@pytest.mark.extras
@pytest.mark.parametrize(
    ("generator", "reason"), [(LengthGenerator, "x.shape"), (SearchGenerator, "can't be exported to ONNX")]
)
def test_a_generator_that_can_not_be_exported_is_an_error(
    generator: type[Generator], reason: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    stage = Stage(registry.create("conditioning", "projection", dim=6, text_dim=T), generator())
    with pytest.raises(ComponentError, match=reason):
        export_onnx(stage, T, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.extras
def test_files_that_are_not_exports_are_named(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save_model(onnx.helper.make_model(graph), tmp_path / "other.onnx")
    (tmp_path / "text.onnx").write_text("text")
    for name in ("other", "text", "missing"):
        with pytest.raises(ModelError, match=f"{name}.onnx"):
            read_metadata(tmp_path / f"{name}.onnx")


@pytest.mark.extras
def test_a_file_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't be written"):
        export_onnx(build(*STYLED), T, tmp_path / "file" / "model.onnx")


def test_a_missing_library_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependency, match=r"stackflower\[onnx\]"):
        export_onnx(build(*STYLED), T, tmp_path / "model.onnx")

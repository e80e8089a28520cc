"""One registry: what it lists, what it refuses, and where third parties' parts come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from stackflower import registry
from stackflower.errors import ComponentError
from stackflower.objectives.hinge import Hinge


def test_every_kind_has_parts_and_every_part_imports() -> None:
    for kind in registry.KINDS:
        assert registry.list_parts(kind), kind
        for name in registry.list_parts(kind):
            assert isinstance(registry.get(kind, name), type)


def test_listing_imports_no_torch() -> None:
    code = "import sys; from stackflower import registry; registry.list_entries(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_kind_and_name_say_what_is_allowed() -> None:
    with pytest.raises(ComponentError, match=r"Unknown kind of part 'optimiser'\. Allowed: data, text"):
        registry.list_parts("optimiser")
    with pytest.raises(ComponentError, match=r"Did you mean 'matching'\?"):
        registry.get("discriminator", "maching")


def test_a_taken_name_is_refused_with_both_owners() -> None:
    with pytest.raises(ComponentError, match=r"stackflower\.objectives\.hinge:Hinge .* needs another name"):

        @registry.register("objective", "hinge")
        class Other(Hinge):
            pass


def test_a_wrong_base_class_is_refused() -> None:
    with pytest.raises(ComponentError, match=r"must derive from stackflower\.objectives\.base:Objective"):

        @registry.register("objective", "mine")
        class Other(nn.Module):
            pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chanels": 3}, r"no option 'chanels'.*Did you mean 'channels'"),
        ({"channels": "many"}, "generator.channels = 'many': it should be a valid integer"),
        ({"channels": True}, "it should be a valid integer"),
        ({"norm": "bach"}, "it should be 'batch', 'layer', 'instance', 'virtual' or 'none'"),
        ({"condition_dim": 3}, "no option 'condition_dim'"),
    ],
)
def test_options_are_the_constructors_parameters(options: dict[str, object], message: str) -> None:
    (problem,) = registry.check("generator", "stage1", options)
    assert __import__("re").search(message, problem), problem


def test_all_wrong_options_are_told_at_once() -> None:
    assert len(registry.check("generator", "stage1", {"a": 1, "b": 2, "channels": "x"})) == 3


def test_a_missing_option_names_the_flag() -> None:
    assert registry.check("data", "folder", {}) == ["data 'folder' requires the option 'path': set `data.path=…`."]


def test_a_broken_plug_in_fails_only_when_asked_for(tmp_path: Path) -> None:
    info = tmp_path / "broken_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-parts\nVersion: 1.0\n")
    kinds = ("objective", "generator", "penalty", "metric", "discriminator")
    points = "".join(f"{kind}.broken = nowhere_at_all:Broken\n" for kind in kinds)
    (info / "entry_points.txt").write_text(f"[stackflower.components]\n{points}")
    code = (
        "from stackflower import registry\n"
        "assert 'broken' in registry.list_parts('objective')\n"
        "registry.get('objective', 'hinge')\n"
        "try: registry.get('objective', 'broken')\n"
        "except registry.ComponentError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**__import__("os").environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "'broken-parts'" in result.stdout and "can't be imported" in result.stdout
    for arguments, said in (
        (["train", "--generator", "stage2", "--dry-run"], "use --generator "),  # names the generators that would do
        (["train", "--discriminator", "critic", "--penalty", "none", "--dry-run"], "--penalty gradient"),
        (["train", "--generator", "broken", "--dry-run"], "'broken-parts'"),
    ):
        result = subprocess.run(
            [sys.executable, "-m", "stackflower", *arguments],
            env={**__import__("os").environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 2 and said in result.stderr and "Traceback" not in result.stderr, result.stderr

"""What the documentation tells people to type, typed."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from conftest import ROOT, TINY

import stackflower
from stackflower import registry
from stackflower.cli import main
from stackflower.config.merge import merge
from stackflower.config.resolve import resolve
from stackflower.config.schema import Optimizer, Output, Train
from stackflower.recipes.load import describe_recipes, load_recipe

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Every `stackflower …` in a shell block, continued lines joined."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [
        shlex.split(part, comments=True)
        for line in lines
        for part in line.split("&&")
        if part.strip().startswith("stackflower ")
    ]


@pytest.mark.parametrize(
    ("page", "command"),
    [(page.name, command) for page in PAGES for command in commands(page)],
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[:60],
)
def test_every_command_in_the_docs_parses(page: str, command: list[str]) -> None:
    """Its command and all its options exist; what it does is tested elsewhere."""
    found, rest = main, command[1:]
    if rest == ["--version"]:
        return
    while rest and isinstance(found, click.Group):
        subcommand = found.get_command(click.Context(found), rest[0])
        assert subcommand is not None, f"{page}: {' '.join(command)}"
        found, rest = subcommand, rest[1:]
    found.make_context(command[1], list(rest), resilient_parsing=False)


def test_test_files_named_in_the_docs_exist() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", *(ROOT / ".github").rglob("*.*")]:
        for name in re.findall(r"\btests/[\w/]*\w\.py\b", page.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_the_readme_has_the_commands_that_ci_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install -e . && stackflower train --stage 1\n" in text
    assert 'pip install -e ".[test]" && pytest\n' in text


def test_the_page_on_parts_works_as_written(tmp_path: Path) -> None:
    """The example distribution is written out, installed beside, listed, trained, and sampled, with no edit here."""
    page = ROOT / "docs" / "extending.md"
    parts = tmp_path / "my-parts"
    parts.mkdir()
    (parts / "my_parts.py").write_text(blocks(page, "python")[0], encoding="utf-8")
    (parts / "pyproject.toml").write_text(blocks(page, "toml")[0], encoding="utf-8")
    target = tmp_path / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--target",
            str(target),
            str(parts),
        ],
        check=True,
    )
    environment = {**os.environ, "PYTHONPATH": str(target)}

    def run(*arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "stackflower", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    for command in commands(page):
        if command[1] == "train":
            tiny = TINY if "pooled" in command else []
            run(*command[1:], *tiny, "--set", "data.count=40")
        else:
            out = run(*command[1:])
            assert command[1] != "ls" or re.search(r"pooled +my-parts +Average-pooled features", out)
    assert (tmp_path / "red.png").exists()
    assert "my-parts" in run("ls", "discriminator") and "my-parts" not in run("ls", "objective")


@pytest.mark.parametrize("name", sorted(describe_recipes()))
def test_every_recipe_resolves_and_says_where_it_is_from(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe["description"] and recipe["source"]
    resolve(merge(recipe, {}, {}))
    assert f"`{name}`" in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


def test_every_part_and_option_is_in_the_docs() -> None:
    sections = (ROOT / "docs" / "parts.md").read_text(encoding="utf-8").split("\n## ")
    lines = {section.partition("\n")[0].strip(): section.splitlines() for section in sections}
    for entry in registry.list_entries():
        line = next((line for line in lines[entry.kind] if line.startswith(f"| `{entry.name}` |")), None)
        assert line is not None, f"add {entry.name} to docs/parts.md, in the table of {entry.kind}"
        for option, parameter in registry.get_options(entry.kind, entry.name).items():
            default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
            assert f"`{option}`{default}" in line, f"{entry.kind} {entry.name}: {option}"


def test_every_part_and_public_object_has_a_page_in_the_api_reference() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    documented = set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))
    objects = [registry.get(entry.kind, entry.name) for entry in registry.list_entries()]
    objects += [getattr(stackflower, name) for name in stackflower.__all__ if name != "__version__"]
    names = {f"{each.__module__}.{each.__qualname__}" for each in objects}
    assert {name for name in names if documented.isdisjoint((name, name.rpartition(".")[0]))} == set()


def test_every_setting_is_in_the_docs() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for section, cls in (("train", Train), ("optimizer.NETWORK", Optimizer), ("output", Output)):
        for field in dataclasses.fields(cls):
            assert f"| `{section}.{field.name}` | `{field.default!r}` |" in page, f"{section}.{field.name}"


def test_the_examples_of_the_page_how_do_i_are_parts() -> None:
    """Each block that registers a part does so, and the part can be built; the names are free again afterwards."""
    found = blocks(ROOT / "docs" / "how-do-i.md", "python")
    code = "import sys\nfrom stackflower import registry\n" + "".join(
        f"exec(compile({block!r}, 'block', 'exec'), {{'__name__': 'page_{number}'}})\n"
        for number, block in enumerate(found)
    )
    code += "print([entry.kind for entry in registry.list_entries() if entry.owner.startswith('page_')])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert {"discriminator", "objective", "metric", "data", "text"} <= set(eval(result.stdout))

"""The command line: parse, call, print. Results go to stdout, talk to stderr."""

from __future__ import annotations

import difflib
import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from stackflower import __version__
from stackflower.errors import ConfigError, StackflowerError


class Finite(click.FloatRange):
    """A number in a range, which "nan" and "inf" are not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class Duration(click.ParamType):
    """A time such as 90s, 20m, 1h30m, or plain seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", value.strip())
        seconds = (
            sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True))
            if match
            else 0
        )
        if not seconds:
            self.fail(f"{value!r} is not a time; write it as 90s, 20m or 1h30m.", param, ctx)
        return seconds


class Commands(click.Group):
    """Turns our errors into a sentence and an exit code, and lists commands as they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StackflowerError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            sys.stderr.close()
            ctx.exit(1)


def say(text: str) -> None:
    """Talk to the user on stderr."""
    click.echo(text, err=True)


def tell(values: dict[str, Any], as_json: bool, text: Callable[[], str]) -> None:
    """A result on stdout, as one JSON object or as text."""
    click.echo(json.dumps(values, ensure_ascii=False) if as_json else text())


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="stackflower")
def main() -> None:
    """Text-to-image GANs of the StackGAN family: train them, swap their parts, measure them."""


DATA_HELP = "synthetic-flowers, a folder with metadata.jsonl, or WebDataset shards."


def data_part(value: str | None) -> dict[str, Any] | None:
    """`--data`: a registered source by name, or a folder."""
    if value is None:
        return None
    from stackflower import registry

    plain = set(registry.names("data")) - {"folder", "shards"}
    path = Path(value).expanduser()
    if value in plain and not path.is_dir():
        return {"name": value}
    shards = path.suffix == ".tar" or (
        path.is_dir() and any(path.glob("*.tar")) and not any(path.glob("**/metadata.*"))
    )
    return {"name": "shards" if shards else "folder", "path": str(path.absolute())}


def text_part(value: str | None) -> dict[str, Any] | None:
    """`--text`: a registered encoder by name, a folder in which one was trained, or a Hugging Face model by id or folder."""
    if value is None:
        return None
    from stackflower import registry

    known = set(registry.names("text")) - {"huggingface"}
    folder = Path(value).expanduser()
    if folder.is_dir() or (folder.name == "text" and folder.parent.is_dir()):
        from stackflower.commands.train_text import trained_part

        trained = trained_part(folder)
        if trained is not None:
            return trained
    if value in known and not folder.is_dir():
        return {"name": value}
    if "/" not in value and not folder.is_dir() and difflib.get_close_matches(value, known):
        raise ConfigError(
            f"There is no text encoder {value!r}.{registry.suggest(value, known)} Or name a Hugging Face model: its id, as "
            "in sentence-transformers/all-MiniLM-L6-v2, or a local folder."
        )
    value = str(folder.absolute()) if folder.is_dir() else value
    return {"name": "huggingface", "model": value}


def typed(text: str) -> str:
    """A word of a command line as it is typed: in double quotes, which every shell knows, where they are enough."""
    if re.fullmatch(r"[\w./\\:-]+", text):
        return text
    return shlex.quote(text) if re.search(r'["$`!\\]', text) else f'"{text}"'


def penalty_parts(values: Sequence[str]) -> dict[str, Any] | None:
    """`--penalty name` or `--penalty name=weight`."""
    found: dict[str, Any] = {}
    for value in values:
        name, equals, weight = value.partition("=")
        try:
            found[name] = {"weight": float(weight)} if equals else {}
        except ValueError:
            raise ConfigError(f"--penalty {value}: the weight must be a number, as in --penalty r1=10.") from None
    return found or None


@main.command(
    epilog=examples(
        "stackflower train --stage 1",
        "stackflower train --stage 1 --data my-flowers --text sentence-transformers/all-MiniLM-L6-v2 --time-limit 25m",
        "stackflower train --stage 1 --recipe stackgan --objective hinge --penalty r1=1 --set penalties.r1.every=16",
        "stackflower train --stage 2 --below runs/quickstart-1",
        "stackflower train --resume latest",
    )
)
@click.option("--stage", type=int, help="Which stage to train. [default: 1]")
@click.option("--below", metavar="RUN", help="The trained run that a stage from 2 up draws over.")
@click.option("--data", help=DATA_HELP)
@click.option("--out", metavar="RUN", help="The run folder. [default: runs/RECIPE-N]")
@click.option("--recipe", metavar="NAME|FILE", help="A built-in recipe or a TOML file. [default: by the machine]")
@click.option("--conditioning", metavar="NAME", help="How text becomes a condition.")
@click.option("--generator", metavar="NAME", help="The generator.")
@click.option("--discriminator", metavar="NAME", help="The discriminator; it brings its objective.")
@click.option("--objective", metavar="NAME", help="The adversarial objective.")
@click.option(
    "--penalty",
    metavar="NAME[=WEIGHT]",
    multiple=True,
    help="A regulariser beside the recipe's, or its new weight; none drops them. Several times.",
)
@click.option(
    "--text",
    metavar="NAME|DIR|MODEL",
    help="An encoder, what train-text wrote, or a Hugging Face model by id or folder.",
)
@click.option("--images", type=click.IntRange(1), help="Train on this many images.")
@click.option("--epochs", type=Finite(0, min_open=True), help="Or on this many passes over the data.")
@click.option("--time-limit", type=Duration(), help="Stop after 90s, 20m, 1h30m; alone, it sets the length.")
@click.option("--batch-size", type=click.IntRange(1), help="Images a step, over all processes.")
@click.option("--gradient-accumulation", type=click.IntRange(1), help="Work through a batch in this many parts.")
@click.option("--lr", type=Finite(0, min_open=True), help="Learning rate of both sides.")
@click.option("--seed", type=click.IntRange(0), help="Fixes weights, order, noise.")
@click.option(
    "--mixed-precision", type=click.Choice(["auto", "no", "bf16", "fp16"]), help="auto: bf16 where it is native."
)
@click.option("--resume", metavar="[RUN|latest]", is_flag=False, flag_value="latest", help="Go on with a run.")
@click.option("--report-to", metavar="TRACKER", multiple=True, help="tensorboard, wandb or mlflow.")
@click.option("--set", "settings", metavar="PART.OPTION=VALUE", multiple=True, help="Any other setting.")
@click.option("--dry-run", is_flag=True, help="Print the resolved run and its cost; create nothing.")
def train(
    stage: int | None,
    below: str | None,
    out: str | None,
    recipe: str | None,
    time_limit: float | None,
    resume: str | None,
    report_to: tuple[str, ...],
    settings: tuple[str, ...],
    dry_run: bool,
    **flags: Any,
) -> None:
    """Train a stage, or go on training."""
    from stackflower.commands.train import Request
    from stackflower.commands.train import train as run_training

    parts: dict[str, Any] = {
        "data": data_part(flags["data"]),
        "text": text_part(flags["text"]),
        "penalties": penalty_parts(flags["penalty"]),
        "train.images": flags["images"],
        "train.epochs": flags["epochs"],
        "train.batch_size": flags["batch_size"],
        "train.gradient_accumulation": flags["gradient_accumulation"],
        "optimizer.generator.lr": flags["lr"],
        "optimizer.discriminator.lr": flags["lr"],
        **{
            key: flags[key]
            for key in ("conditioning", "generator", "discriminator", "objective", "seed", "mixed_precision")
        },
    }
    request = Request(
        stage=stage,
        below=below,
        recipe=recipe,
        flags={key: value for key, value in parts.items() if value is not None},
        settings=settings,
        out=out,
        resume=resume,
        time_limit=time_limit,
        report_to=report_to,
        dry_run=dry_run,
    )
    outcome = run_training(request, say)
    if outcome is None:
        return
    run = typed(str(outcome.run))
    if outcome.stopped:
        say(f"Stopped by {outcome.stopped} after {outcome.images:,} images, saved. To go on:")
        click.echo(f"stackflower train --resume {run}")
        if outcome.signal is not None:
            raise SystemExit(128 + outcome.signal)
        return
    grids = sorted(outcome.run.samples.glob("*.png"))
    click.echo(f"Trained on {outcome.images:,} images: {outcome.run}")
    if grids:
        click.echo(f"What it draws: {grids[-1]}")
    click.echo(
        f"Draw more:     stackflower sample {run} {'-- ' * outcome.caption.startswith('-')}{typed(outcome.caption)}"
    )
    click.echo(f"Score it:      stackflower eval {run}")


@main.command(
    epilog=examples(
        'stackflower sample runs/quickstart-1 "a red flower with pointed petals" --per-caption 8 --grid',
        "stackflower sample runs/quickstart-1 --captions captions.txt --out drawn --per-caption 4",
        'stackflower sample runs/quickstart-1 "a blue flower" --out blue.png --seed 3 --best-of 10',
    )
)
@click.argument("run")
@click.argument("captions", nargs=-1)
@click.option("--captions", "file", metavar="FILE", help="One caption a line, or a metadata.jsonl.")
@click.option("--per-caption", type=click.IntRange(1), default=1, show_default=True, help="Pictures of each caption.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed, other pictures.")
@click.option("--out", metavar="DIR|FILE.png", help="Where to write. [default: RUN/drawn]")
@click.option("--grid", is_flag=True, help="One picture with a row for each caption, the caption above it.")
@click.option("--truncation", type=Finite(0, min_open=True), help="Redraw noise beyond this many deviations.")
@click.option(
    "--best-of", type=click.IntRange(1), default=1, metavar="K", help="Keep the discriminator's favourite of K."
)
@click.option("--sharpen", type=Finite(0), default=1.0, metavar="F", help="Edges F times as strong.")
@click.option("--side-by-side", is_flag=True, help="Every resolution that the run draws, in one picture.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Pictures at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def sample(
    run: str,
    captions: tuple[str, ...],
    file: str | None,
    per_caption: int,
    seed: int,
    out: str | None,
    grid: bool,
    truncation: float | None,
    best_of: int,
    sharpen: float,
    side_by_side: bool,
    batch_size: int,
    as_json: bool,
) -> None:
    """Draw pictures for captions with a trained run."""
    from stackflower.commands.sample import draw

    written = draw(
        run,
        list(captions),
        file,
        per_caption=per_caption,
        seed=seed,
        out=out,
        as_grid=grid,
        truncation=truncation,
        batch_size=batch_size,
        best_of=best_of,
        sharpen=sharpen,
        side_by_side=side_by_side,
    )
    if written is not None:
        tell(written.plain(), as_json, written.text)


@main.command(
    "eval",
    epilog=examples(
        "stackflower eval runs/quickstart-1",
        "stackflower train-classifier --data my-flowers --out flowers.safetensors",
        "stackflower eval runs/flowers --extractor domain --weights flowers.safetensors --json",
        "stackflower eval --images drawn --data my-flowers --metrics is,fid",
    ),
)
@click.argument("run", required=False)
@click.option("--images", metavar="DIR", help="Score the pictures of a folder instead of a run.")
@click.option("--data", help=f"What to score against: {DATA_HELP} [default: the run's]")
@click.option(
    "--metrics", metavar="is,fid,captions,diversity", help="Which scores. [default: all that the data allows]"
)
@click.option(
    "--samples", type=click.IntRange(2), help="How many pictures. [default: the validation split's, at most 5,000]"
)
@click.option("--splits", type=click.IntRange(1), default=10, show_default=True, help="Of the Inception Score.")
@click.option(
    "--resolution", type=click.IntRange(16), help="With --images: pixels they are looked at with. [default: 64]"
)
@click.option("--trim-border", is_flag=True, help="With --images: cut off borders of one colour first.")
@click.option("--extractor", metavar="NAME", help="domain or inception-v3.")
@click.option("--weights", metavar="FILE", help="The extractor's weights.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of captions, noise and shuffling.")
@click.option("--truncation", type=Finite(0, min_open=True), help="Redraw noise beyond this many deviations.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    run: str | None,
    images: str | None,
    data: str | None,
    metrics: str | None,
    samples: int | None,
    splits: int,
    resolution: int | None,
    trim_border: bool,
    extractor: str | None,
    weights: str | None,
    seed: int,
    truncation: float | None,
    as_json: bool,
) -> None:
    """Score a run: the Inception Score and more, beside the same of real pictures."""
    from stackflower.commands.evaluate import Protocol, measure
    from stackflower.commands.evaluate import report as told

    protocol = Protocol(tuple(metrics.split(",")) if metrics else None, samples, splits, seed, truncation, trim_border)
    scores = measure(run, images, data_part(data), extractor, weights, protocol, resolution)
    if scores is not None:
        tell(scores, as_json, lambda: told(scores))


@main.command(
    "train-classifier",
    epilog=examples(
        "stackflower train-classifier --data my-flowers --out flowers.safetensors",
        "stackflower train-classifier --data my-flowers --out quick.safetensors --network plain --epochs 10",
    ),
)
@click.option("--data", required=True, help=DATA_HELP)
@click.option("--out", metavar="FILE", required=True, help="The file to write.")
@click.option("--resolution", type=click.IntRange(16), default=64, show_default=True, help="Pixels it looks at.")
@click.option("--network", type=click.Choice(["resnet18", "plain"]), default="resnet18", show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=30, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def train_classifier(data: str, out: str, resolution: int, network: Any, epochs: int, seed: int, as_json: bool) -> None:
    """Train the classifier that scores are computed with, from a data set's labels and attributes."""
    from stackflower.commands.train_classifier import train_classifier as fit
    from stackflower.config.schema import Part
    from stackflower.utils.progress import bar

    source = Part.from_plain(data_part(data) or {}).create("data")
    model = fit(
        source, Path(out), bar, described=data, resolution=resolution, network=network, epochs=epochs, seed=seed
    )
    text = ", ".join(f"{name} {value:.4f}" for name, value in model.accuracy.items()) or "no validation split"
    tell({"out": out, "held_out_accuracy": model.accuracy}, as_json, lambda: f"{out}: held-out accuracy {text}")


@main.command(
    "train-text",
    epilog=examples(
        "stackflower train-text --data my-flowers --out words",
        "stackflower train-text --data my-flowers --text char-cnn-rnn --epochs 30 --out characters",
        "stackflower train --stage 1 --data my-flowers --text words",
    ),
)
@click.option("--data", required=True, help=DATA_HELP)
@click.option("--out", metavar="DIR", required=True, help="A new folder, which --text then names.")
@click.option("--text", default="rnn", show_default=True, metavar="NAME", help="rnn or char-cnn-rnn.")
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True)
@click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True)
@click.option("--lr", type=Finite(0, min_open=True), default=1e-3, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--set", "settings", metavar="text.OPTION=VALUE", multiple=True, help="An option of text or data.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def train_text(data: str, out: str, text: str, settings: tuple[str, ...], as_json: bool, **numbers: Any) -> None:
    """Train a caption encoder on a data set's pictures and captions, before the GAN."""
    from stackflower.commands.train_text import train_text as fit
    from stackflower.utils.progress import bar

    found = fit(data_part(data) or {}, text, settings, Path(out), bar, **numbers)
    tell(found, as_json, lambda: found["told"])


@main.command(epilog=examples("stackflower report runs/quickstart-1"))
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def report(run: str, as_json: bool) -> None:
    """Draw a run's curves and put it on one page, report.html in the run's folder."""
    from stackflower.commands.report import report as write

    found = write(run)
    tell(found, as_json, lambda: str(found["report"]))


@main.command()
@click.argument("kind", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def ls(kind: str | None, as_json: bool) -> None:
    """List what can be named: parts by kind, and recipes."""
    from stackflower.commands.ls import inventory, table

    rows = inventory(kind)
    tell({"parts": rows}, as_json, lambda: table(rows))


@main.command(
    epilog=examples(
        'stackflower embed "a red flower" "a crimson bloom"', "stackflower embed --captions captions.txt --out e.npy"
    )
)
@click.argument("captions", nargs=-1)
@click.option("--captions", "file", metavar="FILE", help="One caption a line, or a metadata.jsonl.")
@click.option("--text", default="ngram", show_default=True, metavar="NAME|MODEL", help="The caption encoder.")
@click.option("--out", metavar="FILE.npy", help="Write the embeddings, float32 (N, T), here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def embed(captions: tuple[str, ...], file: str | None, text: str, out: str | None, as_json: bool) -> None:
    """Turn captions into sentence embeddings of unit length."""
    from stackflower.commands.sample import embed_captions

    values = embed_captions(list(captions), file, text_part(text) or {}, out)
    tell(values, as_json, lambda: values["text"])


@main.group(cls=Commands)
def data() -> None:
    """Make, check and prepare data."""


@data.command(
    "make", epilog=examples("stackflower data make synthetic-flowers --out flowers --count 1000 --resolution 128")
)
@click.argument("name")
@click.option("--out", metavar="DIR", required=True, help="A new folder.")
@click.option("--count", type=click.IntRange(1), default=8000, show_default=True, help="Pictures to train on.")
@click.option("--validation", type=click.IntRange(1), default=1000, show_default=True, help="Pictures held out.")
@click.option("--resolution", type=click.IntRange(64, 256), default=76, show_default=True, help="Pixels.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def data_make(name: str, out: str, count: int, validation: int, resolution: int, seed: int) -> None:
    """Write built-in data as an ImageFolder: pictures and metadata.jsonl, in split folders."""
    from stackflower.commands.data import make

    click.echo(make(name, out, count=count, validation=validation, resolution=resolution, seed=seed))


@data.command("check", epilog=examples("stackflower data check my-flowers"))
@click.argument("folder")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def data_check(folder: str, as_json: bool) -> None:
    """List everything that is wrong with a folder of pictures and captions, or with shards; exit code 2 if anything is."""
    from stackflower.config.schema import Part
    from stackflower.data.sources.folder import FolderSource
    from stackflower.data.sources.shards import ShardSource

    source = Part.from_plain(data_part(folder) or {}).create("data")
    if not isinstance(source, (FolderSource, ShardSource)):
        raise ConfigError(f"{folder} is built in: there is nothing to check.")
    problems, notes = source.check()
    lines = [*problems, *notes, f"{len(problems):,} problems." if problems else "No problems: it can be trained on."]
    tell({"problems": problems, "notes": notes}, as_json, lambda: "\n".join(lines))
    if problems:
        raise SystemExit(2)


@data.command("prepare")
@click.argument("folder")
@click.option("--size", type=click.IntRange(16), default=76, show_default=True, help="Pixels of the prepared pictures.")
def data_prepare(folder: str, size: int) -> None:
    """Decode a data set into the cache, so that training starts at once."""
    from stackflower.commands.data import prepare_all

    click.echo(prepare_all(data_part(folder) or {}, size, say))


@data.command("info")
@click.argument("folder")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def data_info(folder: str, as_json: bool) -> None:
    """Count a data set's pictures, captions, classes and words."""
    from stackflower.commands.data import info

    values = info(data_part(folder) or {})
    tell(values, as_json, lambda: "\n".join(f"{split}: {counts}" for split, counts in values.items()))

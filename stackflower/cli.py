"""The command line: parse, call, print. Results go to stdout, messages to stderr."""

from __future__ import annotations

import json
import math
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from stackflower import __version__
from stackflower.errors import ConfigError, StackflowerError


class Finite(click.FloatRange):
    """A number in a range; "nan" and "inf" are not in it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class Limit(click.ParamType):
    """A limit of a score, such as is=3.2."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        name, _, number = str(value).partition("=")
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        if math.isnan(limit):
            self.fail(f"{value!r} should be METRIC=VALUE, such as is=3.2.", param, ctx)
        return name.strip(), limit


class Duration(click.ParamType):
    """A time such as 90s, 20m, 1h30m, or plain seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", value.strip())
        parts = match.groups() if match else ()
        seconds = sum(float(part or 0) * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
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
        except KeyboardInterrupt:
            click.echo(
                "Interrupted. Type the command again: images that were prepared and shards that were written are kept.",
                err=True,
            )
            ctx.exit(128 + signal.SIGINT)
        except BrokenPipeError:
            sys.stderr.close()
            ctx.exit(1)


def say(text: str) -> None:
    """A message on stderr."""
    click.echo(text, err=True)


def show(values: dict[str, Any], as_json: bool, text: Callable[[], str]) -> None:
    """A result on stdout, as one JSON object or as text."""
    click.echo(json.dumps(plain(values), ensure_ascii=False, allow_nan=False) if as_json else text())


def plain(value: Any) -> Any:
    """A value as JSON knows it, in which there is no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def quoted(text: str) -> str:
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


SEED = click.IntRange(0, 2**63 - 1)
DATA_HELP = "synthetic-flowers, an image folder with metadata.jsonl or metadata.csv, or WebDataset shards."
CHECKPOINT = click.option(
    "--checkpoint",
    metavar="best|IMAGES",
    help="The weights that scored best in training with --eval-every, or those of the checkpoint after so many images.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="stackflower")
def main() -> None:
    """Train, sample and evaluate text-to-image GANs of the StackGAN family."""


@main.command(
    epilog=examples(
        "stackflower train --stage 1",
        "stackflower train --stage 1 --data my-flowers --text sentence-transformers/all-MiniLM-L6-v2 --time-limit 25m",
        "stackflower train --stage 1 --recipe stackgan --objective hinge --penalty r1=1 --set penalties.r1.every=16",
        "stackflower train --stage 2 --below runs/quickstart-1",
        "stackflower train --resume latest",
    )
)
@click.option("--stage", type=int, help="Stage to train.  [default: 1]")
@click.option("--below", metavar="RUN", help="Trained run of the previous stage, for --stage 2 and higher.")
@click.option("--data", help=f"Training data: {DATA_HELP}  [default: synthetic-flowers]")
@click.option("--out", metavar="RUN", help="Where to save the run.  [default: runs/RECIPE-N]")
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    help="Built-in recipe or TOML file.  [default: quickstart; photographs for a folder, where its extra is installed; for a later stage, "
    "that of the run below]",
)
@click.option("--conditioning", metavar="NAME", help="Conditioning on the text embedding.")
@click.option("--generator", metavar="NAME", help="Generator.")
@click.option("--discriminator", metavar="NAME", help="Discriminator; its default objective is used with it.")
@click.option("--features", metavar="NAME", help="Pretrained network that --discriminator projected looks through.")
@click.option("--augmentation", metavar="NAME", help="Augmentation of what the discriminator sees.")
@click.option("--objective", metavar="NAME", help="Adversarial loss.")
@click.option(
    "--penalty",
    metavar="NAME[=WEIGHT]",
    multiple=True,
    help="Add a regulariser, or change its weight; 'none' removes the recipe's. Repeatable.",
)
@click.option(
    "--text",
    metavar="NAME|DIR|MODEL",
    help="Text encoder: a name, the output of train-text, or a Hugging Face model by id or folder.",
)
@click.option("--images", type=click.IntRange(1), help="Number of images to train on.")
@click.option("--epochs", type=Finite(0, min_open=True), help="Number of passes over the data.")
@click.option("--time-limit", type=Duration(), help="Train for 90s, 20m, 1h30m; with --images or --epochs, stop then.")
@click.option("--batch-size", type=click.IntRange(1), help="Total batch size over all processes.")
@click.option("--gradient-accumulation", type=click.IntRange(1), help="Split each batch into this many parts.")
@click.option("--lr", type=Finite(0, min_open=True), help="Learning rate of generator and discriminator.")
@click.option(
    "--eval-every", type=click.IntRange(1), metavar="IMAGES", help="Score held-out images, and keep the best model."
)
@click.option("--seed", type=SEED, help="Random seed.  [default: 0]")
@click.option(
    "--mixed-precision", type=click.Choice(["auto", "no", "bf16", "fp16"]), help="auto: bf16 if supported natively."
)
@click.option("--compile", is_flag=True, default=None, help="Compile the networks (torch.compile): faster on a GPU.")
@click.option("--resume", metavar="[RUN|latest]", is_flag=False, flag_value="latest", help="Resume a run.")
@click.option("--report-to", metavar="TRACKER", multiple=True, help="tensorboard, wandb or mlflow.")
@click.option("--set", "settings", metavar="PART.OPTION=VALUE", multiple=True, help="Any other setting. Repeatable.")
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration and its cost, and exit.")
@json_option
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
    as_json: bool,
    **flags: Any,
) -> None:
    """Train a stage, or resume a training."""
    began = time.monotonic()  # before torch is imported, which takes seconds
    from stackflower.commands.train import Outcome, Request
    from stackflower.commands.train import train as run_training

    request = Request(
        stage=stage,
        below=below,
        recipe=recipe,
        flags=train_flags(flags),
        settings=settings,
        out=out,
        resume=resume,
        time_limit=time_limit,
        report_to=report_to,
        dry_run=dry_run,
        began=began,
    )
    outcome: Outcome | None = run_training(request, say)
    if outcome is not None:
        _after_training(outcome, as_json)


def train_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags of `train` that were given, by the setting that each stands for."""
    from stackflower.commands.data import source_part
    from stackflower.commands.train_text import encoder_part

    named = (
        "conditioning",
        "generator",
        "discriminator",
        "features",
        "augmentation",
        "objective",
        "seed",
        "mixed_precision",
    )
    parts: dict[str, Any] = {
        "data": source_part(flags["data"]),
        "text": encoder_part(flags["text"]),
        "penalties": penalty_parts(flags["penalty"]),
        "train.images": flags["images"],
        "train.epochs": flags["epochs"],
        "train.batch_size": flags["batch_size"],
        "train.gradient_accumulation": flags["gradient_accumulation"],
        "train.compile": flags["compile"],
        "output.eval_every": flags["eval_every"],
        "optimizer.generator.lr": flags["lr"],
        "optimizer.discriminator.lr": flags["lr"],
        **{key: flags[key] for key in named},
    }
    return {key: value for key, value in parts.items() if value is not None}


def _after_training(outcome: Any, as_json: bool) -> None:
    """What came of it, and what to type next."""
    grids = sorted(outcome.run.samples.glob("*.png"))
    values = {"run": str(outcome.run), "images": outcome.images, "stopped": outcome.stopped}
    if outcome.stopped:
        say(f"Stopped by {outcome.stopped} after {outcome.images:,} images, saved. To resume:")
    show({**values, "samples": [str(path) for path in grids]}, as_json, lambda: _next(outcome, grids))
    if outcome.signal is not None:
        raise SystemExit(128 + outcome.signal)


def _next(outcome: Any, grids: list[Path]) -> str:
    run = quoted(str(outcome.run))
    if outcome.stopped:
        return f"stackflower train --resume {run}"
    dashes = "-- " if outcome.caption.startswith("-") else ""
    lines = [f"Trained on {outcome.images:,} images: {outcome.run}", *(f"Samples:   {path}" for path in grids[-1:])]
    lines += [
        f"Generate:  stackflower sample {run} {dashes}{quoted(outcome.caption)}",
        f"Evaluate:  stackflower eval {run}",
    ]
    return "\n".join(lines)


@main.command(
    epilog=examples(
        'stackflower sample runs/quickstart-1 "a red flower with pointed petals" --per-caption 8 --grid',
        "stackflower sample runs/quickstart-1 --captions captions.txt --out generated --per-caption 4",
        'stackflower sample runs/quickstart-1 "a blue flower" --out blue.png --seed 3 --best-of 10',
        'stackflower sample runs/quickstart-1 "a red flower" "a blue flower" --interpolate 8 --per-caption 4',
    )
)
@click.argument("run")
@click.argument("captions", nargs=-1)
@click.option("--captions", "file", metavar="FILE", help="Text file with one caption a line, or a metadata.jsonl.")
@click.option("--per-caption", type=click.IntRange(1), default=1, show_default=True, help="Images per caption.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@click.option("--out", metavar="DIR|FILE.png", help="Where to save the images.  [default: RUN/generated]")
@click.option("--grid", is_flag=True, help="Save one image grid with a row for each caption.")
@click.option("--truncation", type=Finite(0, min_open=True), help="Truncate the noise at this many deviations.")
@click.option(
    "--best-of",
    type=click.IntRange(1, 256),
    default=1,
    metavar="K",
    help="Generate K candidates and keep the discriminator's highest-scoring.",
)
@CHECKPOINT
@click.option("--sharpen", type=Finite(0), default=1.0, metavar="F", help="Sharpen by a factor; 1 changes nothing.")
@click.option(
    "--interpolate",
    type=click.IntRange(2),
    metavar="STEPS",
    help="One grid: from the first caption to the last in so many images, or, of one caption, from noise to noise; --per-caption rows.",
)
@click.option("--side-by-side", is_flag=True, help="Show every resolution of the run in one image.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Images at a time.")
@json_option
def sample(run: str, captions: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Generate images for captions with a trained run."""
    from stackflower.commands.sample import Request
    from stackflower.commands.sample import sample as generate

    written = generate(Request(run, list(captions), **options), say)
    if written is not None:
        show(written.to_dict() if as_json else {}, as_json, written.text)


@main.command(
    "eval",
    epilog=examples(
        "stackflower eval runs/quickstart-1",
        "stackflower eval runs/quickstart-1 runs/photographs-1 --split validation",
        "stackflower eval runs/quickstart-1 --checkpoint all --metrics is,fid",
        "stackflower eval --images generated --data my-flowers --metrics is,fid",
        "stackflower eval runs/flowers --images generated --data my-flowers --load-size 76",
        "stackflower eval --real train --data my-flowers",
        "stackflower eval runs/flowers --extractor domain --weights flowers.safetensors --json",
        "stackflower eval runs/flowers --extractor features --set extractor.network=timm --set extractor.model=convnext_tiny",
        "stackflower eval runs/flowers --fail-under is=3.2 --fail-over fid=40",
    ),
)
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option("--images", metavar="DIR", help="Score a folder of images instead of a run.")
@click.option(
    "--real", metavar="SPLIT", help="Score the real images of a split instead: the best that a run could get."
)
@click.option(
    "--checkpoint",
    metavar="best|all|IMAGES",
    help="Of a run: the weights that scored best in training, each checkpoint, or the one after so many images.",
)
@click.option("--data", help=f"Reference data: {DATA_HELP}  [default: the run's]")
@click.option(
    "--split",
    type=click.Choice(["test", "validation", "train"]),
    help="Reference split.  [default: test, else validation, else train]",
)
@click.option(
    "--protocol",
    "protocol_name",
    metavar="NAME",
    default="default",
    help="default, stackgan-birds, stackgan-flowers or competition.",
)
@click.option(
    "--metrics", metavar="NAME,NAME…", help="Metrics to compute, such as is,fid.  [default: all that the data allow]"
)
@click.option(
    "--samples", type=click.IntRange(2), help="Number of captions.  [default: as in the split, at most 5,000]"
)
@click.option("--per-caption", type=click.IntRange(1), help="Images generated for each of them.  [default: 1]")
@click.option("--splits", type=click.IntRange(1), help="Splits of the Inception Score.  [default: 10]")
@click.option("--kept", type=click.IntRange(2), help="Images whose features are kept to compare.  [default: 10,000]")
@click.option("--resolution", type=click.IntRange(16), help="Of images that are not a run's, in pixels.  [default: 64]")
@click.option(
    "--load-size",
    type=click.IntRange(16),
    help="Prepare real images at this many pixels; their centre counts.  [default: a run's own, else 76 for 64]",
)
@click.option("--trim-border", is_flag=True, help="With --images: crop borders of one colour first.")
@click.option("--skip-bad", is_flag=True, help="With --images: leave out files that can't be read.")
@click.option(
    "--extractor", metavar="NAME", help="Feature extractor: domain, clip, inception-v3, inception-2015, features."
)
@click.option("--weights", metavar="FILE", help="Weights of the extractor.")
@click.option(
    "--set", "settings", metavar="PART.OPTION=VALUE", multiple=True, help="An option of extractor or data. Repeatable."
)
@click.option(
    "--fail-under",
    type=Limit(),
    metavar="METRIC=VALUE",
    multiple=True,
    help="Exit with code 1 if a score is lower. Repeatable.",
)
@click.option(
    "--fail-over", type=Limit(), metavar="METRIC=VALUE", multiple=True, help="… or if it is higher. Repeatable."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@click.option("--truncation", type=Finite(0, min_open=True), help="Truncate the noise at this many deviations.")
@click.option("--out", metavar="FILE", help="Where to save the scores as JSON.  [default: in the run's scores/]")
@click.option("--compare", metavar="FILE", help="Compare with saved scores; refused where the protocols differ.")
@json_option
def evaluate(
    as_json: bool,
    fail_under: tuple[tuple[str, float], ...],
    fail_over: tuple[tuple[str, float], ...],
    **flags: Any,
) -> None:
    """Compute the Inception Score and other metrics.

    The scores of real images are computed too, and every score is printed with its protocol.
    """
    from stackflower.commands.evaluate import evaluate as compute
    from stackflower.evaluation.scoring import limited, missed

    for name, _ in (*fail_under, *fail_over):
        metric, _ = limited(name)  # before the work
        if flags["metrics"] and metric not in [each.strip() for each in flags["metrics"].split(",")]:
            raise ConfigError(f"A limit of {name} needs that score: --metrics {flags['metrics']},{metric}.")
    found = compute(eval_request(**flags))
    if found is None:
        return
    show(found[0] if len(found) == 1 else {"scores": found}, as_json, lambda: described(found, flags["compare"]))
    for scores in found:
        if "not_comparable" in scores:
            raise ConfigError(scores["not_comparable"])
    _fail([reason for scores in found for reason in missed(scores, dict(fail_under), dict(fail_over))])


def eval_request(
    *,
    data: str | None,
    metrics: str | None,
    weights: str | None,
    settings: tuple[str, ...],
    protocol_name: str,
    trim_border: bool,
    skip_bad: bool,
    **flags: Any,
) -> Any:
    """The flags of `eval` as its `Request`."""
    from stackflower.commands.data import source_part
    from stackflower.commands.evaluate import Request
    from stackflower.config.merge import part_options
    from stackflower.evaluation.protocol import named

    options = part_options(settings, ("extractor", "data"), "extractor.network=timm")
    ours = ("split", "samples", "per_caption", "splits", "kept", "seed", "truncation")
    given = {name: flags.pop(name) for name in ours}
    given["metrics"] = None if metrics is None else tuple(name.strip() for name in metrics.split(","))
    return Request(
        data=source_part(data),
        options=options["extractor"] | ({} if weights is None else {"weights": weights}),
        data_options=options["data"],
        protocol=named(protocol_name, given | {"trim_border": trim_border, "skip_bad": skip_bad}),
        **flags,
    )


def described(found: list[dict[str, Any]], compared_with: str | None) -> str:
    """Scores, and the comparison with others, as text."""
    from stackflower.evaluation import comparison, scoring

    if len(found) > 1:
        return scoring.side_by_side(found)
    (scores,) = found
    text = scoring.describe(scores)
    return (
        f"{text}\n{comparison.described(scores['compared'], Path(compared_with))}"
        if compared_with and "compared" in scores
        else text
    )


def _fail(reasons: list[str]) -> None:
    """Exit with code 1 where there are any."""
    for sentence in reasons:
        say(sentence)
    if reasons:
        raise SystemExit(1)


@main.command(
    "train-classifier",
    epilog=examples(
        "stackflower train-classifier --data my-flowers --out flowers.safetensors",
        "stackflower train-classifier --data my-flowers --text ngram --out flowers.safetensors",
        "stackflower train-classifier --data my-flowers --features efficientnet-lite0 --out flowers.safetensors",
        "stackflower train-classifier --data my-flowers --out quick.safetensors --network plain --epochs 10",
    ),
)
@click.option("--data", required=True, help=f"Labelled or captioned data: {DATA_HELP}")
@click.option("--out", metavar="FILE", required=True, help="Where to save the classifier.")
@click.option("--resolution", type=click.IntRange(16), default=64, show_default=True, help="Input size in pixels.")
@click.option(
    "--network", type=click.Choice(["resnet18", "plain"]), default="resnet18", show_default=True, help="Architecture."
)
@click.option(
    "--features",
    metavar="NAME",
    help="Train a layer over this pretrained network instead: a part of the kind features.",
)
@click.option("--fine-tune", is_flag=True, help="With --features: train that network too, in a few passes.")
@click.option(
    "--text", metavar="NAME|MODEL", help="Learn to match captions too, embedded by this encoder, for R-precision."
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    help="Passes over the data.  [default: 45; 60 with --features, 6 with --fine-tune, 30 for plain]",
)
@click.option(
    "--augmentation",
    type=click.Choice(["light", "strong"]),
    help="light: crops, mirrored; strong: turned, relit, mixed too.  [default: strong for resnet18, else light]",
)
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="train",
    show_default=True,
    help="To train on; a protocol such as StackGAN's wants a classifier of the test classes.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@click.option(
    "--set", "settings", metavar="PART.OPTION=VALUE", multiple=True, help="An option of data or features. Repeatable."
)
@json_option
def train_classifier(
    data: str,
    out: str,
    features: str | None,
    text: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Train a classifier to evaluate runs with.

    It learns the labels and attributes of a data set, and with --text its captions.
    """
    from stackflower.commands.data import open_source
    from stackflower.commands.train_classifier import Asked
    from stackflower.commands.train_classifier import train_classifier as fit
    from stackflower.commands.train_text import encoder_part
    from stackflower.config.merge import part_options
    from stackflower.utils.progress import bar

    given = part_options(settings, ("data", "features"), "data.skip_bad=true")
    if (given["features"] or options["fine_tune"]) and features is None:
        flag = "--fine-tune" if options["fine_tune"] else "--set features.OPTION"
        raise ConfigError(f"{flag} needs --features NAME.")
    part = None if features is None else {"name": features, **given["features"]}
    source = open_source(data, given["data"])
    model = fit(source, Path(out), bar, Asked(data, features=part, text=encoder_part(text), **options))
    show(
        {"out": out, **model.held_out},
        as_json,
        lambda: f"{out}: " + (held_out_text(model.held_out) or "no held-out split"),
    )


def held_out_text(found: dict[str, Any]) -> str:
    """What was measured of a classifier, in a line."""
    parts = [f"held-out accuracy of {name} {value:.4f}" for name, value in found.get("accuracy", {}).items()]
    parts += [f"R-precision {found['r_precision']:.4f}"] if "r_precision" in found else []
    return ", ".join(parts)


@main.command(
    "train-text",
    epilog=examples(
        "stackflower train-text --data my-flowers --out words",
        "stackflower train-text --data my-flowers --text char-cnn-rnn --epochs 30 --out characters",
        "stackflower train --stage 1 --data my-flowers --text words",
    ),
)
@click.option("--data", required=True, help=f"Captioned data: {DATA_HELP}")
@click.option("--out", metavar="DIR", required=True, help="Where to save the encoder: a new folder, for --text.")
@click.option("--text", default="rnn", show_default=True, metavar="NAME", help="Text encoder: rnn or char-cnn-rnn.")
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True, help="Passes over the data.")
@click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True, help="Batch size.")
@click.option("--lr", type=Finite(0, min_open=True), default=1e-3, show_default=True, help="Learning rate.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@click.option("--set", "settings", metavar="text.OPTION=VALUE", multiple=True, help="An option of text or data.")
@json_option
def train_text(data: str, out: str, text: str, settings: tuple[str, ...], as_json: bool, **numbers: Any) -> None:
    """Train a text encoder before the GAN.

    It learns to match the images and captions of a data set.
    """
    from stackflower.commands.data import source_part
    from stackflower.commands.train_text import Schedule
    from stackflower.commands.train_text import train_text as fit
    from stackflower.utils.progress import bar

    found, summary = fit(source_part(data) or {}, text, settings, Path(out), bar, Schedule(**numbers))
    show(found, as_json, lambda: summary)


@main.command(
    epilog=examples(
        "stackflower report runs/quickstart-1",
        "stackflower report runs/photographs-1 --nearest 16",
        "stackflower report runs/quickstart-1 runs/photographs-1 --out both.html",
    )
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--nearest",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Show N generated images beside the training images they are nearest to. The page then holds training images.",
)
@click.option(
    "--out", metavar="FILE", help="The page.  [default: report.html in the run's folder, or here for several]"
)
@json_option
def report(runs: tuple[str, ...], nearest: int | None, out: str | None, as_json: bool) -> None:
    """Write a run's scores, images and curves as one HTML file, or those of several runs side by side."""
    from stackflower.commands.report import report as write

    found = write(runs, nearest or 0, out)
    show(found, as_json, lambda: str(found["report"]))


@main.command()
@click.argument("kind", required=False)
@json_option
def ls(kind: str | None, as_json: bool) -> None:
    """List the parts of each kind, and recipes."""
    from stackflower.commands.ls import inventory, table

    rows = inventory(kind)
    show({"parts": rows}, as_json, lambda: table(rows))


@main.command(
    epilog=examples(
        'stackflower embed "a red flower" "a crimson bloom"', "stackflower embed --captions captions.txt --out e.npy"
    )
)
@click.argument("captions", nargs=-1)
@click.option(
    "--captions",
    "file",
    metavar="FILE",
    help="Text file with one caption a line, or a metadata.jsonl, of which all are taken.",
)
@click.option("--text", default="ngram", show_default=True, metavar="NAME|MODEL", help="Text encoder.")
@click.option(
    "--out",
    metavar="FILE",
    help="Where to save the embeddings, float32 (N, T): .safetensors, with their captions, or .npy.",
)
@json_option
def embed(captions: tuple[str, ...], file: str | None, text: str, out: str | None, as_json: bool) -> None:
    """Compute sentence embeddings of unit length."""
    from stackflower.commands.embed import embed as compute
    from stackflower.commands.train_text import encoder_part

    values = compute(list(captions), file, encoder_part(text) or {}, out)
    show(values, as_json, lambda: values["text"])


LAYOUT_OPTIONS = (
    click.option(
        "--format", "layout", metavar="NAME", help="Layout of the source. Default: recognised by looking at it."
    ),
    click.option(
        "--set", "settings", multiple=True, metavar="data.OPTION=VALUE", help="An option of the layout; repeatable."
    ),
)
on_error_option = click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="What to do with rows and images that can't be used: name them and stop, or leave them out and list them.",
)


def layout_options(command: Any) -> Any:
    """What commands that read any data set have in common."""
    for option in reversed(LAYOUT_OPTIONS):
        command = option(command)
    return command


@main.group(cls=Commands)
def data() -> None:
    """Make, check and prepare data sets."""


@data.command(
    "make", epilog=examples("stackflower data make synthetic-flowers --out flowers --count 1000 --resolution 128")
)
@click.argument("name")
@click.option("--out", metavar="DIR", required=True, help="Where to save the images: a new folder.")
@click.option("--count", type=click.IntRange(1), default=8000, show_default=True, help="Training images.")
@click.option("--validation", type=click.IntRange(1), default=1000, show_default=True, help="Validation images.")
@click.option("--test", type=click.IntRange(1), default=1000, show_default=True, help="Test images.")
@click.option("--resolution", type=click.IntRange(64, 256), default=76, show_default=True, help="Size in pixels.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@json_option
def data_make(name: str, out: str, as_json: bool, **numbers: int) -> None:
    """Write a built-in data set as an image folder: images and metadata.jsonl, in split folders."""
    from stackflower.commands.data import make

    summary = make(name, out, **numbers)
    show({"out": out, **numbers, "summary": summary}, as_json, lambda: summary)


@data.command("check", epilog=examples("stackflower data check my-flowers"))
@click.argument("source")
@layout_options
@json_option
def data_check(source: str, layout: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """List everything that is wrong with a data set, opening every image. Exit code 2 if anything is."""
    from stackflower.commands.data import check, data_options

    found = check(source, data_options(settings), layout)
    problems = found["problems"]
    count = f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}."
    end = count if problems else "No problems: it can be trained on."
    show(found, as_json, lambda: "\n".join([*problems, *found["notes"], end]))
    if problems:
        raise SystemExit(2)


@data.command(
    "prepare",
    epilog=examples(
        "stackflower data prepare my-flowers --size 76",
        "stackflower data prepare my-flowers.zip prepared --on-error skip",
    ),
)
@click.argument("source")
@click.argument("out", required=False)
@click.option("--size", type=click.IntRange(16), default=76, show_default=True, help="Size in pixels.")
@layout_options
@on_error_option
@click.option("--jobs", type=click.IntRange(1), help="Images that are decoded at once. Default: one for each core.")
@json_option
def data_prepare(source: str, out: str | None, settings: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Decode a data set once, into the folder OUT with a summary page, or into the cache; training then starts at once. When it is
    interrupted, the same command goes on."""
    from stackflower.commands.data import data_options
    from stackflower.commands.prepare import prepare_data

    found = prepare_data(source, out, options=data_options(settings), say=say, **options)
    show({"data": source, "out": out, "size": options["size"], **found}, as_json, lambda: found["text"])


@data.command(
    "shard",
    epilog=examples(
        "stackflower data shard my-flowers shards",
        "stackflower data shard synthetic-flowers shards --size 76 --set data.count=100000",
    ),
)
@click.argument("source")
@click.argument("out")
@click.option("--per-shard", type=click.IntRange(1), default=1000, show_default=True, help="Images in a shard.")
@click.option("--size", type=click.IntRange(16), help="Size in pixels. Default: the image files as they are.")
@layout_options
@on_error_option
@json_option
def data_shard(source: str, out: str, settings: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Write a data set as WebDataset shards into the folder OUT, to be streamed. When it is interrupted, the same command goes on."""
    from stackflower.commands.data import data_options
    from stackflower.commands.shard import shard_data

    found = shard_data(source, out, options=data_options(settings), say=say, **options)
    show({"data": source, "out": out, **found}, as_json, lambda: found["text"])


@data.command("info", epilog=examples("stackflower data info my-flowers"))
@click.argument("source")
@layout_options
@json_option
def data_info(source: str, layout: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Count a data set's images, captions, classes and words."""
    from stackflower.commands.data import data_options, info

    values = info(source, data_options(settings), layout)
    show(values, as_json, lambda: "\n".join(f"{split}: {counts}" for split, counts in values.items()))

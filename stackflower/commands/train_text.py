"""The train-text command: a caption encoder from a data set's pictures and captions, to be used as it is afterwards."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from stackflower import registry
from stackflower.build import LOAD_RATIO, clamped
from stackflower.config.merge import parse_value
from stackflower.config.schema import Part
from stackflower.data.prepared import Prepared, prepare
from stackflower.data.sampling import Batches
from stackflower.errors import ConfigError, DataError
from stackflower.options import suggest
from stackflower.runs.checkpoint import read_state
from stackflower.runs.folder import RunFolder
from stackflower.text.learned import ABOUT as LEARNED
from stackflower.text.learned import LearnedEncoder, TextRanking
from stackflower.training.accelerator import process_state
from stackflower.utils.progress import Bar

ABOUT = "text.json"
RESOLUTION = 64


def encoder_part(value: str | None) -> dict[str, Any] | None:
    """`--text`: a registered encoder by name, the folder of a trained one, or a Hugging Face model by id or folder."""
    if value is None:
        return None
    known = set(registry.names("text")) - {"huggingface"}
    folder = Path(value).expanduser()
    if folder.is_dir() or (folder.name == "text" and folder.parent.is_dir()):
        trained = trained_part(folder)
        if trained is not None:
            return trained
    if value in known and not folder.is_dir():
        return {"name": value}
    if "/" not in value and not folder.is_dir() and difflib.get_close_matches(value, known):
        raise ConfigError(
            f"There is no text encoder {value!r}.{suggest(value, known)} Or name a Hugging Face model: its id, as "
            "in sentence-transformers/all-MiniLM-L6-v2, or a local folder."
        )
    value = str(folder.absolute()) if folder.is_dir() else value
    return {"name": "huggingface", "model": value}


def trained_part(folder: Path) -> dict[str, Any] | None:
    """The text part of a run that uses, as it is, what learned in `folder`: `train_text` wrote it, or it is a run (or its
    ``text/``) whose encoder was trained beside the GAN. None where nothing learned there; ConfigError for a run without."""
    run = RunFolder(folder.parent if folder.name == "text" else folder)
    if (folder / ABOUT).is_file():
        about, weights = folder / ABOUT, folder
    elif (run.text_folder / LEARNED).is_file():
        about, weights = run.config_file, run.text_folder
        whole = run.complete_checkpoints()
        if whole and read_state(whole[-1]).images == 0:
            raise ConfigError(
                f"--text {folder}: this run has not begun to train; `stackflower train --resume {run}` does."
            )
    elif run.weights_file.is_file():
        raise ConfigError(
            f"--text {folder}: this run's text encoder was not trained, so there is nothing to take from it. Name the encoder "
            f"itself ({', '.join(registry.names('text'))}), or a run of --text rnn or char-cnn-rnn."
        )
    else:
        return None
    try:
        values = json.loads(about.read_text(encoding="utf-8"))
        text = values["text"] if about.name == ABOUT else values["run"]["text"]
        return {"name": text["name"], **text, "weights": str(weights.resolve())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{about} is damaged ({error}); train the encoder anew with `stackflower train-text`."
        ) from error


def _options(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What ``--set`` says of the encoder and of the data."""
    options: dict[str, dict[str, Any]] = {"text": {}, "data": {}}
    for text in settings:
        key, equals, value = text.partition("=")
        kind, dot, option = key.partition(".")
        if not (equals and dot and kind in options):
            raise ConfigError(f"--set {text}: wanted text.OPTION=VALUE or data.OPTION=VALUE, as in --set text.dim=256.")
        options[kind][option] = parse_value(value)
    return options


def _encoder(name: str, options: dict[str, Any]) -> LearnedEncoder:
    encoder = Part(name, options).create("text")
    if not isinstance(encoder, LearnedEncoder):
        learned = [one for one in registry.names("text") if issubclass(registry.get("text", one), LearnedEncoder)]
        raise ConfigError(f"--text {name} has nothing to learn. Allowed: {', '.join(learned)}.")
    return encoder


@torch.no_grad()
def found_first(side: TextRanking, tokens: Tensor, images: Tensor, of: int) -> float:
    """Share of captions for which, among `of` pictures of the split, the nearest by cosine is their own or one that has
    the same caption."""
    side.eval()
    right, count = 0, 0
    same = tokens.unique(dim=0, return_inverse=True)[1]
    for first in range(0, len(images) - of + 1, of):
        pictures = side.pictures(images[first : first + of].float().div(127.5).sub(1))
        words = side.network(tokens[first : first + of])
        score = torch.nn.functional.normalize(words, dim=1) @ torch.nn.functional.normalize(pictures, dim=1).T
        mine = same[first : first + of]
        right += int((mine[score.argmax(1)] == mine).sum())
        count += of
    return right / count


def train_text(
    data: dict[str, Any],
    text: str,
    settings: Sequence[str],
    out: Path,
    display: Bar,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> tuple[dict[str, Any], str]:
    """Train an encoder and write its folder; what is known of it, and that as a sentence. ConfigError or DataError for what can't be."""
    out = out.expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there and not empty; choose a new folder with --out.")
    options = _options(settings)
    if "weights" in options["text"]:
        raise ConfigError(
            "--set text.weights names an encoder to use as it is, and this command trains a new one; leave it out."
        )
    encoder = _encoder(text, options["text"])
    source = Part.from_dict({**data, **options["data"]}).create("data")
    size = clamped(round(RESOLUTION * LOAD_RATIO), source)
    train = prepare(source, "train", size, display)
    device = process_state().device
    torch.manual_seed(seed)
    encoder.fit(train.flat_captions())
    side = TextRanking(encoder, RESOLUTION).to(device)
    _fit(side, encoder, train, display, device, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed)
    held_out = source.held_out()
    judged = prepare(source, held_out or "train", size, display)
    first = [captions[0] for captions in judged.captions]
    of = min(32, len(first))
    share = found_first(side, encoder.tokenise(first).to(device), judged.centre(RESOLUTION).to(device), of)
    found = {
        "text": {"name": text, **options["text"]},
        "epochs": epochs,
        "seed": seed,
        "data": source.title(),
        "found_first": share,
        "of": of,
        "split": held_out or "train (there is no other)",
    }
    try:
        encoder.save(out)
        (out / ABOUT).write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise DataError(f"{out} can't be written: {error}. Choose another --out.") from error
    summary = (
        f"{out}: top-1 retrieval accuracy {share:.1%} among {of} images ({found['split']}; chance is {1 / of:.1%})"
    )
    if of < 2:
        summary = f"{out}: one image in {found['split']} says nothing about retrieval"
    return {"out": str(out), **found}, f"{summary}\nUse it: stackflower train --stage 1 --text {out}"


def _fit(
    side: TextRanking,
    encoder: LearnedEncoder,
    data: Prepared,
    display: Bar,
    device: torch.device,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> None:
    tokens = encoder.tokenise(data.flat_captions()).to(device)
    batch_size = min(batch_size, len(data.rows))
    batches = Batches(
        data,
        lambda captions: torch.zeros(*captions.shape, 1, device=device),
        resolution=RESOLUTION,
        seed=seed,
        draw_noise=lambda count, generator: torch.zeros(count, 0, device=device),
        device=device,
    )
    optimizer = torch.optim.Adam(side.parameters(), lr=lr)
    steps = max(1, epochs * len(batches) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    side.train()
    with display(f"training the text encoder ({epochs} epochs)", steps) as progress:
        for step in range(steps):
            batch = batches(step * batch_size, batch_size)
            terms = side(batch.images, tokens[batch.caption], tokens[batch.negative_caption], batch.label)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(side.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            progress(1)

"""The train-text command: a text encoder trained on a data set's images and captions, to be used frozen afterwards."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from stackflower import registry
from stackflower.build import LOAD_RATIO, clamped
from stackflower.config.merge import part_options
from stackflower.config.schema import Part
from stackflower.data.prepared import Prepared, prepare
from stackflower.data.sampling.batch import Drawing
from stackflower.data.sampling.prepared import PreparedBatches
from stackflower.data.source import Source
from stackflower.errors import ConfigError, DataError
from stackflower.options import suggest
from stackflower.runs.checkpoint import read_state
from stackflower.runs.folder import RunFolder
from stackflower.text.learned import ABOUT as VOCABULARY
from stackflower.text.learned import LearnedEncoder, TextRanking
from stackflower.training.accelerator import process_state
from stackflower.utils.atomic import write_text
from stackflower.utils.progress import Bar

ABOUT = "text.json"
RESOLUTION = 64
CANDIDATES = 32  # images among which a caption retrieves its own


# ---- the value of --text


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
    return {"name": "huggingface", "model": str(folder.absolute()) if folder.is_dir() else value}


def trained_part(folder: Path) -> dict[str, Any] | None:
    """The text part that uses a trained encoder frozen: one that `train_text` wrote to `folder`, or that of a run (or its
    ``text/``) in which it was trained with the GAN. None where there is none; ConfigError for a run without."""
    run = RunFolder(folder.parent if folder.name == "text" else folder)
    if (folder / ABOUT).is_file():
        return {**_about(folder / ABOUT), "weights": str(folder.resolve())}
    if (run.text_folder / VOCABULARY).is_file():
        complete = run.complete_checkpoints()
        if complete and read_state(complete[-1]).images == 0:
            raise ConfigError(
                f"--text {folder}: this run is not trained yet; `stackflower train --resume {run}` does it."
            )
        return {**run.config().text.to_dict(), "weights": str(run.text_folder.resolve())}
    if run.weights_file.is_file():
        raise ConfigError(
            f"--text {folder}: this run's text encoder was not trained, so there is nothing to take from it. Name the encoder "
            f"itself ({', '.join(registry.names('text'))}), or a run of --text rnn or char-cnn-rnn."
        )
    return None


def _about(path: Path) -> dict[str, Any]:
    try:
        text = json.loads(path.read_text(encoding="utf-8"))["text"]
        return {"name": text["name"], **text}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} is damaged ({error}); train the encoder anew with `stackflower train-text`."
        ) from error


# ---- the command


@dataclass(frozen=True)
class Schedule:
    """How long and how fast an encoder is trained."""

    epochs: int
    batch_size: int
    lr: float
    seed: int


def train_text(
    data: dict[str, Any], text: str, settings: Sequence[str], out: Path, display: Bar, schedule: Schedule
) -> tuple[dict[str, Any], str]:
    """Train an encoder and save it to a new folder; what is known of it, and that as a sentence. ConfigError or DataError for what
    can't be."""
    out = out.expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there and not empty; choose a new folder with --out.")
    options = _options(settings)
    encoder = _encoder(text, options["text"])
    source: Source = Part.from_dict({**data, **options["data"]}).create("data")
    size = clamped(round(RESOLUTION * LOAD_RATIO), source)
    train = prepare(source, "train", size, display)
    device = process_state().device
    torch.manual_seed(schedule.seed)
    encoder.fit(train.flat_captions())
    ranking = TextRanking(encoder, RESOLUTION).to(device)
    _fit(ranking, encoder, train, display, device, schedule)
    split = source.held_out()
    held_out = prepare(source, split or "train", size, display)
    first = [captions[0] for captions in held_out.captions]
    candidates = min(CANDIDATES, len(first))
    tokens, images = encoder.tokenise(first).to(device), held_out.centre(RESOLUTION).to(device)
    accuracy = retrieval_accuracy(ranking, tokens, images, candidates)
    found = {
        "text": {"name": text, **options["text"]},
        "epochs": schedule.epochs,
        "seed": schedule.seed,
        "data": source.title(),
        "retrieval_accuracy": accuracy,
        "candidates": candidates,
        "split": split or "train (there is no other)",
    }
    _save(encoder, out, found)
    chance = f"among {candidates} images ({found['split']}; chance is {1 / candidates:.1%})"
    summary = f"{out}: captions retrieve their own image first in {accuracy:.1%} of cases {chance}"
    if candidates < 2:
        summary = f"{out}: one image in {found['split']} says nothing about retrieval"
    return {"out": str(out), **found}, f"{summary}\nUse it: stackflower train --stage 1 --text {out}"


def _save(encoder: LearnedEncoder, out: Path, about: dict[str, Any]) -> None:
    try:
        encoder.save(out)
        write_text(out / ABOUT, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    except (OSError, SafetensorError) as error:
        raise DataError(f"{out} can't be written: {error}. Choose another --out.") from error


def _options(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The options of the encoder and of the data in ``--set``."""
    options = part_options(settings, ("text", "data"), "text.dim=256")
    if "weights" in options["text"]:
        raise ConfigError(
            "--set text.weights names an encoder to use frozen, and this command trains a new one; leave it out."
        )
    return options


def _encoder(name: str, options: dict[str, Any]) -> LearnedEncoder:
    encoder = Part(name, options).create("text")
    if not isinstance(encoder, LearnedEncoder):
        learned = [one for one in registry.names("text") if issubclass(registry.get("text", one), LearnedEncoder)]
        raise ConfigError(f"--text {name} has no weights to train. Allowed: {', '.join(learned)}.")
    return encoder


@torch.no_grad()
def retrieval_accuracy(ranking: TextRanking, tokens: Tensor, images: Tensor, candidates: int) -> float:
    """Share of captions whose most similar image (by cosine), among `candidates` of the split, is their own or one with the same
    caption.

    Args:
        tokens: (N, L) of a caption of each image.
        images: uint8 (N, 3, R, R).
    """
    ranking.eval()
    right, count = 0, 0
    same = tokens.unique(dim=0, return_inverse=True)[1]
    for first in range(0, len(images) - candidates + 1, candidates):
        image = ranking.image_encoder(images[first : first + candidates].float().div(127.5).sub(1))
        text = ranking.network(tokens[first : first + candidates])
        score = torch.nn.functional.normalize(text, dim=1) @ torch.nn.functional.normalize(image, dim=1).T
        own = same[first : first + candidates]
        right += int((own[score.argmax(1)] == own).sum())
        count += candidates
    return right / count


def _fit(
    ranking: TextRanking,
    encoder: LearnedEncoder,
    data: Prepared,
    display: Bar,
    device: torch.device,
    schedule: Schedule,
) -> None:
    tokens = encoder.tokenise(data.flat_captions()).to(device)
    batch_size = min(schedule.batch_size, len(data.rows))
    drawing = Drawing(RESOLUTION, schedule.seed, lambda count, generator: torch.zeros(count, 0, device=device))
    batches = PreparedBatches(data, lambda captions: torch.zeros(*captions.shape, 1, device=device), drawing, device)
    optimizer = torch.optim.Adam(ranking.parameters(), lr=schedule.lr)
    steps = max(1, schedule.epochs * len(batches) // batch_size)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    ranking.train()
    with display(f"training the text encoder ({schedule.epochs} epochs)", steps) as progress:
        for step in range(steps):
            batch = batches(step * batch_size, batch_size)
            terms = ranking(batch.images, tokens[batch.caption], tokens[batch.negative_caption], batch.label)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(ranking.parameters(), 10.0)
            optimizer.step()
            rates.step()
            progress(1)

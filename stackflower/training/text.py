"""Train a text encoder on the images and captions of a data set, for use with frozen weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from stackflower import registry
from stackflower.build import LOAD_RATIO, clamp_size
from stackflower.config.schema import Part
from stackflower.data.prepared import Prepared, prepare
from stackflower.data.source import Source
from stackflower.errors import ConfigError, DataError
from stackflower.runs.trained_text import ENCODER_FILE
from stackflower.text.checks import report_captions
from stackflower.text.learned import LearnedEncoder, TextRanking
from stackflower.training.batches.batch import Drawing
from stackflower.training.batches.prepared import PreparedBatches
from stackflower.utils.atomic import write_text
from stackflower.utils.devices import get_process_state
from stackflower.utils.pixels import scale_pixels
from stackflower.utils.progress import progress_bar

RESOLUTION = 64  # of the images, in pixels
CANDIDATES = 32  # number of images among which a caption retrieves its own


@dataclass(frozen=True)
class Schedule:
    """Length, batches and learning rate of the training of an encoder.

    Args:
        epochs: number of passes over the data.
        batch_size: number of images per step.
        lr: initial learning rate, which decays to zero along a cosine.
        seed: random seed.
    """

    epochs: int
    batch_size: int
    lr: float
    seed: int


def train_text(
    data: Mapping[str, Any], text: Mapping[str, Any], out: Path, schedule: Schedule
) -> tuple[dict[str, Any], str]:
    """Train an encoder and save it to a new folder.

    Args:
        data: name and options of the data set.
        text: name and options of the encoder.
        out: a new folder.
        schedule: length, batches and learning rate of the training.

    Returns:
        The description that is saved with the encoder, with its folder, and a sentence that summarises it.

    Raises:
        ConfigError: the encoder can't be trained.
        DataError: the folder is not empty or can't be written, or the data can't be used.
    """
    out = out.expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} already exists and is not empty; choose another `out`.")
    if "weights" in text:
        raise ConfigError("`text.weights` is an encoder that is already trained; leave it out to train a new one.")
    encoder = _build_encoder(Part.from_dict(text))
    source: Source = Part.from_dict(data).create("data")
    size = clamp_size(round(RESOLUTION * LOAD_RATIO), source)
    train = prepare(source, "train", size)
    device = get_process_state().device
    torch.manual_seed(schedule.seed)
    encoder.fit(train.flatten_captions())
    report_captions(encoder, train.captions)
    ranking = TextRanking(encoder, RESOLUTION).to(device)
    _fit(ranking, encoder, train, device, schedule)
    split = source.get_held_out_split()
    held_out = prepare(source, split or "train", size)
    queries = [captions[0] for captions in held_out.captions]
    candidates = min(CANDIDATES, len(queries))
    tokens, images = encoder.tokenise(queries).to(device), held_out.crop_centre(RESOLUTION).to(device)
    accuracy = compute_retrieval_accuracy(ranking, tokens, images, candidates)
    description = {
        "text": dict(text),
        "epochs": schedule.epochs,
        "seed": schedule.seed,
        "data": source.title(),
        "retrieval_accuracy": accuracy,
        "candidates": candidates,
        "split": split or "train (no held-out split)",
    }
    _save(encoder, out, description)
    chance = f"among {candidates} images ({description['split']}; chance is {1 / candidates:.1%})"
    summary = f"{out}: captions retrieve their own image first in {accuracy:.1%} of cases {chance}"
    if candidates < 2:
        summary = f"{out}: retrieval can't be measured on a single image ({description['split']})"
    return {"out": str(out), **description}, summary


def _save(encoder: LearnedEncoder, out: Path, description: dict[str, Any]) -> None:
    """Save the encoder and its description."""
    try:
        encoder.save(out)
        write_text(out / ENCODER_FILE, json.dumps(description, indent=2, ensure_ascii=False) + "\n")
    except (OSError, SafetensorError) as error:
        raise DataError(f"{out} can't be written: {error}. Choose another `out`.") from error


def _build_encoder(part: Part) -> LearnedEncoder:
    """Build the encoder; raise ConfigError if it can't be trained."""
    encoder = part.create("text")
    if not isinstance(encoder, LearnedEncoder):
        learned = [
            name for name in registry.list_parts("text") if issubclass(registry.get("text", name), LearnedEncoder)
        ]
        raise ConfigError(f"`text={part.name}` has no weights to train. Allowed: {', '.join(learned)}.")
    return encoder


@torch.no_grad()
def compute_retrieval_accuracy(ranking: TextRanking, tokens: Tensor, images: Tensor, candidates: int) -> float:
    """Compute the share of captions whose most similar image, by cosine, is their own or has the same caption.

    Args:
        ranking: text encoder and image encoder.
        tokens: tokens `(N, L)` of one caption per image.
        images: images, uint8 `(N, 3, R, R)`.
        candidates: number of images that each caption is compared with.

    Returns:
        The share, in `[0, 1]`; a last group of fewer than `candidates` images is left out.
    """
    ranking.eval()
    correct, count = 0, 0
    same = tokens.unique(dim=0, return_inverse=True)[1]
    for first in range(0, len(images) - candidates + 1, candidates):
        image = ranking.image_encoder(scale_pixels(images[first : first + candidates]))
        text = ranking.network(tokens[first : first + candidates])
        score = torch.nn.functional.normalize(text, dim=1) @ torch.nn.functional.normalize(image, dim=1).T
        texts = same[first : first + candidates]
        correct += int((texts[score.argmax(1)] == texts).sum())
        count += candidates
    return correct / count


def _fit(
    ranking: TextRanking,
    encoder: LearnedEncoder,
    data: Prepared,
    device: torch.device,
    schedule: Schedule,
) -> None:
    """Train text encoder and image encoder on a prepared split."""
    tokens = encoder.tokenise(data.flatten_captions()).to(device)
    batch_size = min(schedule.batch_size, len(data.rows))
    drawing = Drawing(RESOLUTION, schedule.seed, lambda count, generator: torch.zeros(count, 0, device=device))
    batches = PreparedBatches(data, lambda captions: torch.zeros(*captions.shape, 1, device=device), drawing, device)
    optimizer = torch.optim.Adam(ranking.parameters(), lr=schedule.lr)
    steps = max(1, schedule.epochs * len(batches) // batch_size)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    ranking.train()
    with progress_bar(f"training the text encoder ({schedule.epochs} epochs)", steps) as progress:
        for step in range(steps):
            batch = batches(step * batch_size, batch_size)
            terms = ranking(batch.images, tokens[batch.caption], tokens[batch.negative_caption], batch.label)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(ranking.parameters(), 10.0)
            optimizer.step()
            rates.step()
            progress(1)

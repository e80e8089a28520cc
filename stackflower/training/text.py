"""Train a text encoder on the images and captions of a data set, for use with frozen weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from stackflower import registry
from stackflower.build import LOAD_RATIO, clamp_size
from stackflower.config.schema import Part
from stackflower.data.prepared import Prepared, prepare
from stackflower.data.source import Source
from stackflower.errors import ConfigError, DataError
from stackflower.features import efficientnet_lite0
from stackflower.options import read_section
from stackflower.runs.trained_text import ENCODER_FILE
from stackflower.text.checks import report_captions
from stackflower.text.damsm import DamsmOptions, compute_damsm_losses
from stackflower.text.learned import LearnedEncoder, TextRanking
from stackflower.text.regions import ConvolutionalRegions, FeatureRegions, RegionEncoder, save_image_encoder
from stackflower.training.batches.batch import Drawing
from stackflower.training.batches.prepared import PreparedBatches
from stackflower.utils.atomic import write_text
from stackflower.utils.devices import get_process_state
from stackflower.utils.pixels import scale_pixels
from stackflower.utils.progress import progress_bar

RESOLUTION = 64  # of the images, in pixels, unless the image encoder sees larger ones
CANDIDATES = 32  # number of images among which a caption retrieves its own
Loss = Literal["ranking", "damsm"]
LEARNING_RATES: dict[Loss, float] = {"ranking": 1e-3, "damsm": 2e-3}


@dataclass(frozen=True)
class Schedule:
    """Length, batches and learning rate of the training of an encoder.

    Args:
        epochs: number of passes over the data.
        batch_size: number of images per step.
        lr: initial learning rate; None: that of `LEARNING_RATES`. It decays to zero along a cosine, or for the DAMSM
            by 2% per epoch.
        seed: random seed.
    """

    epochs: int
    batch_size: int
    lr: float | None
    seed: int


@dataclass(frozen=True)
class Objective:
    """Loss that an encoder is trained with.

    Args:
        loss: "ranking" for the loss of the encoder itself, or "damsm" for the DAMSM of AttnGAN, whose image encoder is
            kept.
        features: name and options of the frozen network of the DAMSM's image encoder; None: a small convolutional
            network is trained.
        damsm: options of the DAMSM (`DamsmOptions`).
    """

    loss: Loss = "ranking"
    features: Mapping[str, Any] | None = None
    damsm: Mapping[str, Any] = field(default_factory=dict)


def choose_objective(
    loss: str, features: str | None, feature_options: Mapping[str, Any], damsm: Mapping[str, Any]
) -> Objective:
    """Choose the loss, and the frozen network of the DAMSM's image encoder.

    Args:
        loss: "ranking" or "damsm".
        features: name of the network; "none" for a small network that is trained; None for EfficientNet-Lite0 if it is
            installed, else "none".
        feature_options: options of the network.
        damsm: options of the DAMSM.

    Raises:
        ConfigError: options of the DAMSM are given for the other loss.
    """
    if loss == "ranking":
        if features is not None or feature_options or damsm:
            raise ConfigError("`features` and the options of damsm belong to `loss=damsm`; add it, or leave them out.")
        return Objective()
    if features is None:
        features = "efficientnet-lite0" if feature_options or efficientnet_lite0.is_available() else "none"
    network = None if features == "none" else {"name": features, **feature_options}
    return Objective("damsm", network, damsm)


class DamsmTraining(nn.Module):
    """The network of a text encoder and the image encoder that it is trained with by the DAMSM.

    Args:
        encoder: text encoder that has words; its network is shared with this module.
        regions: image encoder.
        options: options of the DAMSM.
    """

    def __init__(self, encoder: LearnedEncoder, regions: RegionEncoder, options: DamsmOptions):
        super().__init__()
        self.network, self.regions, self.options = encoder.network, regions, options
        self._embed = encoder.embed_with_words

    def image_encoder(self, images: Tensor) -> Tensor:
        """Encode images `(N, 3, R, R)` as a whole, to `(N, D)`."""
        return self.regions(images).whole

    def forward(self, images: Tensor, tokens: Tensor, negative: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Compute the terms of the loss.

        Args:
            images: ``(N, 3, R, R)`` in ``[-1, 1]``.
            tokens: tokens of their captions ``(N, L)``.
            negative: not used.
            label: classes of the images ``(N,)``.
        """
        longest = int((tokens > 0).sum(1).max().clamp_min(1))  # all pairs of images and words are compared
        sentence, words = self._embed(tokens[:, :longest])
        return compute_damsm_losses(self.regions(images), words, sentence, label, self.options)


Matching = TextRanking | DamsmTraining


def train_text(
    data: Mapping[str, Any],
    text: Mapping[str, Any],
    out: Path,
    schedule: Schedule,
    objective: Objective = Objective(),
) -> tuple[dict[str, Any], str]:
    """Train an encoder and save it to a new folder; for the DAMSM, with its image encoder.

    Args:
        data: name and options of the data set.
        text: name and options of the encoder.
        out: a new folder.
        schedule: length, batches and learning rate of the training.
        objective: loss of the training.

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
    torch.manual_seed(schedule.seed)
    make_matching, resolution = _prepare_objective(encoder, objective)
    source: Source = Part.from_dict(data).create("data")
    size = clamp_size(round(resolution * LOAD_RATIO), source)
    train = prepare(source, "train", size)
    device = get_process_state().device
    torch.manual_seed(schedule.seed)
    encoder.fit(train.flatten_captions())
    report_captions(encoder, train.captions)
    matching = make_matching().to(device)
    _fit(matching, encoder, train, device, schedule, resolution)
    split = source.get_held_out_split()
    held_out = prepare(source, split or "train", size)
    queries = [captions[0] for captions in held_out.captions]
    candidates = min(CANDIDATES, len(queries))
    tokens, images = encoder.tokenise(queries).to(device), held_out.crop_centre(resolution)
    accuracy = compute_retrieval_accuracy(matching, tokens, images, candidates)
    description = {
        "text": {**text, **({} if objective.loss == "ranking" else {"loss": objective.loss})},
        "epochs": schedule.epochs,
        "seed": schedule.seed,
        "data": source.title(),
        "retrieval_accuracy": accuracy,
        "candidates": candidates,
        "split": split or "train (no held-out split)",
    }
    _save(encoder, matching, out, description)
    chance = f"among {candidates} images ({description['split']}; chance is {1 / candidates:.1%})"
    summary = f"{out}: captions retrieve their own image first in {accuracy:.1%} of cases {chance}"
    if candidates < 2:
        summary = f"{out}: retrieval can't be measured on a single image ({description['split']})"
    return {"out": str(out), **description}, summary


def _prepare_objective(encoder: LearnedEncoder, objective: Objective) -> tuple[Callable[[], Matching], int]:
    """Check the loss.

    Returns:
        A function that builds the networks once the encoder is fitted, and the resolution of the images.

    Raises:
        ConfigError: the encoder has no words, or an option is wrong.
    """
    if objective.loss == "ranking":
        return lambda: TextRanking(encoder, RESOLUTION), RESOLUTION
    if not encoder.has_words:
        raise ConfigError("`loss=damsm` matches words with regions, and this encoder has no words; use `text=rnn`.")
    problems: list[str] = []
    options = read_section(DamsmOptions, objective.damsm, "damsm", problems, partial=True)
    if problems or options is None:
        raise ConfigError(problems)
    regions: RegionEncoder = ConvolutionalRegions(encoder.dim)
    if objective.features is not None:
        regions = FeatureRegions(encoder.dim, objective.features)
    return lambda: DamsmTraining(encoder, regions, options), regions.size


def _save(encoder: LearnedEncoder, matching: Matching, out: Path, description: dict[str, Any]) -> None:
    """Save the encoder and its description; for the DAMSM, also the image encoder."""
    try:
        encoder.save(out)
        if isinstance(matching, DamsmTraining):
            save_image_encoder(matching.regions, out, encoder.dim, dataclasses.asdict(matching.options))
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
def compute_retrieval_accuracy(matching: Matching, tokens: Tensor, images: Tensor, candidates: int) -> float:
    """Compute the share of captions whose most similar image, by cosine, is their own or has the same caption.

    Args:
        matching: text encoder and image encoder.
        tokens: tokens `(N, L)` of one caption per image.
        images: images, uint8 `(N, 3, R, R)`.
        candidates: number of images that each caption is compared with.

    Returns:
        The share, in `[0, 1]`; a last group of fewer than `candidates` images is left out.
    """
    matching.eval()
    correct, count = 0, 0
    same = tokens.unique(dim=0, return_inverse=True)[1]
    for first in range(0, len(images) - candidates + 1, candidates):
        image = matching.image_encoder(scale_pixels(images[first : first + candidates].to(tokens.device)))
        text = matching.network(tokens[first : first + candidates])
        score = torch.nn.functional.normalize(text, dim=1) @ torch.nn.functional.normalize(image, dim=1).T
        texts = same[first : first + candidates]
        correct += int((texts[score.argmax(1)] == texts).sum())
        count += candidates
    return correct / count


def _fit(
    matching: Matching,
    encoder: LearnedEncoder,
    data: Prepared,
    device: torch.device,
    schedule: Schedule,
    resolution: int,
) -> None:
    """Train text encoder and image encoder on a prepared split."""
    tokens = encoder.tokenise(data.flatten_captions()).to(device)
    batch_size = min(schedule.batch_size, len(data.rows))
    drawing = Drawing(resolution, schedule.seed, lambda count, generator: torch.zeros(count, 0, device=device))
    batches = PreparedBatches(data, lambda captions: torch.zeros(*captions.shape, 1, device=device), drawing, device)
    steps = max(1, schedule.epochs * len(batches) // batch_size)
    optimizer, rates, clip = _build_optimizer(matching, schedule, steps)
    matching.train()
    with progress_bar(f"training the text encoder ({schedule.epochs} epochs)", steps) as progress:
        for step in range(steps):
            batch = batches(step * batch_size, batch_size)
            terms = matching(batch.images, tokens[batch.caption], tokens[batch.negative_caption], batch.label)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            clip()
            optimizer.step()
            rates.step()
            progress(1)


def _build_optimizer(
    matching: Matching, schedule: Schedule, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, Callable[[], Tensor]]:
    """Build the optimizer, the schedule of its learning rate, and the function that clips gradients.

    For the DAMSM, they are those of the authors' release: the rate decays by 2% per epoch, and the gradients of the
    text encoder are clipped.
    """
    parameters = [parameter for parameter in matching.parameters() if parameter.requires_grad]
    if isinstance(matching, DamsmTraining):
        lr = LEARNING_RATES["damsm"] if schedule.lr is None else schedule.lr
        optimizer = torch.optim.Adam(parameters, lr=lr, betas=(0.5, 0.999))
        decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.98 ** (step * schedule.epochs // steps))
        return optimizer, decay, lambda: nn.utils.clip_grad_norm_(matching.network.parameters(), 0.25)
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATES["ranking"] if schedule.lr is None else schedule.lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return optimizer, cosine, lambda: nn.utils.clip_grad_norm_(parameters, 10.0)

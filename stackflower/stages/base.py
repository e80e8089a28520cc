"""The base classes of the networks, and what passes between them.

A `Stage` joins a `Conditioning` and a `Generator`: text embeddings (N, T) and noise (N, Z) to images; a later stage
refines the images of a frozen earlier one. A `Discriminator` judges images against a `Text`. None of them knows of
losses, optimizers or devices.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from stackflower.declarations import Declared, Not, Offers, Requirements, SettingRequirement
from stackflower.stages.frozen import Frozen
from stackflower.stages.layers import ReferenceBatch


class OtherTexts(NamedTuple):
    """Captions besides those of a batch, the same in all processes."""

    embedding: Tensor  # (M, T)
    label: Tensor  # (M,) int64 class


class Text(NamedTuple):
    """A caption as a discriminator sees it."""

    embedding: Tensor  # (N, T), from the text encoder
    condition: Tensor  # (N, C), the deterministic part of the conditioning, detached from the generator
    label: Tensor | None = None  # (N,) int64 class; texts of one class are no negatives for one another's images
    others: OtherTexts | None = None  # with which the contrast compares too


class Generated(NamedTuple):
    """The output of a stage."""

    images: tuple[Tensor, ...]  # one (N, 3, R, R) in [-1, 1] for each of the stage's resolutions
    condition: Tensor  # (N, C), deterministic
    terms: Mapping[str, Tensor]  # losses of the stage's own, such as the KL term, unweighted scalars
    previous: tuple[Tensor, ...] = ()  # images of the earlier stages, the lowest resolution first


Scores = Tensor | tuple[Tensor, ...]
"""(N,), a score for each image; or (N, K) for each of several heads, a score for each of its K patches."""


def heads(scores: Scores) -> tuple[Tensor, ...]:
    """The scores of each head."""
    return (scores,) if isinstance(scores, Tensor) else scores


def per_image(scores: Scores) -> Tensor:
    """(N,): the mean over patches, then over heads."""
    each = [head if head.ndim == 1 else head.flatten(1).mean(1) for head in heads(scores)]
    return each[0] if len(each) == 1 else torch.stack(each).mean(0)


class Verdict(NamedTuple):
    """A discriminator's scores."""

    match: Scores  # the image is real and matches the text
    real: Scores | None = None  # the image is real, whatever the text
    similarity: Tensor | None = (
        None  # (N, M) logits of image i and text j of the whole batch, over all processes, then of `Text.others`
    )

    @property
    def score(self) -> Tensor:
        """(N,): `match` as one score for each image."""
        return per_image(self.match)


Critic = Callable[[Tensor, Sequence[Text]], list[Verdict]]
"""Images (N, 3, R, R) and texts to a verdict for each text; a `Discriminator` is one."""


class Condition(NamedTuple):
    """The output of a conditioning."""

    sample: Tensor  # (N, C), the generator's input
    mean: Tensor  # (N, C), its deterministic part
    terms: Mapping[str, Tensor]  # losses of its own, unweighted scalars


class Conditioning(Declared, nn.Module, ABC):
    """Text embedding (N, T) to condition (N, `dim`), using `noise_dim` standard normal values for each image."""

    dim: int
    noise_dim: int = 0
    weights: Mapping[str, float] = {}  # the weight of each of its terms

    @abstractmethod
    def forward(self, embedding: Tensor, noise: Tensor) -> Condition:
        """`embedding` (N, T), `noise` (N, noise_dim)."""


class Generator(Declared, nn.Module, ABC):
    """Condition (N, C) and noise (N, `noise_dim`) to images in [-1, 1], one for each of `resolutions`. A subclass
    writes `generate`."""

    requires: ClassVar[Requirements] = (SettingRequirement("stage", 1, why="starts from noise alone"),)

    resolutions: tuple[int, ...]
    noise_dim: int
    noise: Literal["normal", "uniform"] = "normal"  # standard normal, or uniform on [-1, 1]
    weights: Mapping[str, float] = {}  # the weight of each of its terms

    def __init__(self) -> None:
        super().__init__()
        self.reference_batch: ReferenceBatch | None = None  # for virtual batch normalisation

    @abstractmethod
    def generate(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """`condition` (N, C), `noise` (N, noise_dim) → images (N, 3, R, R) for R in `resolutions`."""

    def forward(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """As `generate`; with virtual batch normalisation, the reference batch passes through in front of the batch."""
        if self.reference_batch is None:
            return self.generate(condition, noise)
        images = self.generate(*self.reference_batch.prepend(condition, noise))
        return tuple(image[-len(condition) :] for image in images)

    def terms(self, images: tuple[Tensor, ...], image: Tensor | None = None) -> dict[str, Tensor]:
        """Losses of its own on its images (and `image`, the input of a `Refiner`), unweighted scalars."""
        return {}


class Refiner(Generator):
    """A generator of a later stage: it refines an image of the stage before, and needs no noise."""

    requires = (SettingRequirement("stage", Not(1), why="refines a previous stage (`stage=2` with `below=RUN`)"),)
    noise_dim = 0

    @abstractmethod
    def generate(self, condition: Tensor, noise: Tensor, image: Tensor | None = None) -> tuple[Tensor, ...]:
        """`condition` (N, C), `noise` (N, noise_dim), `image` (N, 3, r, r) in [-1, 1] → images for R in
        `resolutions`."""

    def forward(self, condition: Tensor, noise: Tensor, image: Tensor | None = None) -> tuple[Tensor, ...]:
        return self.generate(condition, noise, image)


class Stage(nn.Module):
    """Conditioning and generator as one network: text embedding (N, T) and noise (N, Z) to images.

    All randomness is in `noise`, so a seed fixes an image.

    Args:
        conditioning, generator: its parts.
        previous: a trained stage whose images a `Refiner` refines; it is never trained here.
    """

    def __init__(self, conditioning: Conditioning, generator: Generator, previous: Stage | None = None):
        super().__init__()
        self.conditioning = conditioning
        self.generator = generator
        self._previous = None if previous is None else Frozen(previous)

    @property
    def previous(self) -> Stage | None:
        """The stage that it refines; not among its parameters, and saved in a file of its own."""
        return None if self._previous is None else self._previous.network

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Of the images of this stage."""
        return self.generator.resolutions

    @property
    def all_resolutions(self) -> tuple[int, ...]:
        """Those of the earlier stages, then its own."""
        return (*(self.previous.all_resolutions if self.previous is not None else ()), *self.resolutions)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each of its terms."""
        return {**self.conditioning.weights, **self.generator.weights}

    @property
    def _noise_dims(self) -> tuple[int, int, int]:
        previous = self.previous.noise_dim if self.previous is not None else 0
        return previous, self.conditioning.noise_dim, self.generator.noise_dim

    @property
    def noise_dim(self) -> int:
        """Z: the noise of the previous stage, then of the conditioning, then of the generator."""
        return sum(self._noise_dims)

    def draw_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise (count, Z) on the device of a seeded generator: standard normal for the conditioning, and for the
        generator as its `noise` says."""
        noise = torch.randn(count, self.noise_dim, generator=generator, device=generator.device)
        if self.previous is not None:
            noise[:, : self._noise_dims[0]] = self.previous.draw_noise(count, generator)
        if self.generator.noise == "uniform":
            noise[:, self.noise_dim - self.generator.noise_dim :].uniform_(-1, 1, generator=generator)
        return noise

    def noise_between(self, one: Tensor, other: Tensor, share: Tensor) -> Tensor:
        """Noise (S, Z) on the way from one (Z,) to another, at shares (S,) from 0 to 1: on the quarter of a circle for
        normal noise, so that it stays as long as noise is, on the straight line for uniform noise."""
        share = share[:, None]
        mixed = torch.cos(share * math.pi / 2) * one + torch.sin(share * math.pi / 2) * other
        if self.previous is not None:
            first = slice(0, self._noise_dims[0])
            mixed[:, first] = self.previous.noise_between(one[first], other[first], share[:, 0])
        if self.generator.noise == "uniform":
            own = slice(self.noise_dim - self.generator.noise_dim, None)
            mixed[:, own] = torch.lerp(one[own].expand(len(share), -1), other[own].expand(len(share), -1), share)
        return mixed

    @torch.no_grad()
    def set_reference_batch(self, embedding: Tensor, noise: Tensor) -> None:
        """Give a generator with virtual batch normalisation its reference batch, from the first batch of the
        training."""
        if self.generator.reference_batch is not None:
            _, conditioning_noise, generator_noise = noise.split(self._noise_dims, dim=1)
            self.generator.reference_batch.set(self.conditioning(embedding, conditioning_noise).sample, generator_noise)

    def forward(self, embedding: Tensor, noise: Tensor) -> Generated:
        previous_noise, conditioning_noise, generator_noise = noise.split(self._noise_dims, dim=1)
        condition = self.conditioning(embedding, conditioning_noise)
        previous: tuple[Tensor, ...] = ()
        if self.previous is None:
            images = self.generator(condition.sample, generator_noise)
        else:
            with torch.no_grad():
                before = self.previous(embedding, previous_noise)
            previous = (*before.previous, *before.images)
            images = self.generator(condition.sample, generator_noise, previous[-1])
        terms = {**condition.terms, **self.generator.terms(images, previous[-1] if previous else None)}
        return Generated(images, condition.mean.detach(), terms, previous)


class Discriminator(Declared, nn.Module, ABC):
    """Images (N, 3, R, R) and text to verdicts.

    `trunk` sees the images once; `judge` scores its features against a text, as often as needed. What is never trained,
    such as a pretrained network, goes into `perceive`, which runs once for both steps.
    """

    brings = {"objective": "bce"}
    offers: ClassVar[Offers] = ("logit scores", "independent scores")

    def maps(self, perceived: Any) -> tuple[Tensor, ...]:
        """Those maps (N, C, H, W) of a pretrained network that are in `perceived`, fine to coarse."""
        return ()

    def perceive(self, images: Tensor) -> Any:
        """Images (N, 3, R, R) in [-1, 1] to what `trunk` takes: the images, or a tuple of tensors of a network without
        trainable weights."""
        return images

    @abstractmethod
    def trunk(self, perceived: Any) -> Any:
        """What `perceive` gives to features: a tensor, first dimension N, or a tuple of them."""

    @abstractmethod
    def judge(self, features: Any, text: Text) -> Verdict:
        """Features of `trunk` against the text of each image, first dimension N."""

    def verdicts(self, perceived: Any, texts: Sequence[Text]) -> list[Verdict]:
        """A verdict for each of `texts` on what `perceive` gives, the trunk run once."""
        features = self.trunk(perceived)
        return [self.judge(features, text) for text in texts]

    def forward(self, images: Tensor, texts: Sequence[Text]) -> list[Verdict]:
        """A verdict for each of `texts`."""
        return self.verdicts(self.perceive(images), texts)


def initialise(module: nn.Module, std: float = 0.02) -> None:
    """DCGAN's initial weights: N(0, `std`) for convolutions and linear layers, N(1, `std`) for norms, zero biases."""
    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
            nn.init.normal_(layer.weight, 0.0, std)
        elif isinstance(weight, nn.Parameter) and weight.ndim == 1:
            nn.init.normal_(weight, 1.0, std)
        else:
            continue
        if isinstance(layer.bias, nn.Parameter):
            nn.init.zeros_(layer.bias)


def parameters_of(module: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)

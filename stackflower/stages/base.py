"""Base classes of the networks, and the tuples that pass between them.

A `Stage` combines a `Conditioning` and a `Generator`: it maps text embeddings `(N, T)` and noise `(N, Z)` to images. A
later stage refines the images of a frozen earlier one. A `Discriminator` scores images against a `Text`. Losses,
optimizers and devices are handled elsewhere.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from stackflower.declarations import Declared, Not, Offers, Requirement, Requirements, SettingRequirement
from stackflower.stages.frozen import FrozenNetwork
from stackflower.stages.layers import REFERENCE_BATCH_SIZE, ReferenceBatch

WORDS = Requirement("words", of="text", why="uses the words of captions, but {other} encodes whole captions")
"""Requirement of parts that use `Words`."""


class OtherTexts(NamedTuple):
    """Captions from outside the batch, identical on all processes."""

    embedding: Tensor  # (M, T)
    label: Tensor  # (M,) int64 class


class Words(NamedTuple):
    """The words of captions, padded to a common length. Each caption has at least one word.

    Parts leave the padding out, so that another length changes nothing.
    """

    vectors: Tensor  # (N, L, D), with a root mean square of 1 per word; zero in the padding
    mask: Tensor  # (N, L) bool, True for a word

    def take(self, rows: Tensor | slice) -> Words:
        """Return the words of the captions with the numbers `rows`, `(n,)` or a slice."""
        return Words(self.vectors[rows], self.mask[rows])

    def chunk(self, parts: int) -> list[Words]:
        """Split the captions into equal parts, in order."""
        return list(map(Words, self.vectors.chunk(parts), self.mask.chunk(parts)))

    def to(self, device: torch.device | str) -> Words:
        """Return the words on a device."""
        return Words(self.vectors.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))


class Text(NamedTuple):
    """Captions as a discriminator sees them, one per image."""

    embedding: Tensor  # (N, T), output of the text encoder
    condition: Tensor  # (N, C), deterministic part of the conditioning, detached from the generator
    label: Tensor | None = None  # (N,) int64 class; texts of the same class are never negatives of each other's images
    others: OtherTexts | None = None  # further captions that the contrastive term compares with
    words: Words | None = None  # words of the captions, if a part of the run uses them


class Generated(NamedTuple):
    """Output of a stage."""

    images: tuple[Tensor, ...]  # one (N, 3, R, R) in [-1, 1] per resolution of the stage
    condition: Tensor  # (N, C), deterministic part
    terms: Mapping[str, Tensor]  # losses of the stage itself, such as the KL term: unweighted scalars
    previous: tuple[Tensor, ...] = ()  # images of the earlier stages, lowest resolution first


Scores = Tensor | tuple[Tensor, ...]
"""`(N,)`, one score per image; or a tuple with one `(N, K)` per head, one score for each of its K patches."""


def split_heads(scores: Scores) -> tuple[Tensor, ...]:
    """Return the scores as a tuple with one tensor per head."""
    return (scores,) if isinstance(scores, Tensor) else scores


def average_per_image(scores: Scores) -> Tensor:
    """Average scores over patches, then over heads, to `(N,)`."""
    head_means = [head if head.ndim == 1 else head.flatten(1).mean(1) for head in split_heads(scores)]
    return head_means[0] if len(head_means) == 1 else torch.stack(head_means).mean(0)


class Verdict(NamedTuple):
    """Scores of a discriminator for images against texts."""

    match: Scores  # whether the image is real and matches the text
    real: Scores | None = None  # whether the image is real, regardless of the text
    # (N, M) logits of image i and text j; the M texts are those of the batch on all processes, then `Text.others`
    similarity: Tensor | None = None

    @property
    def score(self) -> Tensor:
        """`match` averaged to one score per image, `(N,)`."""
        return average_per_image(self.match)


NoiseKind = Literal["normal", "uniform"]
"""Distribution of noise: standard normal, or uniform on [-1, 1]."""

Critic = Callable[[Tensor, Sequence[Text]], list[Verdict]]
"""Maps images `(N, 3, R, R)` and a list of texts to one verdict per text. Every `Discriminator` is a critic."""


class Condition(NamedTuple):
    """Output of a conditioning."""

    sample: Tensor  # (N, C), input of the generator
    mean: Tensor  # (N, C), deterministic part of `sample`
    terms: Mapping[str, Tensor]  # losses of the conditioning itself: unweighted scalars


class Conditioning(Declared, nn.Module, ABC):
    """Base class of conditionings, which map text embeddings `(N, T)` to conditions `(N, dim)`.

    A subclass sets `dim` and defines `forward`. A random conditioning sets `noise_dim` and takes all its randomness
    from the noise.

    Attributes:
        dim: size C of the condition.
        noise_dim: standard normal values per image.
        weights: weight of each entry of `Condition.terms`.
    """

    dim: int
    noise_dim: int = 0
    weights: Mapping[str, float] = {}

    @abstractmethod
    def forward(self, embedding: Tensor, noise: Tensor) -> Condition:
        """Compute the conditions of text embeddings.

        Args:
            embedding: text embeddings `(N, T)`.
            noise: standard normal noise `(N, noise_dim)`.

        Returns:
            The conditions, their deterministic part, and the losses of the conditioning itself.
        """


class Generator(Declared, nn.Module, ABC):
    """Base class of generators, which map conditions `(N, C)` and noise `(N, noise_dim)` to images in `[-1, 1]`.

    A subclass sets `resolutions` and `noise_dim`, and defines `generate`. A generator that uses the words of captions
    sets `uses_words`, requires `WORDS` and takes a third argument: `generate(condition, noise, words)`.

    Attributes:
        resolutions: heights and widths of the images, ascending.
        noise_dim: size of the noise.
        uses_words: whether `generate` takes the words of the captions.
        noise: distribution of the noise, standard normal or uniform on [-1, 1].
        weights: weight of each entry of `terms`.

    Example:
        >>> import torch
        >>> import stackflower as sf
        >>> generator = sf.create("generator", "dcgan", condition_dim=8, resolution=16, channels=4)
        >>> (images,) = generator(torch.zeros(2, 8), torch.randn(2, generator.noise_dim))
        >>> images.shape
        torch.Size([2, 3, 16, 16])
    """

    requires: ClassVar[Requirements] = (SettingRequirement("stage", 1, why="starts from noise alone"),)

    resolutions: tuple[int, ...]
    noise_dim: int
    noise: NoiseKind = "normal"
    uses_words: ClassVar[bool] = False
    weights: Mapping[str, float] = {}

    def __init__(self) -> None:
        super().__init__()
        self.reference_batch: ReferenceBatch | None = None  # set under virtual batch normalisation

    @abstractmethod
    def generate(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """Generate images.

        Args:
            condition: conditions `(N, C)`.
            noise: noise `(N, noise_dim)`.

        Returns:
            One tensor `(N, 3, R, R)` for each R of `resolutions`.
        """

    def forward(self, condition: Tensor, noise: Tensor, words: Words | None = None) -> tuple[Tensor, ...]:
        """Call `generate`, with the reference batch prepended under virtual batch normalisation."""
        if self.reference_batch is None:
            return self.generate(condition, noise, *_select_words(self, words))
        images = self.generate(*self.reference_batch.prepend(condition, noise))
        return tuple(image[REFERENCE_BATCH_SIZE:] for image in images)

    def terms(self, images: tuple[Tensor, ...], image: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the losses of the generator itself on the images that it generated.

        Args:
            images: output of `generate`.
            image: input image of a `Refiner`, `(N, 3, r, r)`.

        Returns:
            Unweighted scalars by name; `weights` has their weights.
        """
        return {}


class Refiner(Generator):
    """Base class of later-stage generators, which refine the images of the previous stage.

    Refiners take no noise by default. A subclass sets `resolutions` and defines `generate`, which takes the words of
    the captions after the images if `uses_words` is set.
    """

    requires = (SettingRequirement("stage", Not(1), why="refines a previous stage (`stage=2` with `below=RUN`)"),)
    noise_dim = 0

    @abstractmethod
    def generate(self, condition: Tensor, noise: Tensor, image: Tensor | None = None) -> tuple[Tensor, ...]:
        """Refine images.

        Args:
            condition: conditions `(N, C)`.
            noise: noise `(N, noise_dim)`.
            image: images of the previous stage, `(N, 3, r, r)` in `[-1, 1]`.

        Returns:
            One tensor `(N, 3, R, R)` for each R of `resolutions`.
        """

    def forward(  # type: ignore[override]
        self, condition: Tensor, noise: Tensor, image: Tensor | None = None, words: Words | None = None
    ) -> tuple[Tensor, ...]:
        """Call `generate`."""
        return self.generate(condition, noise, image, *_select_words(self, words))


def _select_words(generator: Generator, words: Words | None) -> tuple[Words, ...]:
    """Return the argument with the words for a generator that uses them, otherwise nothing.

    Raises:
        ValueError: the generator uses words and there are none.
    """
    if not generator.uses_words:
        return ()
    if words is None:
        raise ValueError(f"{type(generator).__name__} uses the words of captions: pass `words`.")
    return (words,)


class Stage(nn.Module):
    """Conditioning and generator as one network, from text embeddings `(N, T)` and noise `(N, Z)` to images.

    All randomness comes from the noise, so a seed determines an image.

    Args:
        conditioning: maps text embeddings to conditions.
        generator: maps conditions to images; a `Refiner` if `previous` is set.
        previous: trained stage whose images are refined; it stays frozen.
    """

    def __init__(self, conditioning: Conditioning, generator: Generator, previous: Stage | None = None):
        super().__init__()
        self.conditioning = conditioning
        self.generator = generator
        self._previous = None if previous is None else FrozenNetwork(previous)

    @property
    def previous(self) -> Stage | None:
        """The stage whose images this one refines; excluded from its parameters, and saved in a separate file."""
        return None if self._previous is None else self._previous.network

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Resolutions of the images of this stage."""
        return self.generator.resolutions

    @property
    def uses_words(self) -> bool:
        """Whether this stage or an earlier one uses the words of captions."""
        return self.generator.uses_words or (self.previous is not None and self.previous.uses_words)

    @property
    def all_resolutions(self) -> tuple[int, ...]:
        """Resolutions of the earlier stages, then of this one."""
        return (*(self.previous.all_resolutions if self.previous is not None else ()), *self.resolutions)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each entry of `Generated.terms`."""
        return {**self.conditioning.weights, **self.generator.weights}

    @property
    def _noise_dims(self) -> tuple[int, int, int]:
        previous = self.previous.noise_dim if self.previous is not None else 0
        return previous, self.conditioning.noise_dim, self.generator.noise_dim

    @property
    def noise_dim(self) -> int:
        """Z, the total size of the noise: previous stage, then conditioning, then generator."""
        return sum(self._noise_dims)

    @property
    def noise_parts(self) -> tuple[tuple[NoiseKind, int], ...]:
        """Distribution and size of each part of the noise, in the order of its columns; empty parts are left out."""
        previous = () if self.previous is None else self.previous.noise_parts
        own: tuple[tuple[NoiseKind, int], ...] = (
            ("normal", self.conditioning.noise_dim),
            (self.generator.noise, self.generator.noise_dim),
        )
        return (*previous, *((kind, size) for kind, size in own if size))

    def draw_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw noise from a seeded random generator.

        Args:
            count: number of images.
            generator: random generator, on whose device the noise is drawn.

        Returns:
            Noise `(count, Z)`: standard normal for the conditioning, and `Generator.noise` for the generator.
        """
        noise = torch.randn(count, self.noise_dim, generator=generator, device=generator.device)
        if self.previous is not None:
            noise[:, : self._noise_dims[0]] = self.previous.draw_noise(count, generator)
        if self.generator.noise == "uniform":
            noise[:, self.noise_dim - self.generator.noise_dim :].uniform_(-1, 1, generator=generator)
        return noise

    def interpolate_noise(self, start: Tensor, end: Tensor, share: Tensor) -> Tensor:
        """Interpolate between two noise vectors.

        Normal noise is interpolated on a quarter circle, which keeps its norm typical of noise; uniform noise on a
        straight line.

        Args:
            start: noise `(Z,)` at share 0.
            end: noise `(Z,)` at share 1.
            share: positions between the two, `(S,)` in `[0, 1]`.

        Returns:
            Noise `(S, Z)`.
        """
        share = share[:, None]
        mixed = torch.cos(share * math.pi / 2) * start + torch.sin(share * math.pi / 2) * end
        if self.previous is not None:
            part = slice(0, self._noise_dims[0])
            mixed[:, part] = self.previous.interpolate_noise(start[part], end[part], share[:, 0])
        if self.generator.noise == "uniform":
            part = slice(self.noise_dim - self.generator.noise_dim, None)
            mixed[:, part] = torch.lerp(start[part].expand(len(share), -1), end[part].expand(len(share), -1), share)
        return mixed

    @torch.no_grad()
    def set_reference_batch(self, embedding: Tensor, noise: Tensor) -> None:
        """Set the reference batch of virtual batch normalisation, if the generator uses it.

        Args:
            embedding: text embeddings `(N, T)` of the first batch of the training.
            noise: noise `(N, Z)` of that batch.
        """
        if self.generator.reference_batch is not None:
            _, conditioning_noise, generator_noise = noise.split(self._noise_dims, dim=1)
            self.generator.reference_batch.set(self.conditioning(embedding, conditioning_noise).sample, generator_noise)

    def forward(self, embedding: Tensor, noise: Tensor, words: Words | None = None) -> Generated:
        """Generate images. Earlier stages run without gradients.

        Args:
            embedding: text embeddings `(N, T)`.
            noise: noise `(N, Z)`.
            words: words of the captions; needed if `uses_words`.
        """
        previous_noise, conditioning_noise, generator_noise = noise.split(self._noise_dims, dim=1)
        condition = self.conditioning(embedding, conditioning_noise)
        previous: tuple[Tensor, ...] = ()
        if self.previous is None:
            images = self.generator(condition.sample, generator_noise, words)
        else:
            with torch.no_grad():
                generated = self.previous(embedding, previous_noise, words)
            previous = (*generated.previous, *generated.images)
            images = self.generator(condition.sample, generator_noise, previous[-1], words)
        terms = {**condition.terms, **self.generator.terms(images, previous[-1] if previous else None)}
        return Generated(images, condition.mean.detach(), terms, previous)


class Discriminator(Declared, nn.Module, ABC):
    """Base class of discriminators, which score images `(N, 3, R, R)` against texts.

    A subclass defines `trunk`, which runs once per batch of images, and `judge`, which scores the trunk's features
    against a text and runs once per text. Frozen computations, such as a pretrained network, belong in `perceive`,
    whose output is shared by the discriminator's and the generator's step. A discriminator that uses `Text.words` sets
    `uses_words` and requires `WORDS`.

    Example:
        >>> import torch
        >>> import stackflower as sf
        >>> from stackflower.stages import Text
        >>> discriminator = sf.create("discriminator", "projection", text_dim=8, resolution=16, channels=4)
        >>> text = Text(embedding=torch.randn(2, 8), condition=torch.randn(2, 4))
        >>> (verdict,) = discriminator(torch.zeros(2, 3, 16, 16), [text])
        >>> verdict.score.shape
        torch.Size([2])
    """

    brings = {"objective": "bce"}
    offers: ClassVar[Offers] = ("logit scores", "independent scores")

    uses_words: ClassVar[bool] = False

    def maps(self, perceived: Any) -> tuple[Tensor, ...]:
        """Return the maps `(N, C, H, W)` of a pretrained network contained in `perceived`, fine to coarse."""
        return ()

    def perceive(self, images: Tensor) -> Any:
        """Prepare images for the trunk, without trainable weights.

        Args:
            images: `(N, 3, R, R)` in `[-1, 1]`.

        Returns:
            The input of `trunk`: by default the images; otherwise a tuple of tensors.
        """
        return images

    @abstractmethod
    def trunk(self, perceived: Any) -> Any:
        """Compute the features of images.

        Args:
            perceived: output of `perceive`.

        Returns:
            A tensor with first dimension N, or a tuple of such tensors.
        """

    @abstractmethod
    def judge(self, features: Any, text: Text) -> Verdict:
        """Score images against texts.

        Args:
            features: output of `trunk`.
            text: one text per image.

        Returns:
            The scores.
        """

    def verdicts(self, perceived: Any, texts: Sequence[Text]) -> list[Verdict]:
        """Score the output of `perceive` against each of `texts`, running the trunk once."""
        features = self.trunk(perceived)
        return [self.judge(features, text) for text in texts]

    def forward(self, images: Tensor, texts: Sequence[Text]) -> list[Verdict]:
        """Score images `(N, 3, R, R)` in `[-1, 1]` against each of `texts`; return one verdict per text."""
        return self.verdicts(self.perceive(images), texts)


def initialise(module: nn.Module, std: float = 0.02) -> None:
    """Initialise weights as in DCGAN (Radford et al. 2016, section 4).

    Convolutions and linear layers are drawn from N(0, `std`), weights of norms from N(1, `std`); biases are zero.

    Args:
        module: network whose layers are initialised in place.
        std: standard deviation.
    """
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


def count_parameters(module: nn.Module) -> int:
    """Count the trainable parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)

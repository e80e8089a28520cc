"""What a stage is made of, and what passes between the parts.

A `Stage` joins a `Conditioning` and a `Generator`: text embedding (N, T) and noise (N, Z) to images; a stage over another
draws from what that one drew. A
`Discriminator` judges images against a `Text`, the pair of what the encoder and what the conditioning made of a
caption. None of them knows of losses, optimizers or devices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn


class Text(NamedTuple):
    """A caption as a discriminator may read it."""

    embedding: Tensor  # (N, T), from the text encoder
    condition: Tensor  # (N, C), the conditioning's deterministic part, detached from the generator
    label: Tensor | None = None  # (N,) int64; texts of one class are not wrong for one another's images


class Generated(NamedTuple):
    """What a stage draws."""

    images: tuple[Tensor, ...]  # one (N, 3, R, R) in [-1, 1] for each of the stage's resolutions
    condition: Tensor  # (N, C), deterministic
    terms: Mapping[str, Tensor]  # losses of the stage's own, such as the KL term, unweighted scalars
    lower: tuple[Tensor, ...] = ()  # what the stages below drew, the lowest resolution first


class Verdict(NamedTuple):
    """A discriminator's scores."""

    match: Tensor  # (N,), the image is real and is what the text says
    real: Tensor | None = None  # (N,), the image is real, whatever the text
    alike: Tensor | None = None  # (N, M) logits: how well image i fits text j of the whole batch, over all processes


Critic = Callable[[Tensor, Sequence[Text]], list[Verdict]]
"""Images (N, 3, R, R) and texts to a verdict for each text; a `Discriminator` is one."""


class Condition(NamedTuple):
    """What a conditioning makes of a text embedding."""

    sample: Tensor  # (N, C), what the generator draws from
    mean: Tensor  # (N, C), its deterministic part
    terms: Mapping[str, Tensor]  # losses of its own, unweighted scalars


class Conditioning(nn.Module, ABC):
    """Text embedding (N, T) to condition (N, `dim`), using `noise_dim` standard normal numbers an image."""

    dim: int
    noise_dim: int = 0
    weights: Mapping[str, float] = {}  # the weight of each of its terms

    @abstractmethod
    def forward(self, embedding: Tensor, noise: Tensor) -> Condition:
        """`embedding` (N, T), `noise` (N, noise_dim)."""


class Generator(nn.Module, ABC):
    """Condition (N, C) and noise (N, `noise_dim`) to images in [-1, 1], one for each of `resolutions`."""

    refines: ClassVar[bool] = False  # whether it draws from a picture of a stage below (see `Refiner`)
    resolutions: tuple[int, ...]
    noise_dim: int
    noise: Literal["normal", "uniform"] = "normal"  # standard normal, or uniform on [-1, 1]
    weights: Mapping[str, float] = {}  # the weight of each of its terms

    @abstractmethod
    def forward(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """`condition` (N, C), `noise` (N, noise_dim) → images (N, 3, R, R) for R in `resolutions`."""

    def remember(self, condition: Tensor, noise: Tensor) -> None:
        """Called once before training with a batch (N, C), (N, noise_dim), for what needs a fixed one."""

    def terms(self, images: tuple[Tensor, ...], image: Tensor | None = None) -> dict[str, Tensor]:
        """Losses of its own on what it drew (over `image`, the picture below, where there is one), unweighted scalars."""
        return {}


class Refiner(Generator):
    """A generator of a stage over another: it draws from a condition and the picture below, and needs no noise."""

    refines = True
    noise_dim = 0

    @abstractmethod
    def forward(self, condition: Tensor, noise: Tensor, image: Tensor | None = None) -> tuple[Tensor, ...]:
        """`condition` (N, C), `noise` (N, noise_dim), `image` (N, 3, r, r) in [-1, 1] → images for R in `resolutions`."""


class Stage(nn.Module):
    """Conditioning and generator as one network: text embedding (N, T) and noise (N, Z) to images.

    All that is random is in `noise`, so a seed fixes a picture.

    Args:
        conditioning, generator: its parts.
        lower: a trained stage whose pictures a `Refiner` draws from; it is never trained here.
    """

    def __init__(self, conditioning: Conditioning, generator: Generator, lower: Stage | None = None):
        super().__init__()
        self.conditioning = conditioning
        self.generator = generator
        self.lower = lower
        if lower is not None:
            lower.eval().requires_grad_(False)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Of the images that this stage draws itself."""
        return self.generator.resolutions

    @property
    def every_resolution(self) -> tuple[int, ...]:
        """Those of the stages below, then its own."""
        return (*(self.lower.every_resolution if self.lower is not None else ()), *self.resolutions)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each of its terms."""
        return {**self.conditioning.weights, **self.generator.weights}

    @property
    def _noise_below(self) -> int:
        return self.lower.noise_dim if self.lower is not None else 0

    @property
    def noise_dim(self) -> int:
        """Z: the numbers of the stage below, then the conditioning's, then the generator's."""
        return self._noise_below + self.conditioning.noise_dim + self.generator.noise_dim

    def train(self, mode: bool = True) -> Stage:
        """As every module; the stage below stays as it draws."""
        super().train(mode)
        if self.lower is not None:
            self.lower.eval()
        return self

    def draw_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise (count, Z) on the device of a seeded generator: standard normal for the conditioning, and for the
        generator as its `noise` says."""
        noise = torch.randn(count, self.noise_dim, generator=generator, device=generator.device)
        if self.lower is not None:
            noise[:, : self._noise_below] = self.lower.draw_noise(count, generator)
        if self.generator.noise == "uniform":
            noise[:, self.noise_dim - self.generator.noise_dim :].uniform_(-1, 1, generator=generator)
        return noise

    @torch.no_grad()
    def remember(self, embedding: Tensor, noise: Tensor) -> None:
        """Show the generator a batch of the training, before it begins."""
        _, mine, theirs = self._split(noise)
        self.generator.remember(self.conditioning(embedding, mine).sample, theirs)

    def _split(self, noise: Tensor) -> tuple[Tensor, ...]:
        return noise.split([self._noise_below, self.conditioning.noise_dim, self.generator.noise_dim], dim=1)

    def forward(self, embedding: Tensor, noise: Tensor) -> Generated:
        below, mine, theirs = self._split(noise)
        condition = self.conditioning(embedding, mine)
        lower: tuple[Tensor, ...] = ()
        if self.lower is None:
            images = self.generator(condition.sample, theirs)
        else:
            with torch.no_grad():
                drawn = self.lower(embedding, below)
            lower = (*drawn.lower, *drawn.images)
            images = self.generator(condition.sample, theirs, lower[-1])
        terms = {**condition.terms, **self.generator.terms(images, lower[-1] if lower else None)}
        return Generated(images, condition.mean.detach(), terms, lower)


class Discriminator(nn.Module, ABC):
    """Images (N, 3, R, R) and text to verdicts.

    `trunk` sees the images once; `judge` scores what it saw against a text, as often as asked.
    """

    reads: ClassVar[str] = "logit"  # an autoencoder says "energy": low means real
    default_objective: ClassVar[str] = "bce"

    @abstractmethod
    def trunk(self, images: Tensor) -> Any:
        """Images (N, 3, R, R) in [-1, 1] to features: a tensor, first dimension N, or a tuple of them."""

    @abstractmethod
    def judge(self, features: Any, text: Text) -> Verdict:
        """Features of `trunk` against the text of each image, first dimension N."""

    def forward(self, images: Tensor, texts: Sequence[Text]) -> list[Verdict]:
        """A verdict for each of `texts`, the trunk run once."""
        features = self.trunk(images)
        return [self.judge(features, text) for text in texts]


def initialise(module: nn.Module, std: float = 0.02) -> None:
    """DCGAN's initial weights: N(0, `std`) for convolutions and dense layers, N(1, `std`) for norms, zero biases."""
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
    """How many numbers training moves."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)

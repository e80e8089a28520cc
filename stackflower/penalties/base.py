"""Base class of regularisers, which combine with any objective and are computed in float32, outside autocast."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from stackflower.declarations import Declared, Not, Offer, Requirement
from stackflower.options import Count, Weight
from stackflower.stages.base import Critic, Text, Verdict, average_per_image


class PenaltyInputs(NamedTuple):
    """Inputs of a penalty."""

    critic: Critic  # scores images against texts
    real: Tensor  # (N, 3, R, R)
    fake: Tensor  # (N, 3, R, R)
    text: Text  # texts of `real`
    fake_text: Text  # texts of `fake`
    noise: Tensor  # (N, Z), from which `fake` was generated
    maps: Callable[[Tensor], tuple[Tensor, ...]]  # images to the pretrained network's maps that the discriminator uses


LOGIT_SCORES = Requirement(
    "logit scores", of="discriminator", why="requires logit scores, but {other} outputs {offered}"
)
INDEPENDENT_SCORES = Requirement(
    "independent scores",
    of="discriminator",
    why="measures the gradient at each image, but {other} scores an image by the whole batch",
)
BOUNDED_GRADIENT = Offer("bounded gradient", when={"weight": Not(0)})


class Penalty(Declared, nn.Module, ABC):
    """Base class of penalties, regularisers that are added to the loss of one network.

    A subclass defines `forward`, which returns the unweighted penalty. Training computes a penalty every `every` steps
    and multiplies it by `weight` and `every` (lazy regularisation, Karras et al. 2020).

    Args:
        weight: weight in the loss.
        every: interval in steps.

    Attributes:
        network: network to whose loss the penalty is added.
        uses_words: whether the penalty uses `Text.words`; it then requires `stackflower.stages.base.WORDS`.
        largest_only: whether the penalty applies to the images of the stage's highest resolution only.

    Example:
        >>> import torch
        >>> import stackflower as sf
        >>> from stackflower.penalties import PenaltyInputs
        >>> from stackflower.stages import Text, Verdict
        >>> def critic(images, texts):
        ...     return [Verdict(images.sum((1, 2, 3))) for text in texts]
        >>> text = Text(embedding=torch.zeros(2, 8), condition=torch.zeros(2, 4))
        >>> real, fake, noise = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.zeros(2, 5)
        >>> inputs = PenaltyInputs(critic, real, fake, text, text, noise, maps=lambda images: ())
        >>> sf.create("penalty", "r1")(inputs).item()  # half the squared gradient norm: ½·3·4·4
        24.0
    """

    network: ClassVar[Literal["discriminator", "generator"]] = "discriminator"
    uses_words: ClassVar[bool] = False
    largest_only: ClassVar[bool] = False

    def __init__(self, *, weight: Weight, every: Count = 1):
        super().__init__()
        self.weight, self.every = weight, every

    @abstractmethod
    def forward(self, inputs: PenaltyInputs) -> Tensor:
        """Compute the penalty.

        Args:
            inputs: critic, images, texts and noise of the step.

        Returns:
            The unweighted scalar.
        """


def sum_scores(verdict: Verdict) -> Tensor:
    """Sum the scores of all images: those with text and, if the discriminator outputs them, those without."""
    score = verdict.score.sum()
    return score if verdict.real is None else score + average_per_image(verdict.real).sum()


def compute_gradient_norm(gradient: Tensor) -> Tensor:
    """Compute the Euclidean norm of each row of `(N, …)`, with a gradient that stays finite at zero."""
    return gradient.float().flatten(1).square().sum(1).add(1e-12).sqrt()

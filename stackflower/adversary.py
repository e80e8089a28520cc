"""A discriminator with its objective, penalties and augmentation as one module: what a stage is trained against at one
resolution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_map

from stackflower.augmentations.base import Augmentation
from stackflower.augmentations.none import NoAugmentation
from stackflower.declarations import requires_trait
from stackflower.objectives.base import Objective, Pairs
from stackflower.penalties.base import Penalty, PenaltyInputs
from stackflower.stages.base import Discriminator, Text, Verdict


class Adversary(nn.Module):
    """`forward` gives the discriminator's losses, `generator_terms` the generator's.

    One forward pass computes all terms of a step, so that a wrapper such as DistributedDataParallel sees one call.
    Everything the discriminator sees is augmented by the draws of the batch, row by row.
    """

    def __init__(
        self,
        discriminator: Discriminator,
        objective: Objective,
        penalties: Mapping[str, Penalty],
        augmentation: Augmentation | None = None,
    ):
        super().__init__()
        self.discriminator = discriminator
        self.objective = objective
        self.penalties = nn.ModuleDict(penalties)
        self.augmentation: Augmentation = augmentation or NoAugmentation()
        self._verdicts = discriminator.verdicts
        self._perceived: list[tuple[Tensor, Any]] = []
        self._pretrained = type(discriminator).perceive is not Discriminator.perceive
        # whether the generator's step looks at real images too
        self._real_again = objective.relativistic or any(
            requires_trait(penalty, "feature maps") for penalty in penalties.values()
        )

    def compile_networks(self) -> None:
        """Compile the discriminator for the objective's terms, unless it has spectral norm, which changes its vectors
        between the passes of a step. Penalties use it as it is: a compiled function has no second derivative."""
        if not any(is_parametrized(module) for module in self.discriminator.modules()):
            self._verdicts = torch.compile(self.discriminator.verdicts)

    def all_penalties(self) -> list[Penalty]:
        """The penalties of both networks."""
        return [penalty for penalty in self.penalties.values() if isinstance(penalty, Penalty)]

    def _penalties(self, network: str, step: int, inputs: PenaltyInputs) -> dict[str, Tensor]:
        """The penalties due at `step`, in float32, weighted for the steps between; none of weight 0."""
        terms = {}
        for name, penalty in self.penalties.items():
            assert isinstance(penalty, Penalty)
            if penalty.network == network and penalty.weight and step % penalty.every == 0:
                device = inputs.fake.device.type
                # "meta" tensors, on which the cost of a step is counted, have no autocast
                with torch.autocast("cpu" if device == "meta" else device, enabled=False):
                    terms[name] = penalty(inputs) * (penalty.weight * penalty.every)
        return terms

    def forward(self, pairs: Pairs, noise: Tensor, step: int, draws: Tensor | None = None) -> dict[str, Tensor]:
        """The discriminator's terms, weighted; their sum is minimised. `draws` (N, A) are the augmentation's."""
        self._perceived = []  # of one part of a batch at a time
        judge = _Judge(self, draws, pairs)
        terms = self.objective.discriminator_terms(judge.without_image_gradients, pairs)
        if judge.similarities and "contrast" not in self.objective.offers:
            # so that every weight takes part, which DistributedDataParallel waits for
            first = next(iter(terms))
            terms[first] = terms[first] + 0.0 * torch.stack([each.sum() for each in judge.similarities]).sum()
        judge.observe()
        inputs = PenaltyInputs(judge, pairs.real, pairs.fake.detach(), pairs.text, pairs.fake_text, noise, judge.maps)
        return terms | self._penalties("discriminator", step, inputs)

    def generator_terms(self, pairs: Pairs, noise: Tensor, step: int, draws: Tensor | None = None) -> dict[str, Tensor]:
        """The generator's terms, weighted, for images `pairs.fake` that carry its gradient."""
        judge = _Judge(self, draws, pairs)
        terms = self.objective.generator_terms(judge.for_terms, pairs)
        inputs = PenaltyInputs(judge, pairs.real, pairs.fake, pairs.text, pairs.fake_text, noise, judge.maps)
        terms |= self._penalties("generator", step, inputs)
        self._perceived = []
        return terms

    def perceive(self, images: Tensor, draws: Tensor | None, pairs: Pairs) -> Any:
        """What `Discriminator.trunk` takes. Of the generated images, and of real ones that the generator's step looks
        at too, it is kept from the discriminator's step for the generator's, with the graph, as nothing that is trained
        lies between."""
        for known, perceived in self._perceived:
            if known is images:
                return perceived
        augmented = images
        if draws is not None:
            with torch.autocast(images.device.type, enabled=False):
                augmented = self.augmentation(images.float(), draws)
        perceived = self.discriminator.perceive(augmented)
        fake = images is pairs.fake and images.requires_grad and torch.is_grad_enabled()
        if self._pretrained and (fake or (images is pairs.real and self._real_again)):
            self._perceived.append((images, perceived))
        return perceived

    def measures(self) -> dict[str, Tensor]:
        """Scalars that the augmentation follows, of this process."""
        return self.augmentation.measures()

    def after_step(self, measured: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
        """Update what has a state of its own from a step's terms and measures, averaged over processes; measures for
        the log."""
        return {**self.objective.after_step(measured), **self.augmentation.after_step(measured, images)}

    @property
    def has_state(self) -> bool:
        """Whether `after_step` does anything."""
        return type(self.objective).after_step is not Objective.after_step or self.augmentation.adaptive


class _Judge:
    """The critic of a step: the discriminator behind the augmentation."""

    def __init__(self, adversary: Adversary, draws: Tensor | None, pairs: Pairs):
        self.adversary, self.draws, self.pairs = adversary, draws, pairs
        self.scores: dict[str, Tensor] = {}
        self.similarities: list[Tensor] = []

    def __call__(self, images: Tensor, texts: Sequence[Text]) -> list[Verdict]:
        """For penalties, which differentiate twice."""
        return self.adversary.discriminator.verdicts(self._perceived(images), texts)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """The maps of a pretrained network that the discriminator sees of images."""
        return self.adversary.discriminator.maps(self._perceived(images))

    def _perceived(self, images: Tensor) -> Any:
        return self.adversary.perceive(images, self.draws, self.pairs)

    def for_terms(self, images: Tensor, texts: Sequence[Text]) -> list[Verdict]:
        """For the objective's terms, which are differentiated once."""
        return self.adversary._verdicts(self._perceived(images), texts)

    def without_image_gradients(self, images: Tensor, texts: Sequence[Text]) -> list[Verdict]:
        """The same without a gradient for the images."""
        verdicts = self.adversary._verdicts(tree_map(_detach, self._perceived(images)), texts)
        self.similarities += [one.similarity for one in verdicts if one.similarity is not None]
        for name, given in (("real", self.pairs.real), ("fake", self.pairs.fake)):
            if images is given:
                self.scores.setdefault(name, verdicts[0].score.detach())
        return verdicts

    def observe(self) -> None:
        """Tell an adaptive augmentation the scores of real and generated images."""
        if self.adversary.augmentation.adaptive and len(self.scores) == 2:
            real, relativistic = self.scores["real"], self.adversary.objective.relativistic
            real = self.pairs.real_of_fake(real) if relativistic else real
            self.adversary.augmentation.observe(real, self.scores["fake"], relativistic)


def _detach(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for the module's weights: the generator's step needs only those of its images."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)

"""A discriminator, its objective and its penalties as one module: what a stage is trained against at one resolution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stackflower.objectives.base import Objective, Pairs
from stackflower.penalties.base import Penalty, PenaltyInputs
from stackflower.stages.base import Discriminator, Text


class Adversary(nn.Module):
    """`forward` gives the discriminator's losses, `generator_terms` the generator's.

    One forward pass computes all terms of a step, so that a wrapper such as DistributedDataParallel sees one call.
    """

    def __init__(self, discriminator: Discriminator, objective: Objective, penalties: Mapping[str, Penalty]):
        super().__init__()
        self.discriminator = discriminator
        self.objective = objective
        self.penalties = nn.ModuleDict(penalties)

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

    def forward(self, pairs: Pairs, noise: Tensor, step: int) -> dict[str, Tensor]:
        """The discriminator's terms, weighted; their sum is minimised."""
        terms = self.objective.discriminator_terms(self.discriminator, pairs)
        inputs = PenaltyInputs(self.discriminator, pairs.real, pairs.fake, pairs.text, noise, pairs.fake_text)
        return terms | self._penalties("discriminator", step, inputs)

    def generator_terms(self, fake: Tensor, text: Text, noise: Tensor, step: int) -> dict[str, Tensor]:
        """The generator's terms, weighted, for images that carry its gradient."""
        terms = self.objective.generator_terms(self.discriminator, fake, text)
        return terms | self._penalties("generator", step, PenaltyInputs(self.discriminator, None, fake, text, noise))


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

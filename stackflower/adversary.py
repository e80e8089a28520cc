"""The adversary of a stage at one resolution: a discriminator with its objective, penalties and augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_map

from stackflower.augmentations.base import Augmentation
from stackflower.augmentations.none import NoAugmentation
from stackflower.declarations import offers_trait, requires_trait
from stackflower.objectives.base import Objective, Pairs
from stackflower.penalties.base import Penalty, PenaltyInputs
from stackflower.stages.base import Discriminator, Text, Verdict


@dataclass(frozen=True)
class Perceived:
    """Outputs of a pretrained network for a batch, passed from the discriminator's step to the generator's.

    They are valid in both steps because nothing between images and outputs is trained. A field is None if the
    generator's step does not need it or computes it itself. This is a dataclass, not a tuple, because Accelerate
    converts tensors to float32 in the tuples that a module returns.

    Args:
        real: result of `Discriminator.perceive` for `Pairs.real`, if the generator's step uses it too.
        fake: result for `Pairs.fake`, with the graph that leads to the generator.
    """

    real: Any = None
    fake: Any = None


class Adversary(nn.Module):
    """A discriminator and the losses of both networks.

    The discriminator's step is one call of the module, so that a wrapper such as DistributedDataParallel sees one
    forward pass. The call returns the loss terms and a `Perceived`, which `generator_terms` takes. All images that the
    discriminator sees are augmented, each row by the draws of its row of the batch.

    Args:
        discriminator: discriminator of images and texts.
        objective: adversarial losses.
        penalties: regularisers of both networks, by name.
        augmentation: augmentation of all images that the discriminator sees; None: no augmentation.
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
        self.pretrained = type(discriminator).perceive is not Discriminator.perceive
        # whether the generator's step uses real images too
        self.uses_real_again = objective.relativistic or any(
            requires_trait(penalty, "feature maps") for penalty in penalties.values()
        )

    @property
    def uses_words(self) -> bool:
        """Whether the discriminator or a penalty uses the words of captions."""
        return self.discriminator.uses_words or any(penalty.uses_words for penalty in self.list_penalties())

    def compile_networks(self) -> None:
        """Compile the discriminator for the objective's terms.

        A discriminator with spectral norm is not compiled, because its vectors change between the passes of a step.
        Penalties use the uncompiled discriminator, because a compiled function has no second derivative.
        """
        if not any(is_parametrized(module) for module in self.discriminator.modules()):
            self._verdicts = torch.compile(self.discriminator.verdicts)

    def list_penalties(self) -> list[Penalty]:
        """Return the penalties of both networks."""
        return [penalty for penalty in self.penalties.values() if isinstance(penalty, Penalty)]

    def _compute_penalties(self, network: str, step: int, inputs: PenaltyInputs) -> dict[str, Tensor]:
        """Compute the penalties of one network that are due at `step`, in float32.

        Lazy penalties are scaled by the number of steps between them. Penalties of weight 0 are left out.
        """
        terms = {}
        for name, penalty in self.penalties.items():
            assert isinstance(penalty, Penalty)
            if penalty.network == network and penalty.weight and step % penalty.every == 0:
                device = inputs.fake.device.type
                # the device "meta", on which the cost of a step is counted, has no autocast
                with torch.autocast("cpu" if device == "meta" else device, enabled=False):
                    terms[name] = penalty(inputs) * (penalty.weight * penalty.every)
        return terms

    def forward(
        self, pairs: Pairs, noise: Tensor, step: int, draws: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Perceived]:
        """Compute the discriminator's loss terms, whose sum is minimised.

        Args:
            pairs: images and texts of the step.
            noise: `(N, Z)` from which `pairs.fake` were generated.
            step: number of the step.
            draws: draws `(N, A)` of the augmentation; None: images are not augmented.

        Returns:
            The weighted terms by name, and the `Perceived` to pass to `generator_terms` for the same pairs and draws.
        """
        view = _View(self, draws, pairs, Perceived())
        terms = self.objective.discriminator_terms(view.judge_detached, pairs)
        if view.similarities and not offers_trait(self.objective, "contrast"):
            # DistributedDataParallel waits for a gradient of every weight, and the objective leaves these out
            first = next(iter(terms))
            terms[first] = terms[first] + 0.0 * torch.stack([tensor.sum() for tensor in view.similarities]).sum()
        view.observe()
        inputs = PenaltyInputs(view, pairs.real, pairs.fake.detach(), pairs.text, pairs.fake_text, noise, view.maps)
        return terms | self._compute_penalties("discriminator", step, inputs), Perceived(**view.perceived)

    def generator_terms(
        self,
        pairs: Pairs,
        noise: Tensor,
        step: int,
        draws: Tensor | None = None,
        perceived: Perceived | None = None,
    ) -> dict[str, Tensor]:
        """Compute the generator's loss terms, whose sum is minimised.

        Args:
            pairs: images and texts of the step; `pairs.fake` carry the graph of the generator.
            noise: `(N, Z)` from which `pairs.fake` were generated.
            step: number of the step.
            draws: draws `(N, A)` of the augmentation; None: images are not augmented.
            perceived: the discriminator's step's `Perceived` of the same images and draws; None: compute it here.

        Returns:
            The weighted terms by name.
        """
        view = _View(self, draws, pairs, perceived or Perceived())
        terms = self.objective.generator_terms(view.judge, pairs)
        inputs = PenaltyInputs(view, pairs.real, pairs.fake, pairs.text, pairs.fake_text, noise, view.maps)
        return terms | self._compute_penalties("generator", step, inputs)

    def perceive(self, images: Tensor, draws: Tensor | None) -> Any:
        """Augment images in float32 and compute the input of `Discriminator.trunk`."""
        if draws is not None:
            with torch.autocast(images.device.type, enabled=False):
                images = self.augmentation(images.float(), draws)
        return self.discriminator.perceive(images)

    def measures(self) -> dict[str, Tensor]:
        """Return the scalars of this process that an adaptive augmentation adapts to."""
        return self.augmentation.measures()

    def after_step(self, measured: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
        """Update the objective and the augmentation after a step.

        Args:
            measured: terms and measures of the step, averaged over processes.
            images: number of images of the step.

        Returns:
            Measures for the log, by name.
        """
        return {**self.objective.after_step(measured), **self.augmentation.after_step(measured, images)}

    @property
    def has_state(self) -> bool:
        """Whether `after_step` has an effect."""
        return type(self.objective).after_step is not Objective.after_step or self.augmentation.adaptive


class _View:
    """The critic of one step: the discriminator behind the augmentation.

    Args:
        adversary: discriminator, augmentation and objective.
        draws: draws of the augmentation.
        pairs: images and texts of the step.
        perceived: outputs of the pretrained network for the images of `pairs`, as far as they are computed.
    """

    def __init__(self, adversary: Adversary, draws: Tensor | None, pairs: Pairs, perceived: Perceived):
        self.adversary, self.draws, self.pairs = adversary, draws, pairs
        self.perceived: dict[str, Any] = {"real": perceived.real, "fake": perceived.fake}
        self.scores: dict[str, Tensor] = {}
        self.similarities: list[Tensor] = []

    def __call__(self, images: Tensor, texts: Sequence[Text]) -> list[Verdict]:
        """Score images and texts for penalties, which differentiate twice."""
        return self.adversary.discriminator.verdicts(self._perceive(images), texts)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the pretrained network's feature maps of images, as the discriminator sees them."""
        return self.adversary.discriminator.maps(self._perceive(images))

    def judge(self, images: Tensor, texts: Sequence[Text]) -> list[Verdict]:
        """Score images and texts for the objective's terms, which are differentiated once."""
        return self.adversary._verdicts(self._perceive(images), texts)

    def judge_detached(self, images: Tensor, texts: Sequence[Text]) -> list[Verdict]:
        """Score images and texts for the discriminator's terms, without a gradient for the images."""
        verdicts = self.adversary._verdicts(tree_map(_detach, self._perceive(images)), texts)
        self.similarities += [verdict.similarity for verdict in verdicts if verdict.similarity is not None]
        for name, of_pairs in (("real", self.pairs.real), ("fake", self.pairs.fake)):
            if images is of_pairs:
                self.scores.setdefault(name, verdicts[0].score.detach())
        return verdicts

    def observe(self) -> None:
        """Pass the scores of real and generated images to an adaptive augmentation."""
        if self.adversary.augmentation.adaptive and len(self.scores) == 2:
            real, relativistic = self.scores["real"], self.adversary.objective.relativistic
            real = self.pairs.align_with_fake(real) if relativistic else real
            self.adversary.augmentation.observe(real, self.scores["fake"], relativistic)

    def _perceive(self, images: Tensor) -> Any:
        """Compute the input of the trunk; for the images of the step's pairs, only once."""
        name = next((name for name in self.perceived if images is getattr(self.pairs, name)), None)
        if name is not None and self.perceived[name] is not None:
            return self.perceived[name]
        perceived = self.adversary.perceive(images, self.draws)
        if name is not None and self._serves_both_steps(name):
            self.perceived[name] = perceived
        return perceived

    def _serves_both_steps(self, name: str) -> bool:
        """Return whether the generator's step can use what is perceived of the real or the generated images."""
        if name == "real":
            return self.adversary.pretrained and self.adversary.uses_real_again
        return self.adversary.pretrained and self.pairs.fake.requires_grad and torch.is_grad_enabled()


def _detach(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Turn off the gradients of a module's weights inside the block; those of its inputs stay."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)

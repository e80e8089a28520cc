"""Relativistic pairing loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.declarations import SettingRequirement
from stackflower.objectives.base import Pairs, average_over_heads
from stackflower.objectives.contrast import Contrastive
from stackflower.options import Weight
from stackflower.registry import register
from stackflower.stages.base import Critic, Scores, split_heads


@register("objective", "relativistic")
class Relativistic(Contrastive):
    """Relativistic pairing loss (Jolicoeur-Martineau 2019, RpGAN; Huang et al. 2024, R3GAN, eq. 2).

    The discriminator minimises E softplus(D(G(z), e) − D(x, e)), the generator E softplus(D(x, e) − D(G(z), e)): only
    the difference between a generated and a real image of the same text counts. With mismatched pairs, the
    discriminator minimises half of that plus half of E softplus(D(x, ê) − D(x, e)). Scores without text are compared
    in the same way. R3GAN regularises it with the penalties ``r1`` and ``r2``.

    Args:
        mismatched: also compare the scores of each real image with its own and with a mismatched text.
        contrast: weight of the contrastive term in the discriminator's loss (see `Contrastive`).
        generator_contrast: weight of the contrastive term in the generator's loss.
    """

    requires = (
        *Contrastive.requires,
        SettingRequirement(
            "train.interpolated",
            0,
            why="compares each generated image with a real one of the same text, which interpolated texts lack",
        ),
    )
    offers = ("contrast", "signed scores")  # signs of score differences
    relativistic = True

    def __init__(self, *, mismatched: bool = True, contrast: Weight = 1.0, generator_contrast: Weight = 1.0):
        super().__init__(contrast=contrast, generator_contrast=generator_contrast)
        self.mismatched = mismatched

    @staticmethod
    def _compute_pairing_loss(lower: Scores, upper: Scores) -> Tensor:
        """Compute E softplus(lower − upper), which is small if `lower` scores lie below `upper` ones."""
        differences = tuple(low - up for low, up in zip(split_heads(lower), split_heads(upper), strict=True))
        return average_over_heads(lambda difference: F.softplus(difference).mean(), differences)

    @staticmethod
    def _select_paired(pairs: Pairs, scores: Scores) -> Scores:
        """Return the scores of the real image with which each generated image is compared."""
        return tuple(pairs.align_with_fake(head) for head in split_heads(scores))

    def discriminator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        share = 1.0 if pairs.negative_text is None else 0.5
        texts = [pairs.text] if pairs.negative_text is None else [pairs.text, pairs.negative_text]
        real, *mismatched = critic(pairs.real, texts)
        (fake,) = critic(pairs.fake, [pairs.fake_text])
        terms = {"pairing": share * self._compute_pairing_loss(fake.match, self._select_paired(pairs, real.match))}
        if mismatched:
            terms["negative"] = share * self._compute_pairing_loss(mismatched[0].match, real.match)
        terms |= self.compute_contrast_term(self.contrast, real, pairs.text, *mismatched)
        if real.real is not None and fake.real is not None:
            terms["pairing_unconditional"] = self._compute_pairing_loss(
                fake.real, self._select_paired(pairs, real.real)
            )
        return terms

    def generator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        with torch.no_grad():
            (real,) = critic(pairs.real, [pairs.text])
        (fake,) = critic(pairs.fake, [pairs.fake_text])
        terms = {"adversarial": self._compute_pairing_loss(self._select_paired(pairs, real.match), fake.match)}
        terms |= self.compute_contrast_term(self.generator_contrast, fake, pairs.fake_text)
        if real.real is not None and fake.real is not None:
            terms["adversarial_unconditional"] = self._compute_pairing_loss(
                self._select_paired(pairs, real.real), fake.real
            )
        return terms

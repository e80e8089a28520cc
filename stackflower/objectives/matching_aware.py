"""GAN-CLS's loss over real, mismatched and fake pairs (Reed et al. 2016), for any loss of a logit."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from stackflower.objectives.base import Pairs, average_over_heads
from stackflower.objectives.contrast import Contrastive
from stackflower.stages.base import Critic


class MatchingAware(Contrastive):
    """Base class of GAN-CLS's loss (Reed et al. 2016, algorithm 1): real + ½(mismatched + fake).

    A subclass defines the loss of a logit for real pairs (`real`), for fake and mismatched pairs (`fake`), and for the
    generator (`generator_loss`). If the discriminator also scores images without text, the same terms are added
    for these scores.

    Args:
        contrast: weight of the contrastive term in the discriminator's loss (see `Contrastive`).
        generator_contrast: weight of the contrastive term in the generator's loss.
    """

    @abstractmethod
    def real(self, logits: Tensor) -> Tensor:
        """Compute the discriminator's loss of logits `(N,)` or `(N, K)` of real, matching pairs."""

    @abstractmethod
    def fake(self, logits: Tensor) -> Tensor:
        """Compute the discriminator's loss of logits `(N,)` or `(N, K)` of fake or mismatched pairs."""

    @abstractmethod
    def generator_loss(self, logits: Tensor) -> Tensor:
        """Compute the generator's loss of logits `(N,)` or `(N, K)` of fake pairs."""

    def discriminator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        share = 1.0 if pairs.negative_text is None else 0.5
        texts = [pairs.text] if pairs.negative_text is None else [pairs.text, pairs.negative_text]
        real, *mismatched = critic(pairs.real, texts)
        (fake,) = critic(pairs.fake, [pairs.fake_text])
        terms = {
            "real": average_over_heads(self.real, real.match),
            "fake": share * average_over_heads(self.fake, fake.match),
        }
        if mismatched:
            terms["negative"] = share * average_over_heads(self.fake, mismatched[0].match)
        terms |= self.compute_contrast_term(self.contrast, real, pairs.text, *mismatched)
        if real.real is not None and fake.real is not None:
            terms["real_unconditional"] = average_over_heads(self.real, real.real)
            terms["fake_unconditional"] = average_over_heads(self.fake, fake.real)
        return terms

    def generator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        (verdict,) = critic(pairs.fake, [pairs.fake_text])
        terms = {"adversarial": average_over_heads(self.generator_loss, verdict.match)}
        terms |= self.compute_contrast_term(self.generator_contrast, verdict, pairs.fake_text)
        if verdict.real is not None:
            terms["adversarial_unconditional"] = average_over_heads(self.generator_loss, verdict.real)
        return terms

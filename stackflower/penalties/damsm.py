"""The DAMSM loss of AttnGAN on generated images."""

from __future__ import annotations

import torch
from torch import Tensor

from stackflower.declarations import Requirement
from stackflower.options import Count, Weight
from stackflower.penalties.base import Penalty, PenaltyInputs
from stackflower.registry import register
from stackflower.stages.base import WORDS
from stackflower.stages.frozen import FrozenNetwork
from stackflower.stages.words import gather_words
from stackflower.text.damsm import DamsmOptions, compute_damsm_losses
from stackflower.text.regions import Regions, load_image_encoder
from stackflower.utils.distributed import gather, gather_detached


@register("penalty", "damsm")
class DamsmPenalty(Penalty):
    """AttnGAN's DAMSM loss (Xu et al. 2018, eqs. 7 to 13): images must match the words and the sentence of their text.

    The image encoder is the one that `stackflower train-text` trained with the text encoder of the run (`loss=damsm`).
    It is frozen, and sees the images of the highest resolution.

    Args:
        weight: weight in the generator's loss; λ in the paper is 5 for birds and 50 for COCO.
        every: interval in steps.
    """

    network = "generator"
    uses_words = True
    largest_only = True
    requires = (
        WORDS,
        Requirement(
            "image encoder",
            of="text",
            why="needs an image encoder that was trained with the text encoder, and {other} has none",
        ),
    )

    def __init__(self, *, text_folder: str, weight: Weight = 5.0, every: Count = 1):
        super().__init__(weight=weight, every=every)
        encoder, damsm = load_image_encoder(text_folder)
        self.encoder, self.options = FrozenNetwork(encoder), DamsmOptions(**damsm)

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        text = inputs.fake_text
        assert text.words is not None
        label = torch.arange(len(inputs.fake), device=inputs.fake.device) if text.label is None else text.label
        regions = Regions(*map(gather, self.encoder(inputs.fake.float())))
        words, sentence = gather_words(text.words), gather_detached(text.embedding.detach())
        losses = compute_damsm_losses(regions, words, sentence, gather_detached(label), self.options)
        return torch.stack(list(losses.values())).sum()

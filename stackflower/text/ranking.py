"""Losses that bring a caption's vector near its picture's, and the picture encoder that they are learned with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def cosine_ranking(image: Tensor, own: Tensor, wrong: Tensor, label: Tensor, margin: float = 0.2) -> Tensor:
    """Hinge on cosines (Kiros et al. 2014, as the competition report has it), with one wrong caption and one wrong picture.

    mean max(0, α − cos(x, v) + cos(x, v')) + mean max(0, α − cos(x, v) + cos(x', v)), where x' is the picture of the next
    row; rows whose neighbour is of their own class have no wrong picture.

    Args:
        image: (N, D) vectors x of pictures.
        own: (N, D) vectors v of captions of the same pictures.
        wrong: (N, D) vectors v' of captions of pictures of other classes.
        label: (N,) classes of the pictures.
        margin: α.
    """
    match = F.cosine_similarity(image, own)
    captions = (margin - match + F.cosine_similarity(image, wrong)).relu().mean()
    other = label.roll(1) != label
    pictures = (margin - match + F.cosine_similarity(image.roll(1, 0), own)).relu() * other
    return captions + pictures.sum() / other.sum().clamp_min(1)


def joint_embedding(image: Tensor, text: Tensor, label: Tensor, margin: float = 1.0) -> Tensor:
    """The symmetric structured joint embedding loss (Reed et al. 2016, Learning Deep Representations, equation 3).

    With F(x, v) = xᵀv: the mean over rows n and over rows m of other classes of max(0, Δ + F(xₙ, vₘ) − F(xₙ, vₙ)) and of
    max(0, Δ + F(xₘ, vₙ) − F(xₙ, vₙ)).

    Args:
        image, text: (N, D) vectors of pictures and of a caption of each.
        label: (N,) classes.
        margin: Δ for a wrong class.
    """
    score = image @ text.T
    own = score.diagonal()
    other = (label[:, None] != label).to(score.dtype)
    count = other.sum(1).clamp_min(1)
    by_caption = (((margin + score - own[:, None]).relu() * other).sum(1) / count).mean()
    by_picture = (((margin + score.T - own[:, None]).relu() * other).sum(1) / count).mean()
    return by_caption + by_picture


class ImageEncoder(nn.Module):
    """Pictures (N, 3, R, R) to vectors (N, `dim`): strided convolutions to 4×4 with layer norm, averaged, a dense layer."""

    def __init__(self, resolution: int, dim: int, channels: int = 32):
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for level in range(max(resolution.bit_length() - 3, 1)):
            wider = channels * min(2**level, 8)
            layers += [nn.Conv2d(width, wider, 4, 2, 1), nn.GroupNorm(1, wider), nn.LeakyReLU(0.2)]
            width = wider
        self.layers = nn.Sequential(*layers)
        self.dense = nn.Linear(width, dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.dense(self.layers(images).mean((2, 3)))

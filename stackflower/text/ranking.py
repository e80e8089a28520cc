"""Ranking losses between images and captions, and the image encoder that text encoders are trained with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def cosine_ranking(image: Tensor, text: Tensor, negative: Tensor, label: Tensor, margin: float = 0.2) -> Tensor:
    """Hinge loss of cosines (Kiros et al. 2014, as in the competition report), with a negative caption and a negative image.

    mean max(0, α − cos(x, v) + cos(x, v')) + mean max(0, α − cos(x, v) + cos(x', v)), where x' is the image of the previous
    row; a row whose neighbour is of its own class has no negative image.

    Args:
        image: (N, D) vectors x of images.
        text: (N, D) vectors v of captions of these images.
        negative: (N, D) vectors v' of captions of images of other classes.
        label: (N,) classes of the images.
        margin: α.
    """
    match = F.cosine_similarity(image, text)
    caption_loss = (margin - match + F.cosine_similarity(image, negative)).relu().mean()
    other = label.roll(1) != label
    image_losses = (margin - match + F.cosine_similarity(image.roll(1, 0), text)).relu() * other
    return caption_loss + image_losses.sum() / other.sum().clamp_min(1)


def joint_embedding(image: Tensor, text: Tensor, label: Tensor, margin: float = 1.0) -> Tensor:
    """The symmetric structured joint embedding loss (Reed et al. 2016, Learning Deep Representations, equation 3).

    With F(x, v) = xᵀv: the mean over rows n and over rows m of other classes of max(0, Δ + F(xₙ, vₘ) − F(xₙ, vₙ)) and of
    max(0, Δ + F(xₘ, vₙ) − F(xₙ, vₙ)).

    Args:
        image, text: (N, D) vectors of images and of a caption of each.
        label: (N,) classes.
        margin: Δ for another class.
    """
    score = image @ text.T
    match = score.diagonal()
    other = (label[:, None] != label).to(score.dtype)
    count = other.sum(1).clamp_min(1)
    by_caption = (((margin + score - match[:, None]).relu() * other).sum(1) / count).mean()
    by_image = (((margin + score.T - match[:, None]).relu() * other).sum(1) / count).mean()
    return by_caption + by_image


class ImageEncoder(nn.Module):
    """Images (N, 3, R, R) to vectors (N, `dim`): strided convolutions to 4×4 with layer norm, average pooling, a linear layer."""

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

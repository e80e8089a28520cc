"""Ranking losses between images and captions, and the image encoder for training text encoders."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def cosine_ranking_loss(image: Tensor, text: Tensor, negative: Tensor, label: Tensor, margin: float = 0.2) -> Tensor:
    """Compute the hinge loss of cosines (Kiros et al. 2014) in the form of the competition report.

    mean max(0, α − cos(x, v) + cos(x, v')) + mean max(0, α − cos(x, v) + cos(x', v))

    The negative image x' is the image of the previous row. Rows whose previous row has the same class are left out of
    the second mean.

    Args:
        image: vectors x of images ``(N, D)``.
        text: vectors v of captions of these images ``(N, D)``.
        negative: vectors v' of captions of images of other classes ``(N, D)``.
        label: classes of the images ``(N,)``.
        margin: margin α.

    Returns:
        The loss, a scalar.
    """
    match = F.cosine_similarity(image, text)
    caption_loss = (margin - match + F.cosine_similarity(image, negative)).relu().mean()
    other = label.roll(1) != label
    image_losses = (margin - match + F.cosine_similarity(image.roll(1, 0), text)).relu() * other
    return caption_loss + image_losses.sum() / other.sum().clamp_min(1)


def joint_embedding_loss(image: Tensor, text: Tensor, label: Tensor, margin: float = 1.0) -> Tensor:
    """Compute the symmetric structured joint embedding loss (Reed et al. 2016, Learning Deep Representations, eq. 3).

    With F(x, v) = xᵀv, it is the sum of the means of max(0, Δ + F(xₙ, vₘ) − F(xₙ, vₙ)) and
    max(0, Δ + F(xₘ, vₙ) − F(xₙ, vₙ)) over rows n and rows m of other classes.

    Args:
        image: vectors x of images ``(N, D)``.
        text: vectors v of a caption of each image ``(N, D)``.
        label: classes of the images ``(N,)``.
        margin: margin Δ between classes.

    Returns:
        The loss, a scalar.
    """
    score = image @ text.T
    match = score.diagonal()
    other = (label[:, None] != label).to(score.dtype)
    count = other.sum(1).clamp_min(1)
    by_caption = (((margin + score - match[:, None]).relu() * other).sum(1) / count).mean()
    by_image = (((margin + score.T - match[:, None]).relu() * other).sum(1) / count).mean()
    return by_caption + by_image


class ImageEncoder(nn.Module):
    """A convolutional network from images ``(N, 3, R, R)`` to vectors ``(N, dim)``.

    Strided convolutions with layer norm down to 4×4 positions, average pooling, a linear layer.

    Args:
        resolution: height and width R of the images.
        dim: size of the vectors.
        channels: width of the first convolution.
    """

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

"""BEGAN's discriminator, a text-conditioned autoencoder (Berthelot et al. 2017, figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.options import Count
from stackflower.registry import register
from stackflower.stages.base import Discriminator, Text, Verdict
from stackflower.stages.generators.began import (
    BASE_SIZE,
    Decoder,
    build_convolution_pair,
    count_doublings_from_8,
    initialise_elu,
)


class EncoderOutput(NamedTuple):
    """Output of the encoder."""

    code: Tensor  # (N, code_dim)
    images: Tensor  # (N, 3, R, R), compared with the reconstruction


@register("discriminator", "began")
class AutoencoderDiscriminator(Discriminator):
    """BEGAN's autoencoder (Berthelot et al. 2017, section 3.1), scoring by its reconstruction error: low means real.

    The error is L(x, e) = mean |D(x, e) − x|^η. A linear layer joins code and text, as in the conditional BEGAN of the
    anime-face report.

    Args:
        channels: width n of the decoder and of the encoder's first layers; the encoder's width grows by n with every
            halving of the resolution.
        code_dim: size of the code; 64 in the report.
        text: text input: the text embedding after a linear layer ("embedding"), or the detached mean of the
            conditioning ("condition").
        projection_dim: output size of that linear layer; 16 in the report.
        power: exponent η of the error. An ambiguous pixel is reconstructed as its median with 1, as its mean with 2.
            Squared errors are smaller and move k less, so increase `objective.rate` with 2.
    """

    brings = {"objective": "began"}
    offers = ("energy scores", "independent scores")

    def __init__(
        self,
        *,
        text_dim: int,
        condition_dim: int,
        resolution: Count,
        channels: Count = 64,
        code_dim: Count = 64,
        text: Literal["condition", "embedding"] = "embedding",
        projection_dim: Count = 16,
        power: Literal[1, 2] = 1,
    ):
        super().__init__()
        self.power = power
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), nn.ELU(inplace=True)]
        width, depth = channels, count_doublings_from_8(resolution)
        for level in range(depth + 1):
            layers += [
                *build_convolution_pair(width, channels * (level + 1)),
                *([nn.AvgPool2d(2)] if level < depth else []),
            ]
            width = channels * (level + 1)
        self.encoder = nn.Sequential(*layers)
        self.to_code = nn.Linear(width * BASE_SIZE * BASE_SIZE, code_dim)
        self.project = nn.Linear(text_dim, projection_dim) if text == "embedding" else None
        joined_dim = projection_dim if self.project else condition_dim
        self.join = nn.Linear(code_dim + joined_dim, code_dim)
        initialise_elu(self)
        self.decoder = Decoder(code_dim, resolution, channels)

    def trunk(self, perceived: Tensor) -> EncoderOutput:
        return EncoderOutput(self.to_code(self.encoder(perceived).flatten(1)), perceived)

    def reconstruct(self, features: EncoderOutput, text: Text) -> Tensor:
        """Reconstruct images, given their texts: `(N, 3, R, R)`."""
        dtype = features.code.dtype
        text_features = text.condition if self.project is None else F.elu(self.project(text.embedding.to(dtype)))
        return self.decoder(F.elu(self.join(torch.cat([features.code, text_features.to(dtype)], 1))))

    def judge(self, features: EncoderOutput, text: Text) -> Verdict:
        error = self.reconstruct(features, text).float() - features.images.float()
        return Verdict((error.abs() if self.power == 1 else error.square()).mean((1, 2, 3)))

    def verdicts(self, perceived: Tensor, texts: Sequence[Text]) -> list[Verdict]:
        """Score images against each of `texts`, running the encoder once, and the decoder once for all texts."""
        code, images = self.trunk(perceived)
        count = len(texts)
        joined_texts = Text(
            torch.cat([text.embedding for text in texts]), torch.cat([text.condition for text in texts])
        )
        verdict = self.judge(EncoderOutput(code.repeat(count, 1), images.repeat(count, 1, 1, 1)), joined_texts)
        return [Verdict(score) for score in verdict.score.chunk(count)]

"""Text encoders that are trained: together with the GAN, or before it by `stackflower train-text`."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stackflower.errors import RunError
from stackflower.text.base import TextEncoder, digest_of
from stackflower.text.ranking import ImageEncoder
from stackflower.utils.atomic import replacing, write_text
from stackflower.utils.distributed import gathered

WEIGHTS, ABOUT = "encoder.safetensors", "encoder.json"


class LearnedEncoder(TextEncoder):
    """A network over tokens, its vocabulary and its training loss.

    Args:
        dim: size T of the embedding.
        weights: folder that `stackflower train-text` wrote, for a frozen encoder; None: it is trained together with the GAN.
    """

    network: nn.Module  # tokens (n, L) int64 → vectors (n, dim)
    ranks_negatives: ClassVar[bool] = True  # whether `rank` uses negative captions; otherwise it is given none (0, D)

    def __init__(self, *, dim: int, weights: str | None):
        self.dim, self.weights = dim, weights
        self.frozen = weights is not None

    @property
    def learns(self) -> bool:
        return not self.frozen

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether the network is built."""

    @abstractmethod
    def tokenise(self, captions: Sequence[str]) -> Tensor:
        """Tokens (n, L) int64; 0 is padding."""

    @abstractmethod
    def rank(self, image: Tensor, text: Tensor, negative: Tensor, label: Tensor) -> Tensor:
        """The loss, a scalar, of vectors (N, D) of images, of their captions and of negative captions, and the images' classes (N,)."""

    @abstractmethod
    def vocabulary(self) -> dict[str, Any]:
        """The vocabulary, as plain values."""

    @abstractmethod
    def build(self, vocabulary: dict[str, Any]) -> None:
        """Build the network for a vocabulary."""

    @abstractmethod
    def vocabulary_of(self, captions: Sequence[str]) -> dict[str, Any]:
        """The vocabulary of a data set's captions."""

    def fit(self, captions: Sequence[str]) -> None:
        if self.ready:
            return
        if self.weights is not None:
            self.restore(Path(self.weights))
        else:
            self.build(self.vocabulary_of(captions))

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings (…, dim) of tokens (…, L), as the GAN takes them: of unit root mean square."""
        vectors = self.network(tokens.flatten(0, -2)).float()
        return F.normalize(vectors, dim=1).mul(math.sqrt(self.dim)).unflatten(0, tokens.shape[:-1])

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Tensor:
        self.network.eval()
        device = next(self.network.parameters()).device
        parts = [
            F.normalize(self.network(self.tokenise(captions[first : first + 256]).to(device)).float(), dim=1).cpu()
            for first in range(0, len(captions), 256)
        ]
        return torch.cat(parts)

    def to(self, device: torch.device | str) -> None:
        if self.ready:
            self.network.to(device)

    def fingerprint(self) -> str:
        vocabulary = json.dumps(self.vocabulary(), sort_keys=True) if self.ready else ""
        code = digest_of(torch.tensor(list(vocabulary.encode()), dtype=torch.float32))
        weights = digest_of(*self.network.state_dict().values()) if self.frozen and self.ready else "with the run"
        return f"{type(self).__name__}-1 dim={self.dim} vocabulary={code} weights={weights}"

    def save(self, folder: Path) -> None:
        write_text(folder / ABOUT, json.dumps(self.vocabulary(), ensure_ascii=False))
        with replacing(folder / WEIGHTS) as temporary:
            save_file({name: value.contiguous() for name, value in self.network.state_dict().items()}, temporary)

    def restore(self, folder: Path) -> None:
        try:
            vocabulary = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            state = load_file(folder / WEIGHTS)
            self.build(vocabulary)
            self.network.load_state_dict(state)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise RunError(
                f"The text encoder in {folder} is missing or damaged ({str(error).splitlines()[0]}). It needs {ABOUT} and "
                f"{WEIGHTS}, as `stackflower train-text` and training write them; put them back or train it again."
            ) from error


class TextRanking(nn.Module):
    """A learned encoder's network and the image encoder it is trained with, by an optimizer of their own.

    Args:
        encoder: its network is shared with this module.
        resolution: height and width of the images.
    """

    def __init__(self, encoder: LearnedEncoder, resolution: int):
        super().__init__()
        self.network = encoder.network
        self.image_encoder = ImageEncoder(resolution, encoder.dim)
        self._rank, self.ranks_negatives = encoder.rank, encoder.ranks_negatives

    def forward(self, images: Tensor, tokens: Tensor, negative: Tensor, label: Tensor) -> dict[str, Tensor]:
        """`images` (N, 3, R, R), `tokens` of their captions and of `negative` ones (N, L), `label` (N,) → loss terms."""
        vectors = self.network(torch.cat([tokens, negative]) if self.ranks_negatives else tokens).float()
        text, negatives = vectors[: len(tokens)], vectors[len(tokens) :]
        # over the batch of all processes, so that the loss does not depend on their number
        image = gathered(self.image_encoder(images).float())
        return {"ranking": self._rank(image, gathered(text), gathered(negatives), gathered(label))}

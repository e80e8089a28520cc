"""Text encoders that are trained, either with the GAN or before it with `stackflower train-text`."""

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

from stackflower.errors import RunError, summarise_error
from stackflower.stages.base import Words
from stackflower.text.base import TextEncoder, compute_digest
from stackflower.text.ranking import ImageEncoder
from stackflower.utils.atomic import replacing, write_text
from stackflower.utils.distributed import gather

WEIGHTS_FILE, VOCABULARY_FILE = "encoder.safetensors", "encoder.json"
CHUNK = 256  # captions that are encoded at a time


class LearnedEncoder(TextEncoder):
    """Base class of trained text encoders: a network over tokens, a vocabulary and a training loss.

    Args:
        dim: size T of the embedding.
        weights: output folder of `stackflower train-text`, for a frozen encoder. None trains the encoder with the GAN.

    Attributes:
        network: maps tokens ``(N, L)``, int64, to vectors ``(N, dim)``.
        ranks_negatives: whether `rank` uses negative captions. If not, it receives none: ``(0, D)``.
    """

    network: nn.Module
    ranks_negatives: ClassVar[bool] = True
    path_options = ("weights",)

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
        """Convert captions to tokens ``(N, L)``, int64; 0 is padding."""

    @abstractmethod
    def rank(self, image: Tensor, text: Tensor, negative: Tensor, label: Tensor) -> Tensor:
        """Compute the training loss.

        Args:
            image: vectors of images ``(N, D)``.
            text: vectors of their captions ``(N, D)``.
            negative: vectors of captions of other classes ``(N, D)``.
            label: classes of the images ``(N,)``.

        Returns:
            The loss, a scalar.
        """

    @abstractmethod
    def vocabulary(self) -> dict[str, Any]:
        """Return the vocabulary as JSON values."""

    @abstractmethod
    def build(self, vocabulary: dict[str, Any]) -> None:
        """Build the network for a vocabulary returned by `vocabulary` or `vocabulary_of`."""

    @abstractmethod
    def vocabulary_of(self, captions: Sequence[str]) -> dict[str, Any]:
        """Return the vocabulary of training captions, as JSON values."""

    def fit(self, captions: Sequence[str]) -> None:
        if self.ready:
            return
        if self.weights is not None:
            self.restore(Path(self.weights))
        else:
            self.build(self.vocabulary_of(captions))

    def embed(self, tokens: Tensor) -> Tensor:
        """Return embeddings ``(…, dim)`` of tokens ``(…, L)`` as the networks expect them: with root mean square 1."""
        vectors = self.network(tokens.flatten(0, -2)).float()
        return F.normalize(vectors, dim=1).mul(math.sqrt(self.dim)).unflatten(0, tokens.shape[:-1])

    def embed_with_words(self, tokens: Tensor) -> tuple[Tensor, Words]:
        """Embed tokens with the network's current weights, if the encoder has words.

        Args:
            tokens: tokens ``(N, L)``, int64.

        Returns:
            The vectors of the captions ``(N, dim)``, of any length, and their words.
        """
        raise NotImplementedError(f"{type(self).__name__} has no words")

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Tensor:
        self.network.eval()
        device = next(self.network.parameters()).device
        parts = [
            F.normalize(self.network(self.tokenise(captions[first : first + CHUNK]).to(device)).float(), dim=1).cpu()
            for first in range(0, len(captions), CHUNK)
        ]
        return torch.cat(parts)

    def to(self, device: torch.device | str) -> None:
        if self.ready:
            self.network.to(device)

    def fingerprint(self) -> str:
        vocabulary = json.dumps(self.vocabulary(), sort_keys=True) if self.ready else ""
        code = compute_digest(torch.tensor(list(vocabulary.encode()), dtype=torch.float32))
        weights = compute_digest(*self.network.state_dict().values()) if self.frozen and self.ready else "with the run"
        return f"{type(self).__name__}-1 dim={self.dim} vocabulary={code} weights={weights}"

    def save(self, folder: Path) -> None:
        write_text(folder / VOCABULARY_FILE, json.dumps(self.vocabulary(), ensure_ascii=False))
        with replacing(folder / WEIGHTS_FILE) as temporary:
            save_file({name: value.contiguous() for name, value in self.network.state_dict().items()}, temporary)

    def restore(self, folder: Path) -> None:
        try:
            vocabulary = json.loads((folder / VOCABULARY_FILE).read_text(encoding="utf-8"))
            state = load_file(folder / WEIGHTS_FILE)
            self.build(vocabulary)
            self.network.load_state_dict(state)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise RunError(
                f"The text encoder in {folder} is missing or damaged ({summarise_error(error)}). Restore "
                f"{VOCABULARY_FILE} and {WEIGHTS_FILE}, or train it again with `stackflower train-text`."
            ) from error


class TextRanking(nn.Module):
    """The network of a learned text encoder and the image encoder it is trained with.

    Args:
        encoder: text encoder; its network is shared with this module.
        resolution: height and width of the images.
    """

    def __init__(self, encoder: LearnedEncoder, resolution: int):
        super().__init__()
        self.network = encoder.network
        self.image_encoder = ImageEncoder(resolution, encoder.dim)
        self._rank, self.ranks_negatives = encoder.rank, encoder.ranks_negatives

    def forward(self, images: Tensor, tokens: Tensor, negative: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Compute the terms of the loss.

        Args:
            images: ``(N, 3, R, R)`` in ``[-1, 1]``.
            tokens: tokens of their captions ``(N, L)``.
            negative: tokens of captions of other classes ``(N, L)``.
            label: classes of the images ``(N,)``.
        """
        vectors = self.network(torch.cat([tokens, negative]) if self.ranks_negatives else tokens).float()
        text, negatives = vectors[: len(tokens)], vectors[len(tokens) :]
        # gathered from all processes, so that the loss does not depend on their number
        image = gather(self.image_encoder(images).float())
        return {"ranking": self._rank(image, gather(text), gather(negatives), gather(label))}

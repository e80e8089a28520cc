"""Caption encoders that are trained: together with the GAN, or before it by `stackflower train-text`."""

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
from stackflower.utils.distributed import gathered

WEIGHTS, ABOUT = "encoder.safetensors", "encoder.json"


class LearnedEncoder(TextEncoder):
    """A network over tokens, its vocabulary, and the loss that teaches it.

    Args:
        dim: size T of the embedding.
        weights: folder that `stackflower train-text` wrote, for an encoder that is used as it is; None: it is trained
            together with the GAN.
    """

    network: nn.Module  # tokens (n, L) int64 → vectors (n, dim)
    ranks_wrong: ClassVar[bool] = True  # whether `rank` looks at wrong captions' vectors; otherwise it gets none (0, D)

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
        """Tokens (n, L) int64; 0 stands for nothing."""

    @abstractmethod
    def rank(self, image: Tensor, own: Tensor, wrong: Tensor, label: Tensor) -> Tensor:
        """The loss of pictures' vectors (N, D), their captions', wrong captions', and the pictures' classes (N,)."""

    @abstractmethod
    def vocabulary(self) -> dict[str, Any]:
        """What tokens mean, as plain values."""

    @abstractmethod
    def build(self, vocabulary: dict[str, Any]) -> None:
        """Make the network for a vocabulary."""

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
        """Embeddings (…, dim) of tokens (…, L), as the GAN reads them: of unit root mean square."""
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

    def fingerprint(self) -> str:
        words = json.dumps(self.vocabulary(), sort_keys=True) if self.ready else ""
        code = digest_of(torch.tensor(list(words.encode()), dtype=torch.float32))
        learned = digest_of(*self.network.state_dict().values()) if self.frozen and self.ready else "with the run"
        return f"{type(self).__name__}-1 dim={self.dim} vocabulary={code} weights={learned}"

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        about = folder / f".{ABOUT}"
        about.write_text(json.dumps(self.vocabulary(), ensure_ascii=False), encoding="utf-8")
        about.replace(folder / ABOUT)
        weights = folder / f".{WEIGHTS}"
        save_file({name: value.contiguous() for name, value in self.network.state_dict().items()}, weights)
        weights.replace(folder / WEIGHTS)

    def restore(self, folder: Path) -> None:
        try:
            vocabulary = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            state = load_file(folder / WEIGHTS)
            self.build(vocabulary)
            self.network.load_state_dict(state)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise RunError(
                f"The text encoder in {folder} is missing or damaged ({str(error).splitlines()[0]}). It needs {ABOUT} and "
                f"{WEIGHTS}, as `stackflower train-text` and training write them; put them back or train anew."
            ) from error


class TextSide(nn.Module):
    """A learned encoder's network with the picture encoder it learns beside: what a run trains by an optimizer of its own.

    Args:
        encoder: its network is shared with this module.
        resolution: of the pictures.
    """

    def __init__(self, encoder: LearnedEncoder, resolution: int):
        super().__init__()
        self.network = encoder.network
        self.pictures = ImageEncoder(resolution, encoder.dim)
        self._rank, self.ranks_wrong = encoder.rank, encoder.ranks_wrong

    def forward(self, images: Tensor, tokens: Tensor, wrong: Tensor, label: Tensor) -> dict[str, Tensor]:
        """`images` (N, 3, R, R), `tokens` of their captions and of `wrong` ones (N, L), `label` (N,) → loss terms."""
        both = self.network(torch.cat([tokens, wrong]) if self.ranks_wrong else tokens).float()
        own, other = both[: len(tokens)], both[len(tokens) :]
        # over the whole batch of all processes, so that several rank as one would
        pictures = gathered(self.pictures(images).float())
        return {"ranking": self._rank(pictures, gathered(own), gathered(other), gathered(label))}

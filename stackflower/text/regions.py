"""Image encoders that are trained with a text encoder by the DAMSM: regions of an image and the image as a whole."""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stackflower.errors import ConfigError, RunError, summarise_error
from stackflower.features.base import resize_images
from stackflower.features.loading import load_features
from stackflower.utils.atomic import replacing, write_text

IMAGE_FILE, IMAGE_WEIGHTS_FILE = "image-encoder.json", "image-encoder.safetensors"


class Regions(NamedTuple):
    """Vectors of images in the space of words and sentences."""

    parts: Tensor  # (N, M, D), regions
    whole: Tensor  # (N, D), the image as a whole


class RegionEncoder(nn.Module, ABC):
    """Base class of image encoders with regions.

    Attributes:
        kind: name of the class in the encoder's description.
        size: height and width in pixels at which images are encoded.
        family: family of the pretrained network, as in `Features.family`.
    """

    kind: ClassVar[str]
    size: int
    family: str = ""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what `build_image_encoder` needs, as JSON values."""

    @abstractmethod
    def encode(self, images: Tensor) -> Regions:
        """Encode images `(N, 3, size, size)` in `[-1, 1]`."""

    def forward(self, images: Tensor) -> Regions:
        """Encode images `(N, 3, R, R)` in `[-1, 1]`, of any size."""
        return self.encode(resize_images(images, self.size))


class FeatureRegions(RegionEncoder):
    """Regions of a frozen pretrained network: a map and the mean of the coarsest map, each with a trained projection.

    Args:
        dim: size D of the vectors.
        network: name and options of the part of the kind `features`.
        size: height and width in pixels at which images are encoded.
        stride: pixels per region and direction; the finest map with at least this stride is used.
    """

    kind = "features"

    def __init__(self, dim: int, network: Mapping[str, Any], size: int = 96, stride: int = 16):
        super().__init__()
        self.dim, self.part, self.size, self.stride = dim, dict(network), size, stride
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            self.features = load_features(self.part)
        self.family = self.features.family
        coarse = [level for level, each in enumerate(self.features.strides) if each >= stride]
        self.level = coarse[0] if coarse else len(self.features.strides) - 1
        self.project = nn.Conv2d(self.features.channels[self.level], dim, 1)
        self.project_mean = nn.Linear(self.features.channels[-1], dim)

    def describe(self) -> dict[str, Any]:
        checksum = self.features.checksum
        return {"network": self.part, "weights_sha256": checksum, "size": self.size, "stride": self.stride}

    def encode(self, images: Tensor) -> Regions:
        maps = self.features(images)
        parts = self.project(maps[self.level].float()).flatten(2).transpose(1, 2)
        return Regions(parts, self.project_mean(maps[-1].float().mean((2, 3))))


class ConvolutionalRegions(RegionEncoder):
    """Regions of a small convolutional network that is trained along: positions of 8×8 pixels, then the whole image.

    Args:
        dim: size D of the vectors.
        size: height and width in pixels at which images are encoded, a multiple of 16.
        channels: width of the first convolution.
    """

    kind = "convolutional"

    def __init__(self, dim: int, size: int = 64, channels: int = 32):
        super().__init__()
        self.dim, self.size, self.channels = dim, size, channels
        widths = [3, *(channels * 2**level for level in range(4))]
        blocks = [
            nn.Sequential(nn.Conv2d(width, wider, 4, 2, 1), nn.GroupNorm(1, wider), nn.LeakyReLU(0.2))
            for width, wider in itertools.pairwise(widths)
        ]
        self.fine, self.coarse = nn.Sequential(*blocks[:3]), blocks[3]
        self.project, self.project_mean = nn.Conv2d(widths[3], dim, 1), nn.Linear(widths[4], dim)

    def describe(self) -> dict[str, Any]:
        return {"size": self.size, "channels": self.channels}

    def encode(self, images: Tensor) -> Regions:
        fine = self.fine(images)
        parts = self.project(fine).flatten(2).transpose(1, 2)
        return Regions(parts, self.project_mean(self.coarse(fine).mean((2, 3))))


def build_image_encoder(dim: int, description: Mapping[str, Any]) -> RegionEncoder:
    """Build an image encoder.

    Args:
        dim: size D of the vectors.
        description: `kind`, and the options of the class.
    """
    options = {key: value for key, value in description.items() if key not in ("kind", "dim", "weights_sha256")}
    classes: dict[str, type[RegionEncoder]] = {cls.kind: cls for cls in (FeatureRegions, ConvolutionalRegions)}
    return classes[description["kind"]](dim, **options)


def save_image_encoder(encoder: RegionEncoder, folder: Path, dim: int, damsm: Mapping[str, Any]) -> None:
    """Save an image encoder in the folder of the text encoder that it was trained with.

    Args:
        encoder: image encoder.
        folder: folder to write to.
        dim: size D of the vectors.
        damsm: options of the DAMSM.
    """
    with replacing(folder / IMAGE_WEIGHTS_FILE) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in encoder.state_dict().items()}, temporary)
    description = {"kind": encoder.kind, "dim": dim, **encoder.describe(), "damsm": dict(damsm)}
    write_text(folder / IMAGE_FILE, json.dumps(description, indent=2) + "\n")


def load_image_encoder(folder: Path | str) -> tuple[RegionEncoder, dict[str, Any]]:
    """Load the image encoder of a folder that `stackflower train-text` wrote, once per process.

    Args:
        folder: the folder.

    Returns:
        The frozen image encoder, and the options of the DAMSM.

    Raises:
        ConfigError: the folder holds no image encoder.
        RunError: a file is damaged, or another pretrained network is installed than the one it was trained with.
    """
    path = Path(folder).expanduser().resolve()
    if not (path / IMAGE_FILE).is_file():
        raise ConfigError(
            f"{path} has no image encoder. Train a text encoder with one: `stackflower train-text` with `loss=damsm`."
        )
    return _load_image_encoder(path, (path / IMAGE_WEIGHTS_FILE).stat().st_mtime_ns if path.is_dir() else 0)


@lru_cache(maxsize=4)
def _load_image_encoder(path: Path, _modified: int) -> tuple[RegionEncoder, dict[str, Any]]:
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        try:
            description = json.loads((path / IMAGE_FILE).read_text(encoding="utf-8"))
            damsm = description.pop("damsm")
            encoder = build_image_encoder(description["dim"], description)
            encoder.load_state_dict(load_file(path / IMAGE_WEIGHTS_FILE))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise RunError(
                f"The image encoder in {path} is missing or damaged ({summarise_error(error)}). Restore {IMAGE_FILE} "
                f"and {IMAGE_WEIGHTS_FILE}, or train both encoders again with `stackflower train-text`."
            ) from error
    if isinstance(encoder, FeatureRegions) and encoder.features.checksum != description["weights_sha256"]:
        raise RunError(
            f"The image encoder in {path} was trained on other weights of {encoder.features.name} than the installed "
            "ones. Restore the version of the package that provides them, or train it again."
        )
    return encoder.eval().requires_grad_(False), damsm

"""The base class of features: pretrained image networks as pyramids of feature maps, never trained here."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stackflower.declarations import Declared, Requirement

Maps = tuple[Tensor, ...]
IMAGENET_STATISTICS = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # mean and standard deviation of RGB that most networks were trained with


class Features(Declared):
    """A pretrained network from images to a pyramid of feature maps.

    It is a constant, not a module: what uses it neither trains, averages nor saves it. It runs where its images are.

    Args:
        network: images (N, 3, R, R), normalised by `mean` and `std`, to a sequence of maps (N, C, H, W), fine to
            coarse.
        mean, std: of the network's training images, of RGB in [0, 1].
        name: of the network, for people: ``timm resnet50``.
        example: height and width of images that the network takes, to measure its maps with.
    """

    requires = (
        Requirement("use of features", of=("discriminator", "penalty"), why="are used by nothing", dispensable=True),
    )
    offers = ("pretrained network",)

    family: str = (
        ""  # such as "efficientnet", of architectures; a judge of the same family flatters what was trained with it
    )
    channels: tuple[int, ...]  # of the maps
    strides: tuple[int, ...]  # of the maps: pixels of the image for one of theirs

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], name: str, example: int = 224):
        self.name = name
        self.checksum = hash_weights(network)
        self._networks = {("cpu", torch.float32): fold_batch_norms(network.eval().requires_grad_(False), example)}
        self._statistics = {
            "cpu": (2 * torch.tensor(mean) - 1, 2 * torch.tensor(std))
        }  # of pixels in [-1, 1], by device
        with torch.no_grad():
            maps = self(torch.zeros(1, 3, example, example))
        self.channels = tuple(each.shape[1] for each in maps)
        self.strides = tuple(round(example / each.shape[-1]) for each in maps)

    def __deepcopy__(self, memo: dict[int, object]) -> Features:
        return self

    def describe(self) -> dict[str, str]:
        """The network and a checksum of its weights, as config.json names them."""
        return {"name": self.name, "family": self.family, "weights_sha256": self.checksum}

    def get_network(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """The network on a device, in a type; made once for each: autocast would convert frozen weights in every
        pass."""
        key = (str(device), dtype)
        if key not in self._networks:
            with torch.inference_mode(False), torch.no_grad():  # whoever comes first, training can use it
                self._networks[key] = copy.deepcopy(self._networks["cpu", torch.float32]).to(device, dtype)
        return self._networks[key]

    def normalise(self, images: Tensor) -> Tensor:
        """Images (N, 3, R, R) in [-1, 1] as the network takes them, in float32."""
        device = images.device
        if str(device) not in self._statistics:  # once: a copy from the host waits for the device
            with torch.inference_mode(False):
                mean, std = self._statistics["cpu"]
                self._statistics[str(device)] = mean.to(device), std.to(device)
        mean, std = self._statistics[str(device)]
        return (images.float() - mean[:, None, None]) / std[:, None, None]

    def __call__(self, images: Tensor) -> Maps:
        """Images (N, 3, R, R) in [-1, 1] to maps, fine to coarse; under autocast, weights and maps are of its type."""
        device = images.device
        normalised = self.normalise(images)
        autocast = device.type != "meta" and torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else torch.float32
        normalised = normalised.to(dtype).contiguous(memory_format=torch.channels_last)
        if not autocast:
            return tuple(self.get_network(device, dtype)(normalised))
        with torch.autocast(device.type, enabled=False):
            return tuple(self.get_network(device, dtype)(normalised))


def resize_images(images: Tensor, size: int) -> Tensor:
    """Images (N, 3, R, R) at `size` px, bilinearly, with antialiasing where they shrink."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images.float(), size, mode="bilinear", antialias=images.shape[-1] > size)


def compute_unit_means(maps: Sequence[Tensor]) -> list[Tensor]:
    """(N, C) of each map: its mean over positions, of unit length."""
    return [F.normalize(each.float().mean((2, 3)), dim=1) for each in maps]


def compute_mean_vectors(maps: Sequence[Tensor]) -> Tensor:
    """(N, F): the means of all maps over positions, each map's of unit root mean square, so that wide maps count by
    their width."""
    return torch.cat([mean * mean.shape[1] ** 0.5 for mean in compute_unit_means(maps)], 1)


def hash_weights(network: nn.Module) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a network's weights, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def fold_batch_norms(network: nn.Module, example: int) -> nn.Module:
    """The network with batch norms folded into the convolutions before them, where its children are in the order of
    execution, so that the outputs stay the same; else the network as it is."""
    folded = copy.deepcopy(network).eval()
    for parent in list(folded.modules()):
        names = [name for name, _ in parent.named_children()]
        for first, second in itertools.pairwise(names):
            convolution, norm = getattr(parent, first), getattr(parent, second)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, first, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, second, getattr(norm, "act", nn.Identity()))  # timm's norms contain the activation
    _disable_in_place(folded)
    images = torch.linspace(-1, 1, 3 * example * example).reshape(1, 3, example, example)
    with torch.no_grad():
        before, after = list(network(images)), list(folded(images))
    same = all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max())) for a, b in zip(before, after, strict=True)
    )
    return (folded if same else network).to(memory_format=torch.channels_last)


def _disable_in_place(network: nn.Module) -> None:
    """Activations that write a new tensor: in place, clamping ones copy what they overwrite."""
    for module in network.modules():
        if isinstance(module, nn.Hardtanh) and module.inplace:
            module.inplace = False

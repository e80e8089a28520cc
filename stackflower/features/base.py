"""Base class of features, frozen pretrained image networks that return pyramids of feature maps."""

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
# mean and standard deviation of RGB with which most networks were trained
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Features(Declared):
    """Base class of features: a pretrained network from images to a pyramid of feature maps.

    A subclass sets `family` and passes its network to this constructor. Features are a constant rather than a module:
    modules that use them neither train, average nor save them. The network runs on the device of its input.

    Args:
        network: network from images `(N, 3, R, R)`, normalised by `mean` and `std`, to a sequence of maps
            `(N, C, H, W)`, fine to coarse.
        mean: mean RGB of the network's training images, in `[0, 1]`.
        std: standard deviation of RGB of the network's training images.
        name: name of the network for messages, such as ``timm resnet50``.
        example: height and width of the images with which the maps are measured.

    Attributes:
        family: family of architectures, such as "efficientnet"; an extractor of the same family flatters runs trained
            with it.
        channels: channels of each map.
        strides: pixels of the image per pixel of each map.
    """

    requires = (
        Requirement(
            "use of features", of=("discriminator", "penalty"), why="are not used by any chosen part", dispensable=True
        ),
    )
    offers = ("pretrained network",)

    family: str = ""
    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], name: str, example: int = 224):
        self.name = name
        self.checksum = hash_weights(network)
        self._networks = {("cpu", torch.float32): fold_batch_norms(network.eval().requires_grad_(False), example)}
        # by device, for pixels in [-1, 1]
        self._statistics = {"cpu": (2 * torch.tensor(mean) - 1, 2 * torch.tensor(std))}
        with torch.no_grad():
            maps = self(torch.zeros(1, 3, example, example))
        self.channels = tuple(feature_map.shape[1] for feature_map in maps)
        self.strides = tuple(round(example / feature_map.shape[-1]) for feature_map in maps)

    def __deepcopy__(self, memo: dict[int, object]) -> Features:
        return self

    def describe(self) -> dict[str, str]:
        """Return name, family and checksum of the network, as recorded in config.json."""
        return {"name": self.name, "family": self.family, "weights_sha256": self.checksum}

    def get_network(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """Return the network on a device with weights of a data type.

        One copy per device and type is kept, because autocast would convert frozen weights in every forward pass.

        Args:
            device: device of the weights.
            dtype: data type of the weights.
        """
        key = (str(device), dtype)
        if key not in self._networks:
            # training can't use tensors that were created in inference mode
            with torch.inference_mode(False), torch.no_grad():
                self._networks[key] = copy.deepcopy(self._networks["cpu", torch.float32]).to(device, dtype)
        return self._networks[key]

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images `(N, 3, R, R)` in `[-1, 1]` as the network expects them, in float32."""
        device = images.device
        if str(device) not in self._statistics:  # copy once, because a copy from the host synchronises with the device
            with torch.inference_mode(False):
                mean, std = self._statistics["cpu"]
                self._statistics[str(device)] = mean.to(device), std.to(device)
        mean, std = self._statistics[str(device)]
        return (images.float() - mean[:, None, None]) / std[:, None, None]

    def __call__(self, images: Tensor) -> Maps:
        """Compute the maps of images.

        Args:
            images: images `(N, 3, R, R)` in `[-1, 1]`.

        Returns:
            Maps `(N, C, H, W)`, fine to coarse; under autocast, in its data type.
        """
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
    """Resize images `(N, 3, R, R)` to `size` px bilinearly, with antialiasing when downsampling."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images.float(), size, mode="bilinear", antialias=images.shape[-1] > size)


def compute_unit_means(maps: Sequence[Tensor]) -> list[Tensor]:
    """Compute the mean over positions of each map, normalised to unit length: `(N, C)` per map."""
    return [F.normalize(feature_map.float().mean((2, 3)), dim=1) for feature_map in maps]


def compute_mean_vectors(maps: Sequence[Tensor]) -> Tensor:
    """Compute the means over positions of all maps, `(N, F)`.

    The means of each map have unit root mean square, so a map contributes in proportion to its number of channels.

    Args:
        maps: maps `(N, C, H, W)`.
    """
    return torch.cat([mean * mean.shape[1] ** 0.5 for mean in compute_unit_means(maps)], 1)


def hash_weights(network: nn.Module) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a network's weights, taken in the order of names."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def fold_batch_norms(network: nn.Module, example: int) -> nn.Module:
    """Fold batch normalisation into the preceding convolutions, if this leaves the outputs unchanged.

    Args:
        network: network in evaluation mode.
        example: height and width of the images on which the outputs are compared.

    Returns:
        The folded network; the original one if its layers are executed in another order than they are defined in.
    """
    folded = copy.deepcopy(network).eval()
    for parent in list(folded.modules()):
        names = [name for name, _ in parent.named_children()]
        for first, second in itertools.pairwise(names):
            convolution, norm = getattr(parent, first), getattr(parent, second)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, first, fuse_conv_bn_eval(convolution, norm))
                setattr(
                    parent, second, getattr(norm, "act", nn.Identity())
                )  # timm's batch norms include the activation
    _disable_in_place(folded)
    images = torch.linspace(-1, 1, 3 * example * example).reshape(1, 3, example, example)
    with torch.no_grad():
        before, after = list(network(images)), list(folded(images))
    same = all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max())) for a, b in zip(before, after, strict=True)
    )
    return (folded if same else network).to(memory_format=torch.channels_last)


def _disable_in_place(network: nn.Module) -> None:
    """Disable in-place clamping activations, which copy the input that they overwrite."""
    for module in network.modules():
        if isinstance(module, nn.Hardtanh) and module.inplace:
            module.inplace = False

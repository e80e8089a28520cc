"""Frozen networks, which are neither trained, averaged nor saved with the module that contains them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class FrozenNetwork(nn.Module, Generic[Network]):
    """Network that is a constant of the module that contains it.

    It stays in evaluation mode, moves between devices with the containing module, and is shared by that module's
    copies. Its parameters and buffers are hidden from the containing module, so optimizers, weight averages and
    checkpoints skip them.

    Args:
        network: network to freeze.
    """

    def __init__(self, network: Network):
        super().__init__()
        # bypass nn.Module, which would register the network as a submodule
        object.__setattr__(self, "network", network.eval().requires_grad_(False))
        self.network: Network

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenNetwork[Network]:
        self.network._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenNetwork[Network]:
        return FrozenNetwork(self.network)

    def forward(self, *inputs: Any) -> Any:
        """Call the network."""
        return self.network(*inputs)

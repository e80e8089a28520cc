"""Networks that are used as they are: never trained, averaged or saved with what contains them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class FrozenNetwork(nn.Module, Generic[Network]):
    """A network as a constant of the module that contains it.

    It stays in evaluation mode, moves with that module between devices, and is shared by its copies; its parameters and buffers are
    not among that module's, so optimizers, averages and files do not know of them.
    """

    def __init__(self, network: Network):
        super().__init__()
        # not as a submodule, which would make its parameters the module's
        object.__setattr__(self, "network", network.eval().requires_grad_(False))
        self.network: Network

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenNetwork[Network]:
        self.network._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenNetwork[Network]:
        return FrozenNetwork(self.network)

    def forward(self, *inputs: Any) -> Any:
        return self.network(*inputs)

"""Division of an evaluation among processes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from stackflower.utils.distributed import share


class Processes:
    """The processes that share the work of an evaluation.

    Args:
        state: Accelerate's state of this process.
    """

    def __init__(self, state: PartialState):
        self.state = state

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, the only one that writes."""
        return bool(self.state.is_main_process)

    @property
    def part(self) -> tuple[int, int]:
        """The pair (k, n): this process's share is the k-th of n."""
        return self.state.process_index, self.state.num_processes

    def main_first(self) -> AbstractContextManager[Any]:
        """Run the block on the main process first, so that the others can read its results from the cache."""
        manager: AbstractContextManager[Any] = self.state.main_process_first()
        return manager

    def share(self, total: int) -> range:
        """Return the indices of this process's share of `total` items."""
        return share(total, self.part)

    def gather(self, items: list[Any]) -> list[Any]:
        """Gather the items of all processes, in the order of their ranks."""
        return items if self.state.num_processes == 1 else gather_object(items)

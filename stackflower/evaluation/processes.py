"""The processes that score together."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from stackflower.utils.distributed import share


class Processes:
    """Divide work among processes, and put together what each has done.

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
        """(k, n): this process's share is the k-th of n."""
        return self.state.process_index, self.state.num_processes

    def main_first(self) -> AbstractContextManager[Any]:
        """Let the main process run the block before the others, which find in the cache what it made."""
        manager: AbstractContextManager[Any] = self.state.main_process_first()
        return manager

    def share(self, total: int) -> range:
        """Return the places of this process's share of `total` items."""
        return share(total, self.part)

    def gather(self, items: list[Any]) -> list[Any]:
        """Gather the items of all processes, in the order of processes."""
        return items if self.state.num_processes == 1 else gather_object(items)

"""Reader of tables that pandas pickled (versions up to 2), without pandas."""

from __future__ import annotations

from typing import Any

import numpy as np

from stackflower.errors import DataError
from stackflower.formats.pickles import Inert

MOST_ROWS = 100_000_000
MOST_COLUMNS = 100_000


def extract_columns(frame: Any, name: object) -> dict[str, list[Any]]:
    """Return the columns of a pickled DataFrame, and its index under the name "index".

    Args:
        frame: DataFrame as `load_pickle` returns it.
        name: name of the file, for messages.

    Raises:
        DataError: `frame` is not a DataFrame of a known form, or too large.
    """
    try:
        return _read_columns(frame)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(f"{name} can't be read as a pandas table ({error}); save it as CSV or Parquet.") from error


def _read_columns(frame: Any) -> dict[str, list[Any]]:
    state = frame.state
    manager = state.get("_mgr", state.get("_data")) if isinstance(state, dict) else None
    if manager is None:
        raise ValueError("it has no blocks")
    axes, blocks = _split_manager(manager)
    names, index = _read_labels(axes[0]), _read_labels(axes[1])
    columns: dict[str, list[Any]] = {"index": index}
    for values, positions in blocks:
        values = np.asarray(values)
        values = values.reshape(-1, len(index)) if values.size else values
        for row, position in enumerate(_list_positions(positions)):
            columns[str(names[position])] = values[row].tolist()
    if set(map(str, names)) - set(columns):
        raise ValueError("some columns are in no block")
    return columns


def _split_manager(manager: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """Return the axes of a BlockManager, and its blocks: values, and the positions of their columns."""
    if isinstance(manager.state, tuple):  # pandas up to 1.2, and pickles that every version can read
        last = manager.state[-1]
        if isinstance(last, dict) and "0.14.1" in last:
            last = last["0.14.1"]
            return last["axes"], [(block["values"], block["mgr_locs"]) for block in last["blocks"]]
    blocks, axes = manager.arguments[:2]
    return axes, [(block.arguments[0], block.arguments[1]) for block in blocks]


def _read_labels(index: Any) -> list[Any]:
    """Return the labels of an index."""
    fields = index.arguments[1] if isinstance(index, Inert) and len(index.arguments) > 1 else {}
    if "data" in fields:
        return list(np.asarray(fields["data"]).tolist())
    if "stop" in fields:
        return _expand(range(fields["start"], fields["stop"], fields["step"]), MOST_ROWS)
    raise ValueError("its index is of an unknown kind")


def _list_positions(positions: Any) -> list[int]:
    """List the positions of a block's columns, which are an array or a slice."""
    if isinstance(positions, slice):
        return _expand(range(positions.start or 0, positions.stop, positions.step or 1), MOST_COLUMNS)
    return [int(position) for position in np.asarray(positions)]


def _expand(numbers: range, most: int) -> list[int]:
    """List the numbers of a range, which may have any length in a malicious pickle."""
    if len(numbers) > most:
        raise ValueError(f"it claims {len(numbers):,} rows or columns; at most {most:,} are read")
    return list(numbers)

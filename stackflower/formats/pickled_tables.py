"""Reader of tables that pandas pickled (versions up to 2), without pandas."""

from __future__ import annotations

from typing import Any

import numpy as np

from stackflower.errors import DataError
from stackflower.formats.pickles import Inert

MOST_ROWS = 100_000_000
MOST_COLUMNS = 100_000


def columns_of(frame: Any, name: object) -> dict[str, list[Any]]:
    """Return the columns of a DataFrame as `load_pickle` gives it, and its ``index``.

    Args:
        frame: the DataFrame.
        name: what messages call it.

    Raises:
        DataError: `frame` is not a DataFrame, or larger than any that is read.
    """
    try:
        return _columns(frame)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(f"{name} is no table of pandas that is known ({error}); save it as CSV or Parquet.") from error


def _columns(frame: Any) -> dict[str, list[Any]]:
    state = frame.state
    manager = state.get("_mgr", state.get("_data")) if isinstance(state, dict) else None
    if manager is None:
        raise ValueError("it has no blocks")
    axes, blocks = _parts_of(manager)
    names, index = _labels(axes[0]), _labels(axes[1])
    columns: dict[str, list[Any]] = {"index": index}
    for values, places in blocks:
        values = np.asarray(values)
        values = values.reshape(-1, len(index)) if values.size else values
        for number, place in enumerate(_places(places)):
            columns[str(names[place])] = values[number].tolist()
    if set(map(str, names)) - set(columns):
        raise ValueError("some columns are in no block")
    return columns


def _parts_of(manager: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """Return the axes and the blocks (values, places) of a BlockManager."""
    if isinstance(manager.state, tuple):  # up to 1.2, and written for all versions
        last = manager.state[-1]
        if isinstance(last, dict) and "0.14.1" in last:
            last = last["0.14.1"]
            return last["axes"], [(block["values"], block["mgr_locs"]) for block in last["blocks"]]
    blocks, axes = manager.arguments[:2]
    return axes, [(block.arguments[0], block.arguments[1]) for block in blocks]


def _labels(index: Any) -> list[Any]:
    """Return the labels of an index."""
    fields = index.arguments[1] if isinstance(index, Inert) and len(index.arguments) > 1 else {}
    if "data" in fields:
        return list(np.asarray(fields["data"]).tolist())
    if "stop" in fields:
        return _expand(range(fields["start"], fields["stop"], fields["step"]), MOST_ROWS)
    raise ValueError("it has an index of another kind")


def _places(places: Any) -> list[int]:
    """Return the positions of a block's columns, which are an array or a slice."""
    if isinstance(places, slice):
        return _expand(range(places.start or 0, places.stop, places.step or 1), MOST_COLUMNS)
    return [int(place) for place in np.asarray(places)]


def _expand(numbers: range, most: int) -> list[int]:
    """List a range, of which a pickle may claim any length."""
    if len(numbers) > most:
        raise ValueError(f"it claims {len(numbers):,} rows or columns; at most {most:,} are read")
    return list(numbers)

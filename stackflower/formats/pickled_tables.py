"""Tables that pandas pickled, of its versions up to 2, without pandas."""

from __future__ import annotations

from typing import Any

import numpy as np

from stackflower.errors import DataError
from stackflower.formats.pickles import Inert


def columns_of(frame: Any, name: object) -> dict[str, list[Any]]:
    """The columns of a DataFrame as `load_pickle` gives it, and its ``index``. DataError, with `name`, for anything else."""
    try:
        return _columns(frame)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise DataError(f"{name} is no table of pandas that is known; save it as CSV or Parquet.") from error


def _columns(frame: Any) -> dict[str, list[Any]]:
    state = frame.state
    manager = state.get("_mgr", state.get("_data")) if isinstance(state, dict) else None
    if manager is None:
        raise ValueError("is a table in a form that is not known; save it as CSV or Parquet")
    axes, blocks = _parts_of(manager)
    names, rows = _labels(axes[0]), len(_labels(axes[1]))
    columns: dict[str, list[Any]] = {"index": _labels(axes[1])}
    for values, places in blocks:
        values = np.asarray(values)
        values = values.reshape(-1, rows) if values.size else values
        for number, place in enumerate(_places(places)):
            columns[str(names[place])] = values[number].tolist()
    if set(map(str, names)) - set(columns):
        raise ValueError("is a table in a form that is not known; save it as CSV or Parquet")
    return columns


def _parts_of(manager: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """Axes and blocks (values, places) of a BlockManager."""
    if isinstance(manager.state, tuple):  # up to 1.2, and written for all versions
        last = manager.state[-1]
        if isinstance(last, dict) and "0.14.1" in last:
            last = last["0.14.1"]
            return last["axes"], [(block["values"], block["mgr_locs"]) for block in last["blocks"]]
    blocks, axes = manager.arguments[:2]
    return axes, [(block.arguments[0], block.arguments[1]) for block in blocks]


def _labels(index: Any) -> list[Any]:
    """The labels of an index."""
    given = index.arguments[1] if isinstance(index, Inert) and len(index.arguments) > 1 else {}
    if "data" in given:
        return list(np.asarray(given["data"]).tolist())
    if "stop" in given:
        size = len(range(given["start"], given["stop"], given["step"]))
        if size > 100_000_000:
            raise ValueError("is a table of more rows than are read")
        return list(range(given["start"], given["stop"], given["step"]))
    raise ValueError("is a table in a form that is not known; save it as CSV or Parquet")


def _places(places: Any) -> list[int]:
    """Positions of a block's columns: an array or a slice."""
    if isinstance(places, slice):
        start, stop, step = places.start or 0, places.stop, places.step or 1
        return list(range(start, min(stop, 100_000), step))
    return [int(place) for place in np.asarray(places)]

"""Find a model by the path of a folder, the name of a shipped model, or an id on the Hugging Face Hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from stackflower.errors import ModelError, summarise_error
from stackflower.models import hub
from stackflower.models.record import read_record
from stackflower.options import suggest

SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class ShippedModel:
    """A model that is installed with Stackflower.

    Args:
        name: its name.
        folder: its model folder.
    """

    name: str
    folder: Path

    def describe(self) -> str:
        """Return what the model draws, in a line."""
        record = read_record(self.folder)
        return f"{record.resolution} px, {record.history.data}, {record.history.images:,} training images"


def list_shipped() -> dict[str, ShippedModel]:
    """Return the shipped models by name."""
    folders = sorted(path.parent for path in SHIPPED.glob("*/config.json"))
    return {folder.name: ShippedModel(folder.name, folder) for folder in folders}


def find_model(name: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Return the folder of a model or a run; download a model of the Hub if it is not in the cache.

    Args:
        name: path of a folder; else the name of a shipped model; else an id on the Hub, such as ``owner/flowers``.
        revision: branch, tag or commit on the Hub; None: the newest.

    Raises:
        ModelError: nothing has this name, or the Hub can't be reached; the message says what to type.
    """
    text, shipped = os.fspath(name), list_shipped()
    try:
        path = Path(text).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError) as error:  # the name is too long, or its user has no home directory
        raise ModelError(f"{text[:200]} is not the name of a model: {summarise_error(error)}.") from error
    if not text:
        raise ModelError("The name of the model is empty; give a folder, a shipped model or an id on the Hub.")
    if revision is not None and (is_folder or text in shipped):
        raise ModelError(f"`revision={revision}` applies to models on the Hugging Face Hub, and {text} is here.")
    if is_folder:
        return path
    if is_file:
        raise ModelError(f"{text} is a file; name the folder of a run or a model.")
    if text in shipped:
        return shipped[text].folder
    if revision is None and _looks_like_path(text, path):
        raise ModelError(f"The folder {text} does not exist.{_list_runs()}{_list_names(shipped)}")
    if not hub.is_id(text):
        raise ModelError(
            f"{text} is not a folder, a shipped model or an id on the Hugging Face Hub, such as owner/name."
            f"{suggest(text, shipped)}"
        )
    return hub.download(text, revision)


def _looks_like_path(text: str, path: Path) -> bool:
    """Return whether a name can only be a path, or begins with a folder that exists here."""
    return (
        text.startswith((".", "~", os.sep))
        or text.count("/") > 1
        or (len(path.parts) > 1 and Path(path.parts[0]).is_dir())
    )


def _list_runs() -> str:
    runs = sorted(str(path.parent) for path in Path("runs").glob("*/config.json"))
    return f" Runs in runs/: {', '.join(runs[-5:])}." if runs else ""


def _list_names(shipped: dict[str, ShippedModel]) -> str:
    return f" Shipped models: {', '.join(shipped)}." if shipped else ""

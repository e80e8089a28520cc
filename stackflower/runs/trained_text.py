"""Find the text encoder that a name, a folder or a Hugging Face id refers to."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from stackflower import registry
from stackflower.errors import ConfigError, DataError
from stackflower.options import suggest
from stackflower.runs.checkpoint import read_state
from stackflower.runs.folder import Run
from stackflower.text.learned import ABOUT as VOCABULARY

ABOUT = "text.json"


def encoder_part(value: str | None) -> dict[str, Any] | None:
    """Resolve what `text` names: a registered encoder by name, the folder of a trained one, or a Hugging Face model by id or folder."""
    if value is None:
        return None
    known = set(registry.list_parts("text")) - {"huggingface"}
    folder = Path(value).expanduser()
    if folder.is_dir() or (folder.name == "text" and folder.parent.is_dir()):
        trained = trained_part(folder)
        if trained is not None:
            return trained
    if value in known and not folder.is_dir():
        return {"name": value}
    if "/" not in value and not folder.is_dir() and difflib.get_close_matches(value, known):
        raise ConfigError(
            f"There is no text encoder {value!r}.{suggest(value, known)} Or name a Hugging Face model: its id, as "
            "in sentence-transformers/all-MiniLM-L6-v2, or a local folder."
        )
    return {"name": "huggingface", "model": str(folder.absolute()) if folder.is_dir() else value}


def trained_part(folder: Path) -> dict[str, Any] | None:
    """The text part that uses a trained encoder frozen: one that `train_text` wrote to `folder`, or that of a run (or its
    ``text/``) in which it was trained with the GAN. None where there is none; ConfigError for a run without."""
    run = Run(folder.parent if folder.name == "text" else folder)
    if (folder / ABOUT).is_file():
        return {**_about(folder / ABOUT), "weights": str(folder.resolve())}
    if (run.text_folder / VOCABULARY).is_file():
        complete = run.complete_checkpoints()
        if complete and read_state(complete[-1]).images == 0:
            raise ConfigError(f"`text={folder}`: this run is not trained yet; train it with `resume={run}`.")
        return {**run.config().text.to_dict(), "weights": str(run.text_folder.resolve())}
    if run.weights_file.is_file():
        raise ConfigError(
            f"`text={folder}`: this run's text encoder was not trained, so there is nothing to take from it. Name the encoder "
            f"itself ({', '.join(registry.list_parts('text'))}), or a run with `text=rnn` or `text=char-cnn-rnn`."
        )
    return None


def _about(path: Path) -> dict[str, Any]:
    try:
        text = json.loads(path.read_text(encoding="utf-8"))["text"]
        return {"name": text["name"], **text}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} is damaged ({error}); train the encoder anew with `stackflower train-text`."
        ) from error

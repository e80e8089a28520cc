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
from stackflower.text.learned import VOCABULARY_FILE

ENCODER_FILE = "text.json"


def find_text_encoder(value: str | None) -> dict[str, Any] | None:
    """Return the text encoder that the setting `text` refers to.

    Args:
        value: name of a registered encoder, folder of a trained one, or id or folder of a Hugging Face model.

    Returns:
        Name and options of the encoder; None without a value.

    Raises:
        ConfigError: `value` looks like a misspelt name, or is a run without a trained encoder.
    """
    if value is None:
        return None
    names = set(registry.list_parts("text")) - {"huggingface"}
    folder = Path(value).expanduser()
    if folder.is_dir() or (folder.name == "text" and folder.parent.is_dir()):
        trained = find_trained_encoder(folder)
        if trained is not None:
            return trained
    if value in names and not folder.is_dir():
        return {"name": value}
    if "/" not in value and not folder.is_dir() and difflib.get_close_matches(value, names):
        raise ConfigError(
            f"Unknown text encoder {value!r}.{suggest(value, names)} For a Hugging Face model, give its id, such as "
            "sentence-transformers/all-MiniLM-L6-v2, or a local folder."
        )
    return {"name": "huggingface", "model": str(folder.absolute()) if folder.is_dir() else value}


def find_trained_encoder(folder: Path) -> dict[str, Any] | None:
    """Return the frozen form of a trained text encoder.

    Args:
        folder: output of `train_text`, or a run (or its ``text/``) that trained the encoder with the GAN.

    Returns:
        Name and options of the encoder, with ``weights``; None if `folder` is neither.

    Raises:
        ConfigError: the run is not trained yet, or did not train its text encoder.
        DataError: the encoder's description is damaged.
    """
    run = Run(folder.parent if folder.name == "text" else folder)
    if (folder / ENCODER_FILE).is_file():
        return {**_read_encoder_file(folder / ENCODER_FILE), "weights": str(folder.resolve())}
    if (run.text_folder / VOCABULARY_FILE).is_file():
        complete = run.list_checkpoints()
        if complete and read_state(complete[-1]).images == 0:
            raise ConfigError(f"`text={folder}`: this run is not trained yet. Train it with `resume={run}`.")
        return {**run.read_config().text.to_dict(), "weights": str(run.text_folder.resolve())}
    if run.weights_file.is_file():
        raise ConfigError(
            f"`text={folder}`: this run did not train its text encoder. Name the encoder itself "
            f"({', '.join(registry.list_parts('text'))}), or a run with `text=rnn` or `text=char-cnn-rnn`."
        )
    return None


def _read_encoder_file(path: Path) -> dict[str, Any]:
    try:
        text = json.loads(path.read_text(encoding="utf-8"))["text"]
        return {"name": text["name"], **text}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} is damaged ({error}). Train the encoder again with `stackflower train-text`."
        ) from error

"""Messages of the library as the demo shows them: parameters are named as the controls, errors are pop-ups."""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Callable
from typing import Any

from stackflower.errors import StackflowerError

PARAMETER = re.compile(r"`([a-z][a-z0-9_.-]*)(?:=([^`]*))?`")
# names of the controls by parameter
LABELS = {
    "caption": "Caption",
    "start_caption": "From",
    "end_caption": "To",
    "images": "Images",
    "seed": "Seed",
    "start_seed": "From seed",
    "end_seed": "To seed",
    "truncation": "Truncation",
    "best_of": "Best of",
    "side_by_side": "All stages side by side",
    "frames": "Frames",
    "animation": "Animation",
    "model": "Model",
    "other_model": "Second model",
    "number": "Grid",
}


def spell(text: str) -> str:
    """Replace the parameters in a message of the library with the names of the controls.

    Args:
        text: message with parameters in backquotes.

    Example:
        >>> spell("`best_of` must be at most 16, got 99.")
        '“Best of” must be at most 16, got 99.'
    """

    def replace(match: re.Match[str]) -> str:
        name, value = match.groups()
        label = f"“{LABELS[name]}”" if name in LABELS else name
        return label if value is None else f"{label} = {value}"

    return PARAMETER.sub(replace, text)


def show_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate an event listener so that a StackflowerError becomes a pop-up with its sentence.

    Pop-ups are rendered as HTML, so the sentence, which may quote a caption, is escaped.

    Args:
        function: event listener.

    Returns:
        The listener, with the same signature.
    """

    @functools.wraps(function)
    def listener(*args: Any, **kwargs: Any) -> Any:
        import gradio

        try:
            return function(*args, **kwargs)
        except StackflowerError as error:
            message = html.escape(spell(str(error)), quote=False)
            raise gradio.Error(message, print_exception=False) from None

    return listener

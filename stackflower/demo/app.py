"""The page of the demo: its tabs and its appearance."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from stackflower.demo.follow import FollowPage
from stackflower.demo.models import Models
from stackflower.demo.requests import FormatCommand
from stackflower.demo.tabs import Context, list_tabs
from stackflower.errors import MissingDependency
from stackflower.runs.folder import Run

QUEUE_SIZE = 64  # requests that may wait
QUEUE_SLEEP = 0.05  # seconds
CACHE_SECONDS = (600, 3600)  # interval of the clean-up, and age from which files are deleted
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]  # installed ones
MONOSPACED = ["ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono", "monospace"]


def require_gradio() -> Any:
    """Import gradio.

    Raises:
        MissingDependency: gradio is not installed.
    """
    try:
        import gradio
    except ImportError:
        raise MissingDependency("gradio", "demo", "stackflower demo") from None
    return gradio


def build_app(models: Models, folder: Path, format_command: FormatCommand) -> Any:
    """Build the page that draws images.

    Args:
        models: models of the demo; the first is opened.
        folder: folder of the files that the demo offers to download, inside of gradio's temporary folder.
        format_command: function that formats the command that reproduces a request.

    Returns:
        The ``gradio.Blocks``.

    Raises:
        MissingDependency: gradio is not installed.
        StackflowerError: the first model can't be opened.
    """
    gradio = require_gradio()
    first = models.run(models.get, models.names[0])
    about = first.describe() if len(models.names) == 1 else f"{len(models.names)} models"
    name = models.choices[0][0] if len(models.names) == 1 else ""
    context = Context(models, folder, format_command)
    with gradio.Blocks(title="Stackflower", analytics_enabled=False, delete_cache=CACHE_SECONDS) as app:
        _add_header(gradio, name, about)
        with gradio.Tabs():
            for tab in list_tabs():
                with gradio.Tab(tab.title):
                    tab.build(context)
    return _add_queue(app)


def build_follow_app(run: Run) -> Any:
    """Build the page that follows a running training.

    Args:
        run: the run.

    Returns:
        The ``gradio.Blocks``.

    Raises:
        MissingDependency: gradio is not installed.
        RunError: the folder is not a run.
    """
    gradio = require_gradio()
    record = run.read_record()
    with gradio.Blocks(title="Stackflower", analytics_enabled=False, delete_cache=CACHE_SECONDS) as app:
        _add_header(gradio, run.path.resolve().name, f"{record.config.recipe} · {record.resolution} px")
        FollowPage(run)
    return _add_queue(app)


def _add_queue(app: Any) -> Any:
    """Limit the calls that run and wait, and let the idle queue sleep as long as gradio does on Windows.

    Gradio's default of 1 ms takes 3% of a core, which a training on this machine would lack.
    """
    app.queue(max_size=QUEUE_SIZE, default_concurrency_limit=1)
    app._queue.sleep_when_free = QUEUE_SLEEP
    return app


def get_appearance() -> dict[str, Any]:
    """Return the theme and the style sheet, as arguments of ``Blocks.launch``."""
    gradio = require_gradio()
    theme = gradio.themes.Soft(
        primary_hue="pink",
        secondary_hue="pink",
        neutral_hue="stone",
        radius_size="md",
        font=FONTS,
        font_mono=MONOSPACED,
    ).set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_shadow="none",
        block_label_border_width="0px",
        input_background_fill="*neutral_50",
        input_border_width="1px",
        input_border_color="*neutral_200",
        input_border_color_dark="*neutral_700",
        input_shadow="none",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_padding="0",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_300",
        block_title_text_weight="500",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_shadow="none",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_label_text_weight="500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_500",
    )
    return {"theme": theme, "css": (Path(__file__).parent / "style.css").read_text(encoding="utf-8")}


def _add_header(gradio: Any, name: str, about: str) -> None:
    title = f"<b>{html.escape(name)}</b> · " if name else ""
    gradio.HTML(f"<h1>Stackflower</h1><p>{title}{html.escape(about)}</p>", elem_id="header")

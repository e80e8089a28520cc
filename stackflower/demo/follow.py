"""The page that follows a running training, from the files of its run; it does not load the model."""

from __future__ import annotations

import html
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackflower.demo.messages import show_errors
from stackflower.demo.values import read_integer
from stackflower.errors import RunError
from stackflower.reports.charts import Curves, average_points, collect_curves
from stackflower.runs.folder import Run
from stackflower.utils.progress import format_duration

REFRESH_SECONDS = 5.0
CHART_SECONDS = 30.0  # a browser without a GPU draws the charts on the processor that trains
MAX_CHARTS = 8
QUIET_SECONDS = 120.0  # without a new line, a training counts as interrupted


class MetricsReader:
    """Reader of a run's ``metrics.jsonl`` that reads only what was appended.

    Args:
        run: the run.

    Attributes:
        rows: measurements, without events.
        version: number that increases whenever `rows` changes.
    """

    def __init__(self, run: Run):
        self.run = run
        self.rows: list[dict[str, Any]] = []
        self.version = 0
        self._lock = threading.Lock()
        self._position, self._file_id, self._changed_at = 0, (0, 0), 0.0

    def update(self) -> None:
        """Read appended lines; start over if the file was replaced, as a resumed training does."""
        with self._lock:
            try:
                status = self.run.metrics_file.stat()
                file_id = status.st_dev, status.st_ino
                replaced = file_id != self._file_id or status.st_size < self._position
                if not replaced and status.st_size == self._position:
                    return
                with self.run.metrics_file.open("rb") as file:
                    file.seek(0 if replaced else self._position)
                    text = file.read()
            except OSError:
                return
            whole = text[: text.rfind(b"\n") + 1]
            rows = [row for line in whole.splitlines() if (row := _parse(line)) is not None]
            self._position = len(whole) + (0 if replaced else self._position)
            self._file_id, self._changed_at = file_id, status.st_mtime
            if replaced or rows:
                self.rows = rows if replaced else self.rows + rows
                self.version += 1

    def summarise(self) -> dict[str, Any]:
        """Summarise the progress: images, share, images per second, remaining seconds, state and newest measures."""
        timed = [row for row in self.rows if isinstance(row.get("share"), (int, float))]
        if not timed:
            return {"state": "waiting", "images": 0, "share": 0.0}
        last = timed[-1]
        state = "running" if time.time() - self._changed_at < QUIET_SECONDS else "interrupted"
        return {
            "state": "finished" if last["share"] >= 1 else state,
            "images": last["images"],
            "share": last["share"],
            "images_per_second": last.get("images_per_second"),
            "seconds_left": _estimate_seconds_left(timed),
            "measures": {name: value for name, value in last.items() if "/" in name},
        }

    def collect_curves(self) -> Curves:
        """Return the curves of the measures, averaged to at most 300 points each."""
        curves = collect_curves(self.rows)
        return {
            group: {measure: average_points(points) for measure, points in curves[group].items()}
            for group in sorted(curves, key=_rank_group)
        }


def _rank_group(group: str) -> int:
    """Return the position of a group of curves: losses, then scores, then what a reader rarely needs."""
    return 1 if group.startswith("eval") else 2 if group in ("speed", "lr", "data") else 0


def _parse(line: bytes) -> dict[str, Any] | None:
    """Parse a line of metrics.jsonl; return None for events and damaged lines."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    usable = isinstance(row, dict) and isinstance(row.get("images"), int) and "event" not in row
    return row if usable else None


def _estimate_seconds_left(rows: list[dict[str, Any]]) -> float | None:
    """Estimate the remaining seconds from the last tenth of the lines."""
    recent = rows[-max(2, len(rows) // 10) :]
    share = recent[-1]["share"] - recent[0]["share"]
    seconds = recent[-1].get("seconds", 0.0) - recent[0].get("seconds", 0.0)
    return (1 - recent[-1]["share"]) * seconds / share if share > 0 and seconds > 0 else None


def list_grids(run: Run) -> list[Path]:
    """Return the sample grids of a run, oldest first."""
    return sorted(run.samples.glob("images-*.png"))


def format_progress(progress: dict[str, Any]) -> str:
    """Format the progress as HTML: a bar, and the numbers as tiles.

    Args:
        progress: result of `MetricsReader.summarise`.
    """
    speed, left = progress.get("images_per_second"), progress.get("seconds_left")
    tiles = {
        "images": f"{progress['images']:,}",
        "images/s": "–" if speed is None else f"{speed:,.0f}",
        "left": "–" if left is None or progress["state"] != "running" else format_duration(left),
        "state": progress["state"],
    }
    cells = "".join(f"<div><b>{html.escape(value)}</b><span>{name}</span></div>" for name, value in tiles.items())
    share = min(max(progress["share"], 0.0), 1.0)
    return (
        f'<div class="bar" role="progressbar" aria-valuenow="{share:.0%}"><i style="width: {share:.2%}"></i></div>'
        f'<div class="tiles">{cells}</div>'
    )


@dataclass(frozen=True)
class Shown:
    """What a page in a browser shows.

    Args:
        version: version of the measurements that the charts show.
        drawn_at: time at which the charts were updated.
        grids: number of grids.
        progress: progress as HTML.
    """

    version: int
    drawn_at: float
    grids: int
    progress: str


class FollowPage:
    """The page that follows a training: its components, and what refreshes them. Create it inside of ``gr.Blocks``.

    Args:
        run: the run.
    """

    def __init__(self, run: Run):
        import gradio as gr

        self.run, self.reader = run, MetricsReader(run)
        self.reader.update()
        grids = list_grids(run)
        progress = format_progress(self.reader.summarise())
        self.progress = gr.HTML(progress, elem_id="progress")
        with gr.Row(elem_classes="panes"):
            with gr.Column(scale=1, min_width=320):
                self.grid, self.number = _add_grid(grids)
            with gr.Column(scale=1, min_width=320):
                self.charts = _add_charts(self.reader.collect_curves())
        self.shown = gr.State(Shown(self.reader.version, 0.0, len(grids), progress))
        self._connect()

    def _connect(self) -> None:
        """Refresh the page every few seconds, and show the grid that the slider chooses."""
        import gradio as gr

        gr.Timer(REFRESH_SECONDS).tick(
            self.refresh,
            [self.shown, self.number],
            [self.shown, self.progress, self.grid, self.number, *self.charts],
            api_visibility="private",
            show_progress="hidden",
        )
        self.number.input(
            show_errors(self.show_grid),
            self.number,
            [self.grid, self.number],
            api_name="grid",
            preprocess=False,
            show_progress="hidden",
            trigger_mode="always_last",
        )
        gr.api(self.get_progress, api_name="progress")

    def get_progress(self) -> dict[str, Any]:
        """Return the progress of the training, and the number of grids."""
        self.reader.update()
        return {**self.reader.summarise(), "grids": len(list_grids(self.run))}

    def show_grid(self, number: int) -> tuple[Any, ...]:
        """Return the path of a grid and the label of the slider.

        Args:
            number: number of the grid, counted from 1.

        Raises:
            ConfigError: the number is out of range.
            RunError: the run has no grid yet.
        """
        import gradio as gr

        paths = list_grids(self.run)
        place = read_integer("number", number, 1, max(len(paths), 2))
        if not paths:
            raise RunError("The run has no grid yet; the first one is drawn after some training.")
        place = min(place, len(paths))
        return str(paths[place - 1]), gr.Slider(label=_label_grid(paths, place))

    def refresh(self, shown: Shown, number: int) -> tuple[Any, ...]:
        """Return what has changed: the state of the page, then updates of its components.

        Args:
            shown: what the page shows.
            number: number of the grid that it shows, counted from 1.
        """
        import gradio as gr

        self.reader.update()
        paths, progress = list_grids(self.run), format_progress(self.reader.summarise())
        charts, grid, slider = [gr.skip() for _ in self.charts], gr.skip(), gr.skip()
        version, drawn_at = shown.version, shown.drawn_at
        if self.reader.version != version and time.monotonic() - drawn_at > CHART_SECONDS:
            charts = _update_charts(self.reader.collect_curves(), len(self.charts))
            version, drawn_at = self.reader.version, time.monotonic()
        if paths and len(paths) != shown.grids:
            newest = number >= shown.grids  # the slider is at the end, and stays there
            place = len(paths) if newest else int(number)
            slider = gr.Slider(
                maximum=max(len(paths), 2), value=place, label=_label_grid(paths, place), visible=len(paths) > 1
            )
            grid = str(paths[-1]) if newest else gr.skip()
        new = Shown(version, drawn_at, len(paths), progress)
        return new, gr.skip() if progress == shown.progress else progress, grid, slider, *charts


def _add_grid(paths: list[Path]) -> tuple[Any, Any]:
    """Add the newest grid, and the slider that chooses another."""
    import gradio as gr

    grid = gr.Image(
        str(paths[-1]) if paths else None,
        label="Grid",
        show_label=False,
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id="grid",
    )
    count = len(paths)
    label, visible = _label_grid(paths, count), count > 1
    return grid, gr.Slider(1, max(count, 2), max(count, 1), step=1, label=label, buttons=[], visible=visible)


def _label_grid(paths: list[Path], place: int) -> str:
    """Return the label of the grid at a place, counted from 1: ``Grid after 16,000 images``."""
    if not 1 <= place <= len(paths):
        return "Grid"
    return f"Grid after {int(paths[place - 1].stem.partition('-')[2]):,} images"


def _add_charts(curves: Curves) -> list[Any]:
    """Add as many charts as a run may need; those without curves are hidden."""
    import gradio as gr

    groups = [*curves.items(), *[("", {})] * MAX_CHARTS][:MAX_CHARTS]
    with gr.Column(elem_classes="charts"):
        return [
            gr.LinePlot(
                _make_table(measures) if measures else None,
                x="images",
                y="value",
                color="measure",
                x_title="images",
                y_title=" ",
                color_title="",
                title=group,
                height=220,
                visible=bool(measures),
                buttons=[],
            )
            for group, measures in groups
        ]


def _update_charts(curves: Curves, count: int) -> list[Any]:
    import gradio as gr

    groups = list(curves.items())[:count]
    updates = [gr.LinePlot(value=_make_table(measures), title=group, visible=True) for group, measures in groups]
    return [*updates, *[gr.skip()] * (count - len(updates))]


def _make_table(measures: dict[str, list[tuple[float, float]]]) -> Any:
    """Return the points of curves as a data frame, with a row per point."""
    import pandas

    rows = [(x, y, measure) for measure, points in measures.items() for x, y in points]
    return pandas.DataFrame(rows, columns=["images", "value", "measure"])

"""Models of the demo: opened by name, on first use, and run by one thread."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stackflower.demo.examples import find_example_captions
from stackflower.errors import ConfigError, StackflowerError
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import Run

T = TypeVar("T")

MAX_LOADED = 4  # models in memory


@dataclass(frozen=True)
class DemoModel:
    """A model with what the controls need to know about it.

    Args:
        name: name that the model was opened by.
        pipeline: the model.
        captions: example captions.
        best_of_problem: reason why `best_of` is not available; empty if it is.
    """

    name: str
    pipeline: Pipeline
    captions: list[str]
    best_of_problem: str = ""

    @property
    def has_several_resolutions(self) -> bool:
        """Whether `side_by_side` shows more than the final image."""
        return len(self.pipeline.stage.all_resolutions) > 1

    def describe(self) -> str:
        """Describe the model in one line: ``64 px · 1.9 million parameters``."""
        sizes = " → ".join(str(resolution) for resolution in self.pipeline.stage.all_resolutions)
        count = sum(parameter.numel() for parameter in self.pipeline.stage.parameters())
        return f"{sizes} px · {count / 1e6:.1f} million parameters"


def open_model(name: str) -> DemoModel:
    """Open a model, with its discriminator if a checkpoint has one.

    Args:
        name: folder of a run.

    Raises:
        StackflowerError: the model can't be opened.
    """
    run = Run(name)
    problem = "This model has no discriminator to choose images with."
    if run.list_checkpoints():
        try:
            return DemoModel(
                name, Pipeline.from_run(run, with_discriminator=True), find_example_captions(run.read_record())
            )
        except StackflowerError as error:
            problem = f"The discriminator can't be loaded: {error}"
    return DemoModel(name, Pipeline.from_run(run), find_example_captions(run.read_record()), problem)


class Models:
    """Models that the demo offers. They are opened on first use; the most recently used ones stay in memory.

    All work on models runs in one thread, so that concurrent requests need no more memory than one.

    Args:
        names: names of the models, the default first.
        open_by_name: function that opens a model.
    """

    def __init__(self, names: Sequence[str], open_by_name: Callable[[str], DemoModel] = open_model):
        self.names = list(dict.fromkeys(names))
        self._open = open_by_name
        self._loaded: OrderedDict[str, DemoModel] = OrderedDict()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="models")

    @property
    def choices(self) -> list[tuple[str, str]]:
        """Label and name of each model: the folder, or the whole name where two folders have the same name."""
        folders = [Path(name).name or name for name in self.names]
        return [
            (folder if folders.count(folder) == 1 else name, name)
            for folder, name in zip(folders, self.names, strict=True)
        ]

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in the thread of the models, after those that wait already, and return its result."""
        return self._worker.submit(function, *args).result()

    def get(self, name: str) -> DemoModel:
        """Return a model, opening it if necessary. Call it in the thread of the models (see `run`).

        Raises:
            ConfigError: the demo does not offer the model.
            StackflowerError: the model can't be opened.
        """
        if name not in self.names:
            raise ConfigError(f"`model` must be one of {', '.join(self.names)}, got {str(name)[:60]!r}.")
        if name not in self._loaded:
            self._loaded[name] = self._open(name)
            while len(self._loaded) > MAX_LOADED:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(name)
        return self._loaded[name]

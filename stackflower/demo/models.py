"""Models of the demo: opened by name, on first use, and run by one thread."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stackflower.errors import ConfigError, StackflowerError
from stackflower.models.finding import find_model
from stackflower.models.record import is_model
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import Run

T = TypeVar("T")

MAX_LOADED = 4  # models in memory
MAX_EXAMPLES, SHORT = 6, 60  # example captions; characters beyond which the page cuts them
FLOWERS = [
    "a red flower with pointed petals and a yellow center",
    "a white flower with round petals",
    "a large purple flower on a green stem",
    "a small orange flower with many narrow petals",
    "a pink flower with a dark center",
    "yellow petals around a brown center",
]


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
    """Open a model or a run, with its discriminator if a checkpoint has one.

    Args:
        name: name of the model (see `Pipeline.from_pretrained`).

    Raises:
        StackflowerError: the model can't be opened.
    """
    folder = find_model(name)
    problem = "This model has no discriminator to choose images with."
    if not is_model(folder) and Run(folder).list_checkpoints():
        try:
            pipeline = Pipeline.from_run(folder, with_discriminator=True)
            return DemoModel(name, pipeline, _choose_captions(pipeline))
        except StackflowerError as error:
            problem = f"The discriminator can't be loaded: {error}"
    pipeline = Pipeline.from_pretrained(folder)
    return DemoModel(name, pipeline, _choose_captions(pipeline), problem)


def _choose_captions(pipeline: Pipeline) -> list[str]:
    """Return example captions of a model, short ones first, or captions of flowers if it records none."""
    captions = pipeline.record.captions if pipeline.record is not None else []
    return sorted(captions, key=lambda caption: len(caption) > SHORT)[:MAX_EXAMPLES] or FLOWERS


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

"""The record of a model, stored in the ``config.json`` of its folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from stackflower.config.schema import Part, PreviousStage
from stackflower.errors import ConfigError, ModelError
from stackflower.options import Count, Natural, read_section

FORMAT = 1  # of the folder; raised by changes that older versions can't read
CONFIG_FILE = "config.json"
LARGEST_CONFIG = 10_000_000  # bytes
PICKLED_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
ADVICE = "Download or export the model again."
MAX_LOAD_RATIO = 100
Precision = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class Training:
    """How a model was trained, for its card. Nothing is rebuilt from it.

    Args:
        recipe: name of the recipe.
        data: name of the data set, without its path.
        images: number of training images seen.
        precision: precision of the training.
        seed: random seed.
        features: `Features.describe` of the pretrained network that the model was trained against, if any.
    """

    recipe: str = ""
    data: str = ""
    images: Natural = 0
    precision: str = ""
    seed: Natural = 0
    features: dict[str, str] | None = None


@dataclass(frozen=True)
class ModelRecord:
    """The contents of a model's ``config.json``: what is needed to rebuild its networks, and what it was trained on.

    It holds no paths, no host names, and nothing of the discriminator.

    Args:
        format: format of the folder.
        stackflower: version that wrote the folder.
        text_dim: size T of the text embeddings.
        resolution: height and width of the largest generated images, in pixels.
        encoder: fingerprint of the text encoder.
        text: name and options of the text encoder.
        networks: number of the stage, its conditioning and generator, the size of its prepared images divided by its
            resolution, and the previous stage as "below".
        precision: type of the weights in the files.
        files: SHA-256 of each other file that is loaded, by its name.
        captions: example captions.
        training: fields of `Training`.
        scores: results of `stackflower eval`, as in the run's folder.
        word_dim: size D of the vectors of words; 0 if the text encoder has none.
    """

    format: Count
    stackflower: str
    text_dim: Count
    resolution: Count
    encoder: str
    text: dict[str, Any]
    networks: dict[str, Any]
    precision: Precision = "fp32"
    files: dict[str, str] = field(default_factory=dict)
    captions: list[str] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    word_dim: Natural = 0

    @cached_property
    def text_part(self) -> Part:
        """The text encoder."""
        return Part.from_dict(self.text)

    @cached_property
    def stage(self) -> PreviousStage:
        """The stage and its previous stages."""
        return PreviousStage.from_dict(_add_runs(self.networks))

    @cached_property
    def history(self) -> Training:
        """How the model was trained."""
        known = {spec.name for spec in dataclasses.fields(Training)}
        return Training(**{key: value for key, value in self.training.items() if key in known})

    @classmethod
    def from_dict(cls, values: Any) -> ModelRecord:
        """Build a record from parsed JSON.

        Raises:
            ConfigError: a list of everything that is wrong.
        """
        problems: list[str] = []
        record = read_section(cls, values, "config", problems)
        if record is not None:
            try:
                _ = record.text_part, record.stage
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
                problems.append(f"config: the networks are not described completely ({error!r}).")
            read_section(Training, record.training, "config.training", problems, partial=True)
            problems += _check_stages(record) if not problems else []
        if problems or record is None:
            raise ConfigError(problems)
        return record

    def to_json(self) -> str:
        """Convert to JSON, as in ``config.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


def is_model(folder: Path) -> bool:
    """Return whether a folder holds a model, and not a run: by its ``config.json``."""
    try:
        return "networks" in _read_config(folder)
    except ModelError:
        return False


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ModelError(f"{path} is larger than {LARGEST_CONFIG:,} bytes; it is not that of a model.")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a model: {CONFIG_FILE} is missing.{mention_pickles(folder)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged ({error}). {ADVICE}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} is damaged: it is not a JSON object. {ADVICE}")
    return values


def mention_pickles(folder: Path) -> str:
    """Return a sentence about a pickled file in the folder, or ""."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED_SUFFIXES) if folder.is_dir() else []
    return f" {names[0]} is pickled, and is never read, because that could run code." if names else ""


def read_record(folder: Path) -> ModelRecord:
    """Read and validate the record of a model folder.

    Raises:
        ModelError: the file is missing, damaged, or of a newer version.
    """
    values = _read_config(folder)
    version = values.get("format")
    if "networks" not in values:
        raise ModelError(f"{folder / CONFIG_FILE} is not that of a Stackflower model.{mention_pickles(folder)}")
    if isinstance(version, int) and version > FORMAT:
        raise ModelError(
            f"{folder} was written by Stackflower {values.get('stackflower')} in format {version}; this version reads "
            f"formats up to {FORMAT}. Install a newer version: pip install --upgrade stackflower"
        )
    try:
        return ModelRecord.from_dict(values)
    except ConfigError as error:
        raise ModelError(
            f"{folder / CONFIG_FILE}, written by Stackflower {values.get('stackflower')}, is not valid:\n{error}\n"
            f"{ADVICE}"
        ) from error


def _check_stages(record: ModelRecord) -> list[str]:
    """Return what is wrong with the numbers of the stages: each is one more than that of the stage before it."""
    stage: PreviousStage | None = record.stage
    while stage is not None:
        expected = 1 if stage.below is None else stage.below.stage + 1
        if stage.stage != expected:
            return [f"config.networks: stage = {stage.stage} is described as the stage {expected}."]
        if not 0 < stage.load_ratio <= MAX_LOAD_RATIO:
            return [f"config.networks: load_ratio = {stage.load_ratio} should be from 0 to {MAX_LOAD_RATIO}."]
        stage = stage.below
    return []


def _add_runs(networks: Mapping[str, Any]) -> dict[str, Any]:
    """Add the field "run", which a model does not record, to a description of networks."""
    below = networks.get("below")
    return {**networks, "run": "", "below": None if below is None else _add_runs(below)}

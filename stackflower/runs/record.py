"""What ``config.json`` of a run holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stackflower.config.resolve import resolve
from stackflower.config.schema import RunConfig
from stackflower.errors import ConfigError, RunError
from stackflower.features.base import Features
from stackflower.options import Count, Natural, Share, read_section


@dataclass(frozen=True)
class RunRecord:
    """What ``config.json`` of a run holds: the configuration, what was measured to resolve it, and what else is needed to rebuild
    the networks and to notice that data or encoder have changed. Everything that reads a run reads this."""

    stackflower: str  # the version that trained it
    text_dim: Count  # T of the text embeddings
    resolution: Count  # pixels of the largest generated images
    load_size: Count  # pixels of the prepared images
    data_key: str  # of the prepared training split
    encoder: str  # fingerprint of the text encoder
    features: dict[str, str] | None  # the pretrained network of the training, as `Features.describe` gives it
    precision: str  # of the training
    length: list[
        tuple[Natural, Share, Natural]
    ]  # images, share and total of each estimate of a time-limited training's length
    run: dict[str, Any]  # the configuration, as `RunConfig.to_dict` gives it

    @cached_property
    def config(self) -> RunConfig:
        """The configuration. ConfigError lists what is wrong with it."""
        return resolve(self.run)

    @classmethod
    def from_dict(cls, values: Any) -> RunRecord:
        """From what JSON holds. ConfigError lists everything that is wrong."""
        problems: list[str] = []
        record = read_section(cls, values, "config", problems)
        if record is None:
            raise ConfigError(problems)
        _ = record.config
        return record

    def check_features(self, run: object, features: Features | None) -> None:
        """RunError if a pretrained network is not the one that the run was trained against."""
        found = None if features is None else features.describe()
        if found != self.features:
            raise RunError(
                f"{run} was trained against {_described(self.features)}, and here is {_described(found)}. Put back the weights, or the "
                "version of the package that they come from."
            )

    def check_unchanged(self, run: object, now: RunRecord) -> None:
        """RunError if the run would go on, as of `now`, with other images, captions or embeddings than it has seen."""
        changed = [
            what
            for what, same in (
                ("the images or captions", self.data_key == now.data_key),
                ("the text encoder", self.encoder == now.encoder),
                ("the features' weights", self.features == now.features),
            )
            if not same
        ]
        if changed:
            raise RunError(
                f"Since {run} was trained, {' and '.join(changed)} changed, so it can't go on as it was. Put back what it was "
                "trained with, or train a new run with another `out`."
            )


def _described(features: Mapping[str, str] | None) -> str:
    return "no pretrained network" if features is None else f"{features['name']} ({features['weights_sha256']})"

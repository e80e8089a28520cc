"""The record of a run, stored in ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from stackflower.config.resolve import resolve
from stackflower.config.schema import RunConfig
from stackflower.errors import ConfigError, RunError
from stackflower.features.base import Features
from stackflower.options import Count, Natural, Share, read_section


@dataclass(frozen=True)
class RunRecord:
    """The contents of a run's ``config.json``.

    It holds what is needed to rebuild the networks, and to detect that the data or the text encoder have changed.

    Args:
        stackflower: version that trained the run.
        text_dim: size T of the text embeddings.
        resolution: height and width of the largest generated images, in pixels.
        load_size: height and width of the prepared images, in pixels.
        data_key: key of the prepared training split.
        encoder: fingerprint of the text encoder.
        features: `Features.describe` of the discriminator's pretrained network; None without one.
        precision: precision of the training.
        length: images, share and total of each estimate of the length of a time-limited training.
        run: `RunConfig.to_dict` of the configuration.
        threads: images seen and number of threads of each change, since the oldest checkpoint.
        word_dim: size D of the vectors of words; 0 if the text encoder has none.
    """

    stackflower: str
    text_dim: Count
    resolution: Count
    load_size: Count
    data_key: str
    encoder: str
    features: dict[str, str] | None
    precision: str
    length: list[tuple[Natural, Share, Natural]]
    run: dict[str, Any]
    threads: list[tuple[Natural, Count]] = field(default_factory=list)
    word_dim: Natural = 0

    @cached_property
    def config(self) -> RunConfig:
        """The configuration; ConfigError lists everything that is wrong with it."""
        return resolve(self.run)

    @classmethod
    def from_dict(cls, values: Any) -> RunRecord:
        """Build a record from parsed JSON.

        Raises:
            ConfigError: a list of everything that is wrong.
        """
        problems: list[str] = []
        record = read_section(cls, values, "config", problems)
        if record is None:
            raise ConfigError(problems)
        _ = record.config
        return record

    def check_features(self, run: object, features: Features | None) -> None:
        """Check that a pretrained network is the one that the run was trained against.

        Args:
            run: name of the run, for the message.
            features: the installed network; None without one.

        Raises:
            RunError: the network or its weights differ.
        """
        installed = None if features is None else features.describe()
        if installed != self.features:
            raise RunError(
                f"{run} was trained against {_describe(self.features)}, but {_describe(installed)} is installed. "
                "Restore the weights, or the version of the package that provides them."
            )

    def check_unchanged(self, run: object, now: RunRecord) -> None:
        """Check that a run would resume with the images, captions and embeddings it was trained on.

        Args:
            run: name of the run, for the message.
            now: record of the run with the present data and weights.

        Raises:
            RunError: the data, the text encoder or the features' weights have changed.
        """
        changed = [
            name
            for name, same in (
                ("the images or captions", self.data_key == now.data_key),
                ("the text encoder", self.encoder == now.encoder),
                ("the features' weights", self.features == now.features),
            )
            if not same
        ]
        if changed:
            raise RunError(
                f"{run} can't be resumed: {' and '.join(changed)} changed since it was trained. Restore the original, "
                "or train a new run with another `out`."
            )


def _describe(features: Mapping[str, str] | None) -> str:
    return "no pretrained network" if features is None else f"{features['name']} ({features['weights_sha256']})"

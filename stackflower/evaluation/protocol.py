"""How scores are computed: what is chosen on the command line, and what every score states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stackflower import registry
from stackflower.errors import ConfigError


@dataclass(frozen=True)
class Protocol:
    """The choices behind a score.

    Args:
        metrics: names of metrics; None: all that the data allow.
        split: of the data; None: the one that scores are reported on.
        samples: number of generated images; None: one for each image of the split, at most 5,000.
        splits: of the Inception Score.
        seed: of the choice of captions, noise and shuffling.
        truncation: of the noise, or None.
        trim_border: crop borders of one colour off a folder's images.
        skip_bad: leave out files of a folder that can't be read, and say so.
    """

    metrics: Sequence[str] | None = None
    split: str | None = None
    samples: int | None = None
    splits: int = 10
    seed: int = 0
    truncation: float | None = None
    trim_border: bool = False
    skip_bad: bool = False

    def __post_init__(self) -> None:
        known = registry.names("metric")
        unknown = [name for name in self.metrics or () if name not in known]
        if unknown:
            raise ConfigError(f"--metrics {','.join(unknown)}: allowed are {', '.join(known)}, separated by commas.")

"""How scores are computed: what is chosen on the command line, and what every score states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stackflower.errors import ConfigError

METRICS = ("is", "fid", "captions", "diversity")
OF_FOLDERS = ("is", "fid")  # a folder of images does not say which captions they are of
SMALL_SAMPLE = 2048  # images below which the Fréchet distance is biased


@dataclass(frozen=True)
class Protocol:
    """The choices behind a score.

    Args:
        metrics: of METRICS; None: all that the data allows.
        split: of the data; None: the one that scores are reported on.
        samples: number of generated images; None: one for each image of the split, at most 5,000.
        splits: of the Inception Score.
        seed: of the choice of captions, noise and shuffling.
        truncation: of the noise, or None.
        trim_border: crop borders of one colour off a folder's images.
    """

    metrics: Sequence[str] | None = None
    split: str | None = None
    samples: int | None = None
    splits: int = 10
    seed: int = 0
    truncation: float | None = None
    trim_border: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics or () if name not in METRICS]
        if unknown:
            raise ConfigError(f"--metrics {','.join(unknown)}: allowed are {', '.join(METRICS)}, separated by commas.")

    def wants(self, metric: str) -> bool:
        """Whether a metric is computed where the data allow it."""
        return metric in (self.metrics or METRICS)

    def requires(self, metric: str) -> bool:
        """Whether it was named, so that data that do not allow it are an error."""
        return metric in (self.metrics or ())

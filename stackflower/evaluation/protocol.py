"""Evaluation protocols: the choices that determine how scores are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stackflower import registry
from stackflower.errors import ConfigError
from stackflower.options import suggest

DEFAULT_KEPT = 10_000


@dataclass(frozen=True)
class Protocol:
    """The choices behind a score.

    Args:
        name: name of the protocol.
        metrics: names of metrics; None: all that the data allow.
        split: reference split; None: the split that scores are reported on.
        samples: number of captions; None: one for each image of the split, at most 5,000.
        per_caption: number of images per caption.
        splits: splits of the Inception Score.
        kept: maximum number of generated and of real images whose features are kept, for metrics that compare single
            images; in random order, the first images are kept.
        unseen_classes: numbers of classes of the training split and of `split`, which must not overlap; None: any.
        seed: seed of captions, noise and shuffling.
        truncation: standard deviations at which noise is truncated; None: not truncated.
        trim_border: crop borders of one colour off a folder's images.
        skip_bad: leave out files of a folder that can't be read, with a warning.
    """

    name: str = "default"
    metrics: Sequence[str] | None = None
    split: str | None = None
    samples: int | None = None
    per_caption: int = 1
    splits: int = 10
    kept: int = DEFAULT_KEPT
    unseen_classes: tuple[int, int] | None = None
    seed: int = 0
    truncation: float | None = None
    trim_border: bool = False
    skip_bad: bool = False

    def __post_init__(self) -> None:
        allowed = registry.list_parts("metric")
        unknown = [name for name in self.metrics or () if name not in allowed]
        if unknown:
            raise ConfigError(f"`metrics={name}`: unknown metric {name!r}.{suggest(name, allowed)}" for name in unknown)

    def describe(self) -> dict[str, object]:
        """Return the protocol fields that do not depend on the subject or the data."""
        return {"protocol": self.name, "splits": self.splits, "seed": self.seed}


PROTOCOLS: dict[str, dict[str, Any]] = {
    "default": {},
    "stackgan-birds": {
        "metrics": ("is",), "split": "test", "per_caption": 10, "splits": 10, "truncation": None,
        "unseen_classes": (150, 50),
    },
    "stackgan-flowers": {
        "metrics": ("is",), "split": "test", "per_caption": 10, "splits": 10, "truncation": None,
        "unseen_classes": (82, 20),
    },
    "competition": {"metrics": ("is", "cosine"), "per_caption": 1, "splits": 1, "truncation": None},
}  # fmt: skip
"""Protocols by name.

``stackgan-birds`` and ``stackgan-flowers`` follow StackGAN (Zhang et al. 2017): the test classes do not occur in
training, ten images are generated per caption, and the Inception Score uses ten splits and a classifier of the test
classes. ``competition`` follows the reverse image caption competition: the Inception Score of all images without
splits, and the cosine distance of logits to the real image.
"""


def find_protocol(name: str, choices: Mapping[str, Any]) -> Protocol:
    """Return a protocol by name, with further choices.

    Args:
        name: name of the protocol.
        choices: choices that the protocol leaves open; None stands for the default.

    Raises:
        ConfigError: the name is unknown, or the protocol fixes one of the choices.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"Unknown protocol {name!r}.{suggest(name, list(PROTOCOLS))}")
    fixed, chosen = PROTOCOLS[name], {key: value for key, value in choices.items() if value is not None}
    if "metrics" in chosen:
        metrics = chosen["metrics"]
        chosen["metrics"] = tuple(metrics.split(",") if isinstance(metrics, str) else metrics)
    for key, value in chosen.items():
        if key in fixed and value != fixed[key]:
            raise ConfigError(
                f"`{key}`: the protocol {name} {_describe_fixed(key, fixed[key])}; leave out `{key}` or `protocol`."
            )
    return Protocol(**{**fixed, **chosen}, name=name)


def _describe_fixed(key: str, value: Any) -> str:
    """Describe a choice fixed by a protocol, as the end of a sentence."""
    if value is None:
        return f"does not allow `{key}`"
    return f"fixes `{key}={','.join(value) if isinstance(value, tuple) else value}`"

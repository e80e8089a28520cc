"""The summary page of a prepared data set."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader
from PIL import Image

from stackflower.data.prepared import Prepared
from stackflower.data.survey import Survey, count_shared_images
from stackflower.reports.gallery import Picture, data_uri

PICTURES = 12  # of each split
SHOWN = 200  # lines of a list
BARS = 24  # of the lengths of captions


def data_page(title: str, layout: str, size: int, splits: Mapping[str, tuple[Prepared, Survey]]) -> str:
    """One HTML file that needs nothing else."""
    environment = Environment(loader=PackageLoader("stackflower", "reports/templates"), autoescape=True)
    shared = count_shared_images([found for _, found in splits.values()])
    shown = {
        split: {**vars(found), **_lengths(found), "pictures": _pictures(data)}
        for split, (data, found) in splits.items()
    }
    for own in shown.values():
        own["classes"] = list(own["classes"].items())
    return environment.get_template("data.html").render(
        title=title, layout=layout, size=size, splits=shown, shared=shared, shown=SHOWN
    )


def _pictures(data: Prepared) -> list[Picture]:
    """Evenly spaced images of a split with their first captions."""
    count = min(PICTURES, len(data.rows))
    places = [place * len(data.rows) // count for place in range(count)]
    images = data.images[places].numpy()
    return [
        Picture(data_uri(Image.fromarray(image), "JPEG"), data.captions[place][0])
        for place, image in zip(places, images, strict=True)
    ]


def _lengths(found: Survey) -> dict[str, Any]:
    """Numbers and bars of the captions' lengths."""
    every = [words for words, count in found.lengths.items() for _ in range(count)]
    step = -(-(max(every) + 1) // BARS)
    bars: dict[int, int] = {}
    for words, count in found.lengths.items():
        bars[words // step * step] = bars.get(words // step * step, 0) + count
    most = max(bars.values())
    labels = {start: str(start) if step == 1 else f"{start} to {start + step - 1}" for start in bars}
    return {
        "words_least": min(every),
        "words_most": max(every),
        "words_median": round(statistics.median(every)),
        "lengths": [(labels[start], count, count / most) for start, count in bars.items()],
    }

"""The summary page of a prepared data set."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader
from PIL import Image

from stackflower.data.prepared import Prepared
from stackflower.data.survey import Survey, count_shared_images
from stackflower.reports.gallery import Picture, encode_data_uri

PICTURE_COUNT = 12  # images shown per split
MAX_LISTED = 200  # lines shown per list
BAR_COUNT = 24  # bars of the histogram of caption lengths


def render_data_page(title: str, layout: str, size: int, splits: Mapping[str, tuple[Prepared, Survey]]) -> str:
    """Render the summary page.

    Args:
        title: title of the data set.
        layout: description of its layout.
        size: size in pixels at which the images are prepared.
        splits: images and survey of each split, by its name.

    Returns:
        A self-contained HTML page.
    """
    environment = Environment(loader=PackageLoader("stackflower", "reports/templates"), autoescape=True)
    shared = count_shared_images([split_survey for _, split_survey in splits.values()])
    sections = {
        split: {**vars(split_survey), **_summarise_lengths(split_survey), "pictures": _choose_pictures(data)}
        for split, (data, split_survey) in splits.items()
    }
    for section in sections.values():
        section["classes"] = list(section["classes"].items())
    return environment.get_template("data.html").render(
        title=title, layout=layout, size=size, splits=sections, shared=shared, max_listed=MAX_LISTED
    )


def _choose_pictures(data: Prepared) -> list[Picture]:
    """Choose evenly spaced images of a split, with their first captions."""
    count = min(PICTURE_COUNT, len(data.rows))
    places = [place * len(data.rows) // count for place in range(count)]
    images = data.images[places].numpy()
    return [
        Picture(encode_data_uri(Image.fromarray(image), "JPEG"), data.captions[place][0])
        for place, image in zip(places, images, strict=True)
    ]


def _summarise_lengths(split_survey: Survey) -> dict[str, Any]:
    """Compute the range, median and histogram of the words per caption."""
    word_counts = [words for words, count in split_survey.lengths.items() for _ in range(count)]
    step = -(-(max(word_counts) + 1) // BAR_COUNT)
    bars: dict[int, int] = {}
    for words, count in split_survey.lengths.items():
        bars[words // step * step] = bars.get(words // step * step, 0) + count
    highest = max(bars.values())
    labels = {start: str(start) if step == 1 else f"{start} to {start + step - 1}" for start in bars}
    return {
        "words_least": min(word_counts),
        "words_most": max(word_counts),
        "words_median": round(statistics.median(word_counts)),
        "lengths": [(labels[start], count, count / highest) for start, count in bars.items()],
    }

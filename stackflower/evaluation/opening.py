"""Open the feature extractor and the split to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelerate import PartialState

from stackflower.config.schema import Part
from stackflower.data.source import Source
from stackflower.errors import DataError
from stackflower.evaluation.classifier.training import get_source_classifier
from stackflower.evaluation.extraction import DistributedExtractor
from stackflower.evaluation.extractors.base import Extractor
from stackflower.evaluation.processes import Processes
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.reference import Reference


def create_extractor(name: str | None, options: Mapping[str, Any], source: Source, resolution: int) -> Extractor:
    """Create the feature extractor.

    Args:
        name: name of the extractor; None: "domain" if the options have `weights` or the source has a classifier of its
            own, else Inception-v3.
        options: options of the extractor.
        source: data set to compare with.
        resolution: height and width of the images, in pixels.

    Raises:
        DataError: the extractor "domain" is requested, and no classifier of this data exists.
    """
    classifier_data, weights = source.classifier_data(), options.get("weights")
    name = name or ("domain" if weights or classifier_data else "inception-v3")
    if name == "domain" and weights is None:
        if classifier_data is None:
            raise DataError(
                "The extractor 'domain' needs a classifier of this data. Train one with `stackflower train-classifier` "
                "and pass `weights=FILE`, or use `extractor=inception-v3`."
            )
        options = {**options, "weights": str(get_source_classifier(classifier_data, resolution))}
    extractor: Extractor = Part(name, options).create("extractor")
    return extractor


def open_extractor_and_reference(
    protocol: Protocol,
    extractor_name: str | None,
    options: Mapping[str, Any],
    source: Source,
    resolution: int,
    size: int,
    state: PartialState,
) -> tuple[DistributedExtractor, Reference]:
    """Open the split to compare with, and create the extractor on the device of each process.

    The main process prepares what is missing from the cache.

    Args:
        protocol: protocol of the scores, which names the split.
        extractor_name: name of the extractor; None: the default for the source.
        options: options of the extractor.
        source: data set to compare with.
        resolution: height and width of the images to compare, in pixels.
        size: size in pixels at which the split is prepared.
        state: Accelerate's state of this process.
    """
    processes = Processes(state)
    with processes.main_first():
        reference = Reference.open(source, protocol.split, resolution, size)
        extractor = create_extractor(extractor_name, options, source, resolution)
    extractor.to(state.device)
    return DistributedExtractor(extractor, processes), reference

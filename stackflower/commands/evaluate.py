"""The eval command: draw for the data's captions, score, and say by what protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from stackflower import build
from stackflower.commands.train_classifier import built_in_classifier
from stackflower.config.schema import Part
from stackflower.data.images import load_square
from stackflower.data.source import Source
from stackflower.data.synthetic.source import SyntheticFlowers
from stackflower.errors import ConfigError, DataError
from stackflower.evaluation.extractors.base import Extracted, Extractor
from stackflower.evaluation.metrics.caption_accuracy import share_correct
from stackflower.evaluation.metrics.diversity import within_group_variance
from stackflower.evaluation.metrics.frechet_distance import frechet_distance
from stackflower.evaluation.metrics.inception_score import inception_score
from stackflower.evaluation.reference import Real
from stackflower.pipeline import Pipeline
from stackflower.runs.folder import RunFolder
from stackflower.training.accelerator import process_state
from stackflower.utils.progress import Bar, bar, silent
from stackflower.utils.rng import seeded

METRICS = ("is", "fid", "captions", "diversity")
DIVERSITY_CAPTIONS, DIVERSITY_NOISES = 48, 16


@dataclass(frozen=True)
class Protocol:
    """How scores are computed.

    Args:
        metrics: of METRICS; None: all that the data allows.
        samples: how many pictures are drawn; None: one for each picture of the split, at most 5,000.
        splits: of the Inception Score.
        seed: of captions' choice, noise and shuffling.
        truncation: of the noise, or None.
        trim_border: cut borders of one colour off a folder's pictures.
    """

    metrics: Sequence[str] | None = None
    samples: int | None = None
    splits: int = 10
    seed: int = 0
    truncation: float | None = None
    trim_border: bool = False


class Drawer:
    """Draws and extracts, each process its part, and gathers."""

    def __init__(self, pipeline: Pipeline, extractor: Extractor, processes: int, index: int):
        self.pipeline, self.extractor, self.processes, self.index = pipeline, extractor, processes, index

    def __call__(self, captions: Sequence[str], per_caption: int, seed: int, truncation: float | None) -> Extracted:
        part = (self.index, self.processes)
        batches = self.pipeline.draw(captions, per_caption=per_caption, seed=seed, truncation=truncation, part=part)
        parts = [self.extractor(batch.permute(0, 3, 1, 2)) for batch in batches]
        return joined([found for one in self.gathered(parts) for found in one])

    def gathered(self, mine: list[Extracted]) -> list[list[Extracted]]:
        """Every process's parts, in order."""
        return [mine] if self.processes == 1 else gather_object([mine])


def joined(parts: Sequence[Extracted]) -> Extracted:
    """Parts one after the other."""
    heads = {name: torch.cat([part.heads[name] for part in parts]) for name in parts[0].heads}
    return Extracted(torch.cat([p.features for p in parts]), torch.cat([p.logits for p in parts]), heads)


def _check(metrics: Sequence[str] | None) -> None:
    unknown = [name for name in metrics or () if name not in METRICS]
    if unknown:
        raise ConfigError(f"--metrics {','.join(unknown)}: allowed are {', '.join(METRICS)}, separated by commas.")


def _captions_score(found: Extracted, asked: Sequence[Mapping[str, str]], extractor: Extractor) -> dict[str, Any]:
    """Caption accuracy of each attribute, and the share of pictures in which all that was asked is found."""
    scores: dict[str, Any] = {}
    right, any_stated = torch.ones(len(asked), dtype=torch.bool), torch.zeros(len(asked), dtype=torch.bool)
    for name, values in extractor.attributes.items():
        position = {value: number for number, value in enumerate(values)}
        wanted = torch.tensor([position.get(one.get(name, ""), -1) for one in asked])
        stated = wanted >= 0
        if stated.any():
            scores[name] = share_correct(found.heads[name], wanted, stated)
            scores[f"{name}_captions"] = int(stated.sum())
            any_stated |= stated
            right &= ~stated | (found.heads[name].argmax(1) == wanted)
    return scores | ({"all_asked": float(right[any_stated].double().mean())} if any_stated.any() else {})


def _diversity(real: Real, drawer: Drawer, protocol: Protocol) -> dict[str, Any]:
    """Variance of features over noises within a caption, over that of real pictures."""
    pictures, numbers = real.chosen(DIVERSITY_CAPTIONS, protocol.seed + 1)
    picked = list(zip(pictures, numbers, strict=True))
    captions = [real.data.captions[picture][number] for picture, number in picked]
    drawn = drawer(captions, DIVERSITY_NOISES, protocol.seed + 1, protocol.truncation)
    groups = torch.arange(len(captions)).repeat_interleave(DIVERSITY_NOISES)
    alike, their_groups, against = real.alike(picked, DIVERSITY_NOISES, protocol.seed)
    mine = within_group_variance(drawn.features, groups)
    other = within_group_variance(drawer.extractor(alike).features, their_groups)
    return {
        "value": mine / other,
        "drawn_variance": mine,
        "real_variance": other,
        "against": against,
        "captions": len(captions),
        "noises": DIVERSITY_NOISES,
    }


def choose_extractor(name: str | None, weights: str | None, source: Source, resolution: int, display: Bar) -> Extractor:
    """The extractor asked for; for the built-in data the domain classifier is trained and cached by itself."""
    if name is None:
        name = "domain" if weights or isinstance(source, SyntheticFlowers) else "inception-v3"
    if name == "domain" and weights is None:
        if not isinstance(source, SyntheticFlowers):
            raise DataError(
                "The extractor 'domain' needs a classifier of this data: `stackflower train-classifier --data DIR --out FILE` "
                "makes one, then --extractor domain --weights FILE. Or --extractor inception-v3."
            )
        weights = str(built_in_classifier(resolution, display))
    options = {} if weights is None else {"weights": weights}
    extractor: Extractor = Part(name, options).create("extractor")
    return extractor


def evaluate(
    pipeline: Pipeline,
    real: Real,
    extractor: Extractor,
    protocol: Protocol,
    *,
    processes: int = 1,
    index: int = 0,
    weights: str = "",
) -> dict[str, Any]:
    """Scores of a trained run with the protocol they were computed by."""
    _check(protocol.metrics)
    pictures, numbers = real.chosen(protocol.samples, protocol.seed)
    captions = [real.data.captions[picture][number] for picture, number in zip(pictures, numbers, strict=True)]
    asked = [real.asked(picture, number) for picture, number in zip(pictures, numbers, strict=True)]
    drawer = Drawer(pipeline, extractor, processes, index)
    found = drawer(captions, 1, protocol.seed, protocol.truncation)
    theirs = extractor(real.data.centre(real.resolution, torch.tensor(list(dict.fromkeys(pictures)))))
    return (
        _scores(found, theirs, protocol, extractor)
        | _conditional(real, drawer, found, asked, protocol)
        | {
            "protocol": {
                **extractor.describe(),
                **real.describe(),
                "images": len(captions),
                "captions": f"one each of {len(set(pictures)):,} pictures of the split, drawn at random by the seed",
                "real_images": len(set(pictures)),
                "splits": protocol.splits,
                "seed": protocol.seed,
                "shuffle": "captions drawn in random order by the seed",
                "truncation": protocol.truncation,
                "weights": weights,
                "drawn_at": pipeline.resolution,
            }
        }
    )


def _scores(found: Extracted, theirs: Extracted, protocol: Protocol, extractor: Extractor) -> dict[str, Any]:
    wanted = protocol.metrics or METRICS
    scores: dict[str, Any] = {}
    if "is" in wanted:
        for name, logits in (("inception_score", found.logits), ("real_inception_score", theirs.logits)):
            if protocol.splits > len(logits):
                raise ConfigError(f"--splits {protocol.splits} of {len(logits)} pictures: use at most {len(logits)}.")
            mean, std = inception_score(logits, protocol.splits)
            scores |= {f"{name}_mean": mean, f"{name}_std": std}
        if len(found.logits) == len(theirs.logits):  # fewer pictures a split score lower
            scores["inception_score_share_of_real"] = (
                scores["inception_score_mean"] / scores["real_inception_score_mean"]
            )
    if "fid" in wanted:
        scores["frechet_distance"] = frechet_distance(found.features, theirs.features)
        if min(len(found.features), len(theirs.features)) < 2048:
            scores["frechet_distance_note"] = "biased upwards: fewer than 2,048 pictures on a side"
    return scores


def _conditional(
    real: Real, drawer: Drawer, found: Extracted, asked: Sequence[Mapping[str, str]], protocol: Protocol
) -> dict[str, Any]:
    wanted, scores = protocol.metrics or METRICS, {}
    explicit = protocol.metrics is not None
    if "captions" in wanted:
        if drawer.extractor.attributes:
            scores["caption_accuracy"] = _captions_score(found, asked, drawer.extractor)
        elif explicit:
            raise DataError("Caption accuracy needs data with attributes and --extractor domain trained on them.")
    if "diversity" in wanted and (explicit or real.data.labels is not None):
        try:
            scores["diversity_within_caption"] = _diversity(real, drawer, protocol)
        except ValueError as error:
            if explicit:
                raise DataError(
                    f"Diversity can't be measured: no two real pictures share a class or caption ({error})"
                ) from error
    return scores


def evaluate_folder(folder: Path, real: Real, extractor: Extractor, protocol: Protocol) -> dict[str, Any]:
    """Scores of the pictures in a folder, whoever made them."""
    _check(protocol.metrics)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if len(files) < 2:
        raise DataError(f"{folder} has {len(files)} pictures; scores need at least 2.")
    images = np.stack([load_square(path, real.resolution, protocol.trim_border) for path in files])
    found = extractor(torch.from_numpy(images).permute(0, 3, 1, 2))
    shuffle = torch.randperm(len(files), generator=seeded(protocol.seed, 4))
    found = Extracted(found.features[shuffle], found.logits[shuffle], {})
    order = torch.randperm(len(real.data.rows), generator=seeded(protocol.seed, 4))  # data may lie class by class
    theirs = extractor(real.data.centre(real.resolution, order))
    return _scores(found, theirs, protocol, extractor) | {
        "protocol": {
            **extractor.describe(),
            "images": len(files),
            "folder": str(folder),
            "resized_to": real.resolution,
            "borders": "of one colour cut off" if protocol.trim_border else "kept",
            "real_images": len(real.data.rows),
            **real.describe(),
            "splits": protocol.splits,
            "seed": protocol.seed,
            "shuffle": "files in random order by the seed",
        }
    }


def measure(
    run: str | None,
    images: str | None,
    data: dict[str, Any] | None,
    extractor: str | None,
    weights: str | None,
    protocol: Protocol,
    resolution: int | None = None,
) -> dict[str, Any] | None:
    """The scores of a run or of a folder of pictures, looked at with `resolution` px (64); None on processes other than the
    first."""
    if (run is None) == (images is None):
        raise ConfigError("Give a run folder or --images DIR" + (", not both." if run else "."))
    _check(protocol.metrics)
    if images is None and (protocol.trim_border or resolution):
        flag = "--trim-border" if protocol.trim_border else "--resolution"
        raise ConfigError(f"{flag} is for a folder's pictures: --images DIR. A run's are scored as it draws them.")
    state = process_state()
    display = bar if state.is_main_process else silent
    if images is not None:
        folder = Path(images).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"--images {images}: there is no such folder.")
        if data is None:
            raise ConfigError(f"--images {images}: say what to compare with, as in --data my-flowers.")
        refused = sorted({"captions", "diversity"} & set(protocol.metrics or ()))
        if refused or protocol.samples:
            what = "--samples" if protocol.samples else f"--metrics {','.join(refused)}"
            raise ConfigError(f"{what} does not go with --images: a folder says nothing of captions; use is and fid.")
        source = _source_of(data)
        resolution = resolution or 64
        size = build.clamped(round(resolution * build.LOAD_RATIO), source)
    else:
        pipeline = Pipeline.from_run(run or "", state.device)
        config = RunFolder(run or "").config()
        source = _source_of(data) if data else build.build_source(config)
        resolution, size = pipeline.resolution, build.load_size(config, pipeline.stage, source)
    with state.main_process_first():
        network = choose_extractor(extractor, weights, source, resolution, display)
        real = Real.open(source, resolution, size, display)
    if images is not None:
        return evaluate_folder(folder, real, network, protocol) if state.is_main_process else None
    averaged = "averaged (EMA)" if config.train.ema_half_life else "live"
    scores = evaluate(
        pipeline, real, network, protocol, processes=state.num_processes, index=state.process_index, weights=averaged
    )
    return {"run": str(run), **scores} if state.is_main_process else None


def _source_of(part: dict[str, Any]) -> Source:
    source: Source = Part.from_plain(part).create("data")
    return source


def report(scores: Mapping[str, Any]) -> str:
    """The scores as a person reads them, the protocol below."""
    lines = []
    if "inception_score_mean" in scores:
        lines.append(
            f"Inception Score     {scores['inception_score_mean']:.2f} ± {scores['inception_score_std']:.2f}   real pictures "
            f"{scores['real_inception_score_mean']:.2f} ± {scores['real_inception_score_std']:.2f}   "
            + (
                f"share {scores['inception_score_share_of_real']:.0%}"
                if "inception_score_share_of_real" in scores
                else "(of another number of pictures: no share)"
            )
        )
    if "frechet_distance" in scores:
        note = scores.get("frechet_distance_note", "")
        lines.append(f"Fréchet distance    {scores['frechet_distance']:.2f}" + (f"   ({note})" if note else ""))
    for name, value in scores.get("caption_accuracy", {}).items():
        if not name.endswith("_captions"):
            count = scores["caption_accuracy"].get(f"{name}_captions")
            lines.append(
                f"caption accuracy    {value:.3f}   {name}" + (f" ({count:,} captions ask for it)" if count else "")
            )
    if "diversity_within_caption" in scores:
        found = scores["diversity_within_caption"]
        lines.append(f"diversity           {found['value']:.2f}   of {found['against']}")
    lines.append("protocol")
    lines += [f"  {name:<18}{value}" for name, value in scores["protocol"].items()]
    return "\n".join(lines)

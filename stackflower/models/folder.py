"""Model folders: a trained stage with its text encoder, to share.

Their files::

    config.json                    `ModelRecord`
    generator.safetensors          stage
    generator-stage1.safetensors   previous stages
    text/                          files of the text encoder
    README.md, samples.jpg         model card
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stackflower import registry
from stackflower.build import build_stage
from stackflower.errors import ComponentError, ModelError, RunError
from stackflower.models.record import (
    ADVICE,
    CONFIG_FILE,
    ModelRecord,
    Precision,
    is_model,
    mention_pickles,
    read_record,
)
from stackflower.runs.checkpoint import load_previous, load_weights
from stackflower.runs.folder import Run
from stackflower.stages.base import Stage
from stackflower.text.base import TextEncoder
from stackflower.utils.atomic import replacing, write_text
from stackflower.utils.checksum import compute_sha256
from stackflower.utils.open_files import explain_read_error

# bounds of the options of a model, which could ask for more memory than there is
LARGEST_SIZE = 4096  # of an option of the networks, unless a tensor in the files is larger
LARGEST_TEXT_OPTION = 1_000_000
UNFINISHED = ".unfinished-"  # prefix of the temporary folder in which a model is written


def load_model(folder: Path) -> tuple[Stage, TextEncoder, ModelRecord]:
    """Load a model from its folder. The files are checked first, and nothing is unpickled.

    Args:
        folder: the model folder.

    Returns:
        The stage with weights in float32, its text encoder, and the record.

    Raises:
        ModelError: a file is missing or damaged, of a newer version, or does not match the others.
    """
    record = read_record(folder)
    weights = _list_weights(folder, record)
    _check_files(folder, record, weights)
    try:
        _check_shapes(record, weights)
        stage = build_stage(record.stage, record.text_dim, record.word_dim)
        load_weights(stage, weights[0], ADVICE)
        load_previous(stage, weights[1:])
        encoder = _load_encoder(folder / "text", record)
    except (ComponentError, RunError) as error:
        raise ModelError(f"{folder} can't be loaded: {error}") from error
    if encoder.dim != record.text_dim or encoder.fingerprint() != record.encoder:
        raise ModelError(
            f"{folder} was trained with another text encoder ({record.encoder}) than the installed one "
            f"({encoder.fingerprint()}), so images would not match their captions. Install Stackflower "
            f"{record.stackflower}, which wrote it."
        )
    return stage, encoder, record


def _list_weights(folder: Path, record: ModelRecord) -> list[Path]:
    """Return the files of the stage and of the previous stages, the latest first."""
    run = Run(folder)  # whose folder has the same names
    return [run.weights_file, *run.previous_weights_files(record.stage.stage)]


def _check_files(folder: Path, record: ModelRecord, weights: list[Path]) -> None:
    """Check that the files are there, lie in the folder, and have the checksums of the record."""
    root = folder.resolve()
    for path in weights:
        if path.name not in record.files:
            raise ModelError(f"{folder / CONFIG_FILE} has no checksum of {path.name}. {ADVICE}")
    for name, expected in record.files.items():
        pure, path = PurePosixPath(name), folder / name
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or pure.parts[:1] == ():
            raise ModelError(f"{folder / CONFIG_FILE} names the file {name!r}, which leads out of the folder.")
        if not path.is_file():
            raise ModelError(f"{folder} is incomplete: {name} is missing.{mention_pickles(folder)} {ADVICE}")
        if not _may_read(path, root):
            raise ModelError(f"{path} is a link out of the folder, which is not followed.")
        try:
            checksum = compute_sha256(path)
        except OSError as error:
            raise ModelError(f"{path} can't be read: {explain_read_error(error)}.") from error
        if checksum != expected:
            raise ModelError(f"{path} is damaged: its SHA-256 is not the one in {CONFIG_FILE}. {ADVICE}")


def _may_read(path: Path, root: Path) -> bool:
    """Return whether a file lies in the folder, or in the blobs of the Hub's cache that the folder is a snapshot of."""
    real = path.resolve()
    return real.is_relative_to(root) or (
        root.parent.name == "snapshots" and real.is_relative_to(root.parent.parent / "blobs")
    )


def _check_shapes(record: ModelRecord, weights: list[Path]) -> None:
    """Compare the networks of the record with the headers of the files, before memory is taken for either."""
    shapes = [_read_shapes(path) for path in weights]
    filled = (shape for file in shapes for shape in file.values() if 0 not in shape)  # an empty one takes no bytes
    largest = max([LARGEST_SIZE, *(size for shape in filled for size in shape)])
    sizes = {"text_dim": record.text_dim, "word_dim": record.word_dim}
    for name, value in _list_integers({**record.networks, **sizes, "text": record.text}):
        if abs(value) > (LARGEST_TEXT_OPTION if name.startswith("text.") else largest):
            raise ModelError(f"{CONFIG_FILE} sets {name} to {value:.3g}, which the weights do not have. {ADVICE}")
    if record.text.get("dim", record.text_dim) != record.text_dim:
        raise ModelError(f"{CONFIG_FILE} gives two sizes of the text embeddings. {ADVICE}")
    with torch.device("meta"):
        stage: Stage | None = build_stage(record.stage, record.text_dim, record.word_dim)
    assert stage is not None
    if stage.resolutions[-1] != record.resolution:
        raise ModelError(
            f"{CONFIG_FILE} gives a resolution of {record.resolution}, not {stage.resolutions[-1]}. {ADVICE}"
        )
    for path, found in zip(weights, shapes, strict=True):
        assert stage is not None
        expected = {name: tuple(value.shape) for name, value in stage.state_dict().items()}
        if found != expected:
            wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            raise ModelError(f"{path} does not match the networks in {CONFIG_FILE}: {', '.join(wrong[:5])}. {ADVICE}")
        stage = stage.previous


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of the tensors in a safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or not a safetensors file ({error}). {ADVICE}") from error


def _list_integers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield the dotted names and values of the integers in nested mappings and lists."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _list_integers(value, f"{prefix}{name}.")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int):
                yield f"{prefix}{name}", item


def _load_encoder(folder: Path, record: ModelRecord) -> TextEncoder:
    part = record.text_part
    cls: type[TextEncoder] = registry.get("text", part.name)
    encoder: TextEncoder = registry.create("text", part.name, **cls.import_options(folder, part.options))
    if folder.is_dir():
        encoder.restore(folder)
    return encoder


def save_model(
    folder: Path, stage: Stage, encoder: TextEncoder, record: ModelRecord, precision: Precision = "fp32"
) -> ModelRecord:
    """Write a model folder, without its card. ``config.json`` is written last: it makes the folder a model.

    Args:
        folder: folder to write; existing files of a model are replaced.
        stage: trained stage.
        encoder: its text encoder.
        record: record of the model; its files, precision and options of the text encoder are filled in.
        precision: type of the weights. "fp16" halves the files; vectors, such as biases and statistics of norms, stay
            in float32.

    Returns:
        The record as written.

    Raises:
        ModelError: the folder holds something else, or the text encoder can't be shared.
    """
    _refuse_other_content(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as temporary:  # a failure keeps the old model
        part, current = Path(temporary), stage
        options = encoder.export(part / "text", record.text_part.options)
        for path in _list_weights(part, record):
            with replacing(path) as file:
                save_file(_convert(current.state_dict(), precision, path.name), file, {"format": "pt"})
            current = current.previous or current
        names = sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file())
        written = dataclasses.replace(
            record,
            text={"name": record.text_part.name, **options},
            precision=precision,
            files={name: compute_sha256(part / name) for name in names},
        )
        (folder / CONFIG_FILE).unlink(missing_ok=True)
        shutil.rmtree(folder / "text", ignore_errors=True)
        for stale in folder.glob("generator*.safetensors"):
            stale.unlink()
        for path in list(part.iterdir()):
            os.replace(path, folder / path.name)
    write_text(folder / CONFIG_FILE, written.to_json())
    return written


def _refuse_other_content(folder: Path) -> None:
    """Raise ModelError unless the folder is new, empty or a model."""
    if folder.is_file():
        raise ModelError(f"{folder} is a file; name a folder.")
    content = [path for path in folder.iterdir() if not path.name.startswith(UNFINISHED)] if folder.is_dir() else []
    if content and not is_model(folder):
        raise ModelError(f"{folder} already exists and does not hold a model; choose another folder.")


def _convert(state: Mapping[str, Tensor], precision: Precision, name: str) -> dict[str, Tensor]:
    """Convert the tensors of a state to the type in which they are stored."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    if precision == "fp16":
        wide = {key: value for key, value in tensors.items() if value.dtype == torch.float32 and value.ndim > 1}
        tensors |= {key: value.half() for key, value in wide.items()}
        lost = [key for key, value in wide.items() if value.isfinite().all() and not tensors[key].isfinite().all()]
        if lost:
            raise ModelError(f"{lost[0]} of {name} has values beyond the range of float16; leave out `half`.")
    return tensors

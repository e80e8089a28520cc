"""The sample and embed commands: captions in, picture files out."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from stackflower.config.schema import Part
from stackflower.data.images import captioned, save_png, sharpened
from stackflower.errors import ConfigError, DataError
from stackflower.pipeline import Pipeline
from stackflower.text.base import TextEncoder
from stackflower.training.accelerator import process_state
from stackflower.utils.atomic import replacing, write_text


@dataclass(frozen=True)
class Written:
    """What was drawn and where it is."""

    files: list[str]
    where: str
    captions: list[str]

    def plain(self) -> dict[str, Any]:
        return {"where": self.where, "files": self.files, "captions": self.captions}

    def text(self) -> str:
        if len(self.files) == 1:
            return self.files[0]
        return f"{len(self.files):,} pictures in {self.where}"


def read_captions(path: Path) -> list[str]:
    """Captions of a text file, one a line, or of a metadata.jsonl (its first text a row)."""
    if not path.is_file():
        raise DataError(
            f"There is no file {path}; --captions takes a text file with one caption a line, or a metadata.jsonl."
        )
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8 ({error}); save it as UTF-8.") from error
    if path.suffix == ".jsonl":
        try:
            texts = [json.loads(line)["text"] for line in lines]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(
                f'{path}: every line must be an object with "text" ({type(error).__name__}: {error}).'
            ) from error
        first = [text[0] if isinstance(text, list) and text else text for text in texts]
        if not all(isinstance(text, str) for text in first):
            raise DataError(f'{path}: "text" must be a string or a list of strings in every line.')
        lines = first
    if not lines:
        raise DataError(f"{path} has no captions.")
    return lines


def captions_of(given: Sequence[str], file: str | None) -> list[str]:
    """The captions of a command line: given there, or in a file."""
    if file is not None and given:
        raise ConfigError("Give captions on the command line or by --captions FILE, not both.")
    captions = list(given) if file is None else read_captions(Path(file).expanduser())
    if not captions:
        raise ConfigError('There is no caption: give one or more sentences, as in "a red flower", or --captions FILE.')
    return captions


def draw(
    run: str,
    captions: list[str],
    file: str | None,
    *,
    per_caption: int,
    seed: int,
    out: str | None,
    as_grid: bool,
    truncation: float | None,
    batch_size: int,
    best_of: int = 1,
    sharpen: float = 1.0,
    side_by_side: bool = False,
) -> Written | None:
    """Draw and write; None on processes other than the first, which write their part."""
    captions = captions_of(captions, file)
    state = process_state()
    pipeline = Pipeline.from_run(run, state.device, with_judge=best_of > 1)
    if side_by_side and len(pipeline.stage.every_resolution) == 1:
        raise ConfigError(
            f"--side-by-side: {run} draws {pipeline.resolution} px alone; a stage over another (--stage 2) and a tree draw more."
        )
    one_file = out is not None and out.lower().endswith(".png")
    total = len(captions) * per_caption
    if one_file and total > 1 and not as_grid:
        raise ConfigError(f"{total} pictures don't fit into one {out}: name a folder, or add --grid.")
    base = Path(out).expanduser() if out else Path(run) / "drawn"
    if not one_file and base.is_file():
        raise ConfigError(f"--out {base} is a file; name a folder, or a new file ending in .png.")
    batches = pipeline.draw(
        captions,
        per_caption=per_caption,
        seed=seed,
        batch_size=batch_size,
        truncation=truncation,
        best_of=best_of,
        side_by_side=side_by_side,
        part=(state.process_index, state.num_processes),
    )
    sharp = (np.stack([sharpened(one, sharpen) for one in batch.numpy()]) for batch in batches)
    try:
        if as_grid:
            return _write_grid(sharp, captions, base if one_file else base / f"grid-{uuid.uuid4().hex[:6]}.png", state)
        return _write_files(sharp, captions, per_caption, base, one_file, state)
    except OSError as error:
        raise DataError(f"The pictures can't be written to {base}: {error}. Choose another --out.") from error


def _write_grid(batches: Iterator[np.ndarray], captions: list[str], path: Path, state: PartialState) -> Written | None:
    from accelerate.utils import gather_object

    images = list(batches)
    if state.num_processes > 1:
        images = gather_object(images)
    if not state.is_main_process:
        return None
    save_png(captioned(np.concatenate(images), captions), path)
    return Written([str(path)], str(path.parent), captions)


def _write_files(
    batches: Iterator[np.ndarray],
    captions: list[str],
    per_caption: int,
    base: Path,
    one_file: bool,
    state: PartialState,
) -> Written | None:
    total = len(captions) * per_caption
    names = [f"{row // per_caption:05d}-{row % per_caption:02d}.png" for row in range(total)]
    position = total * state.process_index // state.num_processes
    for batch in batches:
        for image in batch:
            save_png(image, base if one_file else base / names[position])
            position += 1
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    if one_file:
        return Written([str(base)], str(base.parent), captions)
    for stale in set(_drawn_before(base)) - set(names):  # or the folder would hold pictures that its metadata lacks
        (base / stale).unlink(missing_ok=True)
    rows = [{"file_name": name, "text": captions[number // per_caption]} for number, name in enumerate(names)]
    write_text(base / "metadata.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return Written([str(base / name) for name in names], str(base), captions)


def _drawn_before(base: Path) -> list[str]:
    """Files of our own naming that an earlier command listed in this folder's metadata.jsonl."""
    try:
        rows = [json.loads(line) for line in (base / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
        return [row["file_name"] for row in rows if re.fullmatch(r"\d{5}-\d{2,}\.png", row["file_name"])]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def embed_captions(captions: list[str], file: str | None, text: dict[str, Any], out: str | None) -> dict[str, Any]:
    """Embeddings of captions, written as .npy or listed."""
    captions = captions_of(captions, file)
    encoder: TextEncoder = Part.from_plain(text).create("text")
    if encoder.learns:
        raise ConfigError(
            f"--text {text['name']} has learned nothing yet: `stackflower train-text --data DIR --text {text['name']} --out FOLDER` "
            "trains it, then --text FOLDER."
        )
    encoder.fit(captions)
    table = encoder.encode(captions).numpy()
    if out is None:
        similar = table @ table.T
        lines = [f"{len(captions)} captions, {table.shape[1]} dimensions; cosine similarities:"]
        lines += [
            "  ".join(f"{value:5.2f}" for value in row) + f"  {caption}"
            for row, caption in zip(similar, captions, strict=True)
        ][:20]
        return {"captions": captions, "embeddings": table.tolist(), "text": "\n".join(lines)}
    path = Path(out).expanduser()
    if path.suffix != ".npy":
        raise ConfigError(f"--out {out}: embeddings are written as .npy; name a file such as embeddings.npy.")
    try:
        with replacing(path) as temporary:
            np.save(temporary, table)
    except OSError as error:
        raise DataError(f"{path} can't be written: {error}. Choose another --out.") from error
    return {
        "file": str(path),
        "captions": len(captions),
        "dimensions": table.shape[1],
        "text": f"{path}: {len(captions)} × {table.shape[1]}",
    }

"""Export of a data set as WebDataset shards."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from stackflower.data.images import open_image
from stackflower.data.listed import ListedSource
from stackflower.data.opening import open_source
from stackflower.data.prepared import prepare
from stackflower.data.rows.checks import join_problems
from stackflower.data.source import Rows, Source
from stackflower.data.sources.stream import INDEX
from stackflower.errors import DataError
from stackflower.utils.atomic import RESUME_ADVICE, list_leftovers, replacing, reporting_write_errors, write_text
from stackflower.utils.cache import compute_key
from stackflower.utils.progress import progress_bar

logger = logging.getLogger(__name__)

PROGRESS_FILE = ".shards.json"  # key of the command that is writing the folder
SUFFIX = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "PPM": "ppm",
}


def shard_data(
    value: str,
    out: str,
    *,
    per_shard: int,
    size: int | None,
    layout: str | None,
    options: Mapping[str, Any],
    on_error: str,
) -> dict[str, Any]:
    """Write a data set as shards, ``train-000000.tar`` and so on; a command that was interrupted resumes.

    Args:
        value: name, path or URL of the data set.
        out: folder to write to.
        per_shard: images per shard.
        size: height and width of the images. Default: copy the image files as they are.
        layout: name of the source. Default: detect it.
        options: options of the source.
        on_error: "skip" leaves out images that can't be read, anything else refuses them.

    Returns:
        Images per split as "splits", the pattern of the training shards as "pattern", and a summary as "text".
    """
    skip = {"skip_bad": True} if on_error == "skip" else {}
    source, folder = open_source(value, {**options, **skip}, layout), Path(out).expanduser()
    logger.info(source.describe())
    if size is None and not (isinstance(source, ListedSource) and source.as_files):
        raise DataError(f"{value} has no image files to copy; set the size of the images, as in `size=76`.")
    key = compute_key(*(source.fingerprint(split) for split in source.splits()), per_shard, size)
    _start(folder, key)
    index: dict[str, Any] = {}
    counts: dict[str, int] = {}
    with reporting_write_errors(folder, DataError, RESUME_ADVICE):
        for split in source.splits():
            for warning in source.warnings(split):
                logger.warning(warning)
            if isinstance(source, ListedSource) and size is None:
                samples = _copy_files(source, split)
            else:
                samples = _encode_squares(source, split, size or 0)
            counts[split] = len(samples)
            index |= _write_split(folder, split, samples, per_shard)
        write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")
        (folder / PROGRESS_FILE).unlink()
    lines = [f"{split}: {count:,} images in {-(-count // per_shard):,} shards" for split, count in counts.items()]
    last = -(-counts["train"] // per_shard) - 1
    pattern = f"{folder}/train-{{000000..{last:06d}}}.tar"
    return {"splits": counts, "pattern": pattern, "text": "\n".join(lines)}


def _write_split(folder: Path, split: str, samples: _Samples, per_shard: int) -> dict[str, Any]:
    """Write the shards of a split that an interrupted command has not finished.

    Returns:
        The number of samples and the size in bytes of each shard, by its name.
    """
    index: dict[str, Any] = {}
    with progress_bar(f"writing {split}", len(samples)) as progress:
        for number in range(-(-len(samples) // per_shard)):
            part = range(number * per_shard, min((number + 1) * per_shard, len(samples)))
            path = folder / f"{split}-{number:06d}.tar"
            if not path.exists():
                for leftover in list_leftovers(path):
                    leftover.unlink()
                _write_shard(path, part, samples)
            index[path.name] = {"samples": len(part), "bytes": path.stat().st_size}
            progress(len(part))
    return index


def _start(folder: Path, key: str) -> None:
    """Create the folder, and note the key of what will be written there.

    Raises:
        DataError: the folder can't be written, or holds files of anything except the same command.
    """
    note = folder / PROGRESS_FILE
    with reporting_write_errors(folder, DataError):
        folder.mkdir(parents=True, exist_ok=True)
        if any(path.name != PROGRESS_FILE for path in folder.iterdir()):
            written = note.read_text(encoding="utf-8", errors="replace") if note.exists() else None
            if written != json.dumps(key):
                raise DataError(f"{folder} already exists and is not empty; choose another `out`.")
        write_text(note, json.dumps(key))


class _Samples:
    """Samples of a split: rows and image files.

    Args:
        rows: rows of the split.
        content: function from the number of an image to the bytes and the suffix of its file.
        kept: numbers of the images that can be read.
    """

    def __init__(self, rows: Rows, content: Callable[[int], tuple[bytes, str]], kept: Sequence[int]):
        self.rows, self.content, self.kept = rows, content, kept

    def __len__(self) -> int:
        return len(self.kept)

    def row(self, number: int) -> dict[str, Any]:
        """Return the metadata of an image without its file name, which differs in a shard."""
        row = self.rows.row(number)
        row.pop("file_name", None)
        return row


def _encode_squares(source: Source, split: str, size: int) -> _Samples:
    """Encode the central squares of the images, `size` pixels wide, as PNG."""
    data = prepare(source, split, size)

    def content(number: int) -> tuple[bytes, str]:
        buffer = io.BytesIO()
        Image.fromarray(data.images[number].numpy()).save(buffer, "PNG", compress_level=3)
        return buffer.getvalue(), "png"

    return _Samples(data.rows, content, range(len(data.rows)))


def _copy_files(source: ListedSource, split: str) -> _Samples:
    """Copy the image files as they are, after decoding all images.

    Raises:
        DataError: an image can't be read, and `skip_bad` is not set.
    """
    rows, files = source.rows(split), source.get_listing(split).files
    assert rows.files is not None
    bad = source.find_unreadable(split)
    if bad and not source.skip_bad:
        raise DataError(
            f"{len(bad):,} images of {split} can't be read:\n{join_problems(list(bad.values()))}\n"
            "Repair them, or leave them out with `on_error=skip`."
        )
    names = rows.files

    def content(number: int) -> tuple[bytes, str]:
        image_file = files.read(names[number])
        with open_image(io.BytesIO(image_file)) as image:
            return image_file, SUFFIX[str(image.format)]

    return _Samples(rows, content, [number for number in range(len(rows)) if number not in bad])


def _write_shard(path: Path, part: range, samples: _Samples) -> None:
    """Write one shard, atomically; the same samples give the same bytes."""
    with replacing(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as shard:
        for number in part:
            position = samples.kept[number]
            image, image_suffix = samples.content(position)
            row = json.dumps(samples.row(position), ensure_ascii=False).encode()
            for suffix, content in ((image_suffix, image), ("json", row)):
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))

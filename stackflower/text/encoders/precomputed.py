"""Precomputed embeddings as a text encoder."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from stackflower.data.caption_files import find_by_ending, index_by_ending, name_text_file, read_captions
from stackflower.data.files import Folder
from stackflower.errors import DataError, RunError
from stackflower.formats.lines import split_lines
from stackflower.formats.pickles import load_npy, load_pickle
from stackflower.formats.t7 import load_t7
from stackflower.registry import register
from stackflower.text.base import TextEncoder, compute_digest
from stackflower.text.dropped import Dropped
from stackflower.utils.atomic import replacing, write_text

NAMES_FILE = "filenames.pickle"
CAPTIONS_FILE, VECTORS_FILE = "captions.json", "embeddings.safetensors"


@register("text", "precomputed")
class PrecomputedEncoder(TextEncoder):
    """Precomputed embeddings, such as the char-CNN-RNN embeddings (Reed et al. 2016) that StackGAN was trained on.

    Only captions with an embedding can be encoded; any other caption raises an error. The embeddings are saved with
    the run.

    Args:
        path: the embeddings. A ``.npy`` file ``(N, T)`` or ``(images, captions, T)``; a ``.safetensors`` file with one
            such tensor; a ``.pickle`` file with one such array or a list of arrays ``(captions, T)``, one per image, as
            StackGAN's ``char-CNN-RNN-embeddings.pickle``; a ``.t7`` file of Torch7 ``(images, T, captions)``; or a
            folder of ``.t7`` files ``(T, captions)``, one per image.
        captions: the captions, in the order of the embeddings. A text file with one caption per line, a metadata.jsonl,
            or a folder of text files, one per image, such as ``text_c10``. The images of a folder are listed in
            ``filenames.pickle`` next to the embeddings, or named by the ``.t7`` files. Default: the captions in the
            metadata of a ``.safetensors`` file (see `stackflower embed`), else the file next to ``path`` with the
            suffix ``.txt``.
    """

    on_host = True
    path_options = ("path", "captions")

    def __init__(self, *, path: str, captions: str | None = None):
        self.path = Path(path).expanduser()
        self.source = None if captions is None else Path(captions).expanduser()
        self.places: dict[str, int] = {}
        self.vectors = torch.empty(0, 0)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Size T of an embedding."""
        self.fit(())
        return self.vectors.shape[1]

    def fit(self, captions: Sequence[str]) -> None:
        if self.places:
            return
        texts, vectors = self._read()
        if len(texts) != len(vectors):
            raise DataError(
                f"{self.path} has {len(vectors):,} embeddings, but {self.source or 'the file next to it'} has "
                f"{len(texts):,} captions. It must have one per embedding, in the same order. Name the file of "
                "captions with `text.captions=FILE`."
            )
        with np.errstate(over="ignore"):
            vectors = vectors.astype(np.float32, copy=False)
        if not texts or not np.isfinite(vectors).all():
            raise DataError(f"{self.path} has {'no embeddings' if not texts else 'embeddings that are not finite'}.")
        unique = {" ".join(caption.split()): place for place, caption in enumerate(texts)}
        self.places = {caption: row for row, caption in enumerate(unique)}
        # float16, as in a run's folder, so that embeddings are the same after `restore`
        chosen = torch.from_numpy(np.ascontiguousarray(vectors[list(unique.values())], dtype=np.float32))
        self.vectors = F.normalize(chosen, dim=1).half()

    # ---- files

    def _read(self) -> tuple[list[str], np.ndarray]:
        """Return N captions and embeddings ``(N, T)``."""
        if not self.path.exists():
            raise DataError(
                f"{self.path} does not exist. Name the file of embeddings (.npy, .safetensors, .pickle or .t7) with "
                "`text.path=FILE`."
            )
        suffix = self.path.suffix.lower()
        if suffix == ".safetensors":
            return self._read_safetensors()
        try:
            if self.path.is_dir():
                return self._read_folder()
            content = self.path.read_bytes()
        except OSError as error:
            raise DataError(f"{self.path} can't be read: {error}.") from error
        if suffix == ".npy":
            values: object = load_npy(content, self.path)
        elif suffix in (".pickle", ".pkl", ".p"):
            values = load_pickle(content, self.path)
        elif suffix == ".t7":
            values = _read_t7(content, self.path)
        else:
            raise DataError(
                f"{self.path} is not a file of embeddings: its name must end in .npy, .safetensors, .pickle or .t7."
            )
        groups = _group(values, self.path)
        return self._read_captions(groups), np.concatenate(groups)

    def _read_safetensors(self) -> tuple[list[str], np.ndarray]:
        try:
            with safe_open(self.path, "np") as file:
                (name,) = file.keys()
                groups = _group(file.get_tensor(name), self.path)
                stored = (file.metadata() or {}).get("captions")
            if stored is not None and self.source is None:
                captions = json.loads(stored)
                if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
                    raise ValueError("its captions are not a list of strings")
                return captions, np.concatenate(groups)
        except (OSError, SafetensorError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{self.path} must hold exactly one tensor of embeddings ({error}).") from error
        return self._read_captions(groups), np.concatenate(groups)

    def _read_folder(self) -> tuple[list[str], np.ndarray]:
        """Read a folder of .t7 files, each with the embeddings of one image's captions."""
        if self.source is None or not self.source.is_dir():
            raise DataError(
                f"{self.path} is a folder of embeddings. Name the folder of their captions, such as text_c10, with "
                "`text.captions=FOLDER`."
            )
        captions, groups, texts = [], [], Folder(self.source, follow_links=True)
        for file in sorted(self.path.rglob("*.t7")):
            (group,) = _group(_read_t7(file.read_bytes(), file)[None], file)
            text = name_text_file(file.relative_to(self.path).as_posix())
            captions += _take_first(split_lines(texts.text(text)), len(group), file)
            groups.append(group)
        if not groups:
            raise DataError(f"{self.path} contains no .t7 files.")
        return captions, np.concatenate(groups)

    def _read_captions(self, groups: list[np.ndarray]) -> list[str]:
        """Read the captions of groups of embeddings: one group per image, or a single one."""
        source = self.source or self.path.with_suffix(".txt")
        if source.is_dir():
            return self._read_caption_folder(source, groups)
        if not source.is_file():
            raise DataError(f"{source} does not exist. Name the captions of {self.path} with `text.captions=FILE`.")
        return read_captions(source, every=True)

    def _read_caption_folder(self, folder: Path, groups: list[np.ndarray]) -> list[str]:
        """Read the captions of groups of embeddings, one per image, from the files in ``filenames.pickle``."""
        listed = self.path.parent / NAMES_FILE
        names = load_pickle(listed.read_bytes(), NAMES_FILE) if listed.is_file() else None
        if not isinstance(names, list) or len(names) != len(groups):
            raise DataError(
                f"{self.path} has embeddings of {len(groups):,} images, but {listed} is missing or does not list as "
                f"many file names. It must name the text file in {folder} of each image."
            )
        files = Folder(folder, follow_links=True)
        texts = index_by_ending(name for name in files.names if name.endswith(".txt"))
        captions: list[str] = []
        for name, group in zip(names, groups, strict=True):
            text = find_by_ending(texts, str(name))
            if text is None:
                raise DataError(f"{folder} has no captions of {name}, which {listed} lists.")
            captions += _take_first(split_lines(files.text(text)), len(group), name)
        return captions

    # ---- encoding

    def encode(self, captions: Sequence[str]) -> Tensor:
        self.fit(())
        rows = []
        for caption in captions:
            row = self.places.get(" ".join(caption.split()))
            if row is None:
                near = difflib.get_close_matches(caption, list(self.places)[:20_000], n=1)
                hint = f" The nearest caption: {near[0]!r}." if near else ""
                raise DataError(
                    f"{self.path} has no embedding of {caption!r}, only those of {len(self.places):,} other captions."
                    f"{hint} To encode any caption, use another encoder, such as `text=ngram`."
                )
            rows.append(row)
        return F.normalize(self.vectors[rows].float(), dim=1)

    def find_dropped(self, captions: Sequence[str]) -> Dropped:
        self.fit(())
        dropped = Dropped(
            f"finds in {self.path} no embedding of",
            "Add embeddings of these captions that differ, or use another encoder, such as `text=ngram`.",
        )
        known = self.vectors.any(1)
        for caption in captions:
            row = self.places.get(" ".join(caption.split()))
            if row is None:
                dropped.keep(caption, None, True)
            else:
                dropped.keep(caption, self.vectors[row].numpy().tobytes(), not known[row])
        return dropped

    def fingerprint(self) -> str:
        self.fit(())
        letters = torch.tensor(list("\0".join(self.places).encode("utf-8", "surrogatepass")), dtype=torch.float32)
        return f"precomputed-2 {compute_digest(letters, self.vectors)}"

    def save(self, folder: Path) -> None:
        self.fit(())
        write_text(folder / CAPTIONS_FILE, json.dumps(list(self.places), ensure_ascii=False))
        with replacing(folder / VECTORS_FILE) as temporary:
            save_file({"embeddings": self.vectors}, temporary)

    def restore(self, folder: Path) -> None:
        try:
            captions = json.loads((folder / CAPTIONS_FILE).read_text(encoding="utf-8"))
            self.vectors = load_file(folder / VECTORS_FILE)["embeddings"]
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise RunError(f"The embeddings in {folder} are missing or damaged ({error}). Restore them.") from error
        self.places = {caption: row for row, caption in enumerate(captions)}


def _group(values: object, where: Path) -> list[np.ndarray]:
    """Split embeddings into one group ``(captions, T)`` per image, or return a single group ``(N, T)``."""
    message = f"{where} does not hold embeddings: expected numbers of shape (captions, T) or (images, captions, T)."
    if isinstance(values, (list, tuple)):
        # lists of numbers are refused: a small pickle can repeat one list until it fills the memory
        if not values or not all(isinstance(array, np.ndarray) for array in values):
            raise DataError(message)
        flat = all(array.ndim == 1 for array in values) and len({array.shape for array in values}) == 1
        groups = [np.stack(values)] if flat else list(values)
    else:
        array = np.asarray(values) if isinstance(values, np.ndarray) else np.empty(0)
        groups = list(array) if array.ndim == 3 else [array]
    shapes = {group.shape[1:] for group in groups}
    if not groups or len(shapes) != 1 or any(group.ndim != 2 or group.dtype.kind != "f" for group in groups):
        raise DataError(message)
    return groups


def _read_t7(content: bytes, where: Path) -> np.ndarray:
    """Read Torch7 embeddings ``(…, T, captions)`` as ``(…, captions, T)``; the longer axis is T."""
    value = load_t7(content, where)
    tensor = value.get("txt") if isinstance(value, dict) else value
    if not isinstance(tensor, np.ndarray) or tensor.ndim < 2:
        raise DataError(f"{where} does not hold a tensor of embeddings.")
    return tensor.swapaxes(-1, -2) if tensor.shape[-2] > tensor.shape[-1] else tensor


def _take_first(captions: list[str], count: int, name: object) -> list[str]:
    if len(captions) < count:
        raise DataError(f"{name} has {count} embeddings but only {len(captions)} captions.")
    return captions[:count]

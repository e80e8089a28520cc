"""Embeddings that were computed elsewhere, as a text encoder of the captions they are of."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from stackflower.errors import DataError, RunError
from stackflower.formats.lines import lines_of
from stackflower.formats.pickles import load_npy, load_pickle
from stackflower.formats.t7 import load_t7
from stackflower.registry import register
from stackflower.text.base import TextEncoder, digest_of
from stackflower.utils.atomic import replacing, write_text

NAMES = "filenames.pickle"
KEPT, VECTORS = "captions.json", "embeddings.safetensors"


@register("text", "precomputed")
class PrecomputedEncoder(TextEncoder):
    """Embeddings from a file, such as those of char-CNN-RNN (Reed et al. 2016) that StackGAN trained on. It encodes the captions that it has, and says which one
    it lacks; a run keeps its embeddings.

    Args:
        path: the embeddings: ``.npy`` (N, T) or (images, captions, T); ``.safetensors`` with one such tensor; a ``.pickle`` of one array, or of one for each
            image (captions, T), as in StackGAN's ``char-CNN-RNN-embeddings.pickle``; a ``.t7`` of Torch7, or a folder of them, (images, T, captions).
        captions: what they are of: a text file, a caption a line, or a metadata.jsonl, in the order of the embeddings; or a folder of text files with a caption a
            line, as ``text_c10``, for the images that ``filenames.pickle`` beside the embeddings names, or whose names the ``.t7`` files have. None: the
            file beside ``path`` with the ending ``.txt``, or the captions in the metadata of a ``.safetensors`` file, as `stackflower embed` writes them.
    """

    on_host = True

    def __init__(self, *, path: str, captions: str | None = None):
        self.path = Path(path).expanduser()
        self.source = None if captions is None else Path(captions).expanduser()
        self.places: dict[str, int] = {}
        self.vectors = torch.empty(0, 0)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Dimensions of an embedding."""
        self.fit(())
        return self.vectors.shape[1]

    def fit(self, captions: Sequence[str]) -> None:
        if self.places:
            return
        own, vectors = self._read()
        if len(own) != len(vectors):
            raise DataError(
                f"{self.path} has {len(vectors):,} embeddings, and there are {len(own):,} captions in {self.source or 'the file beside it'}: "
                "they must be of the same, in the same order. name the captions with `text.captions=FILE`."
            )
        with np.errstate(over="ignore"):
            vectors = vectors.astype(np.float32, copy=False)
        if not own or not np.isfinite(vectors).all():
            raise DataError(f"{self.path} has {'no embeddings' if not own else 'embeddings that are not finite'}.")
        unique = {" ".join(caption.split()): place for place, caption in enumerate(own)}
        self.places = {caption: row for row, caption in enumerate(unique)}
        # in float16, as the run keeps them, so that they are the same after `restore`
        chosen = torch.from_numpy(np.ascontiguousarray(vectors[list(unique.values())], dtype=np.float32))
        self.vectors = F.normalize(chosen, dim=1).half()

    # ---- files

    def _read(self) -> tuple[list[str], np.ndarray]:
        """Captions and embeddings (N, T)."""
        if not self.path.exists():
            raise DataError(
                f"{self.path} does not exist; name embeddings (.npy, .safetensors, .pickle, .t7) with `text.path=FILE`."
            )
        suffix = self.path.suffix.lower()
        if suffix == ".safetensors":
            return self._safetensors()
        try:
            if self.path.is_dir():
                return self._folder()
            content = self.path.read_bytes()
        except OSError as error:
            raise DataError(f"{self.path} can't be read: {error}.") from error
        if suffix == ".npy":
            found = load_npy(content, self.path)
        elif suffix in (".pickle", ".pkl", ".p"):
            found = load_pickle(content, self.path)
        elif suffix == ".t7":
            found = load_t7(content, self.path)
            found = _captions_first(found.get("txt") if isinstance(found, dict) else found, self.path)
        else:
            raise DataError(f"{self.path} is no file of embeddings: they end in .npy, .safetensors, .pickle or .t7.")
        groups = _grouped(found, self.path)
        return self._captions(groups), np.concatenate(groups)

    def _safetensors(self) -> tuple[list[str], np.ndarray]:
        try:
            with safe_open(self.path, "np") as file:
                (name,) = file.keys()
                groups = _grouped(file.get_tensor(name), self.path)
                known = (file.metadata() or {}).get("captions")
            if known is not None and self.source is None:
                captions = json.loads(known)
                if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
                    raise ValueError("its captions are no list of strings")
                return captions, np.concatenate(groups)
        except (OSError, SafetensorError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{self.path} is no file with one tensor of embeddings ({error}).") from error
        return self._captions(groups), np.concatenate(groups)

    def _folder(self) -> tuple[list[str], np.ndarray]:
        """A folder of .t7 files, each with the embeddings of an image's captions."""
        captions, groups = [], []
        if self.source is None or not self.source.is_dir():
            raise DataError(
                f"{self.path} is a folder of embeddings; name the folder of their captions, text_c10, with `text.captions=FOLDER`."
            )
        for file in sorted(self.path.rglob("*.t7")):
            found = load_t7(file.read_bytes(), file)
            (group,) = _grouped(
                _captions_first(found.get("txt") if isinstance(found, dict) else found, file)[None], file
            )
            own = _lines(self.source / file.relative_to(self.path).with_suffix(".txt"))
            captions += _first(own, len(group), file)
            groups.append(group)
        if not groups:
            raise DataError(f"{self.path} has no .t7 files.")
        return captions, np.concatenate(groups)

    def _captions(self, groups: list[np.ndarray]) -> list[str]:
        """The captions of embeddings in groups, one for each image, or one for all."""
        source = self.source or self.path.with_suffix(".txt")
        if source.is_dir():
            names = (
                load_pickle((self.path.parent / NAMES).read_bytes(), NAMES)
                if (self.path.parent / NAMES).is_file()
                else None
            )
            if not isinstance(names, list) or len(names) != len(groups):
                raise DataError(
                    f"{self.path} has the embeddings of {len(groups):,} images, and {self.path.parent / NAMES} does not name as many: it says which texts "
                    f"of {source} they are of."
                )
            return [
                text
                for name, group in zip(names, groups, strict=True)
                for text in _first(_lines(_text_file(source, str(name))), len(group), name)
            ]
        if not source.is_file():
            raise DataError(f"{source} does not exist; name the captions of {self.path} with `text.captions=FILE`.")
        if source.suffix == ".jsonl":
            return list(_jsonl(source))
        return _lines(source)

    # ---- encoding

    def encode(self, captions: Sequence[str]) -> Tensor:
        self.fit(())
        rows = []
        for caption in captions:
            row = self.places.get(" ".join(caption.split()))
            if row is None:
                near = difflib.get_close_matches(caption, list(self.places)[:20_000], n=1)
                hint = f" The nearest that it has: {near[0]!r}." if near else ""
                raise DataError(
                    f"{self.path} has no embedding of {caption!r}; it has those of {len(self.places):,} captions.{hint} Another encoder, such as "
                    "`text=ngram`, encodes any."
                )
            rows.append(row)
        return F.normalize(self.vectors[rows].float(), dim=1)

    def fingerprint(self) -> str:
        self.fit(())
        letters = torch.tensor(list("\0".join(self.places).encode("utf-8", "surrogatepass")), dtype=torch.float32)
        return f"precomputed-2 {digest_of(letters, self.vectors)}"

    def save(self, folder: Path) -> None:
        self.fit(())
        write_text(folder / KEPT, json.dumps(list(self.places), ensure_ascii=False))
        with replacing(folder / VECTORS) as temporary:
            save_file({"embeddings": self.vectors}, temporary)

    def restore(self, folder: Path) -> None:
        try:
            captions = json.loads((folder / KEPT).read_text(encoding="utf-8"))
            self.vectors = load_file(folder / VECTORS)["embeddings"]
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise RunError(f"The embeddings in {folder} are missing or damaged ({error}); put them back.") from error
        self.places = {caption: row for row, caption in enumerate(captions)}


def _grouped(found: object, where: Path) -> list[np.ndarray]:
    """Embeddings (n, T) of each image's captions, or one group (N, T)."""
    wrong = f"{where} holds no embeddings: wanted are numbers of the shape (captions, T), or (images, captions, T)."
    if isinstance(found, (list, tuple)):
        # lists of numbers would be as large as a pickle claims, by lists that are in it many times
        if not found or not all(isinstance(each, np.ndarray) for each in found):
            raise DataError(wrong)
        flat = all(each.ndim == 1 for each in found) and len({each.shape for each in found}) == 1
        groups = [np.stack(found)] if flat else list(found)
    else:
        array = np.asarray(found) if isinstance(found, np.ndarray) else np.empty(0)
        groups = list(array) if array.ndim == 3 else [array]
    shapes = {group.shape[1:] for group in groups}
    if not groups or len(shapes) != 1 or any(group.ndim != 2 or group.dtype.kind != "f" for group in groups):
        raise DataError(wrong)
    return groups


def _captions_first(found: object, where: Path) -> np.ndarray:
    """Torch7's (…, T, captions) as (…, captions, T): the longer of the two is T."""
    if not isinstance(found, np.ndarray) or found.ndim < 2:
        raise DataError(f"{where} holds no tensor of embeddings.")
    return found.swapaxes(-1, -2) if found.shape[-2] > found.shape[-1] else found


def _text_file(folder: Path, name: str) -> Path:
    """The text file of an image, by as much of its name as there is."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        raise DataError(f"{NAMES} names {name}, which is no file in {folder}.")
    for first in range(len(parts)):
        path = folder.joinpath(*parts[first:-1], f"{parts[-1]}.txt")
        if path.is_file():
            return path
    found = sorted(folder.glob(f"*/{parts[-1]}.txt"))
    if not found:
        raise DataError(f"{folder} has no captions of {name}.")
    return found[0]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The captions in {path} can't be read ({error}).") from error
    return lines_of(text)


def _jsonl(path: Path) -> Iterator[str]:
    for number, line in enumerate(_lines(path), 1):
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f'{path}: row {number} is no object with "text".') from error
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
            raise DataError(f'{path}: row {number} has a "text" that is neither a string nor a list of strings.')
        yield from texts


def _first(captions: list[str], count: int, name: object) -> list[str]:
    if len(captions) < count:
        raise DataError(f"{name} has {count} embeddings and {len(captions)} captions.")
    return captions[:count]

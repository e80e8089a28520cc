"""Embeddings that were computed elsewhere, as a text encoder of the captions they are of."""

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
    """Embeddings from a file, such as those of char-CNN-RNN (Reed et al. 2016) that StackGAN trained on. It encodes the
    captions that it has, and names one that it lacks; a run keeps its embeddings.

    Args:
        path: the embeddings: ``.npy`` (N, T) or (images, captions, T); ``.safetensors`` with one such tensor; a
            ``.pickle`` of one array, or of one for each image (captions, T), as in StackGAN's
            ``char-CNN-RNN-embeddings.pickle``; a ``.t7`` of Torch7, or a folder of them, (images, T, captions).
        captions: the captions: a text file, one a line, or a metadata.jsonl, in the order of the embeddings; or a
            folder of text files with a caption a line, as ``text_c10``, for the images that ``filenames.pickle`` beside
            the embeddings names, or whose names the ``.t7`` files have. None: the file beside ``path`` with the ending
            ``.txt``, or the captions in the metadata of a ``.safetensors`` file, as `stackflower embed` writes them.
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
        texts, vectors = self._read()
        if len(texts) != len(vectors):
            raise DataError(
                f"{self.path} has {len(vectors):,} embeddings, and {self.source or 'the file beside it'} has "
                f"{len(texts):,} captions; it must have one per embedding, in the same order. Name the captions with "
                "`text.captions=FILE`."
            )
        with np.errstate(over="ignore"):
            vectors = vectors.astype(np.float32, copy=False)
        if not texts or not np.isfinite(vectors).all():
            raise DataError(f"{self.path} has {'no embeddings' if not texts else 'embeddings that are not finite'}.")
        unique = {" ".join(caption.split()): place for place, caption in enumerate(texts)}
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
            values: object = load_npy(content, self.path)
        elif suffix in (".pickle", ".pkl", ".p"):
            values = load_pickle(content, self.path)
        elif suffix == ".t7":
            values = _read_t7(content, self.path)
        else:
            raise DataError(f"{self.path} is no file of embeddings: they end in .npy, .safetensors, .pickle or .t7.")
        groups = _group(values, self.path)
        return self._captions(groups), np.concatenate(groups)

    def _safetensors(self) -> tuple[list[str], np.ndarray]:
        try:
            with safe_open(self.path, "np") as file:
                (name,) = file.keys()
                groups = _group(file.get_tensor(name), self.path)
                stored = (file.metadata() or {}).get("captions")
            if stored is not None and self.source is None:
                captions = json.loads(stored)
                if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
                    raise ValueError("its captions are no list of strings")
                return captions, np.concatenate(groups)
        except (OSError, SafetensorError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{self.path} is no file with one tensor of embeddings ({error}).") from error
        return self._captions(groups), np.concatenate(groups)

    def _folder(self) -> tuple[list[str], np.ndarray]:
        """A folder of .t7 files, each with the embeddings of an image's captions."""
        if self.source is None or not self.source.is_dir():
            raise DataError(
                f"{self.path} is a folder of embeddings; name the folder of their captions, text_c10, with "
                "`text.captions=FOLDER`."
            )
        captions, groups, texts = [], [], Folder(self.source, follow_links=True)
        for file in sorted(self.path.rglob("*.t7")):
            (group,) = _group(_read_t7(file.read_bytes(), file)[None], file)
            text = name_text_file(file.relative_to(self.path).as_posix())
            captions += _first(lines_of(texts.text(text)), len(group), file)
            groups.append(group)
        if not groups:
            raise DataError(f"{self.path} has no .t7 files.")
        return captions, np.concatenate(groups)

    def _captions(self, groups: list[np.ndarray]) -> list[str]:
        """Read the captions of embeddings in groups, one for each image, or one for all."""
        source = self.source or self.path.with_suffix(".txt")
        if source.is_dir():
            return self._captions_in(source, groups)
        if not source.is_file():
            raise DataError(f"{source} does not exist; name the captions of {self.path} with `text.captions=FILE`.")
        return read_captions(source, every=True)

    def _captions_in(self, folder: Path, groups: list[np.ndarray]) -> list[str]:
        """Read the captions of groups, one for each image, from the text files that ``filenames.pickle`` names."""
        listed = self.path.parent / NAMES
        names = load_pickle(listed.read_bytes(), NAMES) if listed.is_file() else None
        if not isinstance(names, list) or len(names) != len(groups):
            raise DataError(
                f"{self.path} has the embeddings of {len(groups):,} images, and {listed} does not name as many: it "
                f"says which texts of {folder} they are of."
            )
        files = Folder(folder, follow_links=True)
        texts = index_by_ending(name for name in files.names if name.endswith(".txt"))
        captions: list[str] = []
        for name, group in zip(names, groups, strict=True):
            text = find_by_ending(texts, str(name))
            if text is None:
                raise DataError(f"{folder} has no captions of {name}, which {listed} names.")
            captions += _first(lines_of(files.text(text)), len(group), name)
        return captions

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
                    f"{self.path} has no embedding of {caption!r}; it has those of {len(self.places):,} captions."
                    f"{hint} Another encoder, such as `text=ngram`, encodes any."
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


def _group(values: object, where: Path) -> list[np.ndarray]:
    """Split embeddings into those of each image's captions, each (n, T), or return one group (N, T)."""
    wrong = f"{where} holds no embeddings: wanted are numbers of the shape (captions, T), or (images, captions, T)."
    if isinstance(values, (list, tuple)):
        # lists of numbers would be as large as a pickle claims, by lists that are in it many times
        if not values or not all(isinstance(each, np.ndarray) for each in values):
            raise DataError(wrong)
        flat = all(each.ndim == 1 for each in values) and len({each.shape for each in values}) == 1
        groups = [np.stack(values)] if flat else list(values)
    else:
        array = np.asarray(values) if isinstance(values, np.ndarray) else np.empty(0)
        groups = list(array) if array.ndim == 3 else [array]
    shapes = {group.shape[1:] for group in groups}
    if not groups or len(shapes) != 1 or any(group.ndim != 2 or group.dtype.kind != "f" for group in groups):
        raise DataError(wrong)
    return groups


def _read_t7(content: bytes, where: Path) -> np.ndarray:
    """Read Torch7's embeddings (…, T, captions) as (…, captions, T); the longer of the two is T."""
    value = load_t7(content, where)
    tensor = value.get("txt") if isinstance(value, dict) else value
    if not isinstance(tensor, np.ndarray) or tensor.ndim < 2:
        raise DataError(f"{where} holds no tensor of embeddings.")
    return tensor.swapaxes(-1, -2) if tensor.shape[-2] > tensor.shape[-1] else tensor


def _first(captions: list[str], count: int, name: object) -> list[str]:
    if len(captions) < count:
        raise DataError(f"{name} has {count} embeddings and {len(captions)} captions.")
    return captions[:count]

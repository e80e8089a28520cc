"""Oxford-102 flowers in the layout of the download, with Reed's captions."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal

import torch

from stackflower.data.files import Files
from stackflower.data.listed import ListedSource
from stackflower.data.rows.containers import RawRow, RawTable, read_text_row
from stackflower.data.rows.listing import Listing
from stackflower.errors import DataError
from stackflower.options import Seed
from stackflower.registry import register
from stackflower.utils.rng import create_rng

IMAGE_NAME = re.compile(r"jpg/image_(\d+)\.(?:jpg|jpeg|png)", re.IGNORECASE)
SPLIT_KEYS = {"train": "trnid", "validation": "valid", "test": "tstid"}  # in setid.mat
UNSEEN_CLASSES = 20  # number of classes in the test split of StackGAN
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}  # of the random split


@register("data", "oxford-102")
class Oxford102(ListedSource):
    """Oxford-102 (Nilsback & Zisserman 2008) with the captions of Reed et al. (2016).

    The layout is ``jpg/image_NNNNN.jpg``, ``text_c10/class_NNNNN/image_NNNNN.txt`` with one caption per line,
    ``imagelabels.mat`` and ``setid.mat``. Classes are numbered from 1, as in ``imagelabels.mat``; ``cat_to_name.json``
    gives their names, if it exists.

    Args:
        split: "official" for the split in setid.mat; "classes" for 20 classes, drawn by `seed`, as ``test`` and the
            other 82 as ``train``, as many as in StackGAN; or "random" for 80%, 10% and 10% of the images, drawn by
            `seed`.
        seed: random seed of the split.
    """

    layout = "Oxford-102 with Reed's captions"

    def __init__(
        self,
        *,
        path: str,
        split: Literal["official", "classes", "random"] = "official",
        seed: Seed = 0,
        skip_bad: bool = False,
        follow_links: bool = False,
    ):
        super().__init__(path=path, seed=seed, skip_bad=skip_bad, follow_links=follow_links)
        self.by = split

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return files.has_folder("jpg") and "imagelabels.mat" in files

    @cached_property
    def labels(self) -> list[int]:
        """Class of each image, from image 1."""
        return [int(label) for label in self._read_matrix("imagelabels.mat", "labels")]

    @cached_property
    def images(self) -> dict[int, str]:
        """File of each existing image, by number."""
        images = {int(match[1]): name for name in self.files.names if (match := IMAGE_NAME.fullmatch(name))}
        if not images:
            raise DataError(f"{self.files.path / 'jpg'} has no images; they must be called image_00001.jpg and so on.")
        return dict(sorted(images.items()))

    def _read_matrix(self, name: str, key: str) -> Any:
        from scipy.io import loadmat  # imported late, because detecting a layout imports all sources

        if name not in self.files:
            raise DataError(f"{self.files.path} has no {name}, which is part of Oxford-102.")
        try:
            return loadmat(io.BytesIO(self.files.read(name)), variable_names=[key])[key].flatten()
        except Exception as error:  # a damaged file may raise any exception
            raise DataError(f"{self.files.path / name} is not the file of Oxford-102 ({error}).") from error

    def _list_members(self, split: str) -> list[int]:
        """List the numbers of the images of a split, whether their files exist or not."""
        if self.by == "official":
            return sorted(int(number) for number in self._read_matrix("setid.mat", SPLIT_KEYS[split]))
        generator = create_rng(self.seed, 30)
        if self.by == "classes":
            classes = sorted(set(self.labels))
            unseen = {
                classes[position]
                for position in torch.randperm(len(classes), generator=generator)[:UNSEEN_CLASSES].tolist()
            }
            return [number for number, label in enumerate(self.labels, 1) if (label in unseen) == (split == "test")]
        order = (torch.randperm(len(self.labels), generator=generator) + 1).tolist()
        first = sum(round(SHARES[name] * len(order)) for name in list(SHARES)[: list(SHARES).index(split)])
        last = len(order) if split == "test" else first + round(SHARES[split] * len(order))
        return sorted(order[first:last])

    def list_tables(self) -> Iterator[RawTable]:
        if not self.files.has_folder("text_c10"):
            raise DataError(f"{self.files.path} has no captions: unpack text_c10 of Reed et al. in it.")
        for split in ("train", "test") if self.by == "classes" else SPLIT_KEYS:
            yield RawTable("", self._list_rows(split), split=split, is_fixed=True)

    def read(self) -> dict[str, Listing]:
        listings = super().read()
        missing = [number for number in range(1, len(self.labels) + 1) if number not in self.images]
        if missing:
            listings["train"].notes.append(
                f"{len(missing):,} of the {len(self.labels):,} images are missing in {self.files.path / 'jpg'}."
            )
        return listings

    def _list_rows(self, split: str) -> Iterator[RawRow]:
        names = self._read_class_names()
        for number in self._list_members(split):
            if (image := self.images.get(number)) is None:
                continue
            row: dict[str, Any] = {"image": image}
            if number <= len(self.labels):
                label = self.labels[number - 1]
                row |= {"label": label} | ({"class_name": names[label]} if label in names else {})
            file = f"text_c10/class_{row.get('label', 0):05d}/image_{number:05d}.txt"
            yield read_text_row(image, row, self.files, file)

    def _read_class_names(self) -> dict[int, str]:
        if "cat_to_name.json" not in self.files:
            return {}
        try:
            names = json.loads(self.files.text("cat_to_name.json"))
            return {int(number): str(name) for number, name in names.items()}
        except (ValueError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{self.files.path / 'cat_to_name.json'} is not an object of class numbers and names ({error})."
            ) from error

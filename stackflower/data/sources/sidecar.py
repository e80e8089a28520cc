"""Images, each with a text file of captions beside it."""

from __future__ import annotations

from pathlib import PurePosixPath

from stackflower.data.caption_files import name_text_file
from stackflower.data.files import Files
from stackflower.data.listed import ListedSource, Listing
from stackflower.data.sources.folder import is_image, list_splits, list_unused_images, select_split
from stackflower.options import Below1, Seed
from stackflower.registry import register

INSPECTED_IMAGES = 200  # number of images to inspect to recognise the layout


@register("data", "sidecar")
class SidecarSource(ListedSource):
    """Images, each with a text file of the same name: ``1.png`` and ``1.txt`` with one caption per line.

    The data may be in split folders ``train``, ``validation`` and ``test``.

    Args:
        separator: separator of tags, such as a comma. The tags of each text file are then joined by commas to one
            caption. Default: each line is a caption.
    """

    layout = "images with a text file beside each"
    precedence = -10  # text files may have any purpose

    def __init__(
        self,
        *,
        path: str,
        separator: str | None = None,
        held_out: Below1 = 0.0,
        seed: Seed = 0,
        skip_bad: bool = False,
        follow_links: bool = False,
    ):
        super().__init__(path=path, held_out=held_out, seed=seed, skip_bad=skip_bad, follow_links=follow_links)
        self.separator = separator

    @classmethod
    def recognises(cls, files: Files) -> bool:
        images = [name for name in files.names if is_image(name)][:INSPECTED_IMAGES]
        return any(name_text_file(name) in files for name in images)

    def find_splits(self) -> list[str]:
        return list_splits(self.files)

    def read_split(self, split: str) -> Listing:
        files = select_split(self.files, split)
        listing, used = Listing(files), set[str]()
        for name in files.names:
            if not is_image(name):
                continue
            text = name_text_file(name)
            if text in used:
                listing.problems.append(f"{name} shares {text} with another image.")
                continue
            used.add(text)
            if text not in files:
                listing.problems.append(f"{name} has no {PurePosixPath(text).name} beside it.")
                continue
            if (lines := listing.read_captions(files, text, name)) is not None:
                listing.add({"file_name": name, "text": self._join_tags(lines)}, name)
        listing.problems += [f"{name} {reason}." for name, reason in files.refused.items()]
        listing.notes += list_unused_images(self.files) if split == "train" else []
        unused = [name for name in files.names if name.lower().endswith(".txt") and name not in used]
        listing.problems += [f"{name} has no image beside it." for name in unused]
        return listing

    def _join_tags(self, lines: list[str]) -> list[str]:
        """Join the tags in the lines of a text file to one caption; without a separator, return the lines."""
        if not self.separator:
            return lines
        return [", ".join(tag.strip() for line in lines for tag in line.split(self.separator) if tag.strip())]

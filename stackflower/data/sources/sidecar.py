"""Images with a text file of captions beside each."""

from __future__ import annotations

from pathlib import PurePosixPath

from stackflower.data.caption_files import name_text_file
from stackflower.data.files import Files
from stackflower.data.listed import ListedSource, Listing
from stackflower.data.sources.folder import is_image, list_splits, list_unused_images, select_split
from stackflower.options import Below1, Seed
from stackflower.registry import register

INSPECTED_IMAGES = 200  # images that are looked at to recognise the layout


@register("data", "sidecar")
class SidecarSource(ListedSource):
    """Images, each with a text file of the same name beside it: ``1.png`` and ``1.txt``, a caption a line. Split
    folders ``train``, ``validation`` and ``test``, or none.

    Args:
        separator: of tags, such as a comma; each text is then one caption of the tags in its file, joined by commas.
    """

    layout = "images with a text file beside each"
    precedence = -10  # text files may be for anything

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
                listing.problems.append(f"{name} has the same {text} as another image.")
                continue
            used.add(text)
            if text not in files:
                listing.problems.append(f"{name} has no {PurePosixPath(text).name} beside it.")
                continue
            if (lines := listing.read_captions(files, text, name)) is not None:
                listing.add({"file_name": name, "text": self._join_tags(lines)}, name)
        listing.problems += [f"{name} {why}." for name, why in files.refused.items()]
        listing.notes += list_unused_images(self.files) if split == "train" else []
        alone = [name for name in files.names if name.lower().endswith(".txt") and name not in used]
        listing.problems += [f"{name} has no image beside it." for name in alone]
        return listing

    def _join_tags(self, lines: list[str]) -> list[str]:
        """Join the tags in the lines of a text file to one caption; without a separator, each line is a caption."""
        if not self.separator:
            return lines
        return [", ".join(tag.strip() for line in lines for tag in line.split(self.separator) if tag.strip())]

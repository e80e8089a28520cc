"""Images with a text file of captions beside each."""

from __future__ import annotations

from pathlib import Path

from stackflower.data.images import EXTENSIONS
from stackflower.data.listed import ListedSource, Listing
from stackflower.data.rows import lines_of
from stackflower.data.sources.folder import folder_of, splits_of
from stackflower.registry import register

FIRST = 200  # files that are looked at to recognise the layout


@register("data", "sidecar")
class SidecarSource(ListedSource):
    """A folder of images, each with a text file of the same name beside it: ``1.png`` and ``1.txt``, a caption a line. Split folders ``train``,
    ``validation`` and ``test``, or none.

    Args:
        path: the folder.
        separator: of tags; each text is then one caption of the tags in its file, joined by commas.
        skip_bad: leave out images that can't be used, with a warning, instead of raising DataError.
        follow_links: read images that are links to files out of the folder.
    """

    layout = "images with a text file beside each"

    def __init__(self, *, path: str, separator: str | None = None, skip_bad: bool = False, follow_links: bool = False):
        super().__init__(path=path, skip_bad=skip_bad, follow_links=follow_links)
        self.separator = separator

    @classmethod
    def recognises(cls, path: Path) -> bool:
        for number, file in enumerate(path.rglob("*")):
            if number >= FIRST:
                return False
            if file.suffix.lower() in EXTENSIONS and file.with_suffix(".txt").is_file():
                return True
        return False

    def splits(self) -> list[str]:
        return splits_of(self.path)

    def read_split(self, split: str) -> Listing:
        root = folder_of(self.path, split)
        listing, used = Listing(root), set[Path]()
        for image in sorted(path for path in root.rglob("*") if path.suffix.lower() in EXTENSIONS):
            text, name = image.with_suffix(".txt"), image.relative_to(root).as_posix()
            used.add(text)
            try:
                lines = lines_of(text.read_text(encoding="utf-8-sig"))
            except FileNotFoundError:
                listing.problems.append(f"{name} has no {text.name} beside it.")
                continue
            except (OSError, UnicodeDecodeError) as error:
                listing.problems.append(f"{name} has a {text.name} that can't be read ({error}); save it as UTF-8.")
                continue
            listing.add({"file_name": name, "text": self._captions(lines)}, name, self.follow_links)
        alone = sorted(path.relative_to(root).as_posix() for path in set(root.rglob("*.txt")) - used)
        listing.problems += [f"{name} has no image beside it." for name in alone]
        return listing

    def _captions(self, lines: list[str]) -> list[str]:
        """The captions in the lines of a text file."""
        if not self.separator:
            return lines
        return [", ".join(tag.strip() for line in lines for tag in line.split(self.separator) if tag.strip())]

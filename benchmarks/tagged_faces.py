"""Own data from pictures with tags such as "aqua hair blue eyes": attributes to score by, a class for each pair, a held-out part.

    python benchmarks/tagged_faces.py FOLDER faces --first eyes

FOLDER holds pictures and a metadata.csv of `file_name` and `text`, a colour and a thing in turns. `--first` says which thing is
named first in a caption. It matters with `train.wrong_candidates`: a wrong caption that shares the end of the picture's own is
more like it than one that shares its start, so what is named first is what most of the likest wrong captions get wrong.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
from pathlib import Path


def things(text: str) -> dict[str, str]:
    """ "aqua hair blue eyes" → {"hair": "aqua", "eyes": "blue"}."""
    words = text.split()
    return dict(zip(words[1::2], words[::2], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", help="the thing that a caption names first")
    parser.add_argument("--held-out", type=int, default=1000, help="pictures of the validation split")
    parser.add_argument("--seed", type=int, default=0, help="of the split, which is random over pictures")
    asked = parser.parse_args()
    if asked.out.exists():
        raise SystemExit(f"{asked.out} is there already; name a new folder.")
    with (asked.folder / "metadata.csv").open(encoding="utf-8", newline="") as lines:
        rows = sorted((line["file_name"], things(line["text"])) for line in csv.DictReader(lines))
    if asked.first and not all(asked.first in attributes for _, attributes in rows):
        raise SystemExit(f"--first {asked.first}: a tag in every row, such as {', '.join(rows[0][1])}.")
    random.Random(asked.seed).shuffle(rows)
    classes = sorted({tuple(sorted(attributes.items())) for _, attributes in rows})
    for split, part in (("validation", rows[: asked.held_out]), ("train", rows[asked.held_out :])):
        (asked.out / split).mkdir(parents=True)
        with (asked.out / split / "metadata.jsonl").open("w", encoding="utf-8") as lines:
            for name, attributes in part:
                shutil.copyfile(asked.folder / name, asked.out / split / name)
                order = sorted(attributes, key=lambda thing: (thing != asked.first, list(attributes).index(thing)))
                caption = " ".join(f"{attributes[thing]} {thing}" for thing in order)
                row = {"file_name": name, "text": [caption], "attributes": attributes, "asked": [order]}
                row |= {"label": classes.index(tuple(sorted(attributes.items()))), "class_name": caption}
                lines.write(json.dumps(row) + "\n")
        print(f"{len(part):,} pictures in {asked.out / split}, the first: {part[0][0]}, {part[0][1]}")


if __name__ == "__main__":
    main()

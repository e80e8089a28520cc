"""Own data from pictures with tags such as "aqua hair blue eyes": attributes to score by, classes, a held-out part.

    python benchmarks/tagged_faces.py FOLDER faces --classes eyes

FOLDER holds pictures and a metadata.csv of `file_name` and `text`, a colour and a thing in turns. The classes are the pairs of
tags, or one tag's colours (`--classes eyes`). A caption is wrong for a picture if it is of a picture of another class: with the
eyes' colours for classes every wrong caption is wrong about the eyes, and with `train.wrong_candidates=8` half of them about
nothing else.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
from pathlib import Path


def things(text: str | None) -> dict[str, str]:
    """ "aqua hair blue eyes" → {"hair": "aqua", "eyes": "blue"}; nothing where the text is not made so."""
    words = (text or "").split()
    found = dict(zip(words[1::2], words[::2], strict=False))
    return found if 2 * len(found) == len(words) else {}


def rows_of(folder: Path) -> list[tuple[str, dict[str, str]]]:
    """File name and tags of every picture, or SystemExit with what is wrong."""
    table = folder / "metadata.csv"
    if not table.is_file():
        raise SystemExit(f"There is no {table}; wanted pictures and a metadata.csv of file_name,text.")
    with table.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        missing = {"file_name", "text"} - set(reader.fieldnames or [])
        if missing:
            raise SystemExit(
                f"{table} has no column {', '.join(sorted(missing))}; its first line must be file_name,text."
            )
        rows = []
        for row in reader:
            attributes = things(row["text"])
            if not attributes:
                raise SystemExit(
                    f'{table}:{reader.line_num}: "{row["text"]}"; wanted tags such as "aqua hair blue eyes".'
                )
            if not (folder / row["file_name"]).is_file() or "/" in row["file_name"]:
                raise SystemExit(f"{table}:{reader.line_num}: there is no {row['file_name']} in {folder} itself.")
            rows.append((row["file_name"], attributes))
    return sorted(rows, key=lambda row: row[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--classes", help="the thing whose colours are the classes; without, all tags together are")
    parser.add_argument("--held-out", type=int, default=1000, help="pictures of the validation split")
    parser.add_argument("--seed", type=int, default=0, help="of the split, which is random over pictures")
    asked = parser.parse_args()
    if asked.out.exists():
        raise SystemExit(f"{asked.out} is there already; name a new folder.")
    rows = rows_of(asked.folder)
    if asked.classes and not all(asked.classes in attributes for _, attributes in rows):
        raise SystemExit(f"--classes {asked.classes}: wanted a thing of every row, such as {', '.join(rows[0][1])}.")
    if not 0 < asked.held_out < len(rows):
        raise SystemExit(
            f"--held-out {asked.held_out}: there are {len(rows):,} pictures; wanted at least 1 and fewer than all."
        )
    random.Random(asked.seed).shuffle(rows)

    def named(attributes: dict[str, str]) -> str:
        kept = [asked.classes] if asked.classes else sorted(attributes)
        return " ".join(f"{attributes[thing]} {thing}" for thing in kept)

    classes = sorted({named(attributes) for _, attributes in rows})
    for split, part in (("validation", rows[: asked.held_out]), ("train", rows[asked.held_out :])):
        (asked.out / split).mkdir(parents=True)
        with (asked.out / split / "metadata.jsonl").open("w", encoding="utf-8") as lines:
            for name, attributes in part:
                shutil.copyfile(asked.folder / name, asked.out / split / name)
                text = " ".join(f"{colour} {thing}" for thing, colour in attributes.items())
                row = {"file_name": name, "text": [text], "attributes": attributes, "asked": [list(attributes)]}
                row |= {"label": classes.index(named(attributes)), "class_name": named(attributes)}
                lines.write(json.dumps(row) + "\n")
        print(f"{len(part):,} pictures in {asked.out / split}, the first: {part[0][0]}, {part[0][1]}")


if __name__ == "__main__":
    main()

"""Make a data set with attributes, classes and a validation split from images with tags such as "aqua hair blue eyes".

    python benchmarks/tagged_faces.py FOLDER faces --classes eyes

FOLDER contains images and a metadata.csv with the columns `file_name` and `text`. In `text`, colours and objects
alternate. The classes are the combinations of all tags, or the colours of one object (`--classes eyes`).

Negative captions come from images of another class. If the colours of the eyes are the classes, every negative caption
differs in the eyes. With `train.hard_negatives=8`, half of the negative captions differ in nothing else.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
from pathlib import Path


def parse_attributes(text: str | None) -> dict[str, str]:
    """Parse tags: "aqua hair blue eyes" becomes {"hair": "aqua", "eyes": "blue"}. Return {} for any other text."""
    words = (text or "").split()
    colours = dict(zip(words[1::2], words[::2], strict=False))
    return colours if 2 * len(colours) == len(words) else {}


def read_rows(folder: Path) -> list[tuple[str, dict[str, str]]]:
    """Read the file name and attributes of every image.

    Raises:
        SystemExit: a file is missing or a row can't be used; the message says which.
    """
    table = folder / "metadata.csv"
    if not table.is_file():
        raise SystemExit(f"{table} not found. Expected images and a metadata.csv with the columns file_name,text.")
    with table.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        missing = {"file_name", "text"} - set(reader.fieldnames or [])
        if missing:
            raise SystemExit(
                f"{table} has no column {', '.join(sorted(missing))}. Its first line must be file_name,text."
            )
        rows = []
        for row in reader:
            attributes = parse_attributes(row["text"])
            if not attributes:
                raise SystemExit(
                    f'{table}:{reader.line_num}: got "{row["text"]}". Expected tags such as "aqua hair blue eyes".'
                )
            if not (folder / row["file_name"]).is_file() or "/" in row["file_name"]:
                raise SystemExit(f"{table}:{reader.line_num}: {row['file_name']} is not a file directly in {folder}.")
            rows.append((row["file_name"], attributes))
    return sorted(rows, key=lambda row: row[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--classes", help="object whose colours are the classes; default: the combinations of all tags")
    parser.add_argument("--held-out", type=int, default=1000, help="images of the validation split")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random split")
    args = parser.parse_args()
    if args.out.exists():
        raise SystemExit(f"{args.out} already exists. Choose a new folder.")
    rows = read_rows(args.folder)
    if args.classes and not all(args.classes in attributes for _, attributes in rows):
        raise SystemExit(
            f"--classes {args.classes}: not an object of every row. Choose one, such as {', '.join(rows[0][1])}."
        )
    if not 0 < args.held_out < len(rows):
        raise SystemExit(f"--held-out {args.held_out}: expected at least 1 and fewer than all {len(rows):,} images.")
    random.Random(args.seed).shuffle(rows)

    def class_name(attributes: dict[str, str]) -> str:
        objects = [args.classes] if args.classes else sorted(attributes)
        return " ".join(f"{attributes[name]} {name}" for name in objects)

    classes = sorted({class_name(attributes) for _, attributes in rows})
    for split, split_rows in (("validation", rows[: args.held_out]), ("train", rows[args.held_out :])):
        (args.out / split).mkdir(parents=True)
        with (args.out / split / "metadata.jsonl").open("w", encoding="utf-8") as lines:
            for file, attributes in split_rows:
                shutil.copyfile(args.folder / file, args.out / split / file)
                text = " ".join(f"{colour} {name}" for name, colour in attributes.items())
                row: dict[str, object] = {
                    "file_name": file,
                    "text": [text],
                    "attributes": attributes,
                    "mentioned_attributes": [list(attributes)],
                }
                row |= {"label": classes.index(class_name(attributes)), "class_name": class_name(attributes)}
                lines.write(json.dumps(row) + "\n")
        print(
            f"Wrote {len(split_rows):,} images to {args.out / split}. The first: {split_rows[0][0]}, {split_rows[0][1]}"
        )


if __name__ == "__main__":
    main()

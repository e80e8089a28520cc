"""A data set from images with tags such as "aqua hair blue eyes": with attributes, classes and a validation split.

    python benchmarks/tagged_faces.py FOLDER faces --classes eyes

FOLDER has images and a metadata.csv of `file_name` and `text`, in which colours and objects alternate. The classes are the combinations
of all tags, or the colours of one object (`--classes eyes`). Negative captions are of images of another class: with the colours of the
eyes as classes, every negative caption differs in the eyes, and with `train.hard_negatives=8` half of them differ in nothing else.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
from pathlib import Path


def attributes_of(text: str | None) -> dict[str, str]:
    """ "aqua hair blue eyes" → {"hair": "aqua", "eyes": "blue"}; {} if the text is not of this form."""
    words = (text or "").split()
    found = dict(zip(words[1::2], words[::2], strict=False))
    return found if 2 * len(found) == len(words) else {}


def rows_of(folder: Path) -> list[tuple[str, dict[str, str]]]:
    """File name and attributes of every image. SystemExit says what is wrong."""
    table = folder / "metadata.csv"
    if not table.is_file():
        raise SystemExit(f"There is no {table}; wanted are images and a metadata.csv of file_name,text.")
    with table.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        missing = {"file_name", "text"} - set(reader.fieldnames or [])
        if missing:
            raise SystemExit(
                f"{table} has no column {', '.join(sorted(missing))}; its first line must be file_name,text."
            )
        rows = []
        for row in reader:
            attributes = attributes_of(row["text"])
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
    parser.add_argument(
        "--classes", help="object whose colours are the classes; without it, the combinations of all tags"
    )
    parser.add_argument("--held-out", type=int, default=1000, help="images of the validation split")
    parser.add_argument("--seed", type=int, default=0, help="of the random split")
    args = parser.parse_args()
    if args.out.exists():
        raise SystemExit(f"{args.out} is there already; name a new folder.")
    rows = rows_of(args.folder)
    if args.classes and not all(args.classes in attributes for _, attributes in rows):
        raise SystemExit(f"--classes {args.classes}: wanted an object of every row, such as {', '.join(rows[0][1])}.")
    if not 0 < args.held_out < len(rows):
        raise SystemExit(
            f"--held-out {args.held_out}: there are {len(rows):,} images; wanted at least 1 and fewer than all."
        )
    random.Random(args.seed).shuffle(rows)

    def class_name(attributes: dict[str, str]) -> str:
        kept = [args.classes] if args.classes else sorted(attributes)
        return " ".join(f"{attributes[name]} {name}" for name in kept)

    classes = sorted({class_name(attributes) for _, attributes in rows})
    for split, part in (("validation", rows[: args.held_out]), ("train", rows[args.held_out :])):
        (args.out / split).mkdir(parents=True)
        with (args.out / split / "metadata.jsonl").open("w", encoding="utf-8") as lines:
            for file, attributes in part:
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
        print(f"{len(part):,} images in {args.out / split}, the first: {part[0][0]}, {part[0][1]}")


if __name__ == "__main__":
    main()

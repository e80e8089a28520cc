"""Train the classifier of the drawn flowers that the package ships: minutes on a CPU.

    python benchmarks/shipped_classifier.py
    python benchmarks/shipped_classifier.py --write     # replaces stackflower/evaluation/weights/

`stackflower eval` would train the same classifier for `synthetic-flowers` at 64 px. Here, the weights of its layers are
in half precision. The drawings are frozen, so the classifier changes only if they or the settings change. Its file name
depends on both.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stackflower import registry
from stackflower.build import LOAD_RATIO, clamp_size
from stackflower.data.prepared import prepare
from stackflower.evaluation.classifier import training
from stackflower.evaluation.classifier.files import load_classifier
from stackflower.evaluation.classifier.measuring import measure_classifier
from stackflower.evaluation.classifier.targets import label_images

RESOLUTION = 64


def halve_weights(source: Path, target: Path) -> None:
    """Write a classifier with its weights in half precision; the few statistics and biases keep their precision."""
    with safe_open(source, "pt") as handle:
        metadata = handle.metadata()
    state = {name: value.half() if value.ndim > 1 else value for name, value in load_file(source).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, target, metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the classifier into the package")
    args = parser.parse_args()
    data = registry.create("data", "synthetic-flowers").classifier_data()
    shipped_folder, training.SHIPPED_FOLDER = training.SHIPPED_FOLDER, Path("/nowhere")
    trained = training.get_source_classifier(data, RESOLUTION)
    with tempfile.TemporaryDirectory() as folder:
        target = shipped_folder / trained.name if args.write else Path(folder) / trained.name
        halve_weights(trained, target)
        files = {"newly trained": trained, "in half precision": target, "in the package": shipped_folder / trained.name}
        held_out = prepare(
            data.source,
            "validation",
            clamp_size(round(RESOLUTION * LOAD_RATIO), data.source),
        )
        for name, path in files.items():
            if not path.exists():
                print(f"{name}: no classifier for these settings. Use --write to create it.")
                continue
            model = load_classifier(path)
            rows = label_images(held_out, model.heads, sorted(set(held_out.rows.labels or ())))
            print(f"{name}, {path.stat().st_size / 1e6:.2f} MB: {measure_classifier(model, rows)}")


if __name__ == "__main__":
    main()

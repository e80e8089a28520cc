"""Train from Python, with a callback that draws a caption at every checkpoint.

python examples/train_with_callback.py --images 20000 --out runs/callback
"""

import argparse
import logging
from pathlib import Path

import stackflower as sf


class DrawCaption(sf.Callback):
    """Draws one caption with the weights of every checkpoint.

    Args:
        caption: sentence to draw.
    """

    def __init__(self, caption: str):
        self.caption = caption

    def on_checkpoint(self, progress: sf.TrainingProgress, path: Path) -> None:
        if progress.images:
            pipeline = sf.Pipeline.from_run(progress.run)
            images = pipeline(self.caption, per_caption=8, seed=0)
            sf.grid(images).save(progress.run.path / f"drawn-{progress.images:06d}.png")

    def on_end(self, progress: sf.TrainingProgress, stopped: str | None) -> None:
        print(f"{progress.images:,} images in {progress.step:,} steps; stopped by {stopped or 'nothing'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic-flowers", help="name or path of a data set")
    parser.add_argument("--images", type=int, default=20_000, help="number of images to train on")
    parser.add_argument("--out", default="runs/callback", help="folder of the run")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # show what the library logs
    callback = DrawCaption("a red flower with pointed petals")
    run = sf.train("quickstart", data=args.data, images=args.images, out=args.out, callbacks=callback)
    print(f"The last model draws in {run.weights_file}")


if __name__ == "__main__":
    main()

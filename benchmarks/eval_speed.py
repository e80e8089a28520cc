"""Speed and memory of `stackflower eval` beside the bare generator and extractor.

    python benchmarks/eval_speed.py runs/stackgan-1 --images 30000

Both generate for the same captions and extract features in batches of the same size; eval also streams moments and class sums, and computes the
Inception Score and the Fréchet distance. They take turns, and the ratio of their images a second is printed, with the memory that the process has
held at most before and after the large evaluation. The features of the real images are in the cache by then.
"""

from __future__ import annotations

import argparse
import resource
import time

from stackflower import Pipeline, evaluate
from stackflower.data.opening import open_source
from stackflower.evaluation.extraction import BATCH
from stackflower.evaluation.opening import choose_extractor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", default="synthetic-flowers")
    parser.add_argument("--extractor", default="domain")
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--turns", type=int, default=3, help="of the small comparison before the large evaluation")
    parser.add_argument("--part", type=int, default=2_000, help="images of a turn")
    args = parser.parse_args()
    pipeline, source = Pipeline.from_run(args.run), open_source(args.data)
    extractor = choose_extractor(args.extractor, {}, source, pipeline.resolution)
    captions = source.rows(source.reported()).captions

    def bare(count: int) -> float:
        texts = [captions[number % len(captions)][0] for number in range(count)]
        start = time.perf_counter()
        for batch in pipeline.generate(texts, batch_size=BATCH):
            extractor(batch.permute(0, 3, 1, 2))
        return count / (time.perf_counter() - start)

    def scored(count: int) -> float:
        start = time.perf_counter()
        evaluate(args.run, data=args.data, extractor=args.extractor, samples=count, metrics=("is", "fid"))
        return count / (time.perf_counter() - start)

    bare(256), scored(args.images // 10), scored(args.part)  # caches
    for turn in range(args.turns):
        one, other = bare(args.part), scored(args.part)
        print(
            f"turn {turn + 1}, {args.part:,} images: bare {one:.1f} images/s, eval {other:.1f}, ratio {other / one:.3f}",
            flush=True,
        )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one, other, again = bare(args.part), scored(args.images), bare(args.part)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{args.images:,} images: bare {one:.1f} and {again:.1f} images/s, eval {other:.1f}, ratio {2 * other / (one + again):.3f}"
    )
    print(f"memory at most: {before / 1024:,.0f} MiB before, {after / 1024:,.0f} MiB after")


if __name__ == "__main__":
    main()

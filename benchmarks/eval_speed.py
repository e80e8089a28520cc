"""Compare the speed and memory of `stackflower eval` with the bare generator and extractor.

    python benchmarks/eval_speed.py runs/stackgan-1 --images 30000

Both generate images for the same captions and extract features in batches of the same size. `eval` also streams moments
and class sums, and computes the Inception Score and the Fréchet distance. The two take turns. The script prints the
ratio of their images per second, and the peak memory of the process before and after the large evaluation. The features
of the real images are cached before the timing starts.
"""

from __future__ import annotations

import argparse
import resource
import time

from stackflower import Pipeline, evaluate
from stackflower.data.opening import open_source
from stackflower.evaluation.extraction import BATCH_SIZE
from stackflower.evaluation.opening import create_extractor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", default="synthetic-flowers")
    parser.add_argument("--extractor", default="domain")
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument(
        "--turns", type=int, default=3, help="turns of the small comparison before the large evaluation"
    )
    parser.add_argument("--part", type=int, default=2_000, help="images per turn")
    args = parser.parse_args()
    pipeline, source = Pipeline.from_run(args.run), open_source(args.data)
    extractor = create_extractor(args.extractor, {}, source, pipeline.resolution)
    captions = source.rows(source.get_reported_split()).captions

    def measure_bare(count: int) -> float:
        texts = [captions[number % len(captions)][0] for number in range(count)]
        started = time.perf_counter()
        for batch in pipeline.generate(texts, batch_size=BATCH_SIZE):
            extractor(batch.permute(0, 3, 1, 2))
        return count / (time.perf_counter() - started)

    def measure_eval(count: int) -> float:
        started = time.perf_counter()
        evaluate(args.run, data=args.data, extractor=args.extractor, samples=count, metrics=("is", "fid"))
        return count / (time.perf_counter() - started)

    measure_bare(256), measure_eval(args.images // 10), measure_eval(args.part)  # fill the caches
    for turn in range(args.turns):
        bare_rate, eval_rate = measure_bare(args.part), measure_eval(args.part)
        print(
            f"turn {turn + 1}, {args.part:,} images: bare {bare_rate:.1f} images/s, eval {eval_rate:.1f} images/s, "
            f"ratio {eval_rate / bare_rate:.3f}",
            flush=True,
        )
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bare_rate, eval_rate, bare_rate_after = measure_bare(args.part), measure_eval(args.images), measure_bare(args.part)
    peak_after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{args.images:,} images: bare {bare_rate:.1f} and {bare_rate_after:.1f} images/s, "
        f"eval {eval_rate:.1f} images/s, ratio {2 * eval_rate / (bare_rate + bare_rate_after):.3f}"
    )
    print(f"peak memory: {peak_before / 1024:,.0f} MiB before, {peak_after / 1024:,.0f} MiB after")


if __name__ == "__main__":
    main()

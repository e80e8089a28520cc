"""Measure how fast data are prepared and streamed, and how much memory this takes.

    python benchmarks/data_speed.py --images 100000 shards

The script writes drawn flowers as shards once. It prepares them with one and two threads, reopens the prepared data,
and decodes a stream of the shards with zero, one and two workers. Each measurement runs in its own process, so that
each has its own memory peak.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stackflower.data.opening import open_source
from stackflower.data.prepared import prepare
from stackflower.data.sources.stream import ShardStream
from stackflower.text.encoders.ngram import NgramEncoder
from stackflower.training.batches.decoding import CaptionDraws, Decoder
from stackflower.training.batches.order import StreamOrder

SIZE, BATCH = 66, 16  # as in quickstart


def report(label: str, count: int, seconds: float) -> None:
    """Print speed, time and peak memory of this process."""
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{label:<44} {count / seconds:8,.0f} images/s  {seconds:7.1f} s  {peak_mib:7,.0f} MiB", flush=True)


def measure_prepare(folder: str, jobs: int) -> None:
    """Measure how long preparing takes with `jobs` threads; 0 reopens prepared data."""
    began = time.perf_counter()
    data = prepare(open_source(folder), "train", SIZE, jobs)
    report(f"prepare, {jobs} threads" if jobs else "reopen", len(data.rows), time.perf_counter() - began)


def measure_stream(folder: str, workers: int, images: int) -> None:
    """Measure how long indexing the shards and decoding `images` images take."""
    source = open_source(folder, layout="stream")
    assert isinstance(source, ShardStream)
    began = time.perf_counter()
    counts = source.count("train")
    indexed = time.perf_counter()
    order = StreamOrder(counts, 0, BATCH, source.window)
    decoder = Decoder(source.reader("train"), order, CaptionDraws(0, 1, NgramEncoder()), SIZE, workers)
    decoder(0, range(BATCH))
    started = time.perf_counter()
    for first in range(BATCH, images, BATCH):
        decoder(first, range(BATCH))
    if indexed - began > 1:
        report("index", len(order), indexed - began)
    report(f"stream, {workers} workers, with embeddings", images, time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="folder of shards; created if missing")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--streamed", type=int, default=20_000, help="images to decode from the stream")
    parser.add_argument("--only", choices=("prepare", "open", "stream"), help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only == "stream":
        return measure_stream(args.folder, args.processes, args.streamed)
    if args.only:
        return measure_prepare(args.folder, args.processes)
    if not Path(args.folder).exists():
        shard_arguments = [
            "data",
            "shard",
            "synthetic-flowers",
            args.folder,
            "--size",
            str(SIZE),
            "--set",
            f"data.count={args.images}",
        ]
        subprocess.run([sys.executable, "-m", "stackflower", *shard_arguments], check=True)
    measurement = [sys.executable, __file__, args.folder, "--streamed", str(args.streamed)]
    for processes in (1, 2):
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "STACKFLOWER_CACHE": cache}
            runs = [("prepare", processes), ("open", 0)] if processes == 2 else [("prepare", processes)]
            for name, count in runs:
                subprocess.run([*measurement, "--only", name, "--processes", str(count)], check=True, env=environment)
    for workers in (0, 1, 2):
        subprocess.run([*measurement, "--only", "stream", "--processes", str(workers)], check=True)
    for divisor in (10, 1):
        shorter_measurement = [sys.executable, __file__, args.folder, "--streamed", str(args.streamed // divisor)]
        subprocess.run([*shorter_measurement, "--only", "stream", "--processes", "1"], check=True)


if __name__ == "__main__":
    main()

"""How fast data are prepared and streamed, and how much memory it takes.

Writes drawn flowers as shards once, prepares them with one and two threads, decodes a stream of them with none, one and two workers, and opens the prepared data
again. Each in a process of its own, so that its peak of memory is its own::

    python benchmarks/data_speed.py --images 100000 shards
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

SIZE, BATCH = 66, 16  # of quickstart


def report(label: str, count: int, seconds: float) -> None:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{label:<44} {count / seconds:8,.0f} images/s  {seconds:7.1f} s  {own:7,.0f} MiB", flush=True)


def prepared(folder: str, jobs: int) -> None:
    began = time.perf_counter()
    data = prepare(open_source(folder), "train", SIZE, jobs)
    report(f"prepare, {jobs} threads" if jobs else "open again", len(data.rows), time.perf_counter() - began)


def streamed(folder: str, workers: int, images: int) -> None:
    source = open_source(folder, layout="stream")
    assert isinstance(source, ShardStream)
    began = time.perf_counter()
    counts = source.count("train")
    indexed = time.perf_counter()
    order = StreamOrder(counts, 0, BATCH, source.window)
    decoder = Decoder(source.reader("train"), order, CaptionDraws(0, 1, NgramEncoder()), SIZE, workers)
    decoder(0, range(BATCH))
    start = time.perf_counter()
    for first in range(BATCH, images, BATCH):
        decoder(first, range(BATCH))
    if indexed - began > 1:
        report("index", len(order), indexed - began)
    report(f"stream, {workers} workers, with embeddings", images, time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="of the shards; written if it is not there")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--streamed", type=int, default=20_000, help="images that are decoded of the stream")
    parser.add_argument("--only", choices=("prepare", "open", "stream"), help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only == "stream":
        return streamed(asked.folder, asked.processes, asked.streamed)
    if asked.only:
        return prepared(asked.folder, asked.processes)
    if not Path(asked.folder).exists():
        given = [
            "data",
            "shard",
            "synthetic-flowers",
            asked.folder,
            "--size",
            str(SIZE),
            "--set",
            f"data.count={asked.images}",
        ]
        subprocess.run([sys.executable, "-m", "stackflower", *given], check=True)
    again = [sys.executable, __file__, asked.folder, "--streamed", str(asked.streamed)]
    for processes in (1, 2):
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "STACKFLOWER_CACHE": cache}
            runs = [("prepare", processes), ("open", 0)] if processes == 2 else [("prepare", processes)]
            for only, count in runs:
                subprocess.run([*again, "--only", only, "--processes", str(count)], check=True, env=environment)
    for workers in (0, 1, 2):
        subprocess.run([*again, "--only", "stream", "--processes", str(workers)], check=True)
    for share in (10, 1):
        part = [sys.executable, __file__, asked.folder, "--streamed", str(asked.streamed // share)]
        subprocess.run([*part, "--only", "stream", "--processes", "1"], check=True)


if __name__ == "__main__":
    main()

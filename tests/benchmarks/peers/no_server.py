"""The limit: an archive's own code in a process of its own, from the bytes of a photo to the answer, without a server.

    cd ARCHIVE_FOLDER && PYTHONPATH=. python no_server.py PHOTO_FOLDER SECONDS

Prints a line when it is ready, starts at a line on stdin, and prints the photos per second.
"""

import sys
import time
from itertools import cycle
from pathlib import Path

from serve.counter import Counter


def main(photos: list[bytes], duration_s: float) -> None:
    counter = Counter(Path.cwd())
    counter.answer(photos[:4])  # warm
    print("ready", flush=True)
    sys.stdin.readline()
    start, number = time.perf_counter(), 0
    for photo in cycle(photos):
        counter.answer([photo])
        number += 1
        if time.perf_counter() - start >= duration_s:
            break
    print(number / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main([path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())], float(sys.argv[2]))

"""An open load on a server in a process of its own, until a file exists; one JSON line per answer.

python -m tests.benchmarks.swap_load URL PHOTO REQUESTS_PER_SECOND STOP_FILE
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.integration.load import opened

DAY_S = 86_400.0


@dataclass(frozen=True)
class StopFile:
    """An event that another process sets."""

    path: Path

    def is_set(self) -> bool:
        """Whether the file exists."""
        return self.path.exists()


if __name__ == "__main__":
    url, photo, rate, stop = sys.argv[1:]
    for answer in opened(url, Path(photo).read_bytes(), float(rate), DAY_S, StopFile(Path(stop))):
        print(json.dumps({**asdict(answer), "body": answer.body.decode()}))

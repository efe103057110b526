"""Reads one plain stream after another in a separate process, and measures the gaps between events.

    python -m tests.e2e.stream_watcher URL

For each line on standard input, prints the gaps since the line before as JSON: the number of
events, the largest gap and the gaps above 50 ms, all in milliseconds. A separate process is used so
that the work of the test's own clients does not delay the measurement.
"""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

LONG_MS = 50
NUM_TOKENS = 450  # of one stream


@dataclass(frozen=True)
class Gaps:
    """The gaps of one period in milliseconds."""

    num_events: int
    largest: float
    long: list[float]


class Watcher:
    """Runs the process. `take` returns the gaps since the previous call."""

    def __init__(self, url):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.stream_watcher", url],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._process.kill()
        self._process.communicate()

    def take(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Gaps(**json.loads(self._process.stdout.readline()))


class Reader(threading.Thread):
    """Reads the streams and records the gaps."""

    def __init__(self, url):
        super().__init__(daemon=True)
        parameters = {"max_new_tokens": NUM_TOKENS, "ignore_eos": True}
        self._request = urllib.request.Request(
            f"{url}/generate_stream",
            json.dumps({"inputs": "a plain stream", "parameters": parameters}).encode(),
            {"content-type": "application/json"},
        )
        self.gaps = []  # seconds

    def run(self):
        while True:
            before = None
            with urllib.request.urlopen(self._request) as response:
                for line in response:
                    if line.startswith(b"data:"):
                        if b'"error"' in line:
                            raise RuntimeError(line.decode())
                        now = time.perf_counter()
                        if before is not None:
                            self.gaps.append(now - before)
                        before = now


def main(url):
    reader = Reader(url)
    reader.start()
    for _ in sys.stdin:
        gaps, reader.gaps = reader.gaps, []
        ms = [gap * 1e3 for gap in gaps]
        slow = [round(gap, 1) for gap in ms if gap > LONG_MS]
        result = {"num_events": len(ms), "largest": round(max(ms, default=0), 1), "long": slow}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

"""Measure the seconds from the start of `tgi serve` to the first response of the demo model.

    python benchmarks/first_answer.py [--repeats 5] [-- OPTIONS OF tgi serve]

Each repeat runs the installed command in a new process and stops the clock when the whole response
of /generate has been read. The first repeat is included. It is slower if the files are not yet in
the page cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from server_process import free_port, running

PROMPT = "What is Deep Learning?"


def main() -> None:
    """Start the server, send one request and stop the server, `--repeats` times. Prints each time
    and the median.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("options", nargs="*", help="options of tgi serve")
    arguments = parser.parse_args()
    totals = []
    for number in range(1, arguments.repeats + 1):
        ready, responded, text = first_response(arguments.options)
        totals.append(responded)
        print(
            f"start {number}: ready after {ready:.2f} s, response after {responded:.2f} s:"
            f" {text!r}",
            flush=True,
        )
    print(f"median of {len(totals)}: {statistics.median(totals):.2f} s")


def first_response(options: list[str]) -> tuple[float, float, str]:
    """Return the seconds until the server was ready, the seconds until the end of the first
    response, and the generated text.
    """
    port = free_port()
    command = [
        str(Path(sys.executable).with_name("tgi")),
        "serve",
        "--hostname",
        "127.0.0.1",
        "--port",
        str(port),
        *options,
    ]
    body = json.dumps({"inputs": PROMPT}).encode()
    with (
        tempfile.TemporaryDirectory() as folder,
        running(command, port, "/health", Path(folder) / "log") as server,
    ):
        began = time.perf_counter()
        request = urllib.request.Request(
            f"{server.url}/generate", body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            text = json.load(response)["generated_text"]
        return server.seconds_to_ready, server.seconds_to_ready + time.perf_counter() - began, text


if __name__ == "__main__":
    main()

"""Measure our server: start it and run `tgi bench` against it.

python benchmarks/serving.py                                        # the demo model
python benchmarks/serving.py --model FOLDER --users 1,8,32          # another model
python benchmarks/serving.py --serve-args "--dtype float32" -d 128  # -d is an option of `tgi bench`

Options that are not listed below are passed to `tgi bench`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from server_process import free_port, running

from tgi.cli import main as tgi

_ROUTES = ("/generate_stream",)


def main() -> int:
    """Start the server, run the benchmark and stop the server. Returns 1 if a run was invalid."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="folder or hub id (default: the demo model)")
    parser.add_argument(
        "--serve-args", default="", help="additional options of the server, separated by spaces"
    )
    parser.add_argument("--routes", nargs="+", default=_ROUTES)
    arguments, rest = parser.parse_known_args()
    port = free_port()
    model = [arguments.model] if arguments.model else []
    command = [
        sys.executable,
        "-m",
        "tgi",
        "serve",
        *model,
        "--hostname",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    started = [*command, *arguments.serve_args.split()]
    with (
        tempfile.TemporaryDirectory() as folder,
        running(started, port, "/health", Path(folder) / "log") as server,
    ):
        print(f"ready after {server.seconds_to_ready:.1f} s", file=sys.stderr)
        statuses = [
            tgi(["bench", server.url, "--route", route, "--no-tui", *rest])
            for route in arguments.routes
        ]
        print(f"peak memory {server.peak_memory_mib():.0f} MiB", file=sys.stderr)
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())

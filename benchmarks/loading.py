"""Measure by how much loading a checkpoint lets the memory of the engine's process grow, beside the size of the weights.

    python benchmarks/loading.py FOLDER [--dtype bfloat16|float32]

Each measurement runs in a process of its own: a peak cannot be reset.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

_MEASURE = """
import sys
from pathlib import Path
from tgi.architectures import load_spec
from tgi.backend import EngineConfig
from tgi_cpu import tgi_backend
from tgi_torch.memory import weights_bytes

class Host:
    def progress(self, phase, done, total): pass
    def log(self, message): pass

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

path, dtype = sys.argv[1], sys.argv[2]
spec = load_spec(Path(path))
worker = tgi_backend().create_worker(EngineConfig("cpu", path, spec, dtype=dtype), Host())
before = peak()
worker.load()
print(peak() - before, weights_bytes(spec, dtype))
"""


def measure(path: Path, dtype: str) -> dict[str, object]:
    """Growth of the peak, the weights' size and their ratio."""
    output = subprocess.check_output([sys.executable, "-c", _MEASURE, str(path), dtype], text=True)
    growth, weights = map(int, output.split())
    return {"checkpoint": path.name, "dtype": dtype, "growth_bytes": growth, "weights_bytes": weights, "ratio": growth / weights}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a checkpoint")
    parser.add_argument("--dtype", action="append", choices=["bfloat16", "float32"], help="default: both")
    arguments = parser.parse_args()
    for dtype in arguments.dtype or ["bfloat16", "float32"]:
        print(json.dumps(measure(arguments.folder, dtype)))


if __name__ == "__main__":
    main()

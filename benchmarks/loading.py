"""Measure the growth of the engine process while it loads a checkpoint, and compare it with the
size of the weights.

    python benchmarks/loading.py FOLDER [--precision bfloat16|float32|int8|int4|stored]

The precision `stored` is for a checkpoint that is already quantized. Each measurement runs in a new
process, because the peak memory of a process cannot be reset.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

_PRECISIONS = ("float32", "bfloat16", "int8", "int4", "stored")
_MEASURE = """
import sys
from pathlib import Path
from tgi.architectures import load_spec
from tgi.backend import EngineConfig
from tgi_cpu import tgi_backend
from tgi_torch.memory import weights_bytes
from tgi_torch.weights.checkpoint_formats import checkpoint_formats
from tgi_torch.weights.weight_formats import QUANTIZATIONS

class Host:
    def progress(self, phase, done, total): pass
    def log(self, message): pass

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

path, precision = sys.argv[1], sys.argv[2]
quantize = precision if precision in QUANTIZATIONS else None
dtype = "bfloat16" if quantize or precision == "stored" else precision
spec = load_spec(Path(path))
worker = tgi_backend().create_worker(
    EngineConfig("cpu", path, spec, dtype=dtype, quantize=quantize), Host()
)
before = peak()
worker.load()
formats = QUANTIZATIONS.get(quantize) or checkpoint_formats(spec, Path(path))
print(peak() - before, weights_bytes(spec, dtype, formats))
"""


def measure(path: Path, precision: str) -> dict[str, object]:
    """Return the growth of the peak memory, the size of the weights, and their ratio."""
    output = subprocess.check_output(
        [sys.executable, "-c", _MEASURE, str(path), precision], text=True
    )
    growth, weights = map(int, output.split())
    sizes = {"growth_bytes": growth, "weights_bytes": weights, "ratio": growth / weights}
    return {"checkpoint": path.name, "precision": precision, **sizes}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a checkpoint")
    parser.add_argument("--precision", action="append", choices=_PRECISIONS, help="default: all")
    arguments = parser.parse_args()
    for precision in arguments.precision or _PRECISIONS:
        print(json.dumps(measure(arguments.folder, precision)))


if __name__ == "__main__":
    main()

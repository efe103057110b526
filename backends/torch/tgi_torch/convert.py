"""`tgi convert`: pickled weights become safetensors. Unpickling happens in a process of its own,
and only of tensors.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tgi.backend import ModelError

__all__ = ["run"]

_HELP = """Usage: tgi convert SOURCE [OUTPUT]

Write the weights of the folder SOURCE (pytorch_model.bin, or the files of its index) as safetensors
into the folder OUTPUT, beside copies of config and tokenizer; without OUTPUT into SOURCE. Only
tensors are unpickled, in a process of its own; a file that holds anything else is refused. A hub
model is fetched first: hf download OWNER/NAME --local-dir SOURCE"""


def run(arguments: Sequence[str]) -> int:
    """Convert, then print the folder. Returns 2 for wrong arguments; raises `ModelError`."""
    if any(word in ("-h", "--help") for word in arguments):
        print(_HELP)
        return 0
    if not 1 <= len(arguments) <= 2 or any(word.startswith("-") for word in arguments):
        print(
            "error: `tgi convert` takes a folder and perhaps another one. See `tgi convert"
            " --help`.",
            file=sys.stderr,
        )
        return 2
    source = Path(arguments[0]).expanduser()
    output = Path(arguments[-1]).expanduser()
    if not source.is_dir():
        raise ModelError(
            f"The folder `{source}` does not exist.",
            "Name the folder that holds config.json and the weights.",
        )
    # Isolated: neither the current folder nor variables decide which modules the process imports.
    command = [
        sys.executable,
        "-I",
        "-m",
        "tgi_torch.weights.pickled_weights",
        str(source),
        str(output),
    ]
    done = subprocess.run(
        command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ModelError(
            lines[-1] if lines else f"The conversion ended with status {done.returncode}."
        )
    print(output)
    return 0

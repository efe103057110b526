"""`tgi convert`: converts pickled weights to safetensors.

Files are unpickled in a separate process. A file that contains objects other than tensors is
rejected.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tgi.backend import ModelError

__all__ = ["run"]

_HELP = """Usage: tgi convert SOURCE [OUTPUT]

Read the weights in the folder SOURCE (pytorch_model.bin, or the files of its index) and write them
as safetensors to the folder OUTPUT, with copies of config and tokenizer. Without OUTPUT, write to
SOURCE. Only tensors are unpickled, in a separate process, and a file that contains anything else is
rejected. Download a hub model first: hf download OWNER/NAME --local-dir SOURCE"""


def run(arguments: Sequence[str]) -> int:
    """Convert the weights, then print the output folder. Returns 2 for wrong arguments. Raises
    `ModelError`.
    """
    if any(word in ("-h", "--help") for word in arguments):
        print(_HELP)
        return 0
    if not 1 <= len(arguments) <= 2 or any(word.startswith("-") for word in arguments):
        print(
            "error: `tgi convert` takes one or two folders. See `tgi convert --help`.",
            file=sys.stderr,
        )
        return 2
    source = Path(arguments[0]).expanduser()
    output = Path(arguments[-1]).expanduser()
    if not source.is_dir():
        raise ModelError(
            f"The folder `{source}` does not exist.",
            "Name the folder that contains config.json and the weights.",
        )
    # -I isolates the process: the current folder and the environment have no influence on which
    # modules it imports.
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

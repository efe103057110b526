"""Implements `tgi sagemaker`, which runs `tgi serve` with the variables and the port of SageMaker.
The entry point of TGI 3's image does the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from tgi.cli import serve
from tgi.cli.migration.data import SAGEMAKER_PORT, SAGEMAKER_VARIABLES
from tgi.config import process_environment
from tgi.errors import ConfigError

__all__ = ["run"]

_HELP = f"""Usage: tgi sagemaker [OPTIONS]

Run `tgi serve` on port {SAGEMAKER_PORT}. The options are those of `tgi serve`. The variables of
SageMaker set these variables of `tgi serve`:
"""


def run(arguments: Sequence[str]) -> int:
    """Serve until the process receives a signal. Returns the exit code. Raises `StartError`."""
    if any(word in ("-h", "--help") for word in arguments):
        print(
            _HELP
            + "\n".join(f"  {theirs:<28}{ours}" for theirs, ours in SAGEMAKER_VARIABLES.items())
        )
        return 0
    variables = dict(process_environment())
    if not variables.get("HF_MODEL_ID"):
        raise ConfigError("HF_MODEL_ID must be set", "Set it to the model: a folder or a hub id.")
    for theirs, ours in SAGEMAKER_VARIABLES.items():
        if theirs in variables:
            variables[ours] = variables[theirs]
    variables["PORT"] = str(SAGEMAKER_PORT)
    return serve.start(arguments, variables)

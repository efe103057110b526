"""`tgi download`: download a model to the cache, so that a later startup needs no network."""

from __future__ import annotations

from collections.abc import Sequence

from tgi.cli.log import configure_logging
from tgi.config import OPTIONS, UsageError, parse_arguments, process_environment, read_environment
from tgi.models import check_weights, find_model, installed_formats
from tgi.plugins import BackendRegistry

__all__ = ["run"]

_FLAGS = ("--model-id", "--revision", "--huggingface-hub-cache", "--backend", "--json-output")
_HELP = """Usage: tgi download MODEL [OPTIONS]

Fetch MODEL, a hub id, into the cache and print its folder, or the path of its file if one file is
the model. The files are those that the installed backend of the highest priority reads, or the
backend named by --backend. HF_TOKEN gives access to private models.
"""


def run(arguments: Sequence[str]) -> int:
    """Download the model, then print its path. Returns the exit code. Raises `ModelError` if the
    model cannot be downloaded.
    """
    rows = [row for row in OPTIONS if row.flag in _FLAGS]
    if not arguments or any(word in ("-h", "--help") for word in arguments):
        print(_HELP + "\n".join(f"  {row.flag:<26}{row.help}" for row in rows[1:]))
        return 0
    for word in arguments:
        if word.startswith("-") and word.partition("=")[0] not in _FLAGS:
            raise UsageError(
                f"error: unexpected argument '{word}' found.",
                f"`tgi download` takes {', '.join(_FLAGS)}.",
            )
    variables = process_environment()
    options = parse_arguments(
        arguments, {k: v for k, v in variables.items() if k in {r.environment for r in rows}}
    ).options
    if options.model_id is None:
        raise UsageError("error: no model was named.", "Name a hub id like `owner/name`.")
    environment = read_environment(variables)
    configure_logging(environment.log_level, options.json_output)
    readable = installed_formats(BackendRegistry(), options.backend)
    source = find_model(options, environment, readable, lambda _: None)
    check_weights(source, readable)
    print(source.path)
    return 0

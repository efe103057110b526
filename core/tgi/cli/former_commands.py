"""Aliases for TGI 3's other commands: `text-generation-server`, `-router` and `-benchmark`.

Flags that have no effect are accepted. A line on standard error gives the reason or the
replacement.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from tgi import __version__
from tgi.cli import run_command
from tgi.config import UsageError, process_environment

__all__ = ["benchmark_main", "router_main", "server_main"]


@final
@dataclass(frozen=True)
class FormerFlag:
    """A flag of a TGI 3 command. `replacement` is the flag of tgi that replaces it. `note` is the
    reason for which a flag without a replacement has no effect.
    """

    replacement: str = ""
    note: str = ""
    takes_value: bool = True


_SOCKET = FormerFlag(note="the server chooses its sockets itself")
_LEVEL = FormerFlag(note="set the variable LOG_LEVEL instead")
_NO_CONVERSION = "weights are read from safetensors files only, which `tgi convert` creates"

_SERVE_FLAGS = {
    "--uds-path": _SOCKET,
    "--logger-level": _LEVEL,
    "--sharded": FormerFlag(note="use `--num-shard`", takes_value=False),
    "--no-sharded": FormerFlag(takes_value=False),
    "--no-trust-remote-code": FormerFlag(takes_value=False),
    "--no-json-output": FormerFlag(takes_value=False),
}
_DOWNLOAD_FLAGS = {
    "--extension": FormerFlag(note=_NO_CONVERSION),
    "--auto-convert": FormerFlag(note=_NO_CONVERSION, takes_value=False),
    "--no-auto-convert": FormerFlag(takes_value=False),
    "--logger-level": _LEVEL,
    "--trust-remote-code": FormerFlag(note="code is never downloaded", takes_value=False),
    "--no-trust-remote-code": FormerFlag(takes_value=False),
    "--no-json-output": FormerFlag(takes_value=False),
    "--merge-lora": FormerFlag(note="adapters are not merged", takes_value=False),
    "--no-merge-lora": FormerFlag(takes_value=False),
}
_QUANTIZE_FLAGS = {
    "--logger-level": _LEVEL,
    "--json-output": FormerFlag(note="progress is printed as plain lines", takes_value=False),
    "--no-json-output": FormerFlag(takes_value=False),
    "--trust-remote-code": FormerFlag(
        note="code of a model repository is never run", takes_value=False
    ),
    "--no-trust-remote-code": FormerFlag(takes_value=False),
}
_UPLOAD_FLAG = "--upload-to-model-id"
_ROUTER_FLAGS = {
    "--tokenizer-name": FormerFlag("--model-id"),
    "--master-shard-uds-path": _SOCKET,
    "--max-image-fetch-size": FormerFlag(note="images are not accepted yet"),
}
_ROUTER_VARIABLES = {"TOKENIZER_NAME": "MODEL_ID"}
_BENCHMARK_FLAGS = {
    "-t": FormerFlag(note="the server has the tokenizer"),
    "--tokenizer-name": FormerFlag(note="the server has the tokenizer"),
    "--revision": FormerFlag(note="the server has the tokenizer"),
    "-m": FormerFlag(note="use `--url`"),
    "--master-shard-uds-path": FormerFlag(note="use `--url`"),
}
_BENCHMARK_DEFAULTS = ("--prompt-tokens", "10", "--output-tokens", "8", "--rounds", "10")

_SERVER_HELP = """Usage: text-generation-server serve MODEL [OPTIONS]
       text-generation-server download-weights MODEL [OPTIONS]
       text-generation-server quantize MODEL OUT [OPTIONS]

`serve` is an alias of `tgi serve`. It starts the complete server, without a separate router.
`download-weights` is an alias of `tgi download`. `quantize` is an alias of `tgi quantize`."""
_ROUTER_HELP = """Usage: text-generation-router [OPTIONS]
       text-generation-router print-schema

Run `tgi serve` with the options of TGI's router. `tgi serve --help` shows the options.
`print-schema` prints the OpenAPI document of the routes."""


def server_main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `text-generation-server`. Returns the exit code."""
    words = _words(arguments)
    match words[:1]:
        case ["serve"]:
            return run_command(lambda: _serve(words[1:], _SERVE_FLAGS))
        case ["download-weights"]:
            return run_command(lambda: _download(words[1:]))
        case ["quantize"]:
            return run_command(lambda: _quantize(words[1:]))
    return _other("text-generation-server", words, _SERVER_HELP)


def router_main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `text-generation-router`. Returns the exit code."""
    words = _words(arguments)
    if words[:1] == ["print-schema"]:
        return run_command(_print_schema)
    if words[:1] in (["-h"], ["--help"], ["-V"], ["--version"]):
        return _other("text-generation-router", words, _ROUTER_HELP)
    return run_command(lambda: _serve(words, _ROUTER_FLAGS))


def benchmark_main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `text-generation-benchmark`. Returns the exit code."""
    return run_command(lambda: _bench(_words(arguments)))


def _words(arguments: Sequence[str] | None) -> list[str]:
    return list(sys.argv[1:] if arguments is None else arguments)


def _other(name: str, words: Sequence[str], help_text: str) -> int:
    if words[:1] in (["-V"], ["--version"]):
        print(f"{name} {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help"):
        print(help_text)
        return 0
    print(f"error: unrecognized subcommand '{words[0]}'. Try `{name} --help`.", file=sys.stderr)
    return 2


def _serve(words: Sequence[str], flags: Mapping[str, FormerFlag]) -> int:
    from tgi.cli import serve  # noqa: PLC0415 - the module is imported when the command runs

    if any(word in ("-h", "--help") for word in words):
        return serve.run(["--help"])
    arguments, notes = translate(words, flags)
    variables = dict(process_environment())
    for theirs, ours in _ROUTER_VARIABLES.items():
        if theirs in variables:
            variables.setdefault(ours, variables[theirs])
    return serve.start(arguments, variables, notes)


def _download(words: Sequence[str]) -> int:
    from tgi.cli import download  # noqa: PLC0415 - as above

    return download.run(_translate_and_print(words, _DOWNLOAD_FLAGS))


def _bench(words: Sequence[str]) -> int:
    from tgi.cli import bench  # noqa: PLC0415 - as above

    return bench.run([*_BENCHMARK_DEFAULTS, *_translate_and_print(words, _BENCHMARK_FLAGS)])


def _print_schema() -> int:
    from tgi.server.openapi.document import openapi_document  # noqa: PLC0415 - as above

    print(json.dumps(openapi_document(__version__), indent=2, ensure_ascii=False))
    return 0


def _quantize(words: Sequence[str]) -> int:
    from tgi.cli import quantize  # noqa: PLC0415 - as above

    if any(word.partition("=")[0] == _UPLOAD_FLAG for word in words):
        raise UsageError(
            f"error: `{_UPLOAD_FLAG}` is not supported.",
            "Remove it, and upload the output folder: hf upload OWNER/NAME FOLDER.",
        )
    return quantize.run(_translate_and_print(words, _QUANTIZE_FLAGS))


def _translate_and_print(words: Sequence[str], flags: Mapping[str, FormerFlag]) -> list[str]:
    arguments, notes = translate(words, flags)
    for note in notes:
        print(note, file=sys.stderr)
    return arguments


def translate(words: Sequence[str], flags: Mapping[str, FormerFlag]) -> tuple[list[str], list[str]]:
    """Translate the arguments of a TGI 3 command. Returns the arguments for the command of `tgi`,
    and one line for each flag that has no effect. Raises `UsageError` if a value is missing.
    """
    arguments: list[str] = []
    notes: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        former = flags.get(flag)
        if former is None:
            arguments.append(word)
            continue
        if former.takes_value and not equals:
            if not rest:
                raise UsageError(f"error: a value is required for '{flag}' but none was supplied.")
            value = rest.pop(0)
        if former.replacement:
            arguments += [former.replacement, value]
        elif former.note:
            notes.append(f"`{flag}` has no effect: {former.note}.")
    return arguments, notes

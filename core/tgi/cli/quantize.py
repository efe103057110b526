"""`tgi quantize`: quantizes the weights of a model by GPTQ and writes a new checkpoint."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, final

from tgi.backend import GptqSettings
from tgi.cli.log import configure_logging
from tgi.config import (
    UsageError,
    parse_arguments,
    process_environment,
    read_environment,
)
from tgi.models import StartRequest, check_weights, find_source, read_model, usable_formats
from tgi.models.output_folder import check_new_folder
from tgi.models.quantizing import (
    Calibration,
    calibration_text,
    check_quantizable,
    quantize_model,
    token_sequences,
)
from tgi.models.resolution import find_tokenizer
from tgi.plugins import BackendRegistry

__all__ = ["run"]

_BITS = (2, 3, 4, 8)
_MIN_GROUP, _GROUP_MULTIPLE = 8, 8
_MAX_SAMPLES, _MAX_LENGTH, _MIN_LENGTH = 1_000_000, 1_000_000, 16
_SETTING_VARIABLES = ("HUGGINGFACE_HUB_CACHE",)
_TERMINATED_EXIT_CODE = 143
_DESCRIPTION = """Quantize the weights of MODEL by GPTQ (arXiv 2210.17323), and write a checkpoint
to the new folder OUT. MODEL is a folder or a hub id. The weights are changed so that the outputs of
each layer change as little as possible on a calibration text. Norms, biases, the embedding and the
output head are not quantized."""


def run(arguments: Sequence[str]) -> int:
    """Quantize the model, then print the output folder. Returns the exit code. Raises
    `UsageError`, `ConfigError`, `ModelError` and `BackendError`.
    """
    options = _parser().parse_args(list(arguments))
    settings = _settings(options)
    output = Path(options.out).expanduser()
    check_new_folder(output)
    text = calibration_text(options.calibration_text and Path(options.calibration_text))
    variables = process_environment()
    words = [options.model, "--backend", options.backend]
    if options.revision is not None:
        words += ["--revision", options.revision]
    registry = BackendRegistry()
    # Environment variables of the server, such as QUANTIZE, are ignored.
    kept = {name: variables[name] for name in _SETTING_VARIABLES if name in variables}
    parsed = parse_arguments(words, kept, registry.names)
    environment = read_environment(variables)
    configure_logging(environment.log_level, parsed.options.json_output)
    request = StartRequest(parsed, environment, kept, registry, _report)
    with _termination_as_exit():
        source = find_source(request)
        check_weights(source, usable_formats(registry, options.backend))
        model = read_model(request, source)
        spec = check_quantizable(model)
        # The library takes a tenth of a second to import.
        from tgi.text import Tokenizer  # noqa: PLC0415

        tokenizer = Tokenizer.load(find_tokenizer(model))
        calibration = Calibration(text, options.num_samples, options.sequence_length)
        quantize_model(
            model,
            token_sequences(calibration, tokenizer, spec),
            settings,
            output=output,
            registry=registry,
            backend=options.backend,
            report=_report,
        )
    print(output)
    return 0


@final
class _Parser(argparse.ArgumentParser):
    """Raises `UsageError` instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"error: {message}.", "See `tgi quantize --help`.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("tgi quantize", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="folder or hub id of the model")
    parser.add_argument("out", metavar="OUT", help="new folder for the quantized checkpoint")
    parser.add_argument("--revision", help="commit, branch or tag of a model on the hub")
    parser.add_argument("--bits", type=int, default=4, help="bits of a weight: 2, 3, 4 or 8 (4)")
    parser.add_argument(
        "--groupsize",
        type=int,
        default=128,
        help="number of inputs that share a scale, or -1 for all inputs of an output (128)",
    )
    parser.add_argument(
        "--act-order",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="group inputs by the size of their activations (`desc_act`)",
    )
    parser.add_argument(
        "--sym",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="use the same code for 0 in all groups, as most kernels require",
    )
    parser.add_argument("--asym", dest="sym", action="store_false", help="alias of --no-sym")
    parser.add_argument("--percdamp", type=float, default=0.01, help="damping (0.01)")
    parser.add_argument("--calibration-text", metavar="FILE", help="file with plain text in UTF-8")
    parser.add_argument(
        "--num-samples", type=int, default=128, help="maximum number of sequences (128)"
    )
    parser.add_argument(
        "--sequence-length", type=int, default=2048, help="maximum sequence length in tokens (2048)"
    )
    parser.add_argument(
        "--backend", default="auto", help="backend that computes the weights (auto)"
    )
    return parser


def _settings(options: argparse.Namespace) -> GptqSettings:
    """Check the options. Raises `UsageError` with the limits and the value."""
    size: int = options.groupsize
    if options.bits not in _BITS:
        raise _invalid("--bits", options.bits, "2, 3, 4 or 8")
    if size != -1 and (size < _MIN_GROUP or size % _GROUP_MULTIPLE):
        limits = f"-1, or a multiple of {_GROUP_MULTIPLE} from {_MIN_GROUP}"
        raise _invalid("--groupsize", size, limits)
    if not 0 < options.percdamp <= 1:
        raise _invalid("--percdamp", options.percdamp, "a number above 0 and at most 1")
    if not 1 <= options.num_samples <= _MAX_SAMPLES:
        raise _invalid("--num-samples", options.num_samples, f"from 1 to {_MAX_SAMPLES}")
    if not _MIN_LENGTH <= options.sequence_length <= _MAX_LENGTH:
        limits = f"from {_MIN_LENGTH} to {_MAX_LENGTH}"
        raise _invalid("--sequence-length", options.sequence_length, limits)
    return GptqSettings(
        bits=options.bits,
        group_size=None if size == -1 else size,
        is_symmetric=options.sym,
        has_order=options.act_order,
        damping=options.percdamp,
    )


def _invalid(flag: str, value: object, allowed: str) -> UsageError:
    return UsageError(f"error: invalid value '{value}' for '{flag}': allowed are {allowed}.")


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Raise `SystemExit` on SIGTERM, so that the temporary folder is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> NoReturn:
        del number, frame
        raise SystemExit(_TERMINATED_EXIT_CODE)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

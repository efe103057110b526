"""`tgi inspect`: describe a checkpoint from its config and weight headers, and list the installed
backends that can run it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tgi.cli.log import configure_logging
from tgi.cli.start_display import format_bytes
from tgi.config import (
    OPTIONS,
    UsageError,
    parse_arguments,
    process_environment,
    read_environment,
)
from tgi.errors import ModelError
from tgi.models import (
    ModelCard,
    QuantizationCard,
    StartRequest,
    inspect_model,
    readiness,
    with_description,
)
from tgi.plugins import BackendRegistry

__all__ = ["run"]

_FLAGS = (
    *(
        "--model-id",
        "--revision",
        "--huggingface-hub-cache",
        "--weights-cache-override",
        "--trust-remote-code",
        "--tokenizer-config-path",
    ),
    *(
        "--backend",
        "--dtype",
        "--quantize",
        "--kv-cache-dtype",
        "--num-shard",
        "--rope-scaling",
        "--rope-factor",
    ),
)
"""The options of `tgi serve` that affect the output."""

_HELP = """Usage: tgi inspect MODEL [--json] [OPTIONS]

Print the family of MODEL, its parameters, the memory of its parts and of a token in the KV cache,
and which of the installed backends can run it and how. The command reads config.json, the tokenizer
and the headers of the weight files. It loads no weights. A hub model is first fetched into the
cache.

The exit code is 0 if the model can be served with the given options, and 1 if not. """


def run(arguments: Sequence[str]) -> int:
    """Print the description of the model. Returns the exit code. Raises `ModelError` if the model
    cannot be read.
    """
    rows = [row for row in OPTIONS if row.flag in _FLAGS]
    words = [word for word in arguments if word != "--json"]
    if not words or any(word in ("-h", "--help") for word in words):
        print(_HELP + "\n".join(f"  {row.flag:<26}{row.help}" for row in rows[1:]))
        return 0
    for word in words:
        if word.startswith("-") and word.partition("=")[0] not in _FLAGS:
            raise UsageError(
                f"error: unexpected argument '{word}' found.",
                f"`tgi inspect` takes --json, {', '.join(_FLAGS)}.",
            )
    variables = process_environment()
    known = {row.environment for row in rows}
    parsed = parse_arguments(
        words, {name: value for name, value in variables.items() if name in known}
    )
    options = parsed.options
    if options.model_id is None:
        raise UsageError(
            "error: no model was named.", "Name a folder, or a hub id like `owner/name`."
        )
    environment = read_environment(variables)
    configure_logging(environment.log_level, options.json_output)
    registry = BackendRegistry()
    request = StartRequest(parsed, environment, variables, registry)
    ready = with_description(request, readiness(request))
    if ready.model is None:
        raise ready.problem or AssertionError("a model without a problem was described")
    problem = "" if ready.problem is None else str(ready.problem)
    try:
        card = inspect_model(ready.model, options, registry, problem)
    except ModelError as error:
        raise ready.problem or error from error
    if "--json" in arguments:
        print(msgspec.json.format(msgspec.json.encode(card), indent=2).decode())
    else:
        _print_card(card)
    return 1 if problem else 0


def _print_card(card: ModelCard) -> None:
    origin = "built in" if card.is_built_in else "not built in"
    rows = [
        ("model", card.model if card.revision is None else f"{card.model} at {card.revision}"),
        ("family", f"{card.family} ({origin})"),
        ("format", card.format),
        ("parameters", "unknown" if card.parameters is None else f"{card.parameters:,}"),
        ("stored as", card.stored_dtype or "no floating-point dtype"),
        *_quantization_rows(card.quantization),
        ("layers", str(card.layers)),
        ("vocabulary", f"{card.vocab_size:,}"),
        (
            "context",
            (
                "no limit of its own"
                if card.max_positions is None
                else f"{card.max_positions:,} tokens"
            ),
        ),
    ]
    _print_rows(rows)
    if card.parts:
        print("\nweights as stored")
    _print_rows(
        [
            (part.name, f"{format_bytes(part.num_bytes)}, {part.parameters:,} parameters")
            for part in card.parts
        ]
    )
    print("\nbackends")
    for status in card.backends:
        sums = [f"{label} {format_bytes(num_bytes)}" for label, num_bytes in status.memory.items()]
        _print_rows([(status.backend, "; ".join([status.status, *status.reasons, *sums]))])
    print(f"\n{f'problem: {card.problem}' if card.problem else 'no problem found'}")


def _quantization_rows(card: QuantizationCard | None) -> list[tuple[str, str]]:
    if card is None:
        return []
    matrices = ", ".join(f"{count} {name}" for name, count in card.matrices.items())
    exceptions = ", ".join(
        f"{name} ({format_bytes(num_bytes)})" for name, num_bytes in card.exceptions.items()
    )
    sizes = f"{format_bytes(card.stored_bytes)}, in bfloat16 {format_bytes(card.bfloat16_bytes)}"
    return [
        ("quantization", f"{card.description} (`{card.format}`)"),
        ("matrices", f"{matrices}: {sizes}"),
        ("not quantized", exceptions or "no matrix"),
    ]


def _print_rows(rows: Sequence[tuple[str, str]]) -> None:
    width = max((len(label) for label, _ in rows), default=0)
    for label, value in rows:
        print(f"  {label:<{width}}  {value}")

"""`tgi inspect`: what a checkpoint is and which installed backends can run it, from its config and
weight headers alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from tgi.architectures import GenericSpec, ModelSpec, load_spec
from tgi.architectures.checkpoint import StoredTensor, main_dtype, stored_tensors
from tgi.architectures.weight_map import tensor_shapes
from tgi.backend import EngineConfig
from tgi.cli.log import configure_logging
from tgi.cli.model_files import ModelFiles, find_model
from tgi.cli.start_display import format_bytes
from tgi.config import (
    OPTIONS,
    ServeOptions,
    UsageError,
    num_shard_of,
    parse_arguments,
    process_environment,
    read_environment,
)
from tgi.plugins import BackendRegistry, Candidate

__all__ = ["run"]

_FLAGS = (
    *(
        "--model-id",
        "--revision",
        "--huggingface-hub-cache",
        "--weights-cache-override",
        "--trust-remote-code",
    ),
    *(
        "--dtype",
        "--quantize",
        "--kv-cache-dtype",
        "--num-shard",
        "--rope-scaling",
        "--rope-factor",
    ),
)
"""The options of `tgi serve` on which the answer depends."""

_HELP = """Usage: tgi inspect MODEL [--json] [OPTIONS]

Print the family of MODEL, its parameters, the memory of its parts and of a token in the KV cache,
and which of the installed backends can run it and how. Reads config.json and the headers of the
weight files; loads nothing. A hub model is fetched into the cache first. """


def run(arguments: Sequence[str]) -> int:
    """Print the card. Raises `ModelError`."""
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
    options = parse_arguments(
        words, {name: value for name, value in variables.items() if name in known}
    ).options
    if options.model_id is None:
        raise UsageError(
            "error: no model was named.", "Name a folder, or a hub id like `owner/name`."
        )
    environment = read_environment(variables)
    configure_logging(environment.log_level, options.json_output)
    files = find_model(options, environment, lambda _: None)
    card = _card(files, options)
    if "--json" in arguments:
        print(msgspec.json.format(msgspec.json.encode(card), indent=2).decode())
    else:
        _print_card(card)
    return 0


class Part(msgspec.Struct, frozen=True):
    """Weights of one part of the model, as they are stored."""

    name: str
    parameters: int
    num_bytes: int


class Status(msgspec.Struct, frozen=True):
    """What one installed backend answers: `native`, `slow`, or `no`, and the memory it would
    take.
    """

    backend: str
    status: str
    reasons: tuple[str, ...]
    memory: Mapping[str, int]  # bytes
    kv_bytes_per_token: int | None


class Card(msgspec.Struct, frozen=True):
    """The answer of `--json`. `is_built_in`: the family is data of this project, not left to a
    fallback.
    """

    model: str
    revision: str | None
    family: str
    is_built_in: bool
    parameters: int
    stored_dtype: str | None
    max_positions: int | None
    vocab_size: int
    layers: int
    parts: tuple[Part, ...]
    backends: tuple[Status, ...]


def _card(files: ModelFiles, options: ServeOptions) -> Card:
    spec = load_spec(files.path, rope_scaling=options.rope_scaling, rope_factor=options.rope_factor)
    tensors = stored_tensors(files.path)
    if isinstance(spec, ModelSpec):
        parameters, layers = (
            sum(map(math.prod, tensor_shapes(spec).values())),
            sum(len(stack.layers) for stack in spec.stacks),
        )
    else:
        parameters, layers = (
            sum(math.prod(stored.shape) for stored in tensors.values()),
            spec.num_layers,
        )
    return Card(
        model=files.model_id,
        revision=files.revision,
        family=spec.model_type,
        is_built_in=isinstance(spec, ModelSpec),
        parameters=parameters,
        stored_dtype=main_dtype(tensors),
        max_positions=spec.max_positions or None,
        vocab_size=spec.vocab_size,
        layers=layers,
        parts=_parts(tensors),
        backends=_statuses(files, spec, options),
    )


def _parts(tensors: Mapping[str, StoredTensor]) -> tuple[Part, ...]:
    """Tensors by their name without the layer: `model.layers.3.mlp.up.weight` belongs to
    `model.layers.*.mlp`.
    """
    parameters, num_bytes = Counter[str](), Counter[str]()
    for name, stored in tensors.items():
        part = _part_name(name.split("."))
        parameters[part] += math.prod(stored.shape)
        num_bytes[part] += stored.num_bytes
    return tuple(Part(name, parameters[name], num_bytes[name]) for name in parameters)


def _part_name(words: Sequence[str]) -> str:
    layer = next((place for place, word in enumerate(words) if word.isdigit()), None)
    if layer is None:
        return ".".join(words[:-1] or words)
    return ".".join([*words[:layer], "*", *words[layer + 1 : layer + 2]])


def _statuses(
    files: ModelFiles, spec: ModelSpec | GenericSpec, options: ServeOptions
) -> tuple[Status, ...]:
    registry = BackendRegistry()
    config = EngineConfig(
        backend="",
        model_path=str(files.path),
        spec=spec,
        dtype=options.dtype,
        quantize=options.quantize,
        kv_cache_dtype=options.kv_cache_dtype,
        num_shard=num_shard_of(options),
        trust_remote_code=options.trust_remote_code,
    )
    return tuple(_status(registry.supported(name, spec, config)) for name in registry.names)


def _status(candidate: Candidate) -> Status:
    support = candidate.support
    if support is None or not candidate.usable:
        return Status(candidate.name, "no", (candidate.problem,), {}, None)
    memory = {item.label: item.num_bytes for item in support.memory}
    reasons = support.reasons
    if candidate.info is not None and not candidate.info.selectable:
        reasons = (*reasons, "only when named")
    return Status(
        candidate.name, support.status, reasons, memory, memory.get("KV cache of one token")
    )


def _print_card(card: Card) -> None:
    origin = "built in" if card.is_built_in else "not built in"
    rows = [
        ("model", card.model if card.revision is None else f"{card.model} at {card.revision}"),
        ("family", f"{card.family} ({origin})"),
        ("parameters", f"{card.parameters:,}"),
        ("stored as", card.stored_dtype or "no floating-point dtype"),
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


def _print_rows(rows: Sequence[tuple[str, str]]) -> None:
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print(f"  {label:<{width}}  {value}")

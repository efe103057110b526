"""`tgi doctor`: report the backend for a model on this machine, the implementation of each
operation with the rejected alternatives, and the limits that the memory allows. This command loads
no weights.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import msgspec

from tgi import __version__
from tgi.backend import EngineConfig, Implementation
from tgi.cli.backends import BackendFacts, backend_facts
from tgi.cli.log import configure_logging
from tgi.cli.start_display import format_bytes
from tgi.config import (
    ParsedArguments,
    ServeOptions,
    parse_arguments,
    process_environment,
    read_environment,
)
from tgi.models import (
    MemoryEstimate,
    ModelSource,
    StartRequest,
    engine_config,
    estimate_memory,
    readiness,
    with_description,
    with_plugin_options,
)
from tgi.plugins import AUTO, BackendRegistry, Candidate

__all__ = ["Diagnosis", "Operation", "OtherWay", "run"]

_HELP = """Usage: tgi doctor [MODEL] [--json] [OPTIONS]

List the installed backends and report whether each can be used on this machine.

With MODEL, also report:
  * which backend would serve the model with the given options of `tgi serve`;
  * how the backend would compute each operation, and why each alternative was rejected;
  * how much memory the model needs and which limits the memory allows.

The command reads config.json, the tokenizer and the headers of the weight files. It does not load
the weights. A model from the hub is downloaded into the cache first. --json prints JSON.

The exit code is 0 if the model can be served, and 1 if not. Without MODEL it is 0 if a backend can
be used."""


def run(arguments: Sequence[str]) -> int:
    """Print the diagnosis. Returns the exit code. Raises `ModelError`, and `UsageError` for an
    invalid option.
    """
    words = [word for word in arguments if word != "--json"]
    if any(word in ("-h", "--help") for word in words):
        print(_HELP)
        return 0
    registry = BackendRegistry()
    variables = process_environment()
    parsed = parse_arguments(words, variables, registry.names)
    configure_logging(read_environment(variables).log_level, parsed.options.json_output)
    diagnosis = _diagnose(_Question(parsed, variables, registry))
    if "--json" in arguments:
        print(msgspec.json.format(msgspec.json.encode(diagnosis), indent=2).decode())
    else:
        print("\n".join(_lines(diagnosis)))
    return 1 if diagnosis.problem else 0


class Machine(msgspec.Struct, frozen=True):
    """The machine and the software on it."""

    tgi: str
    python: str
    system: str
    processors: int | None


class ModelFacts(msgspec.Struct, frozen=True):
    """The model that was named."""

    model: str
    revision: str | None
    family: str | None  # None if no backend can describe the model
    max_positions: int | None
    format: str
    quantization: str | None = None  # None if the checkpoint is not quantized


class OtherWay(msgspec.Struct, frozen=True):
    """An implementation that was rejected, and the reason."""

    name: str
    reason: str


class Operation(msgspec.Struct, frozen=True):
    """The implementation that the selected backend uses for an operation, and the rejected
    alternatives.
    """

    operation: str
    chosen: str
    others: tuple[OtherWay, ...]

    @classmethod
    def of(cls, how: Implementation) -> Operation:
        """Convert a record of the backend interface."""
        return cls(
            how.operation, how.chosen, tuple(OtherWay(name, reason) for name, reason in how.others)
        )


class Limits(msgspec.Struct, frozen=True):
    """The limits of the server as far as they are known before startup. None means that the backend
    decides the limit.
    """

    max_total_tokens: int
    max_batch_total_tokens: int | None  # upper bound
    max_batch_prefill_tokens: int | None
    max_batch_size: int | None
    max_concurrent_requests: int


class Diagnosis(msgspec.Struct, frozen=True):
    """The output of `--json`. The fields after `problem` describe the model. `problem` is empty if
    the model can be served.
    """

    machine: Machine
    backends: tuple[BackendFacts, ...]
    problem: str
    model: ModelFacts | None = None
    chosen: str | None = None
    operations: tuple[Operation, ...] = ()
    memory: MemoryEstimate | None = None
    limits: Limits | None = None


@final
@dataclass(frozen=True)
class _Question:
    """The arguments, the environment variables and the installed backends."""

    parsed: ParsedArguments
    variables: Mapping[str, str]
    registry: BackendRegistry

    @property
    def options(self) -> ServeOptions:
        """The parsed options."""
        return self.parsed.options

    @property
    def request(self) -> StartRequest:
        """The start that is examined."""
        return StartRequest(
            self.parsed, read_environment(self.variables), self.variables, self.registry
        )


def _machine() -> Machine:
    return Machine(__version__, platform.python_version(), platform.platform(), os.cpu_count())


def _diagnose(question: _Question) -> Diagnosis:
    if question.options.model_id is not None:
        return _diagnose_model(question)
    candidates = question.registry.candidates()
    is_served = any(c.usable and c.info is not None and c.info.selectable for c in candidates)
    problem = "" if is_served else "None of the installed backends can be used on this machine."
    return Diagnosis(_machine(), tuple(map(backend_facts, candidates)), problem)


def _diagnose_model(question: _Question) -> Diagnosis:
    options, registry, request = question.options, question.registry, question.request
    ready = with_description(request, readiness(request))
    problem = "" if ready.problem is None else str(ready.problem)
    if ready.model is None:
        return _undescribed(question, ready.source, problem)
    model, environment = ready.model, request.environment
    base = engine_config(model, question.parsed, environment)
    facts = tuple(backend_facts(_asked(question, name, base)) for name in registry.names)
    source, spec = model.source, model.spec
    model_facts = ModelFacts(
        source.model_id,
        source.revision,
        spec.model_type,
        spec.max_positions or None,
        source.model_format.name,
        None if model.quantization is None else model.quantization.description,
    )
    diagnosis = Diagnosis(_machine(), facts, problem, model_facts)
    config = ready.config
    if problem or ready.selection is None or config is None:
        return diagnosis
    chosen = ready.selection.chosen
    memory = _estimate(chosen, config, options)
    limits = Limits(
        memory.max_total_tokens,
        memory.cache_tokens,
        options.max_batch_prefill_tokens,
        options.max_batch_size,
        options.max_concurrent_requests,
    )
    operations = tuple(map(Operation.of, registry.explain(chosen, config)))
    return msgspec.structs.replace(
        diagnosis,
        problem=memory.problem,
        chosen=chosen.name,
        operations=operations,
        memory=memory,
        limits=limits,
    )


def _undescribed(question: _Question, source: ModelSource | None, problem: str) -> Diagnosis:
    """The diagnosis of a model that no installed backend can describe."""
    registry = question.registry
    if source is None:
        return Diagnosis(_machine(), tuple(map(backend_facts, registry.candidates())), problem)
    form = source.model_format.name
    facts = tuple(
        backend_facts(registry.candidate_for_format(name, form)) for name in registry.names
    )
    model = ModelFacts(source.model_id, source.revision, None, None, form)
    return Diagnosis(_machine(), facts, problem, model)


def _asked(question: _Question, name: str, config: EngineConfig) -> Candidate:
    """The backend called `name` and its result of `supports`. If the user named this backend, the
    result depends on the backend's own options.
    """
    if name == question.options.backend != AUTO:
        config = with_plugin_options(
            config, question.registry.candidate(name), question.parsed, question.variables
        )
    return question.registry.supported(name, config.spec, config)


def _estimate(chosen: Candidate, config: EngineConfig, options: ServeOptions) -> MemoryEstimate:
    return estimate_memory(
        () if chosen.probe is None else chosen.probe.devices,
        () if chosen.support is None else chosen.support.memory,
        num_shard=config.num_shard,
        memory_fraction=config.memory_fraction,
        model_max_tokens=config.spec.max_positions,
        max_total_tokens=options.max_total_tokens,
        max_batch_total_tokens=options.max_batch_total_tokens,
    )


def _lines(diagnosis: Diagnosis) -> list[str]:
    machine = diagnosis.machine
    lines = [
        (
            f"tgi {machine.tgi}, python {machine.python}, {machine.system}, {machine.processors}"
            " processors"
        ),
        "",
        "backends",
    ]
    lines += _table(
        [
            (facts.name, f"{facts.package} {facts.version}", facts.status)
            for facts in diagnosis.backends
        ]
    )
    if diagnosis.model is not None:
        model = diagnosis.model
        lines += [
            "",
            (
                f"model {model.model}: family {model.family or 'unknown'}, format"
                f" {model.format}{_quantized(model)}, served by"
                f" {diagnosis.chosen or 'no installed backend'}"
            ),
        ]
    for how in diagnosis.operations:
        lines.append(f"  {how.operation}: {how.chosen}")
        lines += [f"    rejected {other.name}: {other.reason}" for other in how.others]
    if diagnosis.memory is not None and diagnosis.limits is not None:
        lines += ["", "memory", *_table(_memory_rows(diagnosis.memory))]
        lines += ["", "limits", *_table(_limit_rows(diagnosis.limits, diagnosis.memory))]
    return [
        *lines,
        "",
        f"problem: {diagnosis.problem}" if diagnosis.problem else "no problem found",
    ]


def _memory_rows(memory: MemoryEstimate) -> list[tuple[str, ...]]:
    rows = [
        ("devices", memory.device_bytes),
        ("usable by the server", memory.usable_bytes),
        ("weights", memory.weights_bytes),
        ("left for the cache", memory.left_bytes),
        ("cache per token", memory.token_bytes),
        ("state per sequence", memory.sequence_bytes),
    ]
    return [
        (label, "unknown" if value is None else format_bytes(value))
        for label, value in rows
        if value or label == "devices"
    ]


def _limit_rows(limits: Limits, memory: MemoryEstimate) -> list[tuple[str, ...]]:
    rows = [
        ("tokens per sequence", limits.max_total_tokens, "`--max-total-tokens`"),
        (
            "tokens in the cache (upper bound)",
            limits.max_batch_total_tokens,
            "`--max-batch-total-tokens`",
        ),
        ("sequences of full length in the cache", memory.num_full_sequences, ""),
        ("tokens per step", limits.max_batch_prefill_tokens, "`--max-batch-prefill-tokens`"),
        ("sequences per step", limits.max_batch_size, "`--max-batch-size`"),
        ("concurrent requests", limits.max_concurrent_requests, "`--max-concurrent-requests`"),
    ]
    return [
        (label, "decided by the backend" if value is None else f"{value:,}", flag)
        for label, value, flag in rows
    ]


def _quantized(model: ModelFacts) -> str:
    return "" if model.quantization is None else f", quantized ({model.quantization})"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows with aligned columns. The last column is not padded."""
    widths = (
        [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
        if rows
        else []
    )
    return [
        "  "
        + "  ".join(
            [*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]
        ).rstrip()
        for row in rows
    ]

"""Checks of a worker's life cycle: states, loading, negotiation, capacity, closing."""

from __future__ import annotations

import gc
import json
import locale
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import msgspec
import psutil  # type: ignore[import-untyped]

from tgi.backend import (
    API_VERSION,
    FEATURES,
    SAMPLING_FIELDS,
    Agreement,
    Dtype,
    ModelError,
    SamplingParams,
    SchedulerOutput,
    Worker,
    WrongStateError,
)
from tgi.testing.conformance.backend_under_test import (
    REQUESTED,
    BackendUnderTest,
    RecordingReporter,
    prompt_of,
)
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequences
from tgi.testing.conformance.live_sequence import LiveSequence
from tgi.testing.conformance.require import CheckFailedError, not_applicable, require
from tgi.testing.conformance.scripted_core import ScriptedCore

__all__ = ["CHECKS"]


def _states(under_test: BackendUnderTest) -> None:
    calls: dict[str, Callable[[Worker], object]] = {
        "load": lambda worker: worker.load(),
        "negotiate": lambda worker: worker.negotiate(REQUESTED),
        "warmup": lambda worker: worker.warmup(),
        "submit": lambda worker: worker.submit(_empty_step(under_test)),
        "collect": lambda worker: worker.collect(),
    }
    order = ["load", "negotiate", "warmup"]
    for done in range(len(order) + 1):
        worker = under_test.worker()
        for earlier in order[:done]:
            calls[earlier](worker)
        legal = {order[done]} if done < len(order) else {"submit", "collect"}
        for name in calls.keys() - legal:
            _expect_wrong_state(name, partial(calls[name], worker))
        worker.close()
    worker.close()
    for name, call in calls.items():
        _expect_wrong_state(f"{name} after close", partial(call, worker))
    require(not worker.health(deep=False).ok, "a closed worker reports that it is healthy")


def _expect_wrong_state(name: str, call: Callable[[], object]) -> None:
    try:
        call()
    except WrongStateError:
        return
    raise CheckFailedError(f"`{name}` in a wrong state raised no `WrongStateError`")


def _empty_step(under_test: BackendUnderTest) -> SchedulerOutput:
    return ScriptedCore(under_test.worker(), under_test.agreement()).build({})


def _progress(under_test: BackendUnderTest) -> None:
    under_test.discard()
    under_test.core()
    for phase in ("load", "warmup"):
        calls = [call for call in under_test.reporter.progress_calls if call[0] == phase]
        require(bool(calls), f"`{phase}` reported no progress")
        require(
            all(0 <= done <= total or total == 0 for _, done, total in calls),
            f"`{phase}` reported more work than its total: {calls}",
        )
        require(
            calls[-1][1] == calls[-1][2], f"the last `{phase}` report is not complete: {calls[-1]}"
        )


def _damaged_checkpoints(under_test: BackendUnderTest) -> None:
    model = under_test.models.get()
    damages: dict[str, Callable[[Path], object]] = {
        "truncated": lambda file: file.write_bytes(file.read_bytes()[:-64]),
        "garbled": lambda file: file.write_bytes(b"\xff" * 64),
        "incomplete": _rename_a_tensor,
    }
    for name, damage in damages.items():
        path = model.copy_to(under_test.folder / f"damaged-{name}")
        file = path / "model.safetensors"
        damage(file)
        worker = under_test.worker(model, path=path)
        try:
            worker.load()
        except ModelError as error:
            named = ("model.safetensors", "layers.1.mlp.up_proj")
            require(
                any(word in str(error) for word in named),
                f"the error of a {name} checkpoint names neither file nor tensor",
            )
        else:
            raise CheckFailedError(f"a {name} checkpoint was loaded without a `ModelError`")
        finally:
            worker.close()


def _rename_a_tensor(file: Path) -> None:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    renamed = {
        name.replace("layers.1.mlp.up_proj", "layers.1.mlp.op_proj"): value
        for name, value in header.items()
    }
    file.write_bytes(
        data[:8]
        + json.dumps(renamed, separators=(",", ":")).encode().ljust(length)
        + data[8 + length :]
    )


def _agreement(under_test: BackendUnderTest) -> None:
    agreement, model = under_test.agreement(), under_test.models.get()
    limits, plan = agreement.limits, agreement.kv_cache
    require(
        agreement.api[0] == API_VERSION[0] and agreement.api[1] <= API_VERSION[1],
        f"the interface version {agreement.api} is not supported",
    )
    require(
        agreement.vocab_size == model.spec.vocab_size, f"`vocab_size` is {agreement.vocab_size}"
    )
    require(
        set(agreement.features) <= FEATURES,
        f"the features {sorted(set(agreement.features) - FEATURES)} are unknown",
    )
    require(
        set(agreement.sampling) <= SAMPLING_FIELDS,
        f"the fields {sorted(set(agreement.sampling) - SAMPLING_FIELDS)} are unknown",
    )
    require(
        set(agreement.sampling_caps) <= set(agreement.sampling),
        "`sampling_caps` contains a field that was not negotiated",
    )
    least = min(
        limits.max_sequences,
        limits.max_step_tokens,
        limits.chunk_multiple,
        limits.depth,
        limits.tokens_per_step,
    )
    require(least >= 1, f"a limit is below 1: {limits}")
    require(
        limits.max_total_tokens == REQUESTED.max_total_tokens,
        f"`max_total_tokens` is {limits.max_total_tokens}, which was not requested",
    )
    require(
        limits.depth == 1 or agreement.has("device_token"), "`depth` above 1 needs `device_token`"
    )
    require(
        plan.max_batch_total_tokens >= limits.max_total_tokens,
        "one sequence of maximum length does not fit in the cache",
    )
    _check_features(agreement)
    require(agreement.dtype in get_args(Dtype), f"an unknown dtype `{agreement.dtype}`")
    fact = agreement.facts.get("dtype", agreement.dtype)
    require(
        fact == agreement.dtype,
        f"the fact `dtype` is `{fact}`, but `{agreement.dtype}` was negotiated",
    )
    if plan.mode == "slots":
        require(
            plan.num_sequence_slots >= 1 and plan.sequence_slot_tokens >= limits.max_total_tokens,
            f"the {plan.num_sequence_slots} sequence slots are too few or too small",
        )
        require(not agreement.has("prefix_cache"), "`prefix_cache` needs blocks")
    else:
        require(plan.block_size >= 1 and bool(plan.groups), "the cache has no blocks")


def _requested_features(under_test: BackendUnderTest) -> None:
    """The negotiated features are the requested features that the backend supports."""
    offered = set(under_test.agreement().features)
    some = {"device_token", "logprobs", "prefix_cache"}
    for names in (set[str](), some, set(FEATURES) - some):
        requested = msgspec.structs.replace(REQUESTED, features=tuple(sorted(names)))
        worker = under_test.worker()
        worker.load()
        agreement = worker.negotiate(requested)
        worker.close()
        agreed = set(agreement.features)
        require(agreed <= names, f"the features {sorted(agreed - names)} were not requested")
        missing = (offered & names) - agreed - {"kv_export", "state_snapshots"}
        require(not missing, f"{sorted(missing)} are negotiated only together with others")
        _check_features(agreement)
        require(
            agreement.limits.depth == 1 or agreement.has("device_token"),
            "`depth` above 1 needs `device_token`",
        )


def _check_features(agreement: Agreement) -> None:
    groups = agreement.kv_cache.groups
    kinds = {group.kind for group in groups}
    require(
        kinds <= {"full", "state"} or not agreement.has("prefix_cache"),
        "`prefix_cache` needs cache groups of the kinds `full` and `state`",
    )
    require(
        "state" not in kinds or agreement.has("prefix_cache") == agreement.has("state_snapshots"),
        "with recurrent states, `prefix_cache` and `state_snapshots` need each other",
    )
    has_tops = "top_n_tokens" in agreement.sampling
    require(agreement.has("logprobs") or not has_tops, "`top_n_tokens` needs `logprobs`")
    limits, has_several = agreement.limits, agreement.has("multi_token") or agreement.has("drafts")
    require(
        (limits.tokens_per_step > 1) == has_several,
        f"`tokens_per_step` {limits.tokens_per_step} does not match the negotiated features",
    )
    require(
        limits.tokens_per_step <= limits.max_step_tokens,
        f"`tokens_per_step` {limits.tokens_per_step} is more than `max_step_tokens`",
    )
    has_adapters = min(limits.max_adapters, limits.max_adapter_rank) > 0
    require(
        has_adapters == agreement.has("lora"),
        f"`max_adapters` {limits.max_adapters} or `max_adapter_rank` does not match `lora`",
    )
    require(
        agreement.has("prefix_cache") or not agreement.has("kv_export"),
        "`kv_export` needs `prefix_cache`",
    )


def _capacity(under_test: BackendUnderTest) -> None:
    """Fill the whole cache, up to its last token."""
    core = under_test.core()
    plan, limits = core.agreement.kv_cache, core.agreement.limits
    longest = limits.max_total_tokens - 2
    if not limits.chunked:
        longest = min(longest, limits.max_step_tokens)
    not_applicable(
        plan.max_batch_total_tokens > 1 << 14, "the cache is too large to be filled by a check"
    )
    sampling = SamplingParams(logprobs="raw" if core.agreement.has("logprobs") else "none")
    sequences = list[LiveSequence]()
    while len(sequences) < limits.max_sequences and (core.free_slots or core.free_blocks):
        num_free = (
            longest
            if plan.mode == "slots"
            else min(longest, len(core.free_blocks) * plan.block_size - 1)
        )
        sequences.append(core.add(prompt_of(num_free, seed=len(sequences)), sampling))
        core.generate([sequences[-1]], 2 if num_free < longest else 1)
    core.generate(sequences[:1], 1)
    check_sequences(under_test.models.get(), sequences, core.agreement)


def _close(under_test: BackendUnderTest) -> None:
    under_test.discard()
    counts = []
    # A framework starts threads at its first computation and keeps them. Only threads that are
    # added later are counted.
    for _ in range(2):
        with under_test.serving(under_test.models.get()) as core:
            core.generate([core.add(prompt_of(4))], 2)
        gc.collect()
        counts.append((threading.active_count(), len(psutil.Process().children(recursive=True))))
    require(
        counts[0] == counts[1],
        f"threads or processes remain after `close`: {counts[0]}, then {counts[1]}",
    )


def _environment(under_test: BackendUnderTest) -> None:
    under_test.discard()

    def state() -> tuple[object, ...]:
        handlers = tuple(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))
        return handlers, locale.setlocale(locale.LC_ALL), Path.cwd()

    model = under_test.models.get()
    before, files = (
        state(),
        sorted((file.name, file.stat().st_mtime_ns) for file in model.path.iterdir()),
    )
    with under_test.serving(model) as core:
        core.generate([core.add(prompt_of(4))], 2)
    require(state() == before, "the worker changed signals, locale or working folder")
    now = sorted((file.name, file.stat().st_mtime_ns) for file in model.path.iterdir())
    require(now == files, "the worker wrote to the folder of the model")


def _close_with_work(under_test: BackendUnderTest) -> None:
    with under_test.serving(under_test.models.get()) as core:
        sequence = core.add(prompt_of(5), SamplingParams())
        core.worker.submit(core.build({sequence: 5}))
        core.worker.close()
        core.worker.close()


def _second_start(under_test: BackendUnderTest) -> None:
    """Compiled programs are cached, so that the second startup adds no file to the cache."""
    kept = _kept_files(under_test)
    with under_test.serving(under_test.models.get()):
        pass
    new = sorted(file.name for file in set(_files(under_test)) - set(kept))
    require(
        not new,
        f"a second startup stored {len(new)} files that the first did not, such as {new[:1]}",
    )


def _damaged_cache(under_test: BackendUnderTest) -> None:
    for file in _kept_files(under_test):
        file.write_bytes(b"\x00")
    reporter = RecordingReporter()
    worker = under_test.worker(reporter=reporter)
    worker.load()
    worker.negotiate(REQUESTED)
    worker.warmup()
    worker.close()


def _kept_files(under_test: BackendUnderTest) -> list[Path]:
    """Return the files that a startup leaves in `cache_dir`."""
    under_test.discard()
    with under_test.serving(under_test.models.get()):
        pass
    files = _files(under_test)
    not_applicable(not files, "the backend stores no files in `cache_dir`")
    return files


def _files(under_test: BackendUnderTest) -> list[Path]:
    return [file for file in (under_test.folder / "cache").rglob("*") if file.is_file()]


CHECKS: Sequence[Check] = (
    Check(
        "C-09",
        "basic",
        "a method in a wrong state raises WrongStateError; close may be repeated",
        _states,
    ),
    Check("C-10a", "basic", "load and warmup report progress until they are complete", _progress),
    Check(
        "C-10b",
        "basic",
        "a damaged checkpoint raises a ModelError with the file or tensor",
        _damaged_checkpoints,
    ),
    Check(
        "C-11",
        "basic",
        "the negotiated limits respect the requested limits and known names",
        _agreement,
    ),
    Check("C-11b", "basic", "only requested features are negotiated", _requested_features),
    Check("C-12", "basic", "the cache has the negotiated capacity, to the last token", _capacity),
    Check("C-15", "basic", "close ends all threads and processes", _close),
    Check("C-16", "basic", "signals, locale and the model folder are not changed", _environment),
    Check("C-14a", "robust", "a second startup adds no files to the cache folder", _second_start),
    Check("C-14b", "robust", "startup works after the cache folder was damaged", _damaged_cache),
    Check("C-57", "robust", "close with work in flight returns", _close_with_work),
)

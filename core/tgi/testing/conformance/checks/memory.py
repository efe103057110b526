"""Checks of memory: use within the negotiated limits, and failed allocations that affect only their
step.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator, Sequence
from types import MappingProxyType

import numpy as np
import psutil  # type: ignore[import-untyped]

from tgi.architectures import Attention
from tgi.backend import BackendError, RequestedLimits, SamplingParams, StepError
from tgi.testing.conformance.backend_under_test import REQUESTED, BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequences
from tgi.testing.conformance.process_memory import process_bytes
from tgi.testing.conformance.require import CheckFailedError, not_applicable, require

__all__ = ["CHECKS"]

_FRACTION = 0.25
_SLACK = 0.01  # tolerance, as a fraction of the device's memory
_TOKEN_ITEM = "KV cache of one token"  # noqa: S105 - a label of `Support.memory`
_WEIGHTS_ITEM = "weights"
_CACHE_ITEM = "KV cache"
# Minimum reported size of the weights, as a fraction of their size in the negotiated dtype. Weights
# may be compressed.
_LEAST_WEIGHTS = 0.7
_DTYPE_BYTES = MappingProxyType({"float32": 4, "float16": 2, "bfloat16": 2})
_FREE_ITEM = "left free"  # the label of unused memory in `Agreement.memory`
_LONG = 500  # number of tokens of a prompt whose step needs much memory
# Address space in bytes that remains available. Without it, a thread's stack could not grow, and
# the system would kill the process.
_MARGIN = 32 << 20
# Rows and columns of a matrix whose product uses every thread of a linear algebra library.
_LARGE_MATRIX = 1024


def _memory_fraction(under_test: BackendUnderTest) -> None:
    """The negotiated memory and the used memory are below the requested fraction. Larger requests
    are rejected.
    """
    total = sum(device.memory_bytes for device in under_test.backend.probe().devices)
    not_applicable(not total, "the devices do not report their memory")
    model = under_test.models.get()
    under_test.discard()
    # The first step makes a framework allocate memory that is not part of the negotiated memory.
    # The measurement begins after this step, so it excludes that memory.
    _serve_once(under_test)
    before = process_bytes()
    with under_test.serving(model, memory_fraction=_FRACTION) as core:
        agreed = sum(item.num_bytes for item in core.agreement.memory if item.label != _FREE_ITEM)
        require(
            agreed <= _FRACTION * total,
            f"{agreed} of {total} bytes were negotiated, which is more than the requested"
            f" fraction {_FRACTION}",
        )
        sequence = core.add(prompt_of(core.agreement.limits.max_total_tokens - 2))
        core.generate([sequence], 1)
        taken = core.worker.health(deep=True).memory_bytes or process_bytes() - before
        require(
            taken <= agreed + _SLACK * total,
            f"{taken} bytes are used, but {agreed} were negotiated",
        )
    each = {
        item.label: item.num_bytes
        for item in under_test.backend.supports(model.spec, under_test.config(model)).memory
    }
    if each.get(_TOKEN_ITEM):
        _expect_refusal(under_test, int(2 * _FRACTION * total / each[_TOKEN_ITEM]))


def _reported_memory(under_test: BackendUnderTest) -> None:
    """Compare the reported sizes with the minimum sizes of the weights and the cache.

    Weights may be compressed. The cache is not compressed unless a dtype was requested for it.
    """
    agreement, model = under_test.agreement(), under_test.models.get()
    value_bytes = _DTYPE_BYTES[agreement.dtype]
    weights = _LEAST_WEIGHTS * value_bytes * sum(a.size for a in model.weights.values())
    per_token = value_bytes * sum(
        2 * mixer.num_kv_heads * mixer.head_dim
        for layer in model.spec.decoder.layers
        for block in layer.blocks
        for mixer in (branch.mixer for branch in block.branches)
        if isinstance(mixer, Attention)
    )
    cache = per_token * agreement.kv_cache.max_batch_total_tokens
    support = under_test.backend.supports(model.spec, under_test.config(model)).memory
    reported = [
        ("supports", item.label, item.num_bytes, least)
        for item in support
        for label, least in ((_WEIGHTS_ITEM, weights), (_TOKEN_ITEM, per_token))
        if item.label == label
    ]
    items = [item for item in agreement.memory if item.label != _FREE_ITEM]
    total = sum(item.num_bytes for item in items)
    if total:
        reported.append(("the agreement", "all items", total, weights + cache))
        reported += [
            ("the agreement", item.label, item.num_bytes, least)
            for item in items
            for label, least in ((_WEIGHTS_ITEM, weights), (_CACHE_ITEM, cache))
            if item.label == label
        ]
    not_applicable(not reported, "the backend reports no sizes")
    for source, label, num_bytes, least in reported:
        require(
            num_bytes >= least,
            f"{source} reports {num_bytes} bytes for `{label}`, which needs at least {least:.0f}",
        )


def _serve_once(under_test: BackendUnderTest) -> None:
    with under_test.serving(under_test.models.get()) as core:
        core.generate([core.add(prompt_of(4))], 2)


def _expect_refusal(under_test: BackendUnderTest, num_tokens: int) -> None:
    worker = under_test.worker(memory_fraction=_FRACTION)
    worker.load()
    try:
        worker.negotiate(
            RequestedLimits(
                max_total_tokens=REQUESTED.max_total_tokens, max_batch_total_tokens=num_tokens
            )
        )
    except BackendError:
        return
    finally:
        worker.close()
    raise CheckFailedError(
        f"a cache of {num_tokens} tokens was accepted, although it needs more than the fraction"
        f" {_FRACTION} of the memory"
    )


def _exhaustion(under_test: BackendUnderTest) -> None:
    """A step with very little free memory either succeeds, or fails with a retryable error.

    The results of later, smaller steps are correct.
    """
    model = under_test.models.get()
    requested = RequestedLimits(
        max_total_tokens=_LONG + 12, max_concurrent_requests=4, model_max_total_tokens=_LONG + 12
    )
    with under_test.serving(model, requested) as core:
        limits = core.agreement.limits
        length = min(_LONG, limits.max_step_tokens, limits.max_total_tokens - 8)
        big = core.add(prompt_of(length), SamplingParams())
        step = core.build({big: length - length % limits.chunk_multiple or length})
        _take_work_memory()
        try:
            with _no_more_memory():
                core.worker.submit(step)
                core.worker.collect()
        except StepError as error:
            require(
                error.retryable,
                f"the error of a step that ran out of memory is not marked as retryable: {error}",
            )
        core.forget(step)
        sequences = [
            core.add(prompt_of(12, seed=i), SamplingParams())
            for i in range(min(2, limits.max_sequences))
        ]
        core.generate(sequences, 6)
        check_sequences(model, sequences, core.agreement)


def _take_work_memory() -> None:
    """Make a linear algebra library allocate its work memory.

    The library allocates this memory in the first large product. If there is no memory, the library
    ends the process.
    """
    matrix = np.ones((_LARGE_MATRIX, _LARGE_MATRIX), np.float32)
    np.matmul(matrix, matrix)


@contextlib.contextmanager
def _no_more_memory() -> Iterator[None]:
    """Limit this process's address space to slightly more than its current size."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (psutil.Process().memory_info().vms + _MARGIN, before[1])
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


CHECKS: Sequence[Check] = (
    Check(
        "C-13",
        "basic",
        "negotiated and used memory stay within the requested fraction of the device memory",
        _memory_fraction,
    ),
    Check(
        "C-13b",
        "basic",
        "the reported memory is at least the size of the weights and of the cache",
        _reported_memory,
    ),
    Check(
        "C-54",
        "robust",
        "a step that runs out of memory fails without other effects",
        _exhaustion,
        apart=True,
    ),
)

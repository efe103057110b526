"""Checks of memory: what was agreed is kept, and a step that needs too much fails alone."""

from __future__ import annotations

import contextlib
import gc
import resource
from collections.abc import Iterator, Sequence

import numpy as np
import psutil  # type: ignore[import-untyped]

from tgi.backend import BackendError, RequestedLimits, SamplingParams, StepError
from tgi.testing.conformance.backend_under_test import REQUESTED, BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check, CheckFailedError, not_applicable, require
from tgi.testing.conformance.expectations import check_sequences

__all__ = ["CHECKS"]

_FRACTION = 0.25
_SLACK = 0.01  # of the device's memory
_TOKEN_ITEM = "KV cache of one token"  # noqa: S105 - a label of `Support.memory`
_FREE_ITEM = "left free"  # the label of what nobody takes, in `Agreement.memory`
_LONG = 500  # tokens of a prompt whose step needs memory
_MARGIN = 32 << 20  # bytes: where a stack cannot grow, the system ends the process
_LARGE_MATRIX = (
    1024  # rows and columns; its product occupies every thread of a library of linear algebra
)


def _memory_fraction(under_test: BackendUnderTest) -> None:
    """The agreed sums and what is really taken stay below the fraction; a wish beyond it is
    refused.
    """
    total = sum(device.memory_bytes for device in under_test.backend.probe().devices)
    not_applicable(not total, "the devices tell no memory")
    model = under_test.models.get()
    under_test.discard()
    _serve_once(under_test)  # what a framework takes once and for all
    gc.collect()
    before = psutil.Process().memory_info().rss
    with under_test.serving(model, memory_fraction=_FRACTION) as core:
        agreed = sum(item.num_bytes for item in core.agreement.memory if item.label != _FREE_ITEM)
        require(
            agreed <= _FRACTION * total,
            f"{agreed} of {total} bytes were agreed, beyond a fraction of {_FRACTION}",
        )
        sequence = core.add(prompt_of(core.agreement.limits.max_total_tokens - 2))
        core.generate([sequence], 1)
        taken = (
            core.worker.health(deep=True).memory_bytes
            or psutil.Process().memory_info().rss - before
        )
        require(taken <= agreed + _SLACK * total, f"{taken} bytes were taken, {agreed} agreed")
    each = {
        item.label: item.num_bytes
        for item in under_test.backend.supports(model.spec, under_test.config(model)).memory
    }
    if each.get(_TOKEN_ITEM):
        _expect_refusal(under_test, int(2 * _FRACTION * total / each[_TOKEN_ITEM]))


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
        f"a cache of {num_tokens} tokens was agreed to, beyond a fraction of {_FRACTION} of the"
        " memory"
    )


def _exhaustion(under_test: BackendUnderTest) -> None:
    """A step with hardly any memory left succeeds, or fails and may be tried again; smaller ones
    after it are right.
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
            require(error.retryable, f"a step without memory may not be tried again: {error}")
        core.forget(step)
        sequences = [
            core.add(prompt_of(12, seed=i), SamplingParams())
            for i in range(min(2, limits.max_sequences))
        ]
        core.generate(sequences, 6)
        check_sequences(model, sequences, core.agreement)


def _take_work_memory() -> None:
    """A library of linear algebra takes its own with the first large product, and ends the process
    where there is none.
    """
    matrix = np.ones((_LARGE_MATRIX, _LARGE_MATRIX), np.float32)
    np.matmul(matrix, matrix)


@contextlib.contextmanager
def _no_more_memory() -> Iterator[None]:
    """Hardly any further address space for this process."""
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
        "no more memory is agreed and taken than the user's fraction",
        _memory_fraction,
    ),
    Check("C-54", "robust", "a step without memory fails alone", _exhaustion, apart=True),
)

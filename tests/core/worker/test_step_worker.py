"""The life cycle of a worker over a part that records its calls."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from tgi.backend import (
    API_VERSION,
    FEATURES,
    SAMPLING_FIELDS,
    Agreement,
    BackendError,
    CacheGroup,
    GrammarMasks,
    Health,
    KVCachePlan,
    Limits,
    RequestedLimits,
    Rows,
    SchedulerOutput,
    StepError,
    StepTimes,
    Worker,
    WrongStateError,
    empty_float32,
    empty_int32,
)
from tgi.testing.conformance.backend_under_test import RecordingReporter
from tgi.worker.memory.errors import cache_out_of_memory
from tgi.worker.negotiation import with_requested_features
from tgi.worker.step_output import empty_output
from tgi.worker.step_worker import StepWorker

replace = msgspec.structs.replace
ALL = RequestedLimits(features=tuple(sorted(FEATURES)))
AGREEMENT = Agreement(
    API_VERSION,
    tuple(sorted(FEATURES)),
    Limits(64, 4, 32, depth=2, tokens_per_step=3, max_adapters=2, max_adapter_rank=8),
    KVCachePlan("paged", 16, (CacheGroup("full", 8),)),
    40,
    tuple(sorted(SAMPLING_FIELDS)),
    {"top_n_tokens": 8.0, "top_k": 16.0},
)


def step(step_id, mask="none", masks=None):
    empty = empty_int32()
    rows = Rows(
        empty, empty, empty, empty, np.empty(0, np.uint8), empty_float32(), [empty], [empty]
    )
    return SchedulerOutput(step_id, [], [], rows, mask=mask, masks=masks)


def masks_of(step_id, num_words=0):
    return GrammarMasks(step_id, empty_int32(), np.zeros(num_words, np.int32))


@dataclass
class Part:
    """Returns an empty output for each step. `failures` are raised by the next calls."""

    calls: list = field(default_factory=list)
    failures: list = field(default_factory=list)
    is_finite: bool = True

    def load(self, progress):
        self.calls.append("load")
        progress(1, 1)

    def plan(self, requested):
        return AGREEMENT

    def prepare(self, agreement, progress):
        self.calls.append(agreement.limits.depth)
        self._fail()

    def run(self, step):
        self.calls.append((step.step_id, step.masks is not None))
        self._fail()
        return empty_output(step, [], StepTimes())

    def probe(self):
        self._fail()
        return self.is_finite

    def close(self):
        self.calls.append("close")

    def _fail(self):
        if self.failures:
            raise self.failures.pop(0)


class OverlappedPart(Part):
    def enqueue(self, step):
        self.calls.append(f"enqueue {step.step_id}")
        self._fail()

    def enqueue_masks(self, masks):
        self.calls.append(f"masks {masks.step_id}")


class MeasuredPart(Part):
    def peak_memory_bytes(self):
        return 7


def ready(part, requested=ALL):
    worker = StepWorker(part, RecordingReporter())
    worker.load()
    worker.negotiate(requested)
    worker.warmup()
    part.calls.clear()
    return worker


def test_the_states_follow_the_methods():
    part, reporter = Part(), RecordingReporter()
    worker = StepWorker(part, reporter)
    assert isinstance(worker, Worker)
    for call in (lambda: worker.negotiate(ALL), worker.warmup, worker.collect):
        with pytest.raises(WrongStateError):
            call()
    worker.load()
    with pytest.raises(WrongStateError, match="load"):
        worker.load()
    worker.negotiate(ALL)
    assert worker.health(deep=True) == Health(False, "the worker is in the state `negotiated`")
    worker.warmup()
    assert reporter.progress_calls == [("load", 1, 1), ("warmup", 1, 1)]
    assert worker.collect() is None
    worker.close()
    worker.close()
    with pytest.raises(WrongStateError, match="submit"):
        worker.submit(step(0))


@pytest.mark.parametrize(
    ("requested", "limits", "dropped"),
    [
        (FEATURES, {}, set()),
        (set(), {"depth": 1, "tokens_per_step": 1, "max_adapters": 0, "max_adapter_rank": 0}, None),
        (FEATURES - {"device_token"}, {"depth": 1}, set()),
        (FEATURES - {"multi_token"}, {}, set()),
        (FEATURES - {"multi_token", "drafts"}, {"tokens_per_step": 1}, set()),
        (FEATURES - {"lora"}, {"max_adapters": 0, "max_adapter_rank": 0}, set()),
        (FEATURES - {"prefix_cache"}, {}, {"kv_export", "state_snapshots"}),
        (FEATURES - {"state_snapshots"}, {}, set()),
        (FEATURES | {"a later one"}, {}, set()),
    ],
)
def test_only_requested_features_are_negotiated(requested, limits, dropped):
    worker = StepWorker(Part(), RecordingReporter())
    worker.load()
    agreement = worker.negotiate(RequestedLimits(features=tuple(requested)))
    expected = set(requested) & FEATURES - (dropped or set())
    assert set(agreement.features) == expected
    assert agreement.limits == replace(AGREEMENT.limits, **limits)


@pytest.mark.parametrize("missing", ["prefix_cache", "state_snapshots"])
def test_prefixes_of_states_are_shared_only_with_snapshots(missing):
    plan = KVCachePlan("paged", 16, (CacheGroup("full", 8), CacheGroup("state", 8)))
    agreement = with_requested_features(
        replace(AGREEMENT, kv_cache=plan), RequestedLimits(features=tuple(FEATURES - {missing}))
    )
    assert not {"prefix_cache", "state_snapshots", "kv_export"} & set(agreement.features)


def test_top_tokens_need_log_probabilities():
    worker = StepWorker(Part(), RecordingReporter())
    worker.load()
    agreement = worker.negotiate(RequestedLimits())
    assert set(agreement.sampling) == SAMPLING_FIELDS - {"top_n_tokens"}
    assert agreement.sampling_caps == {"top_k": 16.0}


def test_steps_run_in_their_order_up_to_the_depth():
    part = Part()
    worker = ready(part)
    worker.submit(step(1))
    worker.submit(step(2))
    with pytest.raises(StepError, match="because 2 steps are in flight"):
        worker.submit(step(3))
    assert [worker.collect().step_id, worker.collect().step_id] == [1, 2]
    assert part.calls == [(1, False), (2, False)]
    assert worker.collect() is None


def test_late_masks_reach_their_step():
    part = OverlappedPart()
    worker = ready(part)
    worker.submit(step(1, "late"))
    worker.submit(step(2, "late"))
    worker.submit(masks_of(2))
    for wrong in (masks_of(2), masks_of(3)):
        with pytest.raises(StepError, match="waits for masks"):
            worker.submit(wrong)
    with pytest.raises(StepError, match="do not have 2 words per row"):
        worker.submit(masks_of(1, num_words=1))
    worker.collect()
    worker.collect()
    assert part.calls == ["enqueue 1", "enqueue 2", "masks 2", (1, False), (2, True)]


def test_late_masks_that_were_not_negotiated_are_rejected():
    worker = ready(Part(), RequestedLimits(features=("mask",)))
    with pytest.raises(StepError, match="Late masks were not negotiated"):
        worker.submit(masks_of(1))


def test_a_step_that_cannot_start_is_not_pending():
    part = OverlappedPart()
    worker = ready(part)
    part.failures.append(StepError("wrong", retryable=False))
    with pytest.raises(StepError, match="wrong"):
        worker.submit(step(1))
    worker.submit(step(2))
    assert worker.collect().step_id == 2


def test_a_step_without_memory_may_be_retried():
    part = Part()
    worker = ready(part)
    part.failures += [MemoryError(), RuntimeError("another fault")]
    worker.submit(step(1))
    worker.submit(step(2))
    with pytest.raises(StepError, match="Out of memory in a step of 0 rows") as raised:
        worker.collect()
    assert raised.value.retryable
    with pytest.raises(RuntimeError, match="another fault"):
        worker.collect()


def test_a_cache_without_memory_names_its_tokens():
    part = Part(failures=[cache_out_of_memory(AGREEMENT, "Lower it.")])
    worker = StepWorker(part, RecordingReporter())
    worker.load()
    worker.negotiate(ALL)
    with pytest.raises(BackendError, match="a cache of 128 tokens"):
        worker.warmup()


def test_health_reports_what_the_part_finds():
    part = MeasuredPart()
    worker = ready(part)
    assert worker.health(deep=True) == worker.health(deep=False) == Health(True, memory_bytes=7)
    part.is_finite = False
    assert "NaN or infinity" in worker.health(deep=True).message
    assert worker.health(deep=False).ok
    part.failures.append(RuntimeError("device lost"))
    assert "device lost" in worker.health(deep=True).message

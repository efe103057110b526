"""Faults in the states, the negotiation and the health of a worker."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import numpy as np

from tests.conformance.faults.wrappers import PLAN, struct
from tgi.backend import GrammarMasks, Health, ModelError, StepError, WrongStateError
from tgi.worker.sequences import SequenceTable


def ignores_wrong_state(name):
    def change(inner, *arguments):
        try:
            return getattr(inner, name)(*arguments)
        except WrongStateError:
            return None

    return {name: change}


def always_healthy(inner, deep):
    return Health(True)


def disturbing_health(inner, deep):
    if deep and inner.health(False).ok:
        inner._part._model.inner._slots[:] = 7
    return inner.health(False)


def more_than_requested(inner, requested):
    agreement = inner.negotiate(requested)
    return struct(
        agreement,
        limits=struct(agreement.limits, max_total_tokens=agreement.limits.max_total_tokens * 2),
    )


def vocabulary_rounded_up(inner, requested):
    agreement = inner.negotiate(requested)
    return struct(agreement, vocab_size=agreement.vocab_size + 16)


def unknown_feature(inner, requested):
    agreement = inner.negotiate(requested)
    return struct(agreement, features=(*agreement.features, "telepathy"))


def every_supported_feature(inner, requested):
    return inner.negotiate(struct(requested, features=PLAN.features))


def accepts_more_sequences(inner, step):
    part = inner._part
    limits = struct(part._agreement.limits, max_sequences=1 << 10)
    if part._agreement.limits != limits:
        part._agreement = struct(part._agreement, limits=limits)
        part._table = SequenceTable(limits, part._table.block_size, part._table.vocab_size)
    inner.submit(step)


def forgets_outstanding(inner, step):
    inner._pending.take()
    inner.submit(step)


def breaks_after_refusal():
    state = {"broken": False}

    def collect(inner):
        if state["broken"]:
            raise StepError("gone", retryable=False)
        try:
            return inner.collect()
        except StepError:
            state["broken"] = True
            raise

    return {"collect": collect}


def second_close_fails():
    closed = []

    def close(inner):
        if closed:
            raise ValueError("closed already")
        closed.append(True)
        inner.close()

    return {"close": close}


def leave_a_thread():
    threading.Thread(target=threading.Event().wait, args=(3.0,), daemon=True).start()


def load_says_nothing(inner):
    inner._reporter = type("Silent", (), {"progress": lambda *_: None, "log": lambda *_: None})()
    inner.load()


def swallow_model_errors(inner):
    try:
        inner.load()
    except ModelError as error:
        raise RuntimeError("it did not work") from error


def write_beside_the_model(inner):
    (Path(inner._part._model.inner._path) / "cache.bin").write_bytes(b"1")
    inner.load()


def change_signals(inner):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    inner.load()


def late_masks_not_awaited(inner, step):
    if not isinstance(step, GrammarMasks):
        inner.submit(struct(step, mask="none") if step.mask == "late" else step)


def late_masks_of_the_next_row(inner, step):
    if isinstance(step, GrammarMasks) and inner._pending._steps[0].rows.num_rows > 1:
        step = struct(step, row=np.roll(step.row, 1))
    inner.submit(step)


def lost_device(inner):
    """Each step needs memory. If there is none, the device is lost."""
    try:
        output = inner.collect()
        np.empty(1 << 30, np.uint8)
    except (StepError, MemoryError) as error:
        raise StepError("lost", retryable=False) from error
    return output

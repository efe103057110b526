"""Faults of snapshots of states, each wrapped around the complete backend."""

from __future__ import annotations

import numpy as np

from tests.conformance.faults.feature_wrappers import faulty_complete, struct
from tgi.backend import SchedulerOutput


def copies_changed(change):
    """Change the copies of states. `change(source, target, is_restored)` returns the pairs that
    replace one pair. `change` is created again for each worker and may keep state.
    """

    def worker():
        changed = change()

        def submit(inner, step):
            inner.submit(with_copies(step, changed) if isinstance(step, SchedulerOutput) else step)

        return {"submit": submit}

    return faulty_complete(worker)


def with_copies(step, change):
    if not step.copy_source:
        return step
    states = {int(table[0]) for new in step.added for table in new.block_tables if len(table)}
    sources, targets = [*step.copy_source], [*step.copy_target]
    # The state group is the last one.
    pairs = [
        pair
        for source, target in zip(sources[-1].tolist(), targets[-1].tolist(), strict=True)
        for pair in change(source, target, target in states)
    ]
    sources[-1] = np.array([source for source, _ in pairs], np.int32)
    targets[-1] = np.array([target for _, target in pairs], np.int32)
    return struct(step, copy_source=sources, copy_target=targets)


def not_restored():
    return lambda source, target, is_restored: [] if is_restored else [(source, target)]


def of_another_sequence():
    """Each snapshot after the first one is taken of the first sequence."""
    first = []

    def change(source, target, is_restored):
        if is_restored:
            return [(source, target)]
        first.append(source)
        return [(first[0], target)]

    return change


def evicted_ones_restored():
    """A snapshot is never overwritten, so that its block keeps an evicted snapshot."""
    taken = set()

    def change(source, target, is_restored):
        if not is_restored and target in taken:
            return []
        taken.update(() if is_restored else (target,))
        return [(source, target)]

    return change


def restored_without_a_copy():
    """A sequence continues in the snapshot's block, so that the next one finds another state."""
    used = set()

    def change(source, target, is_restored):
        if not is_restored or source not in used:
            used.update((source,) if is_restored else ())
            return [(source, target)]
        return [(target, target)]

    return change


def one_token_late():
    """A snapshot contains one token of the row before which it is taken."""
    steps = []

    def submit(inner, step):
        steps.append(step)
        inner.submit(step)

    def collect(inner):
        step = steps.pop(0)
        output = inner.collect()
        states = inner._part._caches.states
        restored = {int(new.block_tables[-1][0]) for new in step.added}
        for source, target in zip(
            *(side[-1].tolist() if side else [] for side in (step.copy_source, step.copy_target)),
            strict=True,
        ):
            if target not in restored:
                states._tokens[target] = states._tokens[source]
                states._lengths[target] += 1
        return output

    return {"submit": submit, "collect": collect}


SNAPSHOT_FAULTS = {
    "snapshots are not restored": (copies_changed(not_restored), "C-28c"),
    "a snapshot of another sequence": (copies_changed(of_another_sequence), "C-28d"),
    "a snapshot is restored only once": (copies_changed(restored_without_a_copy), "C-28d"),
    "a snapshot is taken one token late": (faulty_complete(one_token_late), "C-28c"),
    "an evicted snapshot is restored": (copies_changed(evicted_ones_restored), "C-28e"),
}
"""Fault → the backend with the fault, and the check that must detect it."""

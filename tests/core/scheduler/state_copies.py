"""Copies of states in `CheckingWorker`."""

from __future__ import annotations


def state_groups(agreement):
    """Return the numbers of the state groups."""
    return [g for g, group in enumerate(agreement.kv_cache.groups) if group.kind == "state"]


def pairs_of(step):
    """Return the pairs ((group, source), (group, target)) of a step."""
    sides = enumerate(zip(step.copy_source, step.copy_target, strict=True))
    return [
        ((g, source), (g, target))
        for g, (sources, targets) in sides
        for source, target in zip(sources.tolist(), targets.tolist(), strict=True)
    ]


def check_copies(agreement, step, places, in_use):
    """Check that each copy restores a snapshot for a new sequence, or takes a snapshot of a
    sequence with a row in this step. Returns the blocks of the snapshots.

    `places` contains the blocks of each sequence by handle. `in_use` contains the blocks that steps
    in flight use.
    """
    groups, pairs = state_groups(agreement), pairs_of(step)
    restored = {
        (g, int(new.block_tables[g][0]))
        for new in step.added
        if new.num_computed_tokens
        for g in groups
    }
    running = set().union(*(places[handle] for handle in step.rows.sequence.tolist()))
    snapshots = set()
    for source, target in pairs:
        assert source[0] in groups
        if target in restored:
            snapshots.add(source)
        else:
            assert source in running
            assert target not in in_use, "a step in flight uses the block"
            snapshots.add(target)
    targets = [target for _, target in pairs]
    assert len(set(targets)) == len(targets)
    assert restored <= set(targets), "a cached prefix has no state"
    assert not snapshots & set().union(*places.values()), "a snapshot is the state of a sequence"
    assert not snapshots or agreement.has("state_snapshots")
    return snapshots


def copy_states(step, memory):
    """Copy the states in `memory`. All sources are read before any target is written."""
    memory |= {
        ("state", *target): memory.get(("state", *source)) for source, target in pairs_of(step)
    }

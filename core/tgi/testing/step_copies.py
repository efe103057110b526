"""The rules for copies of cache blocks: copies of blocks of tokens, and snapshots of states."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from tgi.backend import Agreement, SchedulerOutput
from tgi.testing.step_limits import Place, named_blocks, require_rule

__all__ = ["check_copies", "check_snapshots"]


def check_copies(agreement: Agreement, step: SchedulerOutput) -> None:
    """Check that blocks are copied only if the prefix cache was negotiated, that they are given as
    pairs, and that they exist.
    """
    require_rule(
        len(step.copy_source) == len(step.copy_target),
        "`copy_source` and `copy_target` have different numbers of cache groups",
    )
    require_rule(
        not step.copy_source or agreement.has("prefix_cache"),
        "A step copies blocks, but the feature `prefix_cache` was not negotiated",
    )
    for group, (sources, targets) in enumerate(
        zip(step.copy_source, step.copy_target, strict=True)
    ):
        require_rule(
            len(sources) == len(targets),
            f"A step copies {len(sources)} blocks to {len(targets)} blocks",
        )
        named_blocks(agreement, group, targets.tolist())
        num_blocks = agreement.kv_cache.groups[group].num_blocks
        require_rule(
            all(0 <= block < num_blocks for block in sources.tolist()),
            f"A step copies the blocks {sources.tolist()}, but cache group {group} has"
            f" {num_blocks} blocks",
        )


def check_snapshots(
    agreement: Agreement,
    step: SchedulerOutput,
    owners: dict[Place, int],
    in_use: AbstractSet[Place],
) -> set[Place]:
    """Check the copies of states, and that each new sequence with a cached prefix gets a state.

    `owners` maps the state of each sequence to the sequence's handle. `in_use` contains the blocks
    that steps in flight use. Returns the blocks that the copies read or write.
    """
    states = [g for g, group in enumerate(agreement.kv_cache.groups) if group.kind == "state"]
    resumed = {
        (group, int(new.block_tables[group][0]))
        for new in step.added
        if new.num_computed_tokens
        for group in states
    }
    pairs = [
        ((group, source), (group, target))
        for group in states[: None if step.copy_source else 0]
        for source, target in zip(
            step.copy_source[group].tolist(), step.copy_target[group].tolist(), strict=True
        )
    ]
    require_rule(
        not pairs or agreement.has("state_snapshots"),
        "A step copies states, but the feature `state_snapshots` was not negotiated",
    )
    missing = resumed - {target for _, target in pairs}
    require_rule(
        not missing,
        f"New sequences use a cached prefix, but no snapshot is copied to their states"
        f" {sorted(missing)} (cache group, block)",
    )
    handles = set(step.rows.sequence.tolist())
    for source, target in pairs:
        if target in resumed:
            require_rule(
                source not in owners, f"A snapshot is in the state {source} of another sequence"
            )
            continue
        require_rule(
            owners.get(source) in handles,
            f"A snapshot is taken of the state {source}, whose sequence has no row in the step",
        )
        require_rule(
            target not in owners and target not in in_use,
            f"A snapshot is copied to the block {target}, which is in use",
        )
    return {place for pair in pairs for place in pair}

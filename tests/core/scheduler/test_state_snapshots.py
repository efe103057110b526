"""Models with recurrent layers share prefixes through snapshots of the state.

`CheckingWorker` stores a fingerprint of all preceding tokens in each state. A row that continues
from a wrong state therefore fails the test.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.scheduler.fingerprints import VOCAB_SIZE
from tests.core.scheduler.simulation import (
    DRAWN,
    FEATURES,
    GREEDY,
    SCORED,
    Simulation,
    make_agreement,
)
from tgi.backend import CacheGroup, KVCachePlan, Limits
from tgi.scheduler import Request, Scheduler, SchedulerConfig
from tgi.scheduler.block_manager import BlockContext
from tgi.scheduler.sequence import Sequence
from tgi.scheduler.state_snapshots import SeenPrefixes, StateSnapshots

SNAPSHOTS = (*FEATURES, "state_snapshots")
SYSTEM = [7, 3, 9, 1, 8, 2, 6, 4, 5, 0, 3, 3, 1, 9, 2, 8, 8, 4, 6, 1]  # 5 blocks of 4 tokens


def simulate(num_blocks=40, num_states=12, features=SNAPSHOTS, kinds=("full", "state"), **limits):
    sizes = {"full": num_blocks, "state": num_states}
    groups = tuple(CacheGroup(kind, sizes[kind]) for kind in kinds)
    limits = {"max_total_tokens": 64, "max_step_tokens": 64, **limits}
    return Simulation(make_agreement(groups=groups, features=features, **limits))


def cached_tokens(simulation, prompt, **kwargs):
    """Run one sequence alone. Returns the number of its cached tokens and of its computed prompt
    tokens.
    """
    first = len(simulation.steps)
    sequence_id = simulation.add(prompt, 3, **kwargs)
    simulation.run()
    computed = sum(
        int(count)
        for step in simulation.steps[first:]
        for start, count in zip(step.rows.start, step.rows.count, strict=True)
        if start < len(prompt)
    )
    return simulation.streams[sequence_id].end.num_cached_tokens, computed


@pytest.mark.parametrize("kinds", [("full", "state"), ("state",), ("state", "full", "state")])
def test_a_repeated_prompt_computes_only_its_tail(kinds):
    simulation = simulate(kinds=kinds)
    prompt = [*SYSTEM, 1, 2, 3, 4, 5, 6]
    assert cached_tokens(simulation, prompt) == (0, 26)
    assert cached_tokens(simulation, prompt) == (24, 2)
    simulation.assert_ended_as_alone()


def test_a_prompt_that_continues_another_one_shares_it():
    simulation = simulate()
    cached_tokens(simulation, SYSTEM)
    # The last token of a prompt is always computed, so the last full block ends before it.
    assert cached_tokens(simulation, [*SYSTEM, *range(20, 30)]) == (16, 14)


def test_a_snapshot_is_taken_where_two_prompts_diverge():
    simulation = simulate(kinds=("state",))
    assert cached_tokens(simulation, [*SYSTEM, *range(20, 40)]) == (0, 40)
    assert cached_tokens(simulation, [*SYSTEM, *range(40, 60)]) == (0, 40)
    assert cached_tokens(simulation, [*SYSTEM, *range(60, 80)]) == (20, 20)
    simulation.assert_ended_as_alone()


@pytest.mark.parametrize(
    ("num_blocks", "expected"),
    [
        (5, [16]),
        (9, [16, 32]),
        (17, [16, 32, 48, 64]),
        (22, [32, 64, 84]),
        (40, [48, 96, 156]),
    ],
)
def test_long_prompts_take_snapshots_at_the_ends_of_chunks(num_blocks, expected):
    simulation = simulate(num_blocks=80, max_step_tokens=18, max_total_tokens=300)
    simulation.add([n % 90 for n in range(4 * num_blocks)], 1)
    simulation.run()
    taken = [
        int(step.rows.start[0]) for step in simulation.steps if step.copy_source and not step.added
    ]
    assert taken == expected


def test_the_second_long_prompt_continues_from_the_end_of_a_chunk():
    simulation = simulate(num_blocks=80, max_step_tokens=32, max_total_tokens=300)
    system = [n % 90 for n in range(80)]
    assert cached_tokens(simulation, [*system, 1, 2, 3, 4, 5]) == (0, 85)
    assert cached_tokens(simulation, [*system, 6, 7, 8, 9, 5]) == (64, 21)
    assert cached_tokens(simulation, [*system, 9, 9, 9, 9, 5]) == (80, 5)


def test_a_row_ends_where_a_snapshot_is_taken():
    simulation = simulate()
    simulation.add([*SYSTEM, 1, 2], 1)
    simulation.run()
    rows = [(step.rows.start.tolist(), step.rows.count.tolist()) for step in simulation.steps]
    assert rows[:2] == [([0], [20]), ([20], [2])]
    copies = [[len(blocks) for blocks in step.copy_source] for step in simulation.steps]
    assert copies[:2] == [[], [0, 1]]


def test_short_prompts_take_no_snapshots():
    simulation = simulate()
    simulation.add(SYSTEM[:16], 1)
    simulation.run()
    assert simulation.steps[0].rows.count.tolist() == [16]
    assert not any(step.copy_source for step in simulation.steps)


@pytest.mark.parametrize(
    ("features", "limits"),
    [
        (FEATURES, {}),
        (tuple(set(SNAPSHOTS) - {"prefix_cache"}), {}),
        (SNAPSHOTS, {"chunked": False}),
    ],
)
def test_without_the_features_or_chunks_nothing_changes(features, limits):
    simulation = simulate(features=features, **limits)
    for _ in range(2):
        assert cached_tokens(simulation, [*SYSTEM, 1, 2, 3]) == (0, 23)
    assert not any(step.copy_source for step in simulation.steps)


def test_salts_and_adapters_share_no_states():
    simulation = simulate()
    prompt = [*SYSTEM, 1, 2, 3]
    cached_tokens(simulation, prompt)
    assert cached_tokens(simulation, prompt, cache_salt="a") == (0, 23)
    assert cached_tokens(simulation, prompt, cache_salt="a") == (20, 3)
    assert cached_tokens(simulation, prompt, adapter=1) == (0, 23)
    assert cached_tokens(simulation, prompt, sampling=SCORED) == (0, 23)


def test_sequences_of_one_request_take_one_snapshot():
    simulation = simulate(num_blocks=60)
    for seed in range(4):
        simulation.add([*SYSTEM, 1, 2, 3], 2, sampling=DRAWN, seed=seed)
    simulation.run()
    copied = [step.copy_source[1].tolist() for step in simulation.steps if step.copy_source]
    assert [len(sources) for sources in copied] == [1]
    assert cached_tokens(simulation, [*SYSTEM, 1, 2, 3])[0] == 20


def test_a_snapshot_is_evicted_with_its_block():
    simulation = simulate(num_blocks=16, num_states=12)
    prompt = [*SYSTEM, 1, 2, 3]
    cached_tokens(simulation, prompt)
    cache = simulation.scheduler._state.cache
    assert cache.snapshots.num_cached == 1
    cached_tokens(simulation, list(range(20, 80)))  # uses all blocks
    assert cache.snapshots.num_cached == 1
    assert cached_tokens(simulation, prompt) == (0, 23)


def test_the_least_recently_used_snapshot_is_evicted():
    # One state is for the running sequence, so there are two snapshots.
    simulation = simulate(num_blocks=100, num_states=3, max_sequences=1)
    first, second, third = ([*range(s, s + 17)] for s in (20, 40, 60))
    first, second, third = (p + SYSTEM[:4] for p in (first, second, third))
    for prompt in (first, second):
        assert cached_tokens(simulation, prompt)[0] == 0
    assert cached_tokens(simulation, first)[0] == 20
    cached_tokens(simulation, third)
    assert cached_tokens(simulation, first)[0] == 20
    assert cached_tokens(simulation, second)[0] == 0


def test_a_snapshot_in_the_only_free_block_is_not_used():
    simulation = simulate(num_states=1, max_sequences=1)
    for _ in range(2):
        assert cached_tokens(simulation, [*SYSTEM, 1, 2, 3]) == (0, 23)
    assert not any(step.copy_source for step in simulation.steps)


def test_a_failed_step_keeps_no_snapshot():
    simulation = simulate()
    prompt = [*SYSTEM, 1, 2, 3]
    simulation.add(prompt, 2)
    simulation.step()
    step = simulation.submit()
    assert step.copy_source
    simulation.worker.collect()
    simulation._receive(simulation.scheduler.fail_step(step.step_id, "no memory", False))
    simulation.scheduler.check()
    assert simulation.scheduler._state.cache.snapshots.num_cached == 0
    simulation.worker.sequences.clear()
    simulation.scheduler.schedule()


def test_a_snapshot_of_a_failed_chunk_is_not_kept():
    simulation = simulate(kinds=("state",), depth=2)
    simulation.add([*SYSTEM, 1, 2, 3], 2)
    chunk, tail = simulation.submit(), simulation.submit()
    assert (len(chunk.copy_source), len(tail.copy_source)) == (0, 1)
    simulation.worker.collect()
    simulation._receive(simulation.scheduler.fail_step(chunk.step_id, "no memory", True))
    simulation.worker.sequences[0].is_broken = True
    simulation.collect()
    assert simulation.scheduler.stats().num_cached_blocks == 0
    simulation.run()
    assert simulation.scheduler.stats().num_cached_blocks == 1
    simulation.assert_ended_as_alone()


@pytest.mark.parametrize("has_block", [True, False])
def test_a_snapshot_without_its_block_is_not_kept(has_block):
    plan = KVCachePlan("paged", 4, (CacheGroup("full", 9), CacheGroup("state", 4)))
    snapshots = StateSnapshots(plan, Limits(64, 2, 64), b"k" * 32, lambda _: has_block)
    request = Request("r", SYSTEM, GREEDY, 0, 1)
    sequence = Sequence.of(
        0, request, [], block_context=BlockContext(4, b"", b""), max_total_tokens=64, arrival_ns=0
    )
    sequence.sequence_slot = snapshots.allocate()
    snapshots.cache.extend_hashes(sequence.block_hashes, SYSTEM, 4, sequence.block_context.extra)
    snapshots.plan(sequence, 4)
    sequence.num_submitted_tokens = 16
    snapshots.complete([snapshots.save(sequence)], is_valid=True)
    assert snapshots.num_cached == has_block


def test_an_emptied_cache_has_no_snapshots():
    simulation = simulate()
    prompt = [*SYSTEM, 1, 2, 3]
    cached_tokens(simulation, prompt)
    simulation.scheduler.forget_cached_blocks()
    assert cached_tokens(simulation, prompt) == (0, 23)


def test_a_preempted_sequence_continues_from_a_snapshot():
    simulation = simulate(num_blocks=17, max_sequences=2)
    for salt in "ab":
        simulation.add([*SYSTEM, 1, 2], 20, cache_salt=salt)
    simulation.run()
    resumed = [
        new
        for step in simulation.steps
        for new in step.added
        if len(new.tokens) > new.num_prompt_tokens
    ]
    assert resumed
    assert all(new.num_computed_tokens == 20 for new in resumed)
    simulation.assert_ended_as_alone()


def test_the_number_of_cached_states_is_reported():
    simulation = simulate(kinds=("state",))
    cached_tokens(simulation, [*SYSTEM, 1, 2])
    assert simulation.scheduler.stats().num_cached_blocks == 1


def test_seen_prefixes_forget_the_oldest_ends_first():
    seen = SeenPrefixes(max_hashes=4)
    first, second = [b"a", b"b", b"c"], [b"d", b"e"]
    assert seen.add(first) == 0
    assert seen.add(second) == 0
    assert seen.add([b"a", b"b", b"x"]) == 2


@st.composite
def hybrid_agreements(draw):
    groups = draw(st.sampled_from([("full", "state"), ("state",), ("full", "state", "state")]))
    sizes = {"full": draw(st.integers(24, 40)), "state": draw(st.integers(3, 12))}
    return make_agreement(
        block_size=2,
        groups=tuple(CacheGroup(kind, sizes[kind]) for kind in groups),
        features=(*SNAPSHOTS, *draw(st.sampled_from([(), ("multi_token",)]))),
        max_sequences=draw(st.integers(1, 5)),
        max_step_tokens=draw(st.integers(8, 30)),
        mixed=draw(st.booleans()),
        chunked=draw(st.sampled_from([True, True, True, False])),
        chunk_multiple=draw(st.sampled_from([1, 2, 4, 8])),
        max_prefills=draw(st.sampled_from([0, 1, 2])),
        depth=draw(st.integers(1, 3)),
        tokens_per_step=draw(st.sampled_from([1, 1, 3])),
    )


def add_random(simulation, rng):
    system = SYSTEM[: rng.choice([8, 12, 20])]
    simulation.add(
        system + [rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(0, 9))],
        rng.randint(1, 16),
        sampling=rng.choice([GREEDY, DRAWN, SCORED]),
        seed=rng.getrandbits(64),
        eos_token_ids=rng.choice([(), (7,)]),
        adapter=rng.choice([0, 0, 0, 1]),
        cache_salt=rng.choice(["", "", "salt"]),
        output_token_ids=rng.choice([[], [], [], [1, 2, 3]]),
    )


@settings(max_examples=60, deadline=None)
@given(hybrid_agreements(), st.integers(0, 2**32), st.booleans())
def test_random_work_equals_running_alone(agreement, seed, fails):
    rng = random.Random(seed)
    simulation = Simulation(
        agreement, SchedulerConfig(), failures=random.Random(seed) if fails else None
    )
    simulation.run_randomly(rng, add_random, num_turns=40, abort_share=0.1)


def test_a_model_without_states_has_no_snapshots():
    agreement = make_agreement(features=SNAPSHOTS)
    assert agreement.kv_cache == KVCachePlan("paged", 4, (CacheGroup("full", 16),))
    scheduler = Scheduler(agreement, SchedulerConfig(), clock=lambda: 0)
    assert scheduler._state.cache.snapshots is None

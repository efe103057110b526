"""One test for each rule of the scheduler."""

from __future__ import annotations

import msgspec
import pytest

from tests.core.scheduler.simulation import SCORED, Simulation, make_agreement
from tgi.backend import CacheGroup, SamplingParams
from tgi.scheduler import Request, Scheduler, SchedulerConfig
from tgi.scheduler.kv_cache_manager import KVCacheManager
from tgi.types import FinishReason


def counts(step):
    return step.rows.count.tolist()


def test_a_new_sequence_joins_the_next_step_after_the_decode_rows():
    simulation = Simulation(make_agreement())
    simulation.add([1, 2, 3])
    assert [counts(step) for step in simulation.step()] == [[3]]
    simulation.add([4, 5])
    assert [counts(step) for step in simulation.step()] == [[1, 2]]
    assert simulation.scheduler.stats().has_joined
    simulation.run()
    simulation.assert_ended_as_alone()


def test_long_prompts_are_split_by_the_budget_and_the_chunk_multiple():
    simulation = Simulation(make_agreement(max_step_tokens=10, chunk_multiple=4))
    simulation.add(range(1, 21), 1)
    assert [counts(simulation.step()[0]) for _ in range(3)] == [[8], [8], [4]]


def test_the_head_of_the_queue_is_not_overtaken():
    simulation = Simulation(make_agreement(num_blocks=4))
    simulation.add([1] * 8, 2)
    simulation.step()
    simulation.add([2] * 12, 1)
    simulation.add([3], 1)
    assert simulation.step()[0].added == []
    simulation.run()
    simulation.assert_ended_as_alone()


@pytest.mark.parametrize(
    ("prompt", "limits", "part"),
    [
        ([], {}, "no tokens"),
        ([1] * 48, {}, "has 48 tokens"),
        ([1] * 20, {"chunked": False}, "one step of at most 16"),
        ([1] * 14, {"num_blocks": 4}, "space for 16"),
    ],
)
def test_a_request_that_can_never_run_is_rejected_immediately(prompt, limits, part):
    simulation = Simulation(make_agreement(**limits))
    simulation.add(prompt, 8)
    assert part in simulation.streams[0].end.error
    assert not simulation.scheduler.has_work


@pytest.mark.parametrize("token", [-1, 100, 5_000_000])
@pytest.mark.parametrize("place", ["prompt", "output of an earlier engine", "encoder"])
def test_a_token_id_that_the_model_does_not_have_never_reaches_the_worker(token, place):
    scheduler = Scheduler(make_agreement(), SchedulerConfig())
    request = Request("r", [1, token] if place == "prompt" else [1, 99], SamplingParams(), 0, 8)
    if place == "encoder":
        request = msgspec.structs.replace(request, encoder_token_ids=[1, token])
    output_token_ids = [token] if place.startswith("output") else []
    refused = scheduler.add(1, request, output_token_ids)
    assert refused.error == (
        f"The sequence contains token id {token}, but the model has 100 token ids"
    )
    assert not scheduler.has_work


def test_the_length_limit_has_priority_over_eos():
    simulation = Simulation(make_agreement())
    simulation.add([1, 2], 1, eos_token_ids=tuple(range(11)))
    simulation.add([1, 2], 2, eos_token_ids=tuple(range(11)))
    simulation.run()
    assert [s.end.finish_reason for s in simulation.streams.values()] == [
        FinishReason.LENGTH,
        FinishReason.EOS_TOKEN,
    ]


def test_the_prefix_cache_returns_full_blocks_but_never_a_whole_prompt():
    simulation = Simulation(make_agreement())
    for _ in range(2):
        simulation.add([1] * 8, 1)
        simulation.run()
    simulation.add([1] * 8, 1, adapter=1)
    simulation.add([1] * 8, 1, sampling=SCORED)
    simulation.run()
    assert [stream.end.num_cached_tokens for stream in simulation.streams.values()] == [0, 4, 0, 0]
    simulation.assert_ended_as_alone()


def test_sequences_with_different_salts_share_no_blocks():
    simulation = Simulation(make_agreement())
    for salt in ("a", "b", "", "a", "b", ""):
        simulation.add([1] * 8, 1, cache_salt=salt)
        simulation.run()
    assert [s.end.num_cached_tokens for s in simulation.streams.values()] == [0, 0, 0, 4, 4, 4]
    simulation.assert_ended_as_alone()


def test_another_adapter_under_the_same_number_matches_no_old_blocks():
    simulation = Simulation(make_agreement())
    scheduler = simulation.scheduler
    for digest in (b"a", b"b", b"a"):
        scheduler.load_adapter(1, digest)
        simulation.add([1] * 8, 1, adapter=1)
        simulation.run()
        scheduler.unload_adapter(1)
    assert [s.end.num_cached_tokens for s in simulation.streams.values()] == [0, 0, 4]


def test_a_sequence_without_its_adapter_is_refused():
    simulation = Simulation(make_agreement())
    sequence_id = simulation.add([1] * 8, 1, adapter=9)
    assert simulation.streams[sequence_id].end.error == "Adapter 9 is not loaded"


def test_the_prefix_cache_can_be_disabled():
    simulation = Simulation(make_agreement(), SchedulerConfig(prefix_cache=False))
    for _ in range(2):
        simulation.add([1] * 8, 1)
        simulation.run()
    assert simulation.streams[1].end.num_cached_tokens == 0


@pytest.mark.parametrize("depth", [1, 2])
def test_the_sequence_admitted_last_is_preempted_and_its_output_is_unchanged(depth):
    simulation = Simulation(make_agreement(num_blocks=6, depth=depth))
    simulation.add([1] * 8, 16)
    simulation.add([2] * 8, 16)
    num_preempted = 0
    while simulation.scheduler.has_work or simulation.worker.steps:
        simulation.step()
        num_preempted += simulation.scheduler.stats().num_preempted
    assert num_preempted >= 1
    assert sum(len(step.added) for step in simulation.steps) >= 3
    simulation.assert_ended_as_alone()


def test_with_two_steps_in_flight_a_surplus_token_is_discarded():
    simulation = Simulation(make_agreement(depth=2))
    simulation.add([1, 2, 3], 9, eos_token_ids=tuple(range(11)))
    simulation.run()
    assert [step.rows.tokens.tolist() for step in simulation.steps[:2]] == [[1, 2, 3], [-1]]
    assert len(simulation.streams[0].tokens) == 1
    simulation.assert_ended_as_alone()


def test_a_step_without_rows_transmits_a_drop():
    simulation = Simulation(make_agreement())
    simulation.add([1], 1)
    simulation.run()
    assert simulation.steps[-1].dropped == [0]
    assert simulation.steps[-1].rows.num_rows == 0


def test_waiting_served_ratio_and_max_waiting_tokens_delay_prefills():
    config = SchedulerConfig(waiting_served_ratio=1.0, max_waiting_tokens=4)
    simulation = Simulation(make_agreement(mixed=False), config)
    for _ in range(2):
        simulation.add([1, 2], 20)
    simulation.step()
    simulation.add([3], 20)
    methods = [len(simulation.step()[0].added) for _ in range(5)]
    assert methods == [0, 0, 0, 1, 0]


def run_with_failures(simulation, is_failing):
    """Run the simulation. Steps for which `is_failing(step)` is true fail and are retryable.
    Returns the sizes (rows, tokens) of the failed steps.
    """
    failed = []
    for _ in range(500):
        if not simulation.scheduler.has_work and not simulation.worker.steps:
            return failed
        while (
            len(simulation.worker.steps) < simulation.agreement.limits.depth
            and simulation.submit() is not None
        ):
            pass
        if simulation.worker.steps and is_failing(simulation.worker.steps[0][0]):
            step, _ = simulation.worker.collect()
            failed.append((step.rows.num_rows, step.rows.num_tokens))
            simulation._receive(simulation.scheduler.fail_step(step.step_id, "no memory", True))
            simulation.scheduler.check()
        else:
            simulation.collect()
    raise AssertionError("the sequences do not end")


LIMITS = [
    {},
    {"depth": 2},
    {"mixed": False},
    {"chunked": False},
    {"mode": "slots"},
    {"chunk_multiple": 4},
    {"num_blocks": 7},
]


@pytest.mark.parametrize("limits", LIMITS)
def test_if_a_step_fails_repeatedly_only_the_failing_sequence_ends(limits):
    simulation = Simulation(make_agreement(**limits))
    bad = 9
    for first in (1, 2, bad, 4, 5):
        simulation.add([first, 2, 3, 4, 5], 6)

    def contains_the_failing_sequence(step):
        sequences = simulation.worker.sequences
        known = {handle: sequence.tokens[0] for handle, sequence in sequences.items()} | {
            new.sequence: int(new.tokens[0]) for new in step.added
        }
        return bad in [known[handle] for handle in step.rows.sequence.tolist()]

    failed = run_with_failures(simulation, contains_the_failing_sequence)
    assert [stream.end.error for stream in simulation.streams.values()] == [
        None,
        None,
        "no memory",
        None,
        None,
    ]
    assert failed[-1][0] == 1
    assert len(failed) <= 16
    simulation.assert_ended_as_alone()


@pytest.mark.parametrize("limits", LIMITS)
def test_a_step_that_is_too_large_is_split(limits):
    simulation = Simulation(make_agreement(**limits))
    for first in range(5):
        simulation.add([first, 2, 3, 4, 5, 6], 3)
    failed = run_with_failures(simulation, lambda step: step.rows.num_tokens > 8)
    assert failed
    assert [stream.end.error for stream in simulation.streams.values()] == [None] * 5
    simulation.assert_ended_as_alone()


def test_a_long_prompt_that_fails_alone_runs_in_shorter_chunks():
    simulation = Simulation(make_agreement(chunk_multiple=2))
    simulation.add([1] * 15, 2)
    failed = run_with_failures(simulation, lambda step: step.rows.num_tokens > 4)
    assert failed == [(1, 15), (1, 6)]
    simulation.assert_ended_as_alone()


def test_a_minimum_size_step_is_retried_a_limited_number_of_times():
    simulation = Simulation(make_agreement())
    simulation.add([1, 2])
    failed = run_with_failures(simulation, lambda step: step.rows.num_rows > 0)
    assert failed == [(1, 2), (1, 1), (1, 1), (1, 1)]
    assert simulation.streams[0].end.error == "no memory"


WITH_ENCODER = (CacheGroup("full", 16), CacheGroup("cross", 10))


def test_a_long_encoder_runs_alone_in_one_step():
    simulation = Simulation(make_agreement(groups=WITH_ENCODER))  # The token budget is 16.
    simulation.add([0], 9, encoder_token_ids=[1, 2, 3])
    (step,) = simulation.step()
    assert [table.tolist() for table in step.added[0].block_tables] == [[0], [0]]
    assert step.added[0].encoder_tokens.tolist() == [1, 2, 3]
    simulation.add([0], 9, encoder_token_ids=[4] * 30)
    simulation.add([0], 9, encoder_token_ids=[5] * 3)
    (step,) = simulation.step()
    # The first sequence does not run in this step.
    assert (counts(step), len(step.added[0].encoder_tokens)) == ([1], 30)
    assert counts(simulation.step()[0]) == [1, 1, 1]
    simulation.run()
    simulation.assert_ended_as_alone()


def test_encoders_share_the_budget_of_a_step():
    simulation = Simulation(make_agreement(groups=WITH_ENCODER))
    for length in (7, 6, 2):
        simulation.add([0], 9, encoder_token_ids=[1] * length)
    # These two use 7 + 1 + 6 + 1 tokens of the budget of 16.
    assert [len(new.encoder_tokens) for new in simulation.step()[0].added] == [7, 6]
    assert counts(simulation.step()[0]) == [1, 1, 1]


def test_an_encoder_waits_for_its_blocks():
    simulation = Simulation(make_agreement(groups=WITH_ENCODER))  # 10 cross blocks of 4 tokens.
    for _ in range(2):
        simulation.add([0], 3, encoder_token_ids=[1] * 24)
    assert [len(step.added) for _ in range(3) for step in simulation.step()] == [1, 0, 0]
    assert len(simulation.step()[0].added) == 1
    simulation.run()
    simulation.assert_ended_as_alone()


@pytest.mark.parametrize(
    ("groups", "encoder_tokens", "part"),
    [
        (WITH_ENCODER, [], "no encoder tokens"),
        (WITH_ENCODER, [1] * 41, "maximum is 40"),
        ((CacheGroup("full", 16), CacheGroup("cross", 20)), [1] * 49, "maximum is 48"),
        ((CacheGroup("full", 16),), [1], "has no encoder"),
    ],
)
def test_encoder_tokens_that_can_never_run_are_rejected(groups, encoder_tokens, part):
    simulation = Simulation(make_agreement(groups=groups))
    simulation.add([0], 8, encoder_token_ids=encoder_tokens)
    assert part in simulation.streams[0].end.error
    assert not simulation.scheduler.has_work


def leak_cross_blocks(self, holding):
    self.blocks.release(holding.blocks)


def hand_out_cross_blocks_too_early(self, sequence, *, in_use):
    self.cross_blocks.release(sequence.cross_table)
    sequence.cross_table = []
    original_release(self, sequence, in_use=in_use)


original_release = KVCacheManager.release


@pytest.mark.parametrize(
    ("method", "fault"),
    [("_free", leak_cross_blocks), ("release", hand_out_cross_blocks_too_early)],
)
def test_a_seeded_fault_of_cross_blocks_is_caught(monkeypatch, method, fault):
    monkeypatch.setattr(KVCacheManager, method, fault)
    simulation = Simulation(make_agreement(groups=WITH_ENCODER, depth=2, max_step_tokens=4))
    with pytest.raises(AssertionError):
        for turn in range(12):
            simulation.add([1] * 6, 4, encoder_token_ids=[2] * 12)
            simulation.step()
            if turn % 3 == 1:
                simulation.abort(turn // 3)
        simulation.run()
        simulation.assert_ended_as_alone()


def leak_on_release(self, sequence, *, in_use):
    sequence.block_table, sequence.sequence_slot = [], -1


def hand_out_too_early(self, sequence, *, in_use):
    self.blocks.release(sequence.block_table)
    sequence.block_table, sequence.sequence_slot = [], -1


def one_block_too_few(self, num_tokens):
    return max(num_tokens - 1, 0) // self.block_size


def register_uncomputed(self, sequences):
    sequences = list(sequences)
    computed = [sequence.num_computed_tokens for sequence in sequences]
    for sequence in sequences:
        sequence.num_computed_tokens = len(sequence.token_ids) // 4 * 4
    original_register(self, sequences)
    for sequence, count in zip(sequences, computed, strict=True):
        sequence.num_computed_tokens = count


original_register = KVCacheManager.register_computed


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        ("release", leak_on_release),
        ("release", hand_out_too_early),
        ("blocks_for", one_block_too_few),
        ("register_computed", register_uncomputed),
    ],
)
def test_a_seeded_fault_is_caught(monkeypatch, method, fault):
    monkeypatch.setattr(KVCacheManager, method, fault)
    simulation = Simulation(
        make_agreement(num_blocks=9, depth=2, max_step_tokens=4, max_total_tokens=32)
    )
    with pytest.raises((AssertionError, IndexError)):
        for turn in range(12):
            for _ in range(2):
                simulation.add([1] * 20, 4, eos_token_ids=(7, 3, 5))
            simulation.step()
            if turn % 3 == 1:
                simulation.abort(turn // 3)  # The first aborted sequence is in prefill.
        simulation.run()
        simulation.assert_ended_as_alone()

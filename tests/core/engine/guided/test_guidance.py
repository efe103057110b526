"""Sequences with guidance in the engine loop, with scripted matchers and a virtual clock."""

from collections import Counter

import pytest

from tests.core.engine.engine_setup import request
from tgi.engine.guidance import GuidanceManager
from tgi.engine.messages import AbortSequence, AddSequence, GuidanceStats, SetVocabulary
from tgi.grammar.constraint import GrammarError
from tgi.grammar.vocabulary_data import VocabularyData
from tgi.testing.doubles.null_script import NullFailure
from tgi.types import FinishReason

from .fake_grammars import EOS, VOCABULARY, FakePool
from .guided_engine import BOTH, INLINE, LATE, MS, Engine, Frontend, guided


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("features", [INLINE, LATE, BOTH])
def test_masks_apply_to_guided_sequences_only(depth, features):
    engine = Engine(FakePool(), depth=depth, features=features)
    frontend = engine.run([guided("even:4"), request([1, 2, 3], 7), guided("odd:9", 3)])
    even, plain, odd = (frontend.tokens[number] for number in range(3))
    assert len(even) == 5
    assert (even[-1], {token % 2 for token in even[:-1]}) == (EOS, {0})
    assert plain == [1, 2, 3, 1, 2, 3, 1]
    assert {token % 2 for token in odd} == {1}
    assert frontend.ends == {
        0: FinishReason.EOS_TOKEN,
        1: FinishReason.LENGTH,
        2: FinishReason.LENGTH,
    }
    assert [matcher.num_masks for matcher in engine.pool.matchers] == [5, 3]
    assert engine.pool.is_closed


@pytest.mark.parametrize("features", [INLINE, LATE, BOTH])
def test_tokens_do_not_depend_on_the_way_of_the_masks(features):
    texts = [
        Engine(FakePool(), depth=depth, features=used).run([guided("even:8", 20)]).tokens[0]
        for depth, used in ((1, INLINE), (2, features))
    ]
    assert texts[0] == texts[1]


def test_a_complete_text_ends_without_eos_if_eos_is_ignored():
    frontend = Engine(FakePool()).run([guided("even:4", eos_token_ids=())])
    assert len(frontend.tokens[0]) == 4
    assert frontend.ends[0] is FinishReason.EOS_TOKEN


def test_free_positions_cost_no_mask():
    engine = Engine(FakePool())
    frontend = engine.run([guided("free:6", 20)])
    assert frontend.tokens[0] == [5, 6, 5, 6, 5, 6, EOS]
    assert engine.pool.matchers[0].num_masks == 1


def test_without_a_vocabulary_a_guided_sequence_ends_with_an_error():
    engine = Engine(FakePool())
    engine.guidance = GuidanceManager(engine.pool.clock)
    frontend = engine.run([guided("even:4"), request([1], 3)])
    assert "no vocabulary" in frontend.ends[0]
    assert frontend.tokens[1] == [1, 1, 1]


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("invalid:1", "keyword `not`"),
        ("dead:2", "no token is allowed"),
        ("rejecting:9", "is not allowed"),
    ],
)
@pytest.mark.parametrize("depth", [1, 2])
def test_an_error_of_a_grammar_ends_only_its_sequence(grammar, message, depth):
    engine = Engine(FakePool(), depth=depth, features=BOTH)
    frontend = engine.run([guided(grammar), request([1, 2], 6), guided("odd:9", 5)])
    assert message in frontend.ends[0]
    assert frontend.tokens[1] == [1, 2, 1, 2, 1, 2]
    assert {token % 2 for token in frontend.tokens[2]} == {1}
    assert sum(stats.num_errors for stats in guidance_stats(frontend)) == 1


def test_a_sequence_may_follow_the_vocabulary_at_once():
    frontend = Frontend([guided("even:4")])
    frontend._script = [[SetVocabulary(VOCABULARY), AddSequence(0, guided("even:4"))]]
    engine = Engine(FakePool())
    engine.guidance = GuidanceManager(engine.pool.clock, lambda _: engine.pool)
    assert len(engine.serve(frontend).tokens[0]) == 5


def test_a_vocabulary_that_cannot_be_built_ends_guided_sequences():
    def build(data):
        raise GrammarError(f"{len(data.tokens)} tokens cannot be used")

    frontend = Engine(FakePool(), build).run([guided("even:4"), request([1], 3)])
    assert "100 tokens cannot be used" in frontend.ends[0]
    assert frontend.tokens[1] == [1, 1, 1]


def test_a_vocabulary_of_another_size_ends_guided_sequences():
    engine = Engine(FakePool())
    engine.guidance = GuidanceManager(engine.pool.clock, lambda _: engine.pool)
    frontend = Frontend([guided("even:4"), request([1], 3)])
    narrow = VocabularyData([b"x"], [], (), 32)
    frontend._script[0].insert(0, SetVocabulary(narrow))
    engine.serve(frontend)
    assert "masks for 32 ids, but the model has 100 ids" in frontend.ends[0]
    assert frontend.tokens[1] == [1, 1, 1]


def test_other_sequences_run_while_a_grammar_is_compiled():
    pool = FakePool(is_fast=False)
    engine = Engine(pool, max_step_tokens=8)
    seen = []

    def observe():
        seen.append({i: len(tokens) for i, tokens in frontend.tokens.items()})
        return []

    def finish():
        pool.finish()
        return observe()

    frontend = Frontend(
        [guided("even:4", prompt=range(1, 20)), request([1, 2], 12)],
        [[]] * 12 + [observe, finish],
    )
    engine.serve(frontend)
    assert seen[0] == {0: 0, 1: 11}, "the other sequence waited for the grammar"
    assert frontend.ends == {0: FinishReason.EOS_TOKEN, 1: FinishReason.LENGTH}
    # The prompt ran before the grammar was compiled, except for its last token.
    prefill = [report.stats.scheduler.num_tokens for report in frontend.reports]
    assert sum(prefill[:12]) >= 18


def test_an_abort_cancels_a_compilation_that_has_not_begun():
    pool = FakePool(is_fast=False)
    futures = []

    def remember():
        futures.extend(future for future, *_ in pool.pending)
        return [AbortSequence(0)] if futures else []

    frontend = Engine(pool).run(
        [guided("even:4"), request([1], 300)], [remember for _ in range(200)]
    )
    assert [future.cancelled() for future in futures[:1]] == [True]
    assert 0 not in frontend.ends
    assert len(frontend.tokens[1]) == 300


def guidance_stats(frontend):
    return [r.stats.guidance for r in frontend.reports if r.stats.guidance is not None]


def test_the_reports_count_the_work():
    engine = Engine(FakePool(mask_ns=2 * MS))
    frontend = engine.run([guided("even:4"), guided("odd:9", 3), request([1], 30)])
    total = GuidanceStats(
        *(sum(values) for values in zip(*map(astuple, guidance_stats(frontend)), strict=True))
    )
    assert (total.num_masks, total.mask_ns) == (8, 16 * MS)
    assert (total.num_compiled, total.num_errors) == (2, 0)
    last = frontend.reports[-5:]
    assert [report.stats.guidance for report in last] == [None] * 5


def astuple(stats):
    return [getattr(stats, name) for name in stats.__struct_fields__]


@pytest.mark.parametrize("num_guided", [6, 20])
def test_slow_masks_delay_no_other_sequence_and_starve_nobody(num_guided):
    """Each mask takes 4 ms of the budget of 10 ms, so a step has at most three masks. The masks
    that were delayed come first in the next step.
    """
    engine = Engine(FakePool(mask_ns=4 * MS))
    length = 12
    frontend = engine.run(
        [request([1], 60), *(guided("even:99", length) for _ in range(num_guided))]
    )
    assert [len(frontend.tokens[number]) for number in range(1, num_guided + 1)] == (
        [length] * num_guided
    )
    masks = [stats.num_masks for stats in guidance_stats(frontend)]
    assert max(masks) == 3
    assert all(
        1 in [o.token_ids[0] for o in r.outputs if not o.sequence_id] for r in frontend.reports[:60]
    )
    # No sequence is more than two masks ahead of another.
    filled = engine.pool.filled
    for end in range(num_guided, len(filled), num_guided):
        counts = Counter(map(id, filled[:end]))
        assert max(counts.values()) - min(counts.values()) <= 2
    assert Counter(map(id, filled)).most_common(1)[0][1] == length


def test_slow_masks_are_not_requested_for_submitted_steps():
    """A step waits for its late masks, so it contains only as many of them as fit into the
    budget.
    """
    engine = Engine(FakePool(mask_ns=4 * MS), depth=2, features=BOTH)
    frontend = engine.run([request([1], 40), *(guided("even:99", 8) for _ in range(12))])
    assert all(len(frontend.tokens[number]) == 8 for number in range(1, 13))
    # Two steps are planned before the first report, each with three masks, and two late masks.
    assert max(stats.num_masks for stats in guidance_stats(frontend)) <= 8
    assert len(engine.pool.filled) == 96


@pytest.mark.parametrize("kind", ["step", "row"])
@pytest.mark.parametrize("depth", [1, 2])
def test_failures_keep_matcher_and_tokens_in_agreement(kind, depth):
    def run(failures):
        engine = Engine(FakePool(), depth=depth, features=BOTH, failures=failures)
        return engine.run([guided("even:12", 20, prompt=[13, 2]), guided("odd:8", 20)])

    failed, plain = run((NullFailure(13, kind, after=3, times=2),)), run(())
    assert failed.tokens[1] == plain.tokens[1]
    if kind == "step":
        assert failed.tokens[0] == plain.tokens[0]
    else:
        assert "scripted" in failed.ends[0]


def test_a_resumed_sequence_continues_after_its_output():
    whole = Engine(FakePool()).run([guided("even:12", 20)]).tokens[0]
    frontend = Frontend([guided("even:12", 20)])
    frontend._script = [[AddSequence(0, guided("even:12", 20), whole[:5])]]
    engine = Engine(FakePool())
    engine.serve(frontend)
    assert frontend.tokens[0] == whole[5:]
    assert engine.pool.matchers[0].num_masks == len(whole) - 5

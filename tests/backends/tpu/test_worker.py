"""Properties of the worker that the conformance suite does not check.

These are programs, buckets and steps in flight.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import dataclass, field

import jax
import msgspec
import numpy as np
import pytest

from tgi.backend import (
    FEATURES,
    TOKEN_ON_DEVICE,
    GrammarMasks,
    RequestedLimits,
    SamplingParams,
    StepError,
)
from tgi.testing.conformance.backend_under_test import (
    BackendUnderTest,
    RecordingReporter,
    prompt_of,
)
from tgi.testing.conformance.expectations import check_sequences
from tgi.testing.conformance.scripted_core import ScriptedCore
from tgi_tpu import tgi_backend

REQUESTED = RequestedLimits(
    max_total_tokens=96,
    max_batch_size=4,
    max_batch_total_tokens=512,
    features=tuple(sorted(FEATURES)),
)
OPTIONS = {"platform": "cpu", "token-buckets": "8,64"}


@dataclass
class Serving:
    """A ready worker, and its reports."""

    under_test: BackendUnderTest
    core: ScriptedCore
    reporter: RecordingReporter = field(default_factory=RecordingReporter)

    @property
    def model(self):
        return self.under_test.models.get()


@contextmanager
def serving(folder, requested=REQUESTED, **changes):
    under_test, reporter = (
        BackendUnderTest("tpu", tgi_backend(), folder, options=OPTIONS),
        RecordingReporter(),
    )
    config = msgspec.structs.replace(under_test.config(under_test.models.get()), **changes)
    worker = under_test.backend.create_worker(config, reporter)
    try:
        worker.load()
        agreement = worker.negotiate(requested)
        worker.warmup()
        yield Serving(under_test, ScriptedCore(worker, agreement), reporter)
    finally:
        worker.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A shared cache of compiled programs, so that only the first test compiles them."""
    return tmp_path_factory.mktemp("tpu")


@pytest.fixture
def served(folder):
    with serving(folder) as ready:
        yield ready


@contextmanager
def compilations():
    """The programs that JAX looks for in its cache and does not find."""
    events = []
    listener = lambda name, **_: events.append(name.rpartition("/")[2])  # noqa: E731
    jax.monitoring.register_event_listener(listener)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_listener(listener)


def test_a_second_startup_compiles_only_damaged_programs(tmp_path):
    counts, lines = [], []
    for start in ("first", "second", "damaged"):
        if start == "damaged":
            for file in (tmp_path / "cache").rglob("*"):
                if file.is_file():
                    file.write_bytes(b"?")
        jax.clear_caches()
        with compilations() as events, serving(tmp_path) as ready:
            counts.append((events.count("cache_misses"), events.count("cache_hits")))
            lines.append(len(ready.reporter.lines))
    first, second, damaged = counts
    assert first[0] > 5 and not first[1] and not lines[0]
    assert not second[0] and second[1] > 5 and not lines[1]
    assert damaged[0] > 5 and lines[2] > 5


def test_warmup_reports_every_program_and_serving_compiles_none(served):
    steps = [
        (done, total) for phase, done, total in served.reporter.progress_calls if phase == "warmup"
    ]
    totals = {total for _, total in steps[:-1]}
    assert len(totals) == 1 and steps[-1] == (1, 1)
    assert {done for done, _ in steps[:-1]} == set(range(totals.pop() - 1))
    shapes = set()
    for length in (1, 8, 9, 64, 65, 90):
        sequence = served.core.add(
            prompt_of(length),
            SamplingParams(prompt_logprobs=True, greedy=False, top_n_tokens=2, logprobs="raw"),
        )
        for output in served.core.advance({sequence: 0}):
            assert not output.times.compile
            shapes.add(output.shape)
        served.core.drop(sequence)
    assert shapes == {"tokens=8,blocks=3", "tokens=64,blocks=3"}
    assert not served.reporter.count("compile")


def test_rare_programs_are_compiled_at_their_first_use(served):
    many = SamplingParams(logit_bias=tuple((token, 0.25) for token in range(100)))
    sequence = served.core.add(prompt_of(4), many)
    compiled = [
        output.times.compile > 0 for _ in range(2) for output in served.core.advance({sequence: 0})
    ]
    assert compiled == [True, False]
    assert served.reporter.count("compile") >= 2
    assert served.reporter.progress_calls[-1] == ("compile", 1, 1)
    check_sequences(served.model, [sequence], served.core.agreement)


def test_penalties_count_the_tokens_of_a_prefix_hit(served):
    core, size = served.core, served.core.agreement.kv_cache.block_size
    prompt = prompt_of(size + 9)
    first = core.add(prompt)
    core.generate([first], 1)
    penalized = SamplingParams(
        repetition_penalty=1.9, relative_frequency_penalty=3.0, logprobs="processed", top_n_tokens=9
    )
    tail = [*prompt[size:], *prompt[:3]]
    hit = core.add(
        [*prompt[:size], *tail], penalized, blocks=first.blocks[:1], num_computed_tokens=size
    )
    core.generate([hit, first], 5)
    check_sequences(served.model, [hit, first], core.agreement)


def in_flight(core, *works):
    """Submit one step for each item of `works` before the first result is collected.

    Sampled tokens stay on the device.
    """
    steps = []
    for work in works:
        step = core.build(work)
        core.worker.submit(step)
        steps.append(step)
        for sequence, count in work.items():
            sequence.num_computed_tokens += count
            sequence.output.append(TOKEN_ON_DEVICE)
    return steps


def words_allowing(vocab_size, *tokens):
    bits = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
    bits[list(tokens)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def test_a_step_that_waits_for_masks_delays_the_next_one(served):
    """The input token of the next step is one that the waiting step has not sampled yet."""
    core, vocab_size = served.core, served.core.agreement.vocab_size
    core.mask_mode = "late"
    free, bound = core.add(prompt_of(6, seed=1)), core.add(prompt_of(5, seed=2))
    bound.allowed = ((11,),)
    first, second = in_flight(core, {free: 6, bound: 5}, {free: 1})
    assert first.mask == "late" and second.rows.tokens.tolist() == [TOKEN_ON_DEVICE]
    core.worker.submit(
        GrammarMasks(first.step_id, np.array([1], np.int32), words_allowing(vocab_size, 11))
    )
    outputs = [core.worker.collect() for _ in range(2)]
    assert outputs[0].tokens[1] == 11
    free.output = [int(outputs[0].tokens[0]), int(outputs[1].tokens[0])]
    check_sequences(served.model, [free], core.agreement)


def test_missing_masks_fail_only_their_step(served):
    core = served.core
    core.mask_mode = "late"
    bound, free = core.add(prompt_of(5, seed=2)), core.add(prompt_of(6, seed=1))
    bound.allowed = ((11,),)
    in_flight(core, {bound: 5}, {free: 6})
    with pytest.raises(StepError, match="masks of step 0 did not arrive") as raised:
        core.worker.collect()
    assert raised.value.retryable
    free.output = [int(core.worker.collect().tokens[0])]
    check_sequences(served.model, [free], core.agreement)
    with pytest.raises(StepError, match="No step 0 waits for masks"):
        core.worker.submit(
            GrammarMasks(0, np.array([0], np.int32), words_allowing(core.agreement.vocab_size, 11))
        )


@pytest.mark.parametrize(
    ("row", "num_words", "part"),
    [
        ([0], 3, "do not have 12 words per row"),
        ([1], 12, "refer to rows that the step does not have"),
    ],
)
def test_masks_of_another_shape_are_rejected(served, row, num_words, part):
    core = served.core
    core.mask_mode = "late"
    sequence = core.add(prompt_of(5))
    sequence.allowed = ((11,),)
    (step,) = in_flight(core, {sequence: 5})
    with pytest.raises(StepError, match=part):
        core.worker.submit(
            GrammarMasks(step.step_id, np.array(row, np.int32), np.zeros(num_words, np.int32))
        )


def test_facts_name_platform_and_kernels(served):
    facts = served.core.agreement.facts
    assert (facts["platform"], facts["dtype"], facts["attention"], facts["num_devices"]) == (
        "JAX on the CPU, no TPU",
        "float32",
        "xla",
        "1",
    )
    assert served.core.agreement.sampling_caps == {"top_n_tokens": 32}


def test_prompt_scores_are_negotiated_only_if_requested(folder):
    with serving(folder, msgspec.structs.replace(REQUESTED, features=())) as ready:
        assert not ready.core.agreement.has("prompt_logprobs")


@pytest.mark.parametrize("count", [0, 3, 32])
def test_a_prompt_token_and_a_top_token_with_its_id_have_the_same_score(served, count):
    vocab_size = served.core.agreement.vocab_size
    prompt = [number % vocab_size for number in range(7, 7 + 40)]
    sampling = SamplingParams(prompt_logprobs=True, top_n_tokens=count)
    plain = served.core.add(prompt, SamplingParams(prompt_logprobs=True))
    sequence = served.core.add(prompt, sampling)
    served.core.generate([plain, sequence], 1)
    check_sequences(served.model, [plain, sequence], served.core.agreement)
    served.core.drop(plain, sequence)
    found = [
        (value, score)
        for place, tops in sequence.prompt_tops.items()
        for (token, value), score in [(top, sequence.prompt_scores[place]) for top in tops]
        if token == prompt[place]
    ]
    assert all(value == score for value, score in found)
    assert bool(found) == (count == 32)
    assert not any(plain.prompt_tops.values())


def test_bfloat16_stays_near_the_reference(folder):
    """On a prompt the log probabilities differ by at most 0.1 from those of float32."""
    with serving(folder, dtype="bfloat16") as ready:
        sequence = ready.core.add(prompt_of(40), SamplingParams(prompt_logprobs=True))
        ready.core.generate([sequence], 1)
        logits = ready.model.logits(sequence.prompt).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    errors = [
        abs(value - expected[place - 1, sequence.prompt[place]])
        for place, value in sequence.prompt_scores.items()
    ]
    assert len(errors) == 39
    assert 1e-5 < max(errors) < 0.1, max(errors)


def test_close_releases_weights_and_cache(folder):
    gc.collect()
    before = len(jax.live_arrays())
    with serving(folder) as ready:
        ready.core.generate([ready.core.add(prompt_of(5))], 1)
        assert len(jax.live_arrays()) > before
    del ready
    gc.collect()
    assert len(jax.live_arrays()) == before


def test_the_scheme_of_int8_is_a_fact(tmp_path):
    with serving(tmp_path, quantize="int8") as served:
        facts = served.core.agreement.facts
        assert (facts["quantization"], facts["weight scales"]) == ("int8 weights", "one per output")
        served.core.generate([served.core.add(prompt_of(9), SamplingParams())], 3)
    with serving(tmp_path) as served:
        assert "weight scales" not in served.core.agreement.facts

"""The effects of a step, on the worker of the CPU backend with a tiny model."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from tests.backends.checkpoints import save_checkpoint
from tgi.architectures import load_spec
from tgi.backend import (
    FEATURES,
    EngineConfig,
    GrammarMasks,
    RequestedLimits,
    SamplingParams,
    StepError,
)
from tgi.testing.conformance.backend_under_test import RecordingReporter, start
from tgi.testing.sampling import sample_row
from tgi_cpu import tgi_backend

VOCAB_SIZE = 101
POISON = 100  # this token's embedding is NaN


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    model = save_checkpoint("llama", path)
    with torch.no_grad():
        model.model.embed_tokens.weight[POISON] = torch.nan
    model.save_pretrained(path)
    return path, model


@pytest.fixture
def core(checkpoint, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path, _ = checkpoint
    worker = tgi_backend().create_worker(
        EngineConfig("cpu", str(path), load_spec(path)), RecordingReporter()
    )
    requested = RequestedLimits(
        max_concurrent_requests=4, max_batch_prefill_tokens=64, features=tuple(FEATURES)
    )
    yield start(worker, requested)
    worker.close()


@pytest.fixture
def reference(checkpoint):
    _, model = checkpoint

    def logits(tokens):
        with torch.inference_mode():
            return model(torch.tensor([tokens])).logits[0].numpy()

    return logits


def prompt(seed, length=20):
    return np.random.default_rng(seed).integers(0, POISON, length).tolist()


def test_sampled_tokens_and_logprobs_equal_the_reference(core, reference):
    params = [
        SamplingParams(logprobs="raw", top_n_tokens=3),
        SamplingParams(
            greedy=False, temperature=0.8, top_p=0.9, logprobs="processed", top_n_tokens=2
        ),
        SamplingParams(repetition_penalty=1.7, frequency_penalty=0.5, logprobs="processed"),
        SamplingParams(greedy=False, watermark_gamma=0.5, watermark_delta=4.0, top_k=5),
    ]
    sequences = [
        core.add(prompt(handle, 4 + handle), sampling, handle=handle)
        for handle, sampling in enumerate(params)
    ]
    rng = np.random.default_rng(5)
    for _ in range(12):
        draws = {handle: np.float32(rng.integers(2**24) / 2**24) for handle in range(4)}
        before = {handle: list(sequence.tokens) for handle, sequence in core.live.items()}
        for handle, sequence in enumerate(sequences):
            sequence.draw = float(draws[handle])
        output = core.step(dict.fromkeys(sequences, 0))
        for handle, sampling in enumerate(params):
            length = len(sequences[handle].prompt)
            tokens = before[handle]
            expected = sample_row(
                reference(tokens)[-1],
                sampling,
                tokens[:length],
                tokens[length:],
                draw=draws[handle],
            )
            assert output.tokens[handle] == expected.token_id
            if expected.logprob is None:
                assert np.isnan(output.logprobs[handle])
            else:
                assert output.logprobs[handle] == pytest.approx(expected.logprob, abs=1e-4)
            span = slice(output.top_ptr[handle], output.top_ptr[handle + 1])
            assert output.top_ids[span].tolist() == [token for token, _ in expected.top]
            assert output.top_logprobs[span] == pytest.approx(
                [value for _, value in expected.top], abs=1e-4
            )


@pytest.mark.parametrize("chunks", [[20], [1, 7, 1, 11], [16, 4]])
def test_prompt_scores_cover_every_position_once(core, reference, chunks):
    ids = prompt(3)
    scored = core.add(ids, SamplingParams(prompt_logprobs=True), handle=0)
    other = core.add(prompt(4), handle=1)
    scores = {}
    for chunk in chunks:
        output = core.step({other: 0, scored: chunk})
        for part in output.prompt_scores:
            assert part.sequence == 0
            for i, value in enumerate(part.logprobs):
                assert scores.setdefault(part.start + i, value) is value
    # Output tokens are not part of the prompt.
    assert core.step({scored: 0, other: 0}).prompt_scores == []
    expected = torch.from_numpy(reference(ids)).log_softmax(-1)
    assert sorted(scores) == list(range(1, 20))
    for position, value in scores.items():
        assert value == pytest.approx(float(expected[position - 1, ids[position]]), abs=1e-4)


@pytest.mark.parametrize("count", [1, 3, 10_000])
def test_top_tokens_of_prompts_are_the_most_likely_tokens(core, reference, count):
    ids = prompt(3)
    scored = core.add(ids, SamplingParams(prompt_logprobs=True, top_n_tokens=count), handle=0)
    [scores] = core.step({scored: len(ids)}).prompt_scores
    expected = torch.from_numpy(reference(ids)).log_softmax(-1)[: len(ids) - 1]
    best = expected.topk(min(count, VOCAB_SIZE))
    top_ids = scores.top_ids.reshape(best.indices.shape)
    top_logprobs = scores.top_logprobs.reshape(best.values.shape)
    assert top_ids.dtype == np.int32
    assert top_ids[:, 0].tolist() == best.indices[:, 0].tolist()
    assert top_logprobs == pytest.approx(best.values.numpy(), abs=1e-4)
    # A prompt token and a top token with the same id have exactly the same logprob.
    is_same = top_ids == np.array(ids[1:])[:, None]
    assert (np.where(is_same, top_logprobs - scores.logprobs[:, None], 0) == 0).all()
    assert count < VOCAB_SIZE or is_same.any(-1).all()


def test_a_row_without_sample_yields_nothing(core):
    sequence = core.add(prompt(0))
    output = core.step({sequence: 5})
    assert output.token_ptr.tolist() == [0, 0]
    assert len(output.tokens) == 0
    output = core.step({sequence: 0})
    assert output.token_ptr.tolist() == [0, 1]
    assert output.top_ptr.tolist() == []


def test_the_token_on_the_device(core):
    sampling = SamplingParams(greedy=False, top_k=20)
    first, second = core.add(prompt(7), sampling), core.add(prompt(7), sampling)
    draws = np.random.default_rng(2).random(10, np.float32)
    first.draw = second.draw = 0.5
    core.step({first: 0, second: 0})
    for draw in draws:
        first.draw = second.draw = float(draw)
        core.step({first: 0, second: 0}, on_device={second})
    assert first.output == second.output
    assert len(set(first.output)) > 3


def test_masks_affect_only_their_rows(core):
    sequences = [core.add(prompt(handle), handle=handle) for handle in (0, 1, 2)]
    free = core.step(dict(zip(sequences, (0, 0, 8), strict=True))).tokens.tolist()
    for handle in (0, 1):
        core.drop(sequences[handle])
        sequences[handle] = core.add(prompt(handle), handle=handle)

    def words(token):
        packed = np.zeros(4, np.uint32)
        packed[token // 32] = np.uint32(1 << token % 32)
        return packed.view(np.int32)

    # Row 2 is masked but samples nothing: its mask has no effect.
    counts = dict(zip(sequences, (20, 20, 8), strict=True))
    output = run_masked(core, core.build(counts), {2: words(5), 1: words(95)})
    assert output.tokens.tolist() == [free[0], 95]
    assert not output.errors
    step = core.build(dict.fromkeys(sequences[:2], 1))
    output = run_masked(core, step, {0: np.zeros(4, np.int32)})
    assert [error.sequence for error in output.errors] == [0]
    assert output.token_ptr.tolist() == [0, 0, 1]


def with_masks(step, masks):
    """The step with masks of its rows (index of the row → words)."""
    packed = GrammarMasks(
        step.step_id, np.array(list(masks), np.int32), np.concatenate(list(masks.values()))
    )
    return msgspec.structs.replace(step, mask="inline", masks=packed)


def run_masked(core, step, masks):
    """Run a step with masks that the rules for the core do not allow."""
    core.rules.submit(step)
    core.worker.submit(with_masks(step, masks))
    return core.accept(step, core.worker.collect())


def test_a_sequence_that_is_not_finite_fails_alone(core, reference):
    wanted = SamplingParams(logprobs="raw", top_n_tokens=1)
    first = core.add(prompt(0), wanted, handle=0)
    poisoned = core.add([*prompt(1, 18), POISON], wanted, handle=1)
    third = core.add(prompt(2), wanted, handle=2)
    output = core.step({first: 0, poisoned: 0, third: 0})
    assert [error.sequence for error in output.errors] == [1]
    assert output.token_ptr.tolist() == [0, 1, 1, 2]
    assert output.top_ptr.tolist() == [0, 1, 2]
    assert output.tokens.tolist() == [int(reference(prompt(h))[-1].argmax()) for h in (0, 2)]
    np.testing.assert_array_equal(output.top_ids, output.tokens)
    # Its blocks are full of NaN, which must not affect the next sequence with one of them.
    core.drop(poisoned)
    sequence = core.add(prompt(9, 5), blocks=poisoned.blocks[:1])
    assert core.step({sequence: 0}).tokens.tolist() == [int(reference(prompt(9, 5))[-1].argmax())]


def test_a_copied_block_is_a_copy(core, reference):
    wanted = SamplingParams(logprobs="raw", top_n_tokens=VOCAB_SIZE)
    first = core.add(prompt(0, 24), wanted)
    core.step({first: 0})
    source, target = first.blocks[1], core.free_blocks[-1]
    tokens = first.prompt[:20] + prompt(6, 3)
    second = core.add(tokens, wanted, blocks=[first.blocks[0], target], num_computed_tokens=20)
    core.copies = [(source, target)]
    output = core.step({second: 0})
    assert_logprobs(output, reference(tokens)[-1])
    before = list(first.tokens)
    output = core.step({first: 0})  # tokens written to the copy are not in its source
    assert_logprobs(output, reference(before)[-1])


def assert_logprobs(output, logits):
    logprobs = np.empty(VOCAB_SIZE, np.float32)
    logprobs[output.top_ids] = output.top_logprobs
    np.testing.assert_allclose(logprobs, torch.from_numpy(logits).log_softmax(-1), atol=1e-4)


def test_penalties_count_tokens_of_a_prefix_hit(core, reference):
    sampling = SamplingParams(repetition_penalty=5.0, logprobs="processed", top_n_tokens=VOCAB_SIZE)
    first = core.add(prompt(0))
    core.step({first: 0})
    tokens = prompt(0)[:16] + prompt(6, 3)
    num_cached = core.agreement.kv_cache.block_size
    second = core.add(tokens, sampling, blocks=first.blocks[:1], num_computed_tokens=num_cached)
    output = core.step({second: 0})
    expected = sample_row(reference(tokens)[-1], sampling, tokens, [])
    assert output.top_ids.tolist() == [token for token, _ in expected.top]
    assert output.top_logprobs == pytest.approx([value for _, value in expected.top], abs=1e-3)


def test_empty_steps(core):
    sequence = core.add(prompt(0))
    assert core.run(core.build({}, introduced=[sequence])).sequence.tolist() == []
    core.drop(sequence)
    assert core.step({}).token_ptr.tolist() == [0]


def send(core, step):
    """Run a step that violates the rules for the core. The core's sequences do not change."""
    core.worker.submit(step)
    return core.worker.collect()


def refuse(core, match, step):
    with pytest.raises(StepError, match=match) as caught:
        send(core, step)
    assert not caught.value.retryable


def with_rows(step, **changes):
    """The step with other arrays in its rows."""
    arrays = {name: np.array(values, np.int32) for name, values in changes.items()}
    return msgspec.structs.replace(step, rows=msgspec.structs.replace(step.rows, **arrays))


def test_invalid_steps_are_rejected_and_leave_the_worker_intact(core, reference):
    sequence = core.add(prompt(0), handle=0)
    step = core.build({sequence: 20})
    refuse(
        core,
        "65 tokens. At most 4 rows and 64 tokens",
        with_rows(step, count=[65], tokens=prompt(1, 65)),
    )
    core.forget(step)
    sequence = core.add(prompt(0), handle=0)
    step = core.build({}, introduced=[sequence])
    refuse(core, "introduced twice", msgspec.structs.replace(step, added=step.added * 2))
    long = core.add([1] * 200, handle=5)
    refuse(core, "At most 128 tokens", core.build({}, introduced=[long]))
    core.drop(long)
    sequence.num_computed_tokens = 3
    step = core.build({sequence: 17})
    refuse(core, "continues at position 3", step)
    refuse(core, "9 was not introduced", with_rows(step, sequence=[9]))
    others = [core.add(prompt(handle), handle=handle) for handle in range(1, 4)]
    step = core.build({others[0]: 20}, introduced=others[1:])
    refuse(core, "have 4 words", with_masks(step, {0: np.zeros(1, np.int32)}))
    others.append(core.add(prompt(8), handle=8))
    refuse(core, "4 sequences, the negotiated maximum", core.build({}, introduced=others[-1:]))

    core.drop(sequence, *others)
    step = core.build({core.add(prompt(4), handle=4): 20})
    assert send(core, step).tokens.tolist() == [int(reference(prompt(4))[-1].argmax())]


@pytest.mark.parametrize("token", [-2, VOCAB_SIZE, 5_000_000])
def test_a_token_id_outside_of_the_embedding_is_an_error_of_the_step(core, reference, token):
    step = core.build({core.add([1, token, 2]): 3})
    refuse(core, f"token id {token}, but the model has {VOCAB_SIZE}", step)
    core.forget(step)
    sequence = core.add(prompt(1))
    assert core.step({sequence: 0}).tokens.tolist() == [int(reference(prompt(1))[-1].argmax())]


def test_blocks_must_hold_the_tokens(core):
    step = core.build({core.add(prompt(0)): 20})
    [new] = step.added
    without_blocks = msgspec.structs.replace(new, block_tables=[np.zeros(0, np.int32)])
    refuse(core, "only 0 blocks", msgspec.structs.replace(step, added=[without_blocks]))
    core.forget(step)
    sequence = core.add(prompt(1), blocks=list(range(9)))
    with pytest.raises(StepError, match="blocks"):
        send(core, core.build({}, introduced=[sequence]))


def test_new_sequences_may_have_any_handle(core, reference):
    added = [core.add(prompt(handle % 7), handle=handle) for handle in (10**6, 3)]
    output = core.run(core.build(dict.fromkeys(reversed(added), 20), introduced=added))
    assert output.sequence.tolist() == [3, 10**6]
    assert output.tokens.tolist() == [
        int(reference(prompt(h % 7))[-1].argmax()) for h in (3, 10**6)
    ]

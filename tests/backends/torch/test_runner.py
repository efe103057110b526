"""The effects of a step, on the worker of the CPU backend with a tiny model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.backends.checkpoints import save_checkpoint
from tests.backends.scripted_core import RecordingReporter, started
from tgi.architectures import load_spec
from tgi.backend import TOKEN_ON_DEVICE, EngineConfig, RequestedLimits, SamplingParams, StepError
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
    yield started(worker, RequestedLimits(max_concurrent_requests=4, max_batch_prefill_tokens=64))
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
    for handle, sampling in enumerate(params):
        core.introduce(handle, prompt(handle, 4 + handle), sampling=sampling)
    rng = np.random.default_rng(5)
    for _ in range(12):
        draws = {handle: np.float32(rng.integers(2**24) / 2**24) for handle in range(4)}
        before = {handle: list(sequence.tokens) for handle, sequence in core.live.items()}
        output = core.step(dict.fromkeys(range(4), 0), draws)
        for handle, sampling in enumerate(params):
            length = core.live[handle].num_prompt_tokens
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
    core.introduce(0, ids, sampling=SamplingParams(prompt_logprobs=True))
    core.introduce(1, prompt(4))
    scores = {}
    for chunk in chunks:
        output = core.step({1: 0, 0: chunk})
        for part in output.prompt_scores:
            assert part.sequence == 0
            for i, value in enumerate(part.logprobs):
                assert scores.setdefault(part.start + i, value) is value
    assert core.step({0: 0, 1: 0}).prompt_scores == []  # output tokens are not part of the prompt
    expected = torch.from_numpy(reference(ids)).log_softmax(-1)
    assert sorted(scores) == list(range(1, 20))
    for position, value in scores.items():
        assert value == pytest.approx(float(expected[position - 1, ids[position]]), abs=1e-4)


def test_a_row_without_sample_yields_nothing(core):
    core.introduce(0, prompt(0))
    output = core.step({0: 5})
    assert output.token_ptr.tolist() == [0, 0]
    assert len(output.tokens) == 0
    output = core.step({0: 0})
    assert output.token_ptr.tolist() == [0, 1]
    assert output.top_ptr.tolist() == []


def test_the_token_on_the_device(core):
    for handle in (0, 1):
        core.introduce(handle, prompt(7), sampling=SamplingParams(greedy=False, top_k=20))
    draws = np.random.default_rng(2).random(10, np.float32)
    core.step({0: 0, 1: 0}, dict.fromkeys((0, 1), 0.5))
    for draw in draws:
        core.step({0: 0, 1: 0}, {0: draw, 1: draw}, tokens={1: [TOKEN_ON_DEVICE]})
    assert core.live[0].output == core.live[1].output
    assert len(set(core.live[0].output)) > 3


def test_masks_affect_only_their_rows(core):
    for handle in (0, 1, 2):
        core.introduce(handle, prompt(handle))
    free = core.step({0: 0, 1: 0, 2: 8}).tokens.tolist()
    for handle in (0, 1):
        core.drop(handle)
        core.introduce(handle, prompt(handle))

    def words(token):
        packed = np.zeros(4, np.uint32)
        packed[token // 32] = np.uint32(1 << token % 32)
        return packed.view(np.int32)

    # Row 2 is masked but samples nothing: its mask has no effect.
    output = core.step({0: 0, 1: 0, 2: 8}, masks={2: words(5), 1: words(95)})
    assert output.tokens.tolist() == [free[0], 95]
    assert not output.errors
    output = core.step({0: 0, 1: 0}, masks={0: np.zeros(4, np.int32)})
    assert [error.sequence for error in output.errors] == [0]
    assert output.token_ptr.tolist() == [0, 0, 1]


def test_a_sequence_that_is_not_finite_fails_alone(core, reference):
    wanted = SamplingParams(logprobs="raw", top_n_tokens=1)
    core.introduce(0, prompt(0), sampling=wanted)
    core.introduce(1, [*prompt(1, 18), POISON], sampling=wanted)
    core.introduce(2, prompt(2), sampling=wanted)
    output = core.step({0: 0, 1: 0, 2: 0})
    assert [error.sequence for error in output.errors] == [1]
    assert output.token_ptr.tolist() == [0, 1, 1, 2]
    assert output.top_ptr.tolist() == [0, 1, 2]
    assert output.tokens.tolist() == [int(reference(prompt(h))[-1].argmax()) for h in (0, 2)]
    np.testing.assert_array_equal(output.top_ids, output.tokens)
    # Its blocks are full of NaN, which must not affect the next sequence with one of them.
    block = core.live[1].blocks[0]
    core.drop(1)
    core.introduce(3, prompt(9, 5), blocks=[block], num_computed_tokens=0)
    assert core.step({3: 0}).tokens.tolist() == [int(reference(prompt(9, 5))[-1].argmax())]


def test_a_copied_block_is_a_copy(core, reference):
    wanted = SamplingParams(logprobs="raw", top_n_tokens=VOCAB_SIZE)
    first = prompt(0, 24)
    core.introduce(0, first, sampling=wanted)
    core.step({0: 0})
    source, target = core.live[0].blocks[1], core.take_block()
    second = first[:20] + prompt(6, 3)
    core.introduce(
        1, second, sampling=wanted, blocks=[core.live[0].blocks[0], target], num_computed_tokens=20
    )
    output = core.step({1: 0}, copies=[(source, target)])
    assert_logprobs(output, reference(second)[-1])
    before = list(core.live[0].tokens)
    output = core.step({0: 0})  # tokens written to the copy are not in its source
    assert_logprobs(output, reference(before)[-1])


def assert_logprobs(output, logits):
    logprobs = np.empty(VOCAB_SIZE, np.float32)
    logprobs[output.top_ids] = output.top_logprobs
    np.testing.assert_allclose(logprobs, torch.from_numpy(logits).log_softmax(-1), atol=1e-4)


def test_penalties_count_tokens_of_a_prefix_hit(core, reference):
    sampling = SamplingParams(repetition_penalty=5.0, logprobs="processed", top_n_tokens=VOCAB_SIZE)
    core.introduce(0, prompt(0))
    core.step({0: 0})
    second = prompt(0)[:16] + prompt(6, 3)
    core.introduce(1, second, sampling=sampling, blocks=core.live[0].blocks[:1])
    output = core.step({1: 0})
    expected = sample_row(reference(second)[-1], sampling, second, [])
    assert output.top_ids.tolist() == [token for token, _ in expected.top]
    assert output.top_logprobs == pytest.approx([value for _, value in expected.top], abs=1e-3)


def test_empty_steps(core):
    core.introduce(0, prompt(0))
    assert core.step({}).sequence.tolist() == []
    core.drop(0)
    assert core.step({}).token_ptr.tolist() == [0]


def refuse(core, match, **change):
    with pytest.raises(StepError, match=match) as caught:
        core.step(**change)
    assert not caught.value.retryable


def test_invalid_steps_are_rejected_and_leave_the_worker_intact(core, reference):
    core.introduce(0, prompt(0))
    refuse(core, "65 tokens; agreed are at most 4 and 64", work={0: 0}, tokens={0: prompt(1, 65)})
    core.drop(0)
    core.step({})
    core.introduce(0, prompt(0))
    core.introduce(0, prompt(0))
    refuse(core, "introduced twice", work={})
    core.introduce(5, [1] * 200)
    refuse(core, "at most 128", work={})
    core.drop(5)
    core.live[0].num_computed_tokens = 3
    refuse(core, "goes on at position 3", work={0: 0})
    core.live[9] = core.live.pop(0)
    refuse(core, "9 was not introduced", work={9: 0})
    for handle in range(1, 4):
        core.introduce(handle, prompt(handle))
    refuse(core, "4 words", work={1: 0}, masks={1: np.zeros(1, np.int32)})
    core.introduce(8, prompt(8))
    refuse(core, "agreed 4 sequences", work={})

    core.live[0] = core.live.pop(9)
    for handle in (0, 1, 2, 3, 8):
        core.drop(handle)
    core.introduce(4, prompt(4))
    assert core.step({4: 0}).tokens.tolist() == [int(reference(prompt(4))[-1].argmax())]


@pytest.mark.parametrize("token", [-2, VOCAB_SIZE, 5_000_000])
def test_a_token_id_outside_of_the_embedding_is_an_error_of_the_step(core, reference, token):
    core.introduce(0, [1, token, 2])
    refuse(core, f"token id {token}, the model has {VOCAB_SIZE}", work={0: 0})
    core.drop(0)
    core.introduce(1, prompt(1))
    assert core.step({1: 0}).tokens.tolist() == [int(reference(prompt(1))[-1].argmax())]


def test_blocks_must_hold_the_tokens(core):
    core.introduce(0, prompt(0))
    core.live[0].blocks = [0, 1]  # the worker was not told of these blocks
    refuse(core, "has 0 blocks", work={0: 0})
    with pytest.raises(StepError, match="blocks"):
        core.introduce(1, prompt(1), blocks=list(range(9)), num_computed_tokens=0)
        core.step({})


def test_new_sequences_may_have_any_handle(core, reference):
    for handle in (10**6, 3):
        core.introduce(handle, prompt(handle % 7))
    output = core.step({3: 0, 10**6: 0})
    assert output.sequence.tolist() == [3, 10**6]
    assert output.tokens.tolist() == [
        int(reference(prompt(h % 7))[-1].argmax()) for h in (3, 10**6)
    ]

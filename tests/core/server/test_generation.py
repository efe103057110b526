"""The text of a sequence whose tokens come from a scripted engine."""

import asyncio

import msgspec
import pytest

from tests.core.text.conftest import byte_level, save
from tgi.backend import SamplingParams
from tgi.engine.stream import SequenceStream
from tgi.errors import GenerationError, IncompleteGenerationError, UnhealthyError
from tgi.scheduler import Request, SequenceOutput
from tgi.server.generation.output import Generation
from tgi.server.generation.parameters import GenerateParameters, StopStyle, TextRequest
from tgi.text import Tokenizer
from tgi.types import FinishReason


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.load(save(byte_level(), tmp_path_factory.mktemp("tokenizer")))


class ScriptedEngine:
    def __init__(self, outputs):
        self.outputs = outputs
        self.aborted = []

    def submit(self, request, outputs):
        self.request = request
        self.stream = SequenceStream(7, request, outputs, self.aborted.append)
        for output in self.outputs:
            self.stream.put(output)
        return self.stream


def outputs_of(token_ids, finish=FinishReason.LENGTH, per_output=1):
    chunks = [token_ids[i : i + per_output] for i in range(0, len(token_ids), per_output)]
    last = len(chunks) - 1
    return [
        SequenceOutput(
            7,
            chunk,
            finish if i == last else None,
            logprobs=[-0.5] * len(chunk),
            top=[((token, -0.5), (3, -1.0)) for token in chunk],
        )
        for i, chunk in enumerate(chunks)
    ]


def request(tokenizer, greedy=True):
    prompt = tokenizer.encode("Hello").ids
    return Request("r", prompt, SamplingParams(greedy=greedy), 42, 100, (1,))


def text_request(stop=(), style=StopStyle.NATIVE):
    return TextRequest("Hello", GenerateParameters(stop=list(stop)), style)


def start(engine, tokenizer, results=None, greedy=True, **options):
    return Generation(
        engine,
        tokenizer,
        text_request(**options),
        [request(tokenizer, greedy)],
        [].append if results is None else results.append,
    )


async def generate(tokenizer, outputs, **options):
    engine, results = ScriptedEngine(outputs), []
    tokens = [
        token async for ready in start(engine, tokenizer, results, **options) for token in ready
    ]
    assert [token.index for token in tokens] == list(range(1, len(tokens) + 1))
    assert [token.result for token in tokens] == [None] * (len(tokens) - 1) + results
    return tokens, results[0], engine


@pytest.mark.parametrize("per_output", [1, 3])
async def test_tokens_and_result(tokenizer, per_output):
    text = " world, façade 🙂 end"
    ids = tokenizer.encode(text).ids
    tokens, result, engine = await generate(tokenizer, outputs_of(ids, per_output=per_output))
    assert "".join(token.text for token in tokens) == text == result.text
    assert [token.id for token in tokens] == ids
    assert result.finish_reason == FinishReason.LENGTH
    assert (result.num_generated_tokens, result.input_length, result.seed) == (
        len(ids),
        len(engine.request.prompt_token_ids),
        None,
    )
    assert tokens[0].logprob == -0.5
    assert [top.id for top in tokens[0].top_tokens] == [ids[0], 3]
    assert engine.request.eos_token_ids == (1,)
    assert engine.aborted == []


async def test_eos_is_a_token_without_text(tokenizer):
    ids = [*tokenizer.encode(" world").ids, 1]
    tokens, result, _ = await generate(
        tokenizer, outputs_of(ids, FinishReason.EOS_TOKEN), greedy=False
    )
    assert (tokens[-1].text, tokens[-1].special) == ("</s>", True)
    assert result.text == " world"
    assert (result.finish_reason, result.seed) == (FinishReason.EOS_TOKEN, 42)


@pytest.mark.parametrize(
    ("style", "text", "shown"),
    [(StopStyle.NATIVE, " quick bro", " quick brown"), (StopStyle.OPENAI, " quick ", " quick ")],
)
async def test_a_stop_string_inside_a_token(tokenizer, style, text, shown):
    ids = tokenizer.encode(" quick brown fox").ids
    tokens, result, engine = await generate(
        tokenizer, outputs_of(ids), stop=["nothing", "bro"], style=style
    )
    assert result.text == text
    joined = "".join(token.text for token in tokens)
    # The last native event contains the whole text of its token, also after the stop string.
    assert shown.startswith(joined) if style is StopStyle.NATIVE else joined == shown
    assert result.finish_reason == FinishReason.STOP_SEQUENCE
    assert result.num_generated_tokens == len(tokens) < len(ids)
    assert engine.stream.is_finished


async def test_a_possible_start_of_a_stop_string_is_held_back(tokenizer):
    text = " quick brown fox"
    ids = tokenizer.encode(text).ids
    tokens, result, _ = await generate(
        tokenizer, outputs_of(ids), stop=["brown foxes"], style=StopStyle.OPENAI
    )
    before_last = "".join(token.text for token in tokens[:-1])
    assert "b" not in before_last.removeprefix(" quick ")
    assert "".join(token.text for token in tokens) == text == result.text


async def test_the_text_of_a_special_token_can_stop(tokenizer):
    ids = [*tokenizer.encode(" ok").ids, 2, *tokenizer.encode(" more").ids]
    tokens, result, _ = await generate(tokenizer, outputs_of(ids), stop=["<|im_end|>"])
    assert result.text == " ok"
    assert tokens[-1].text == "<|im_end|>"
    assert result.finish_reason == FinishReason.STOP_SEQUENCE


async def test_the_length_limit_has_priority_over_a_special_token_as_stop_string(tokenizer):
    _, result, _ = await generate(tokenizer, outputs_of([2]), stop=["<|im_end|>"])
    assert result.finish_reason == FinishReason.LENGTH


async def test_an_incomplete_last_character_is_omitted(tokenizer):
    ids = tokenizer.encode(" a🙂").ids[:-1]
    for style in StopStyle:
        tokens, result, _ = await generate(tokenizer, outputs_of(ids), style=style)
        assert result.text == " a"
        assert "".join(token.text for token in tokens) == " a"


async def test_partial_prompt_scores_are_joined(tokenizer):
    prompt = tokenizer.encode("Hello").ids
    scores = [None, *[-1.0] * (len(prompt) - 1)]
    halves = [
        SequenceOutput(7, prompt_logprobs=scores[:2]),
        SequenceOutput(7, prompt_logprobs=scores[2:]),
    ]
    _, result, _ = await generate(tokenizer, [*halves, *outputs_of([3])])
    assert [(token.id, token.logprob) for token in result.prefill] == list(
        zip(prompt, scores, strict=True)
    )


async def test_top_tokens_of_prompts_belong_to_their_positions(tokenizer):
    prompt = tokenizer.encode("Hello there").ids
    assert len(prompt) > 3
    tops = [(), *(((token, -1.0), (0, -2.0)) for token in prompt[1:])]
    scores = [None, *[-1.0] * (len(prompt) - 1)]
    parts = [
        SequenceOutput(7, prompt_logprobs=scores[:1]),  # no position has top tokens
        SequenceOutput(7, prompt_logprobs=scores[1:3], prompt_top=tops[1:3]),
        SequenceOutput(7, prompt_logprobs=scores[3:], prompt_top=tops[3:]),
    ]
    _, result, _ = await generate(tokenizer, [*parts, *outputs_of([3])])
    found = [tuple((token.id, token.logprob) for token in top) for top in result.prefill_top]
    assert found == tops


async def test_an_error_of_the_engine(tokenizer):
    generation = start(
        ScriptedEngine([*outputs_of([3, 4], finish=None), SequenceOutput(7, error="out of order")]),
        tokenizer,
    )
    assert [token.id for token in await anext(generation)] == [3, 4]
    with pytest.raises(GenerationError, match="out of order"):
        await anext(generation)


async def test_a_stream_that_is_cut_off(tokenizer):
    engine = ScriptedEngine(outputs_of([3, 4], finish=None))
    generation = start(engine, tokenizer)
    assert [token.id for token in await anext(generation)] == [3, 4]
    engine.stream.cut_off()
    with pytest.raises(IncompleteGenerationError):
        await anext(generation)


async def test_an_end_without_a_token_is_an_error(tokenizer):
    generation = start(
        ScriptedEngine([SequenceOutput(7, finish_reason=FinishReason.LENGTH)]), tokenizer
    )
    with pytest.raises(IncompleteGenerationError):
        await anext(generation)


async def test_available_tokens_are_returned_together(tokenizer):
    engine = ScriptedEngine(outputs_of([3, 4], finish=None))
    generation = start(engine, tokenizer)
    assert [token.id for token in await anext(generation)] == [3, 4]
    waiting = asyncio.ensure_future(anext(generation))
    await asyncio.sleep(0)
    for output in outputs_of([5, 6, 8]):
        engine.stream.put(output)
    assert [token.id for token in await waiting] == [5, 6, 8]
    assert await anext(generation, None) is None


async def test_close_aborts_the_sequences_that_have_not_ended(tokenizer):
    engine = ScriptedEngine(outputs_of([3], finish=None))
    generation = start(engine, tokenizer)
    await anext(generation)
    generation.close()
    generation.close()
    assert engine.aborted == [7]

    _, _, engine = await generate(tokenizer, outputs_of([3]))
    assert engine.aborted == []


async def test_a_rejected_sequence_aborts_the_previous_ones(tokenizer):
    class Narrow(ScriptedEngine):
        def submit(self, request, outputs):
            if request.request_id == "second":
                raise UnhealthyError("given up")
            return super().submit(request, outputs)

    engine, first = Narrow([]), request(tokenizer)
    second = msgspec.structs.replace(first, request_id="second")
    with pytest.raises(UnhealthyError):
        Generation(engine, tokenizer, text_request(), [first, second], [].append)
    assert engine.aborted == [7]

"""Guided sequences in real engine processes: the grammar continues after the process is killed."""

import asyncio
import os
import re
import signal

import pytest

from tests.core.engine.engine_setup import SubmittedSequence, request, start_message
from tests.core.engine.fake_process import FakeMachine
from tests.core.engine.virtual_time import run
from tgi.backend import SamplingParams
from tgi.engine.client import EngineClient
from tgi.engine.messages import AddSequence, SetVocabulary
from tgi.grammar.vocabulary_data import VocabularyData
from tgi.types import FinishReason, Guidance

EOS = 99
# Id n is the character n + 32, from the space to the tilde.
CHARACTERS = [bytes([code]) for code in range(32, 127)]
VOCABULARY = VocabularyData(CHARACTERS + [b""] * 4 + [b"</s>"], [EOS], (EOS,), 100)
WORDS = re.compile(r"([a-z]{3,7}[0-9]? ){40}\.")
GRAMMAR = Guidance(f"start: /{WORDS.pattern}/\n")


def guided(seed, max_new_tokens=400, guidance=GRAMMAR):
    return request(
        [5, 6, 7 + seed],
        max_new_tokens,
        sampling=SamplingParams(greedy=False),
        eos_token_ids=(EOS,),
        guidance=guidance,
    )


def text_of(tokens):
    return b"".join(VOCABULARY.tokens[token] for token in tokens if token != EOS).decode()


class Running:
    """A context manager that runs an engine client."""

    def __init__(self, start):
        self.stats = []
        self.client = EngineClient(start, lambda progress: None)
        self.client.add_stats_listener(self.stats.append)

    async def __aenter__(self):
        await self.client.start()
        self.client.set_vocabulary(VOCABULARY)
        return self

    async def __aexit__(self, *_):
        await self.client.close()

    async def generate(self, asked, kills=()):
        """Return the tokens and the last output of a sequence. The engine process is killed after
        each number of tokens in `kills`.
        """
        tokens, last, kills = [], None, list(kills)
        async for output in SubmittedSequence(self.client, asked):
            tokens += output.token_ids
            last = output
            if kills and len(tokens) >= kills[0]:
                kills.pop(0)
                pid = self.client.pid
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
        return tokens, last


async def kill_and_compare(tmp_path, depth, num_kills):
    features = ("prefix_cache", "logprobs", "device_token", "mask", "late_mask")
    start = start_message(tmp_path, step_seconds=0.002, depth=depth, features=features)
    async with Running(start) as engine:
        undisturbed, last = await engine.generate(guided(0))
        assert last.finish_reason is FinishReason.EOS_TOKEN
        assert undisturbed[-1] == EOS
        assert WORDS.fullmatch(text_of(undisturbed)), text_of(undisturbed)
        distance = len(undisturbed) // (num_kills + 1)
        kills = [distance * (number + 1) for number in range(num_kills)]
        other = asyncio.create_task(engine.generate(request([1, 2, 3], 600)))
        first_pid = engine.client.pid
        killed, last = await engine.generate(guided(0), kills)
        assert last.error is None, last.error
        assert engine.client.pid != first_pid
        assert text_of(killed) == text_of(undisturbed)
        assert killed == undisturbed
        assert (await other)[0] == [1, 2, 3] * 200


@pytest.mark.parametrize("depth", [1, 2])
async def test_the_text_is_the_same_after_the_engine_is_killed(tmp_path, depth):
    await kill_and_compare(tmp_path, depth, 3)


@pytest.mark.long
async def test_the_text_is_the_same_after_twenty_kills(tmp_path):
    await kill_and_compare(tmp_path, 2, 20)


async def test_guided_sequences_share_a_compilation(tmp_path):
    async with Running(start_message(tmp_path)) as engine:
        results = await asyncio.gather(*(engine.generate(guided(seed)) for seed in range(8)))
        texts = {text_of(tokens) for tokens, _ in results}
        assert all(WORDS.fullmatch(text) for text in texts)
        work = [stats.guidance for stats in engine.stats if stats.guidance is not None]
        assert sum(stats.num_compiled for stats in work) == 1
        assert sum(stats.num_hits for stats in work) == 7
        assert sum(stats.num_masks for stats in work) == sum(len(tokens) for tokens, _ in results)


async def test_an_invalid_grammar_ends_only_its_sequence(tmp_path):
    async with Running(start_message(tmp_path)) as engine:
        invalid = guided(0, guidance=Guidance("start: /(/\n"))
        (_, failed), (tokens, _) = await asyncio.gather(
            engine.generate(invalid), engine.generate(guided(1))
        )
        assert "The grammar cannot be used" in failed.error
        assert WORDS.fullmatch(text_of(tokens))


async def test_a_client_that_pauses_gets_the_same_text(tmp_path):
    """A paused sequence is aborted in the engine, and resumed with its output."""
    async with Running(start_message(tmp_path)) as engine:
        undisturbed, _ = await engine.generate(guided(0))
        paused = SubmittedSequence(engine.client, guided(0))
        await anext(paused)
        assert paused._stream.pause()
        paused._stream.resume()
        tokens = [token async for output in paused for token in output.token_ids]
        assert tokens == undisturbed[1:]


def test_the_vocabulary_is_sent_once_to_each_process(tmp_path):
    async def main():
        machine = FakeMachine(tmp_path)
        await machine.client.start()
        for _ in range(3):
            machine.client.set_vocabulary(VOCABULARY)
        SubmittedSequence(machine.client, request([5], 99))
        for _ in range(2):
            vocabulary, sequence = machine.process.sent
            assert vocabulary == SetVocabulary(VOCABULARY)
            assert isinstance(sequence, AddSequence)
            machine.process.end("the engine process ended with status 3")
            await machine.restarted()
        await machine.client.close()

    run(main())

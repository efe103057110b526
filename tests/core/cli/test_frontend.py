"""The vocabulary for grammars is read while no request runs, because a part of this work delays all
streams.
"""

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.core.server.fake_engine import FakeEngine
from tgi.architectures import load_spec
from tgi.cli.frontend import Frontend
from tgi.config import Environment, ServeOptions
from tgi.demo import demo_model_path
from tgi.models import Model, ModelSource
from tgi.plugins import Candidate

SECONDS = 30.0
IDLE_SECONDS = 1.0


@pytest.fixture
async def start():
    """A function that starts a front end for the demo model, and returns its engine."""
    async with AsyncExitStack() as parts:

        async def start(features, options=None, num_unfinished=0):
            folder = demo_model_path(lambda _: None)
            spec = load_spec(folder)
            model = Model(ModelSource("demo", folder), spec, folder)
            engine = FakeEngine(features=features, vocab_size=spec.vocab_size)
            engine.num_unfinished = num_unfinished
            frontend = await Frontend.prepare(
                options or ServeOptions(), Environment(), model, parts
            )
            candidate = Candidate("null", "tgi", "1")
            frontend.application(candidate, engine.agreement, engine, parts)
            return engine

        yield start


async def wait_for_vocabulary(engine):
    async with asyncio.timeout(SECONDS):
        while not engine.vocabularies:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("feature", ["mask", "late_mask"])
async def test_the_engine_gets_the_vocabulary_when_it_is_idle(start, feature):
    engine = await start(("logprobs", feature), num_unfinished=1)
    assert engine.vocabularies == []
    await asyncio.sleep(2 * IDLE_SECONDS)
    assert engine.vocabularies == [], "the vocabulary was read while a request was running"
    engine.num_unfinished = 0
    await wait_for_vocabulary(engine)
    assert [data.vocab_size for data in engine.vocabularies] == [engine.agreement.vocab_size]


@pytest.mark.parametrize(
    ("features", "options"),
    [
        (("logprobs", "mask"), ServeOptions(disable_grammar_support=True)),
        (("logprobs",), ServeOptions()),
    ],
)
async def test_no_vocabulary_is_read_without_grammars(start, features, options):
    engine = await start(features, options)
    await asyncio.sleep(2 * IDLE_SECONDS)
    assert engine.vocabularies == []

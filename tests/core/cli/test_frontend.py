"""The vocabulary for grammars is read before the server accepts requests, because a part of this
work delays all streams.
"""

from contextlib import AsyncExitStack

import pytest

from tests.core.server.fake_engine import FakeEngine
from tgi.architectures import load_spec
from tgi.cli.frontend import Frontend
from tgi.config import Environment, ServeOptions
from tgi.demo import demo_model_path
from tgi.models import Model, ModelSource
from tgi.plugins import Candidate


@pytest.fixture
def prepare():
    """A function that starts a front end for the demo model. Returns the front end and its
    engine.
    """

    async def start(features, options=None, num_extra=0):
        folder = demo_model_path(lambda _: None)
        spec = load_spec(folder)
        model = Model(ModelSource("demo", folder), spec, folder)
        engine = FakeEngine(features=features, vocab_size=spec.vocab_size + num_extra)
        async with AsyncExitStack() as parts:
            frontend = await Frontend.prepare(
                options or ServeOptions(), Environment(), model, parts
            )
            candidate = Candidate("null", "tgi", "1")
            frontend.application(candidate, engine.agreement, engine, parts)
        return frontend, engine

    return start


@pytest.mark.parametrize("feature", ["mask", "late_mask"])
async def test_the_engine_gets_the_vocabulary_at_startup(prepare, feature):
    frontend, engine = await prepare(("logprobs", feature))
    assert engine.vocabularies == [frontend.vocabulary.data]
    assert frontend.vocabulary.data.vocab_size == engine.agreement.vocab_size


async def test_no_vocabulary_without_grammar_support(prepare):
    options = ServeOptions(disable_grammar_support=True)
    frontend, engine = await prepare(("logprobs", "mask"), options)
    assert frontend.vocabulary is None
    assert engine.vocabularies == []


async def test_no_vocabulary_for_a_worker_without_masks(prepare):
    _, engine = await prepare(("logprobs",))
    assert engine.vocabularies == []


async def test_no_vocabulary_of_another_width(prepare):
    _, engine = await prepare(("logprobs", "mask"), num_extra=64)
    assert engine.vocabularies == []

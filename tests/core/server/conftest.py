"""Fixtures that run the application in the test process with a scripted engine."""

import contextlib
import dataclasses
import functools

import httpx
import pytest

from tests.core.server.fake_engine import FakeEngine
from tgi.server.app import create_app
from tgi.server.state import ServerConfig, ServerState
from tgi.server.telemetry.metrics import Metrics
from tgi.text import ChatTemplate, ChatTemplateRenderer, Tokenizer, TokenizerPool
from tgi.text.grammar_vocabulary import VocabularyReader
from tgi.text.output.formats import OutputFormats

CONFIG = ServerConfig(
    model_id="tiny",
    max_input_tokens=48,
    max_total_tokens=64,
    backend_name="fake",
    version="4.0.0",
    compute_type="1-fake",
    max_concurrent_requests=2,
)


NO_FORMATS = OutputFormats(None, None)


@pytest.fixture(scope="session")
def tokenizer(tiny_model):
    return Tokenizer.load(tiny_model)


@pytest.fixture(scope="session")
def chat_template(tiny_model):
    renderer = ChatTemplateRenderer(ChatTemplate.load(tiny_model))
    yield renderer
    renderer.close()


@pytest.fixture
def make_state(tokenizer, chat_template):
    """Return a function that builds the state of a server: `make_state(engine, option=value, …)`.
    The tokenizer, the chat template and the output formats can be replaced. Long texts are
    tokenized in a separate process if `tokenizer_folder` is set.
    """
    pools = []

    def make(
        engine=None,
        *,
        tokenizer=tokenizer,
        chat_template=chat_template,
        output_formats=NO_FORMATS,
        tokenizer_folder=None,
        **changes,
    ):
        pools.append(TokenizerPool(tokenizer, 1, tokenizer_folder))
        config = dataclasses.replace(CONFIG, **changes)
        engine = engine or FakeEngine()
        return ServerState(
            config,
            engine,
            pools[-1],
            chat_template,
            Metrics(config.max_input_tokens, config.max_total_tokens),
            VocabularyReader(tokenizer, engine.agreement.vocab_size),
            output_formats=output_formats,
        )

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def make_app(make_state):
    """Return a function that builds an application. Its arguments are those of `make_state`."""
    return lambda engine=None, **changes: create_app(make_state(engine, **changes))


@pytest.fixture(scope="module")
def make_template():
    """Return a function that creates a renderer for the source of a chat template. Further sources
    are given by name.
    """
    with contextlib.ExitStack() as stack:

        @functools.cache  # each renderer has a process
        def make(source, **sources):
            renderer = ChatTemplateRenderer(ChatTemplate({"default": source, **sources}, {}))
            stack.callback(renderer.close)
            return renderer

        yield make


@pytest.fixture
def make_client(make_app):
    """Return a function that builds an application and a client for it. Its arguments are those of
    `make_app`.
    """

    def make(engine=None, **changes):
        transport = httpx.ASGITransport(make_app(engine, **changes))
        return httpx.AsyncClient(transport=transport, base_url="http://server")

    return make

"""Fixtures that run the application in the test process with a scripted engine."""

import dataclasses

import httpx
import pytest

from tests.core.server.fake_engine import FakeEngine
from tgi.server.app import create_app
from tgi.server.state import ServerConfig, ServerState
from tgi.server.telemetry.metrics import Metrics
from tgi.text import ChatTemplate, ChatTemplateRenderer, Tokenizer, TokenizerPool

CONFIG = ServerConfig(
    model_id="tiny",
    max_input_tokens=48,
    max_total_tokens=64,
    backend_name="fake",
    version="4.0.0",
    compute_type="1-fake",
    max_concurrent_requests=2,
)


@pytest.fixture(scope="session")
def tokenizer(tiny_model):
    return Tokenizer.load(tiny_model)


@pytest.fixture(scope="session")
def chat_template(tiny_model):
    renderer = ChatTemplateRenderer(ChatTemplate.load(tiny_model))
    yield renderer
    renderer.close()


@pytest.fixture
def make_app(tokenizer, chat_template):
    """Return a function that builds an application: `make_app(engine, option=value, …)`. The
    tokenizer and the chat template can be replaced.
    """
    pools = []

    def make(engine=None, *, tokenizer=tokenizer, chat_template=chat_template, **changes):
        pools.append(TokenizerPool(tokenizer, 1))
        config = dataclasses.replace(CONFIG, **changes)
        metrics = Metrics(config.max_input_tokens, config.max_total_tokens)
        state = ServerState(config, engine or FakeEngine(), pools[-1], chat_template, metrics)
        return create_app(state)

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def make_client(make_app):
    """Return a function that builds an application and a client for it. Its arguments are those of
    `make_app`.
    """

    def make(engine=None, **changes):
        transport = httpx.ASGITransport(make_app(engine, **changes))
        return httpx.AsyncClient(transport=transport, base_url="http://server")

    return make

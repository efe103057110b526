"""Fixtures for all tests. Tests over HTTP use the backend that the option `--tgi-backend` of our
pytest plugin names.
"""

import os

# Triton's interpreter must be selected before Triton is imported, and other libraries import it.
os.environ["TRITON_INTERPRET"] = "1"

import pytest

from tests.live_server import running_server
from tgi.testing.tiny_models import write_tiny_model

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A Llama checkpoint with random weights, a tokenizer and a chat template."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(path, chat_template=CHAT_TEMPLATE)
    return path


@pytest.fixture(scope="session")
def live_server(tmp_path_factory, tiny_model, tgi_backend):
    """The server that is shared by all tests that need no special options."""
    log = tmp_path_factory.mktemp("live") / "server.log"
    with running_server(tiny_model, tgi_backend, log) as server:
        yield server

"""Client libraries against a running server.

Some client libraries require other versions of our dependencies. All of them are therefore
installed in a separate environment, `.venv-clients`, and a test runs one session per library there.
The clients for Node are installed in `.node-clients`.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.live_server import running_server

REPOSITORY = Path(__file__).parents[2]
PYTHON = REPOSITORY / ".venv-clients" / "bin" / "python"
NODE_CLIENTS = REPOSITORY / ".node-clients"
SESSIONS = Path(__file__).parent
SECONDS = 120


def run_session(name, *arguments):
    assert PYTHON.is_file(), (
        "the client environment does not exist: run `make .venv-clients/installed` or `make test`"
    )
    run([PYTHON, SESSIONS / f"{name}_session.py", *arguments])


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all checks passed\n")


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory, tiny_model, tgi_backend):
    """A server that requires an API key. Each client library sends the key in its own header."""
    log = tmp_path_factory.mktemp("guarded") / "server.log"
    with running_server(tiny_model, tgi_backend, log, "--api-key", "secret") as server:
        yield server


def test_the_client_works(live_server):
    run_session("text_generation", live_server.url)


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_the_client_works_with_a_key(guarded_server, name):
    run_session(name, guarded_server.url, "secret")


@pytest.mark.long
@pytest.mark.parametrize("name", ["langchain", "langchain_chat", "litellm"])
def test_the_large_client_works(live_server, name):
    run_session(name, live_server.url)


@pytest.mark.long
def test_the_clients_for_node_work(live_server):
    assert (NODE_CLIENTS / "installed").is_file(), (
        "the clients for Node do not exist: run `make .node-clients/installed` or `make test-long`"
    )
    # Node looks for packages beside the file that imports them.
    session = shutil.copy(SESSIONS / "node" / "session.mjs", NODE_CLIENTS)
    run(["node", session, live_server.url])

"""The `text-generation` package against the running server.

It needs an older huggingface-hub than ours, so it lives in an environment of its own, `.venv-clients`.
"""

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PYTHON = REPOSITORY / ".venv-clients" / "bin" / "python"
SESSION = Path(__file__).with_name("text_generation_session.py")


def test_the_text_generation_package_works(live_server):
    assert PYTHON.is_file(), "the environment of the clients is missing: run `make .venv-clients`, or `make test`"
    done = subprocess.run([PYTHON, SESSION, live_server.url], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all checks passed\n")

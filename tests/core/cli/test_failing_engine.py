"""A whole server whose engine is frozen, runs out of memory, or crashes repeatedly."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest

from tests.live_server import free_port, running_server, wait_ready
from tgi.testing.doubles.null_script import NullFailure, NullScript
from tgi.text import Tokenizer

GROUPS = Path("/sys/fs/cgroup")
LIMIT_BYTES = 400 << 20
FATAL_TEXT = "a"  # a prompt for which the engine takes memory until it is killed
BODY = {"inputs": "Hello", "parameters": {"max_new_tokens": 5}}


def engine_pid(server_pid):
    children = psutil.Process(server_pid).children()
    return next((c.pid for c in children if "tgi.engine" in c.cmdline()), None)


def script_file(folder, **script):
    path = folder / "script.json"
    path.write_bytes(msgspec.json.encode(NullScript(**script)))
    return str(path)


@pytest.mark.long
@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
def test_health_of_a_frozen_engine_is_answered_at_once(tmp_path, tiny_model, is_busy):
    script = script_file(tmp_path, step_seconds=0.05)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            running_server(tiny_model, "null", tmp_path / "log", "--null-script", script)
        )
        if is_busy:
            body = {"inputs": "Hello", "parameters": {"max_new_tokens": 400, "ignore_eos": True}}
            url = f"{server.url}/generate_stream"
            response = stack.enter_context(httpx.stream("POST", url, json=body, timeout=120))
            lines = response.iter_lines()
            next(lines)
        begin = time.monotonic()
        os.kill(engine_pid(server.pid), signal.SIGSTOP)
        changes, durations = [(0.0, 200)], []
        while len(changes) < 3:
            asked = time.monotonic()
            assert asked - begin < 60, changes
            status = httpx.get(f"{server.url}/health", timeout=5).status_code
            durations.append(time.monotonic() - asked)
            if status != changes[-1][1]:
                changes.append((asked - begin, status))
            time.sleep(0.1)
        print(changes, max(durations))
        assert [status for _, status in changes] == [200, 503, 200]
        assert changes[1][0] <= 10
        assert changes[2][0] <= 45
        assert max(durations) < 1
        if is_busy:
            assert 'generated_text":"' in [line for line in lines if line][-1]


def test_requests_to_an_engine_that_crashes_repeatedly_get_the_reason(tmp_path, tiny_model):
    with running_server(tiny_model, "null", tmp_path / "log") as server:
        end = time.monotonic() + 60
        while "Requests are rejected" not in (tmp_path / "log").read_text():
            assert time.monotonic() < end
            pid = engine_pid(server.pid)
            if pid is not None and httpx.get(f"{server.url}/health").status_code == 200:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        for path, body in [
            ("/generate", BODY),
            ("/v1/completions", {"prompt": "Hello"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        ]:
            response = httpx.post(server.url + path, json=body, timeout=30)
            assert response.status_code == 503
            assert 1 <= int(response.headers["retry-after"]) <= 10
            assert "SIGKILL, 4 times" in str(response.json()["error"])
        assert httpx.get(f"{server.url}/health").status_code == 503
        assert "\ntgi_batch_current_size 0\n" in httpx.get(f"{server.url}/metrics").text
        while httpx.get(f"{server.url}/health").status_code == 503:
            assert time.monotonic() < end + 60
            time.sleep(0.2)
        assert httpx.post(f"{server.url}/generate", json=BODY, timeout=60).status_code == 200


@contextlib.contextmanager
def memory_group():
    """Create a control group with a memory limit. Yields its file of processes, or None if this
    user may not create control groups.
    """
    version_1 = (GROUPS / "memory").is_dir()
    folder = GROUPS / ("memory" if version_1 else "") / f"tgi-test-{uuid.uuid4().hex}"
    limit = folder / ("memory.limit_in_bytes" if version_1 else "memory.max")
    try:
        folder.mkdir()
        limit.write_text(str(LIMIT_BYTES))
    except OSError:
        yield None
        return
    try:
        yield folder / "cgroup.procs"
    finally:
        end = time.monotonic() + 10
        while folder.exists() and time.monotonic() < end:
            with contextlib.suppress(OSError):
                folder.rmdir()
            time.sleep(0.1)


@pytest.mark.long
def test_an_engine_that_the_system_killed_has_a_smaller_cache(tmp_path, tiny_model):
    [token] = Tokenizer.load(tiny_model).encode(FATAL_TEXT, add_special_tokens=False).ids
    script = script_file(tmp_path, failures=(NullFailure(token, "memory"),))
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "tgi", "serve", "--model-id", str(tiny_model)]
    command += ["--backend", "null", "--null-script", script, "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with memory_group() as processes, contextlib.ExitStack() as stack:
        if processes is None:
            pytest.skip("this user cannot create a control group with a memory limit")
        shell = ["sh", "-c", f'echo $$ > {processes} && exec "$@"', "sh"]
        with log.open("wb") as output:
            server = stack.enter_context(
                subprocess.Popen([*shell, *command], stdout=output, stderr=subprocess.STDOUT)
            )
        stack.callback(server.terminate)
        wait_ready(url, server, log)
        before = httpx.get(f"{url}/info/backend").json()["kv_cache"]["max_batch_total_tokens"]
        failed = httpx.post(f"{url}/generate", json=BODY | {"inputs": FATAL_TEXT}, timeout=120)
        assert failed.status_code == 424
        assert "SIGKILL while it ran this request alone" in failed.json()["error"]
        wait_ready(url, server, log)
        after = httpx.get(f"{url}/info/backend").json()["kv_cache"]["max_batch_total_tokens"]
        assert after < before
        assert f"a cache of {before // 2} tokens instead of {before}" in log.read_text()

"""Faults of the template process that the server causes, and faults that a request causes, have
different statuses. In both cases the next conversation is rendered.
"""

import asyncio
import os
import signal

import pytest

from tgi.errors import TemplateError, UnhealthyError
from tgi.text import ChatTemplate, ChatTemplateRenderer
from tgi.text.chat_template_renderer import RenderLimits

USER = [{"role": "user", "content": "hi"}]
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
# A conversation of two messages is rendered without an end.
SOURCE = "{% if messages | length > 1 %}" + ENDLESS + "{% endif %}{{ messages[0].content }}"


@pytest.fixture
async def renderer():
    renderer = ChatTemplateRenderer(ChatTemplate({"default": SOURCE}, {}), RenderLimits(1.0))
    await renderer.start()
    yield renderer
    renderer.close()


def pid_of(renderer):
    return renderer._queue.process._process.pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_process_that_was_killed_while_idle_is_replaced_without_an_error(renderer, number):
    for _ in range(10):
        os.kill(pid_of(renderer), number)
        assert await renderer.render(USER) == "hi"


async def test_a_process_that_is_killed_twice_is_a_fault_of_the_server(renderer):
    rendering = asyncio.ensure_future(renderer.render(USER * 2))
    killed = set()
    while not rendering.done():
        await asyncio.sleep(0.1)
        if renderer._queue.process is not None and len(killed) < 2:
            killed.add(pid_of(renderer))
            os.kill(pid_of(renderer), signal.SIGKILL)
    with pytest.raises(UnhealthyError, match="was killed"):
        await rendering
    assert await renderer.render(USER) == "hi"


async def test_a_frozen_process_is_a_fault_of_the_server(renderer):
    frozen = pid_of(renderer)
    os.kill(frozen, signal.SIGSTOP)
    with pytest.raises(UnhealthyError, match="did not respond within 1 s") as raised:
        await renderer.render(USER)
    assert (raised.value.status, raised.value.retry_after) == (503, 5)
    assert pid_of(renderer) != frozen
    assert await renderer.render(USER) == "hi"


async def test_a_template_that_computes_for_ever_is_a_fault_of_the_request(renderer):
    with pytest.raises(TemplateError, match="took longer than 1 s") as raised:
        await renderer.render(USER * 2)
    assert raised.value.status == 422
    assert await renderer.render(USER) == "hi"


async def test_a_process_that_crashes_by_itself_is_a_fault_of_the_request(renderer):
    rendering = asyncio.ensure_future(renderer.render(USER * 2))
    await asyncio.sleep(0.3)
    os.kill(pid_of(renderer), signal.SIGSEGV)
    with pytest.raises(TemplateError, match="needs too much"):
        await rendering
    assert await renderer.render(USER) == "hi"


async def test_a_process_that_cannot_be_started_again_is_a_fault_of_the_server(
    renderer, monkeypatch
):
    monkeypatch.setattr("subprocess.Popen", _no_process)
    os.kill(pid_of(renderer), signal.SIGKILL)
    with pytest.raises(UnhealthyError, match=r"cannot be started: .*no more processes"):
        await renderer.render(USER)
    monkeypatch.undo()
    assert await renderer.render(USER) == "hi"


def _no_process(*_, **__):
    raise BlockingIOError("no more processes")

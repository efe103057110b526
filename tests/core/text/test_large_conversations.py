"""Large conversations are rendered by their own process. Other conversations do not wait for it."""

import asyncio
import os
import signal

import pytest

from tgi.errors import TemplateError, UnhealthyError
from tgi.text import ChatTemplate, ChatTemplateRenderer
from tgi.text.chat_template_renderer import RenderLimits

SOURCE = "{% for message in messages %}{{ message.content }}{% endfor %}"
USER = [{"role": "user", "content": "hi"}]
LARGE = {
    "one text": [{"role": "user", "content": "a" * 100_000}],
    "escapes": [{"role": "user", "content": "\x01" * 100_000}],
    "messages": USER * 10_000,
    "parts": [{"role": "user", "content": [{"type": "text", "text": "hi"}] * 10_000}],
}


@pytest.fixture
async def renderer():
    renderer = ChatTemplateRenderer(ChatTemplate({"default": SOURCE}, {}), RenderLimits(10.0))
    await renderer.start()
    yield renderer
    renderer.close()


async def wait_start(renderer):
    while renderer._large_queue.process is None:
        await asyncio.sleep(0.01)
    return renderer._large_queue.process._process.pid


@pytest.mark.parametrize("kind", LARGE)
async def test_small_conversations_do_not_wait_for_large_ones(renderer, kind):
    await renderer.render(LARGE[kind])
    os.kill(await wait_start(renderer), signal.SIGSTOP)  # a rendering that does not end
    waiting = [asyncio.ensure_future(renderer.render(LARGE[kind])) for _ in range(3)]
    await asyncio.sleep(0)
    for _ in range(5):
        assert await renderer.render(USER) == "hi"
    assert not any(task.done() for task in waiting)
    os.kill(await wait_start(renderer), signal.SIGCONT)
    assert len(set(await asyncio.gather(*waiting))) == 1


async def test_the_process_for_large_conversations_is_started_when_it_is_needed(renderer):
    assert await renderer.render(USER) == "hi"
    assert renderer._large_queue.process is None
    assert await renderer.render(LARGE["one text"]) == "a" * 100_000
    assert renderer._large_queue.process is not None


async def test_both_processes_end_with_the_renderer():
    renderer = ChatTemplateRenderer(ChatTemplate({"default": SOURCE}, {}), RenderLimits(10.0))
    await renderer.start()
    await renderer.render(LARGE["one text"])
    pids = [q.process._process.pid for q in (renderer._queue, renderer._large_queue)]
    os.kill(pids[1], signal.SIGSTOP)
    waiting = asyncio.ensure_future(renderer.render(LARGE["one text"]))
    await asyncio.sleep(0.05)
    await asyncio.to_thread(renderer.close)
    with pytest.raises((TemplateError, UnhealthyError)):
        await waiting
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

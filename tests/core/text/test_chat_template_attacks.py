"""Malicious templates and messages: none escapes from the sandbox or exceeds the limits, and the
next conversation is rendered.
"""

import asyncio
import os

import pytest

from tgi.errors import TemplateError
from tgi.text import ChatTemplate, ChatTemplateRenderer
from tgi.text.chat_template_messages import RenderTemplate
from tgi.text.chat_template_renderer import RenderLimits, TemplateProcess
from tgi.text.socket_frames import encode_frame

USER = [{"role": "user", "content": "hi"}]
LIMITS = RenderLimits(seconds=20.0, num_bytes=1 << 29)

ESCAPES = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class by item": "{{ ''['__class__'] }}{{ messages['__class__'].__init__ }}",
    "class by filter": "{{ '' | attr('__class__') | attr('__mro__') }}",
    "class by map": "{{ [messages] | map(attribute='__class__') | list }}",
    "class by sort": "{{ [messages, messages] | sort(attribute='__class__.__name__') }}",
    "class by group": "{{ [messages] | groupby('__class__') }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "globals of lipsum": "{{ lipsum.__globals__['os'].environ }}",
    "globals of a method": "{{ joiner.__init__.__globals__ }}{{ cycler.__init__.__globals__ }}",
    "globals of namespace": "{{ namespace.__init__.__globals__ }}{{ namespace().__class__ }}",
    "globals of dict": "{{ dict.__globals__ }}{{ dict.mro() }}",
    "builtins by self": "{{ self.__init__.__globals__ }}{{ self._TemplateReference__context }}",
    "builtins by macro": (
        "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m._func.__globals__ }}"
    ),
    "builtins by caller": (
        "{% macro m() %}{{ caller._func }}{% endmacro %}{% call m() %}{% endcall %}"
    ),
    "builtins by loop": (
        "{% for m in messages %}{{ loop.__init__.__globals__ }}{{ loop._iterator }}{% endfor %}"
    ),
    "underscored namespace": "{% set n = namespace() %}{% set n.__class__ = 1 %}",
    "underscored namespace argument": "{{ namespace(_Namespace__attrs=1) }}",
    "format string": "{{ '{0.__class__.__mro__}'.format('') }}",
    "format map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "format by reference": "{% set f = '{0.__class__}'.format %}{{ f('') }}",
    "format by map": "{{ ['{0.__class__}'] | map('format', '') | list }}{{ ''.__class__ }}",
    "mutation of messages": "{{ messages.append(1) }}",
    "mutation of a message": "{{ messages[0].update({'role': 'system'}) }}",
    "mutation by reference": "{% set f = messages.clear %}{{ f() }}",
    "import": "{% import 'os' as os %}{{ os.environ }}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends '/etc/passwd' %}",
    "generator frame": "{{ (messages | map('upper')).gi_frame.f_globals }}",
    "code of a function": "{{ strftime_now.__code__ }}{{ strftime_now.func_globals }}",
}

EXCESSES = {
    "long range": "{% for i in range(10 ** 12) %}{% endfor %}",
    "long text": "{{ messages[0].content * (10 ** 11) }}",
    "long list": "{{ ([0] * (10 ** 11)) | length }}",
    "doubling": (
        "{% set n = namespace(s='ab') %}{% for i in range(64) %}{% set n.s = n.s + n.s %}{% endfor"
        " %}{{ n.s }}"
    ),
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "recursive loop": "{% for x in [messages] recursive %}{{ loop([messages]) }}{% endfor %}",
    "wide format": "{{ '{:>99999999999}'.format(messages[0].role) }}",
    "wide percent": "{{ '%99999999999d' % loop_count | default(1) }}",
    "wide padding": "{{ messages[0].role.center(10 ** 11) }}{{ messages[0].role.ljust(10 ** 11) }}",
    "wide indentation": "{{ messages | tojson(indent=10 ** 11) }}",
    "deep structure": (
        "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = [n.x] %}{% endfor"
        " %}{{ n.x | tojson }}"
    ),
}

ENDLESS = {
    "nested ranges": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ),
    "big power": "{{ (messages | length + 9) ** (10 ** 9) }}",
    "power at compile time": "{{ 9 ** 999999999 }}",
    "endless sorting": (
        "{% for a in range(99999) %}{% set x = range(99999) | reverse | sort | join %}{% endfor %}"
    ),
}


@pytest.fixture(scope="module")
def process():
    process = TemplateProcess.start(
        ChatTemplate({**ESCAPES, **EXCESSES, "good": "{{ messages[0].content }}"}, {}), LIMITS
    )
    yield process
    process.close()


@pytest.mark.parametrize("name", ESCAPES)
def test_no_template_reaches_python_internals(process, name):
    try:
        shown = process.render(encode_frame(RenderTemplate(name, USER)))
    except TemplateError as error:
        # If the process had been stopped by a limit, the test would prove nothing about the
        # sandbox.
        assert process.is_usable
        shown = str(error) if name != "include" else ""
    leaks = (
        "<class ",
        "<module ",
        "<frame ",
        "<code ",
        "HOME",
        "PATH",
        "root:",
        "<function ",
        "<built-in",
        "__main__",
    )
    assert [leak for leak in leaks if leak in shown] == []
    assert process.render(encode_frame(RenderTemplate("good", USER))) == "hi"


@pytest.mark.parametrize("name", EXCESSES)
def test_an_excess_is_an_error_and_the_process_continues(process, name):
    with pytest.raises(TemplateError):
        process.render(encode_frame(RenderTemplate(name, USER)))
    assert process.is_usable
    assert process.render(encode_frame(RenderTemplate("good", USER))) == "hi"


@pytest.mark.parametrize("name", ENDLESS)
async def test_an_endless_template_is_killed(name):
    renderer = ChatTemplateRenderer(
        ChatTemplate({"default": ENDLESS[name]}, {}, "model"), RenderLimits(seconds=0.3)
    )
    try:
        with pytest.raises(
            TemplateError,
            match=r"took longer than 0\.3 s and was stopped|ended: the template needs too much",
        ):
            await renderer.render(USER)
    finally:
        renderer.close()


async def test_after_a_kill_the_next_conversation_is_rendered():
    source = (
        "{% if messages | length > 1 %}"
        + ENDLESS["nested ranges"]
        + "{% endif %}{{ messages[0].content }}"
    )
    renderer = ChatTemplateRenderer(
        ChatTemplate({"default": source}, {}), RenderLimits(seconds=0.5)
    )
    try:
        results = await asyncio.gather(
            *[renderer.render(USER * size) for size in (1, 2, 1)], return_exceptions=True
        )
        assert [results[0], results[2]] == ["hi", "hi"]
        assert str(results[1]) == "rendering took longer than 0.5 s and was stopped"
    finally:
        renderer.close()


async def test_rendering_does_not_block_the_event_loop():
    renderer = ChatTemplateRenderer(
        ChatTemplate({"default": ENDLESS["nested ranges"]}, {}), RenderLimits(seconds=0.5)
    )
    try:
        rendering = asyncio.ensure_future(renderer.render(USER))
        num_turns = 0
        while not rendering.done():
            num_turns += 1
            await asyncio.sleep(0.01)
        assert num_turns > 10
        with pytest.raises(TemplateError):
            await rendering
    finally:
        renderer.close()


async def test_close_stops_the_rendering_and_the_process():
    renderer = ChatTemplateRenderer(
        ChatTemplate({"default": ENDLESS["nested ranges"]}, {}), RenderLimits(seconds=60.0)
    )
    await renderer.start()
    pid = renderer._queue.process._process.pid
    rendering = asyncio.ensure_future(renderer.render(USER))
    await asyncio.sleep(0.05)
    await asyncio.to_thread(renderer.close)
    with pytest.raises(TemplateError, match="ended"):
        await rendering
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_orphaned_process_exits():
    process = TemplateProcess.start(
        ChatTemplate({"default": ENDLESS["nested ranges"]}, {}), RenderLimits(seconds=0.2)
    )
    with pytest.raises(TemplateError):
        process.render(encode_frame(RenderTemplate("default", USER)))
    # Nothing kills the process here. It sets an alarm that ends it one second after the limit.
    assert process._process.wait(timeout=30) != 0
    process.close()


def test_the_process_environment_has_no_keys(monkeypatch):
    monkeypatch.setenv("API_KEY", "secret")
    process = TemplateProcess.start(ChatTemplate({"default": "x"}, {}), LIMITS)
    try:
        with open(f"/proc/{process._process.pid}/environ", "rb") as file:  # noqa: PTH123
            assert b"API_KEY" not in file.read()
    finally:
        process.close()


def test_a_long_conversation_is_rendered(process):
    messages = USER + [{"role": "user", "content": "x" * 1000}] * 2000
    assert process.render(encode_frame(RenderTemplate("good", messages))) == "hi"

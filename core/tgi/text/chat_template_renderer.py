"""Renders chat templates in separate processes. A process is killed if it exceeds a time limit.

Templates are untrusted code and messages are untrusted data. A separate process ensures that they
cannot block the event loop. After a failure, a new process is started for the next conversation.
Large conversations have their own process, so that other conversations do not wait for them.

A template that exceeds its limits is a fault of the request. A process that another process has
killed or stopped is a fault of the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, final

import psutil  # type: ignore[import-untyped]

from tgi.config import process_environment
from tgi.errors import ModelError, StartError, TemplateError, UnhealthyError
from tgi.text.chat_template import ChatTemplate
from tgi.text.chat_template_messages import (
    LoadTemplates,
    Refused,
    Rendered,
    RenderTemplate,
    TemplateReply,
    receive_reply,
)
from tgi.text.chat_template_traits import TemplateTraits
from tgi.text.socket_frames import encode_frame

__all__ = ["ChatTemplateRenderer", "RenderLimits", "RenderQueue", "TemplateProcess"]

_COMMAND = (sys.executable, "-m", "tgi.text.chat_template_child")
_START_SECONDS = 60.0  # the time limit is long because imports can be slow on a busy machine
# A template that exceeds the time limit uses at least this share of it as processor time. If the
# process has used less, it was stopped, or the machine is overloaded.
_MIN_PROCESSOR_SHARE = 0.1
_LARGE_BYTES = 1 << 16  # a conversation that is larger when encoded is rendered by its own process
_REAP_SECONDS = 5.0  # time until the exit status of a process that has closed its socket is known
_USUAL_SECONDS = 0.05
_OUTSIDE_SIGNALS = (-signal.SIGKILL, -signal.SIGTERM)  # the process itself does not cause these
_PASSED_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
"""The only environment variables of the template process. The process must not have secrets such as
API keys.
"""


@final
@dataclass(frozen=True)
class RenderLimits:
    """Limits of one rendering."""

    seconds: float = 5.0
    num_bytes: int = 1 << 30  # address space, in addition to the interpreter and its libraries


@final
class ChatTemplateRenderer:
    """The templates of one model, and the processes that render them. There is one process for
    large conversations and one for all others. The first one is started when it is needed.
    """

    def __init__(self, template: ChatTemplate, limits: RenderLimits = RenderLimits()) -> None:
        self._template = template
        self._queue = RenderQueue(template, limits)
        self._large_queue = RenderQueue(template, limits)
        names = [template.choose(has_tools=has_tools) for has_tools in (False, True)]
        traits = {
            name: TemplateTraits.of(template.sources[name]) for name in {*names} if name is not None
        }
        self._traits = [TemplateTraits() if name is None else traits[name] for name in names]

    async def start(self) -> None:
        """Start a process and compile the templates. Raises `ModelError` if a template cannot be
        compiled, and `StartError` if the process does not start.
        """
        try:
            await self._queue.start()
        except TemplateError as error:
            raise ModelError(
                f"{self._template.origin}: the chat template does not compile: {error}.",
                "Correct the template, or choose another with `--tokenizer-config-path`.",
            ) from error
        except UnhealthyError as error:
            raise StartError(f"{error}", "The machine may be overloaded.") from error

    def traits(self, *, has_tools: bool = False) -> TemplateTraits:
        """The properties of the template for a conversation with or without tools. If there is no
        such template, the properties are those of an empty template.
        """
        return self._traits[has_tools]

    async def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Render the prompt for the next message of the assistant. If the last message is from the
        assistant, the prompt ends with this message, so that the model continues the message.

        `messages`, `tools` and `variables` (additional variables of the template) are JSON data.
        Raises `TemplateError` if the prompt cannot be rendered, and `UnhealthyError` if a process
        does not respond or cannot be started again.
        """
        name = self._template.choose(has_tools=tools is not None)
        if name is None:
            raise TemplateError("template not found")
        request = RenderTemplate(
            name,
            [dict(m) for m in messages],
            None if tools is None else list(tools),
            dict(variables or {}),
        )
        try:
            frame = encode_frame(request)
        except OverflowError:
            raise TemplateError("the messages or tools contain an integer above 64 bits") from None
        queue = self._large_queue if len(frame) > _LARGE_BYTES else self._queue
        return await queue.render(frame)

    def close(self) -> None:
        """End the processes. Renderings in progress fail."""
        self._queue.close()
        self._large_queue.close()


@final
class RenderQueue:
    """A process that renders one conversation at a time, and the conversations that wait for it."""

    def __init__(self, template: ChatTemplate, limits: RenderLimits) -> None:
        self._template = template
        self._limits = limits
        self._process: TemplateProcess | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="chat template")
        self._has_compiled = False  # the templates have been compiled once
        self._is_closed = False

    @property
    def process(self) -> TemplateProcess | None:
        """The process, or None before its start and after a failed restart."""
        return self._process

    async def start(self) -> None:
        """Start the process. Raises `TemplateError` if a template cannot be compiled, and
        `UnhealthyError` if the process does not start.
        """
        await asyncio.get_running_loop().run_in_executor(self._executor, self._started)

    async def render(self, frame: bytes) -> str:
        """Render the conversation of an encoded `RenderTemplate` after all earlier ones. Raises
        `TemplateError` and `UnhealthyError`.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._render, frame)

    def close(self) -> None:
        """End the process. A rendering in progress fails."""
        self._is_closed = True
        if self._process is not None:
            self._process.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)
        if self._process is not None:
            self._process.close()
            self._process = None

    def _started(self) -> TemplateProcess:
        if self._process is None:
            self._process = TemplateProcess.start(self._template, self._limits)
            self._has_compiled = True
        return self._process

    def _restarted(self) -> TemplateProcess:
        """Return the process. If it does not start although the templates have been compiled
        before, this is a fault of the server.
        """
        try:
            return self._started()
        except TemplateError as error:
            if not self._has_compiled:
                raise
            raise UnhealthyError(
                f"The process that renders chat templates does not start: {error}."
            ) from error

    def _render(self, frame: bytes) -> str:
        process = self._restarted()
        try:
            return self._render_in(process, frame)
        except UnhealthyError:
            if not process.was_killed or self._is_closed:
                raise
        # Another process has killed the process, usually before the request was sent.
        return self._render_in(self._restarted(), frame)

    def _render_in(self, process: TemplateProcess, frame: bytes) -> str:
        try:
            return process.render(frame)
        finally:
            if not process.is_usable:
                process.close()
                self._process = None
                if not self._is_closed:
                    # Start the next process now, so that the next conversation does not wait for
                    # its start.
                    with contextlib.suppress(TemplateError, UnhealthyError):
                        self._started()


@final
class TemplateProcess:
    """One template process. `start` and `render` block, but at most until the time limit. After a
    time limit or a crash, `is_usable` is False and the process must not be used again.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], connection: socket.socket, limits: RenderLimits
    ) -> None:
        self._process = process
        self._connection = connection
        self._limits = limits
        self._observed = psutil.Process(process.pid)
        self._replied = select.poll()
        self._replied.register(connection, select.POLLIN)
        self._is_closed = False
        self.is_usable = True
        self.was_killed = False
        """Whether another process has killed this process."""

    @classmethod
    def start(cls, template: ChatTemplate, limits: RenderLimits) -> TemplateProcess:
        """Start a process and compile the templates in it. Raises `TemplateError` with the line if
        a template does not compile, and `UnhealthyError` if the process does not start.
        """
        try:
            started = cls._launch(limits)
        except (OSError, psutil.Error) as error:
            raise UnhealthyError(
                f"The process that renders chat templates cannot be started: {error}."
            ) from error
        load = LoadTemplates(
            dict(template.sources), dict(template.special_tokens), limits.seconds, limits.num_bytes
        )
        try:
            started._exchange(encode_frame(load), _START_SECONDS)
        except (TemplateError, UnhealthyError):
            started.close()
            raise
        return started

    @classmethod
    def _launch(cls, limits: RenderLimits) -> TemplateProcess:
        environment = process_environment()
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as on_failure:
            on_failure.callback(ours.close)
            process = subprocess.Popen(
                _COMMAND,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={name: environment[name] for name in _PASSED_VARIABLES if name in environment},
            )
            on_failure.pop_all()
        return cls(process, ours, limits)

    def render(self, frame: bytes) -> str:
        """Render the prompt of an encoded `RenderTemplate`. Raises `TemplateError` if the template
        fails or exceeds a limit, and `UnhealthyError` if another process has killed or stopped this
        process.
        """
        reply = self._exchange(frame, self._limits.seconds)
        if not isinstance(reply, Rendered):
            raise AssertionError(f"{type(reply).__name__} is not a reply to a rendering")
        return reply.text

    def kill(self) -> None:
        """Kill the process. If a different thread waits in `render`, the call of `render` raises
        `TemplateError`.
        """
        self._is_closed = True
        self._process.kill()

    def close(self) -> None:
        """Kill the process and close its socket."""
        self._is_closed, self.is_usable = True, False
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _exchange(self, frame: bytes, limit_seconds: float) -> TemplateReply:
        self._connection.settimeout(limit_seconds)
        used_before: float | None = None
        try:
            self._connection.sendall(frame)
            # Reading the processor time takes longer than a usual rendering.
            if not self._replied.poll(_USUAL_SECONDS * 1e3):
                used_before = self._processor_seconds()
            reply = receive_reply(self._connection, limit_seconds)
        except TimeoutError:
            self.is_usable = False
            # A process that does not read the request has stopped.
            used = 0.0 if used_before is None else self._processor_seconds() - used_before
            raise _time_error(limit_seconds, used) from None
        except (EOFError, OSError):
            self.is_usable = False
            raise self._end_error() from None
        if isinstance(reply, Refused):
            raise TemplateError(reply.reason)
        return reply

    def _processor_seconds(self) -> float:
        """Return the processor time of the process, or 0 if the process has ended."""
        try:
            times = self._observed.cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def _end_error(self) -> TemplateError | UnhealthyError:
        """Return the error for a process that ended during a request."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_SECONDS)
        self.was_killed = not self._is_closed and self._process.returncode in _OUTSIDE_SIGNALS
        if self.was_killed:
            return UnhealthyError(
                "The process that renders chat templates was killed. A new process is being"
                " started. Send the request again."
            )
        return TemplateError(
            "the process that renders the template ended: the template needs too much"
        )


def _time_error(limit_seconds: float, used_seconds: float) -> TemplateError | UnhealthyError:
    """Return the error for a request that exceeded the time limit. `used_seconds` is the processor
    time that the process used for it.
    """
    if used_seconds >= _MIN_PROCESSOR_SHARE * limit_seconds:
        return TemplateError(f"rendering took longer than {limit_seconds:g} s and was stopped")
    return UnhealthyError(
        f"The process that renders chat templates did not respond within {limit_seconds:g} s. A new"
        " process is being started. Send the request again."
    )

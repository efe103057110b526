"""Renders chat templates in a process of their own, which is killed at its time limit.

A template is foreign code and messages are foreign data: whatever they do, the event loop goes on,
and the next conversation finds a fresh process.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, final

from tgi.config import process_environment
from tgi.errors import ModelError, TemplateError
from tgi.text.chat_template import ChatTemplate
from tgi.text.chat_template_messages import (
    LoadTemplates,
    Refused,
    Rendered,
    RenderTemplate,
    TemplateReply,
    TemplateRequest,
    receive_reply,
    send_frame,
)

__all__ = ["ChatTemplateRenderer", "RenderLimits", "TemplateProcess"]

_COMMAND = (sys.executable, "-m", "tgi.text.chat_template_child")
_START_SECONDS = 60.0  # imports on a busy machine
_PASSED_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
"""A template has no business with any other variable, such as a key."""


@final
@dataclass(frozen=True)
class RenderLimits:
    """What one rendering may take."""

    seconds: float = 5.0
    num_bytes: int = 1 << 30  # of address space, beside the interpreter and its libraries


@final
class ChatTemplateRenderer:
    """The templates of one model and the process that renders them, one conversation at a time."""

    def __init__(self, template: ChatTemplate, limits: RenderLimits = RenderLimits()) -> None:
        self._template = template
        self._limits = limits
        self._process: TemplateProcess | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="chat template")
        self._is_closed = False

    async def start(self) -> None:
        """Start the process and compile. Raises `ModelError` if a template does not compile."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._started)
        except TemplateError as error:
            raise ModelError(
                f"{self._template.origin}: the chat template does not compile: {error}.",
                "Correct it, or name another with `--tokenizer-config-path`.",
            ) from error

    async def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for the next answer; a last message of the assistant is left open to be
        continued.

        `messages`, `tools` and `variables` (what else the template may read) are plain JSON data.
        Raises `TemplateError`.
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
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, self._render, request
        )

    def close(self) -> None:
        """End the process; a rendering that runs fails."""
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
        return self._process

    def _render(self, request: RenderTemplate) -> str:
        process = self._started()
        try:
            return process.render(request)
        finally:
            if not process.is_usable:
                process.close()
                self._process = None
                if not self._is_closed:
                    # The next conversation does not wait for the start.
                    with contextlib.suppress(TemplateError):
                        self._started()


@final
class TemplateProcess:
    """One template process. Its methods block, at most for the time limit; after a failed one it is
    not used again.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], connection: socket.socket, limits: RenderLimits
    ) -> None:
        self._process = process
        self._connection = connection
        self._limits = limits
        self.is_usable = True

    @classmethod
    def start(cls, template: ChatTemplate, limits: RenderLimits) -> TemplateProcess:
        """Start a process that holds the templates. Raises `TemplateError` with the line of one
        that does not compile.
        """
        ours, theirs = socket.socketpair()
        environment = process_environment()
        with theirs:
            process = subprocess.Popen(
                _COMMAND,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={name: environment[name] for name in _PASSED_VARIABLES if name in environment},
            )
        started = cls(process, ours, limits)
        load = LoadTemplates(
            dict(template.sources), dict(template.special_tokens), limits.seconds, limits.num_bytes
        )
        try:
            started._exchange(load, _START_SECONDS)
        except TemplateError:
            started.close()
            raise
        return started

    def render(self, request: RenderTemplate) -> str:
        """The prompt. Raises `TemplateError`."""
        reply = self._exchange(request, self._limits.seconds)
        if not isinstance(reply, Rendered):
            raise AssertionError(f"{type(reply).__name__} is no answer to a rendering")
        return reply.text

    def kill(self) -> None:
        """End the process at once; a method that waits for it fails."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process and free what it holds."""
        self.is_usable = False
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _exchange(self, request: TemplateRequest, limit_seconds: float) -> TemplateReply:
        self._connection.settimeout(limit_seconds)
        try:
            send_frame(self._connection, request)
            reply = receive_reply(self._connection, limit_seconds)
        except TimeoutError:
            self.is_usable = False
            raise TemplateError(
                f"rendering took longer than {limit_seconds:g} s and was stopped"
            ) from None
        except (EOFError, OSError):
            self.is_usable = False
            raise TemplateError(
                "the process that renders the template ended: the template needs too much"
            ) from None
        if isinstance(reply, Refused):
            raise TemplateError(reply.reason)
        return reply

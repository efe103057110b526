"""The template process: `python -m tgi.text.chat_template_child`, with a socket as standard input.

It can neither start a process nor open a file nor take memory beyond its limit, and its own alarm
ends it where the front does not.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import jinja2

from tgi.text.chat_template_language import CompiledTemplate
from tgi.text.chat_template_messages import (
    Loaded,
    LoadTemplates,
    Refused,
    Rendered,
    RenderTemplate,
    TemplateReply,
    TemplateRequest,
    receive_request,
    send_frame,
)

__all__ = ["main"]

_MEMORY_FILE = Path("/proc/self/statm")
_GRACE_SECONDS = 1.0  # the front notices first; its answer says what happened


def main() -> int:
    """Serve until the front closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; the front decides
    connection = socket.socket(fileno=sys.stdin.fileno())
    templates = LoadedTemplates()
    with contextlib.suppress(EOFError, OSError):
        while True:
            request = receive_request(connection)
            if isinstance(request, LoadTemplates):
                _confine(request)
                templates.limit_seconds = request.limit_seconds
            signal.setitimer(signal.ITIMER_REAL, templates.limit_seconds + _GRACE_SECONDS)
            reply = templates.response(request)
            signal.setitimer(signal.ITIMER_REAL, 0)
            send_frame(connection, reply)
    return 0


@final
@dataclass
class LoadedTemplates:
    """The compiled templates of one model; none before the first message."""

    compiled: dict[str, CompiledTemplate] = field(default_factory=dict)
    special_tokens: dict[str, str] = field(default_factory=dict)
    limit_seconds: float = 0.0

    def response(self, request: TemplateRequest) -> TemplateReply:
        """Do what the front asks."""
        try:
            if isinstance(request, RenderTemplate):
                return Rendered(self._render(request))
            self._load(request)
        except jinja2.TemplateSyntaxError as error:
            return Refused(f"{error.message} (line {error.lineno})")
        except MemoryError:
            return Refused("the template needs more memory than it may take")
        except Exception as error:  # a template may raise anything, and the front shall hear it
            return Refused(f"{error}" or type(error).__name__)
        return Loaded()

    def _load(self, request: LoadTemplates) -> None:
        self.compiled = {
            name: CompiledTemplate.compile(source) for name, source in request.sources.items()
        }
        self.special_tokens = request.special_tokens

    def _render(self, request: RenderTemplate) -> str:
        # A variable beats the special token of its name.
        return self.compiled[request.name].render(
            request.messages, request.tools, self.special_tokens | request.variables
        )


def _confine(request: LoadTemplates) -> None:
    """Everything is imported by now; what a template still needs is memory and time."""
    time.tzset()  # reads the time zone, for `strftime_now`
    limits = {
        resource.RLIMIT_AS: _address_space() + request.limit_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def _address_space() -> int:
    """Bytes that the interpreter and its libraries take already; on a machine with many cores that
    can be a lot.
    """
    try:
        return int(_MEMORY_FILE.read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(main())

"""The template process: `python -m tgi.text.chat_template_child`, with a socket as standard input.

The process cannot start processes, write files or exceed its memory limit. If a request takes too
long and the front end does not end the process, a timer ends the process.
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
)
from tgi.text.socket_frames import encode_frame

__all__ = ["main"]

_MEMORY_FILE = Path("/proc/self/statm")
# The front end stops the process first, because its error message is more specific.
_GRACE_SECONDS = 1.0


def main() -> int:
    """Process requests until the front end closes the socket. Returns the exit code."""
    # A terminal sends SIGINT to all processes. The front end handles the signal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
            connection.sendall(encode_frame(reply))
    return 0


@final
@dataclass
class LoadedTemplates:
    """The compiled templates of one model. There are none before the first message."""

    compiled: dict[str, CompiledTemplate] = field(default_factory=dict)
    special_tokens: dict[str, str] = field(default_factory=dict)
    limit_seconds: float = 0.0

    def response(self, request: TemplateRequest) -> TemplateReply:
        """Process one request of the front end."""
        try:
            if isinstance(request, RenderTemplate):
                return Rendered(self._render(request))
            self._load(request)
        except jinja2.TemplateSyntaxError as error:
            return Refused(f"{error.message} (line {error.lineno})")
        except MemoryError:
            return Refused("the template needs more memory than it may use")
        except Exception as error:  # a template can raise any exception
            return Refused(f"{error}" or type(error).__name__)
        return Loaded()

    def _load(self, request: LoadTemplates) -> None:
        self.compiled = {
            name: CompiledTemplate.compile(source) for name, source in request.sources.items()
        }
        self.special_tokens = request.special_tokens

    def _render(self, request: RenderTemplate) -> str:
        # A variable takes precedence over a special token with the same name.
        return self.compiled[request.name].render(
            request.messages, request.tools, self.special_tokens | request.variables
        )


def _confine(request: LoadTemplates) -> None:
    """Set the limits of the process. All modules must already be imported."""
    time.tzset()  # `strftime_now` needs the time zone, and files cannot be read later
    limits = {
        resource.RLIMIT_AS: _address_space() + request.limit_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def _address_space() -> int:
    """Return the size of the address space that the interpreter and its libraries use, in bytes.
    The size can be large on a machine with many cores. Returns 0 if the size is unknown.
    """
    try:
        return int(_MEMORY_FILE.read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(main())

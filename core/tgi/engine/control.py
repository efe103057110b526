"""Handles control requests from the front end to the worker, on both sides of the socket.

The client stores the requests that established state in the engine, such as loaded adapters, and
repeats these requests after an engine restart.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import secrets
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import final

from tgi.backend import (
    Control,
    ControlResult,
    ImportBlocks,
    LoadAdapter,
    Sleep,
    UnloadAdapter,
    Wake,
    Worker,
)
from tgi.engine.messages import ControlReply, ControlRequest
from tgi.scheduler import Scheduler

__all__ = ["ControlClient", "ControlHandler", "adapter_digest"]

_DIGEST_BYTES = 32
_ASLEEP = "asleep"  # key of the established `Sleep`


@final
class ControlClient:
    """The front end's side of control requests. It numbers the requests, waits for the replies, and
    records the state that the requests established in the engine.
    """

    def __init__(self, on_log: Callable[[str], None]) -> None:
        """Create a client without pending requests. `on_log` is called with each log line for the
        operator.
        """
        self._on_log = on_log
        self._ids = itertools.count(1)
        # Requests that have no reply yet. The future is None for a request that `replay` repeated.
        self._pending: dict[int, tuple[Control, asyncio.Future[ControlResult] | None]] = {}
        # Requests to repeat in a new engine process. The key is the number of the adapter, or
        # `_ASLEEP`.
        self._established: dict[Hashable, Control] = {}

    async def request(
        self, control: Control, send: Callable[[ControlRequest], None], timeout: float
    ) -> ControlResult:
        """Send a request and wait at most `timeout` seconds for the reply. If no reply arrives in
        this time, the result is not ok.
        """
        future: asyncio.Future[ControlResult] = asyncio.get_running_loop().create_future()
        control_id = next(self._ids)
        self._pending[control_id] = (control, future)
        send(ControlRequest(control_id, control))
        try:
            return await asyncio.wait_for(future, timeout)
        except TimeoutError:
            return ControlResult(
                False,
                f"The engine did not reply within {timeout:g} s. It may still execute the request",
            )

    def replay(self) -> list[ControlRequest]:
        """Return the requests that restore the state of the previous engine process, in the order
        in which to send them.
        """
        adapters = [key for key in self._established if key != _ASLEEP]
        messages = []
        for key in [*adapters, *(self._established.keys() - adapters)]:
            control_id, control = next(self._ids), self._established[key]
            self._pending[control_id] = (control, None)
            messages.append(ControlRequest(control_id, control))
        return messages

    def note(self, reply: ControlReply) -> None:
        """Process a reply. If a repeated request is rejected, the operator gets a log line."""
        control, future = self._pending.pop(reply.control_id)
        if reply.result.ok:
            self._establish(control)
        elif future is None:
            self._forget(control)
            self._on_log(f"the restarted engine rejected `{control.name}`: {reply.result.message}")
        if future is not None and not future.done():
            future.set_result(reply.result)

    def fail(self, reason: str) -> None:
        """End all pending requests with `reason`, because the engine process has ended."""
        for _, future in self._pending.values():
            if future is not None and not future.done():
                future.set_result(ControlResult(False, reason))
        self._pending.clear()

    def _establish(self, control: Control) -> None:
        match control:
            case LoadAdapter(number):
                self._established[number] = control
            case UnloadAdapter(number):
                self._established.pop(number, None)
            case Sleep():
                self._established[_ASLEEP] = control
            case Wake():
                self._established.pop(_ASLEEP, None)

    def _forget(self, control: Control) -> None:
        self._established = {
            key: established
            for key, established in self._established.items()
            if established != control
        }


@final
class ControlHandler:
    """The engine's side of control requests. It checks whether the sequences allow a request, lets
    the worker execute the request, and updates the scheduler. No step may be in flight.
    """

    def __init__(self, worker: Worker, scheduler: Scheduler) -> None:
        self._worker = worker
        self._scheduler = scheduler
        self.is_asleep = False

    def handle(self, request: Control) -> ControlResult:
        """Execute a request. A rejected request has no effect."""
        refusal = self._find_refusal(request)
        if refusal is not None:
            return ControlResult(False, refusal)
        result = self._worker.control(request)
        if result.ok:
            self._apply(request)
        return result

    def _find_refusal(self, request: Control) -> str | None:
        """Return the reason for a rejection if the sequences or their blocks do not allow a
        request, else None.
        """
        scheduler = self._scheduler
        match request:
            case UnloadAdapter(number) if users := scheduler.num_users(number):
                return f"{users} unfinished sequences use adapter {number}"
            case Sleep() if scheduler.num_sequences:
                return f"{scheduler.num_sequences} sequences are unfinished"
            case ImportBlocks(blocks) if not scheduler.are_free(blocks):
                return "a block is in use, or in the prefix cache"
        return None

    def _apply(self, request: Control) -> None:
        match request:
            case LoadAdapter(number, path):
                self._scheduler.load_adapter(number, adapter_digest(Path(path)))
            case UnloadAdapter(number):
                self._scheduler.unload_adapter(number)
            case Sleep():
                self._scheduler.forget_cached_blocks()
                self.is_asleep = True
            case Wake():
                self.is_asleep = False


def adapter_digest(folder: Path) -> bytes:
    """Return a digest of the files in an adapter's folder. The digest identifies the adapter in the
    prefix cache. If the folder can no longer be read, the digest consists of random bytes.
    """
    total = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    try:
        for path in sorted(folder.iterdir()):
            if path.is_file():
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, hashlib.blake2b).digest()
                total.update(hashlib.blake2b(path.name.encode()).digest() + content)
    except OSError:
        return secrets.token_bytes(_DIGEST_BYTES)
    return total.digest()

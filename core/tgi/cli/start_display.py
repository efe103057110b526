"""Displays the progress of the startup as one line per phase. If the output is a terminal, a
progress bar is displayed too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)

from tgi.backend import Agreement
from tgi.engine.messages import Progress as EngineProgress

__all__ = ["StartDisplay", "format_bytes", "memory_lines"]

_PLAIN_INTERVAL = 5.0
_logger = logging.getLogger("tgi")


@final
class StartDisplay:
    """Displays the phases of one startup. `clock` returns a time in seconds."""

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = Console(stderr=True) if console is None else console
        self._clock = clock
        self._started = clock()
        self._phase = ""
        self._last_line = clock()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def phase(self, name: str, detail: str = "") -> None:
        """Start a phase and log its name."""
        self._close_bar()
        self._phase = name
        self._line(f"{name}: {detail}" if detail else name)

    def log(self, message: str) -> None:
        """Log a line of the current phase."""
        self._line(message)

    def progress(self, message: EngineProgress) -> None:
        """Display a progress message from the engine process."""
        if message.phase == "log":
            self._line(message.text)
            return
        if message.phase != self._phase:
            self.phase(message.phase)
        if message.total <= 0:
            return
        if self._console.is_terminal:
            self._advance_bar(message.done, message.total)
        elif self._clock() - self._last_line >= _PLAIN_INTERVAL:
            self._line(f"{message.phase}: {100 * message.done // message.total} %")

    def ready(self, address: str, *, is_open: bool = False) -> None:
        """Log that the server is ready. Scripts for TGI wait for the last line, `Connected`.

        `is_open` is True if other machines can send requests without an API key.
        """
        self.phase("ready", f"{address} after {self._clock() - self._started:.1f} s")
        if is_open:
            self._line(
                "Other machines can reach this server without an API key. Set `--api-key`, or"
                " `--hostname 127.0.0.1` to accept requests of this machine only."
            )
        self._line("Connected")

    def close(self) -> None:
        """Remove the progress bar from the terminal."""
        self._close_bar()

    def _line(self, text: str) -> None:
        self._last_line = self._clock()
        _logger.info(text)

    def _advance_bar(self, done: int, total: int) -> None:
        if self._bar is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._phase, total=total)
        self._bar.update(self._task, completed=done, total=total)
        if done >= total:
            self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def memory_lines(agreement: Agreement) -> tuple[str, ...]:
    """Return the memory estimate and the resulting limits, as aligned lines."""
    limits, cache = agreement.limits, agreement.kv_cache
    rows = [(item.label, format_bytes(item.num_bytes), item.detail) for item in agreement.memory]
    # A cache without keys and values (0 tokens) has no limit on the number of tokens.
    capacity = f"{cache.max_batch_total_tokens:,}" if cache.max_batch_total_tokens else "any"
    rows += [
        (
            "tokens per sequence",
            f"{limits.max_total_tokens:,}",
            "prompt and output, `--max-total-tokens`",
        ),
        ("tokens in the cache", capacity, "all sequences, `--max-batch-total-tokens`"),
        ("tokens per step", f"{limits.max_step_tokens:,}", "`--max-batch-prefill-tokens`"),
        ("sequences per step", f"{limits.max_sequences:,}", "`--max-batch-size`"),
    ]
    label_width, value_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    return tuple(
        f"  {label:<{label_width}}  {value:>{value_width}}  {detail}".rstrip()
        for label, value, detail in rows
    )


def format_bytes(num_bytes: int) -> str:
    """Return a size in the largest binary unit in which the number is at least 1, for example
    `1.5 GiB`.
    """
    size, units = float(num_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(size) >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"

"""The table of results in a terminal during the measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tgi.bench.load import Progress
from tgi.bench.report import COLUMNS, cells
from tgi.bench.summary import RunSummary

__all__ = ["LiveTable"]

_BAR_WIDTH = 40


@final
class LiveTable:
    """A table with one row per finished run, and a progress bar for the current run.

    The table is drawn only on request, because drawing takes CPU time from the server.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        self._runs: list[RunSummary] = []
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._draw(None)
        self._live.__exit__(kind, error, traceback)

    def watch(self, label: str, num_requests: int) -> Callable[[Progress], None]:
        """Return a function that draws the progress of a run."""

        def show(progress: Progress) -> None:
            seconds = max(time.perf_counter() - progress.began, 1e-9)
            num_ended = progress.num_done + progress.num_failed
            failed = f", {progress.num_failed} failed" if progress.num_failed else ""
            line = (
                f"{label}: {num_ended} of {num_requests} requests{failed},"
                f" {progress.num_events / seconds:.0f} events/s"
            )
            bar = ProgressBar(total=num_requests, completed=num_ended, width=_BAR_WIDTH)
            self._draw(Group(Text(line), bar))

        return show

    def add(self, run: RunSummary) -> None:
        """Add the row of a finished run."""
        self._runs.append(run)
        self._draw(None)

    def _draw(self, below: RenderableType | None) -> None:
        table = Table(
            title=self._title,
            title_justify="left",
            caption="times in ms",
            caption_justify="left",
            box=None,  # lines between the columns do not fit into 80 columns
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        for name in COLUMNS:
            table.add_column(name.replace("inter-", "inter- "), justify="right", overflow="fold")
        for run in self._runs:
            table.add_row(*cells(run), style=None if run.valid else "red")
        self._live.update(table if below is None else Group(table, below), refresh=True)

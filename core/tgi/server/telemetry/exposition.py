"""Metric values and their Prometheus text exposition (format 0.0.4).

The official Prometheus client library is not used, because it appends `_total` to the names of
counters. The names of TGI's counters do not have this suffix. A family appears after its first
update. Counters come first, then gauges, then histograms and summaries.
"""

from __future__ import annotations

import bisect
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, Protocol, final

from tgi.server.http.json_format import format_plain

__all__ = ["CONTENT_TYPE", "Counter", "Family", "Gauge", "Histogram", "Kind", "Summary", "render"]

CONTENT_TYPE: Final = "text/plain; charset=utf-8"

Kind = Literal["counter", "gauge", "histogram", "summary"]
Sample = tuple[str, str, float]  # name suffix, rendered label or empty string, value

_ORDER: dict[Kind, int] = {"counter": 0, "gauge": 1, "histogram": 2, "summary": 2}
_QUANTILES = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0)
_WINDOW_SECONDS = 60.0


class Family(Protocol):
    """A metric and all its series."""

    @property
    def name(self) -> str:
        """Name of the metric without suffixes."""

    @property
    def help(self) -> str:
        """Help text. If it is empty, the exposition has no help line."""

    @property
    def kind(self) -> Kind:
        """Type of the metric in Prometheus."""

    def samples(self) -> Iterator[Sample]:
        """The current samples. There are none before the first update."""


@final
class Counter:
    """A count that only increases. There is one series, or one per value of `label`."""

    kind: Final = "counter"

    def __init__(self, name: str, help_text: str = "", label: str = "") -> None:
        self.name, self.help, self._label = name, help_text, label
        self._values: dict[str, int] = {}

    def increment(self, value: str = "", amount: int = 1) -> None:
        """Add `amount` to the series with the label value `value`."""
        self._values[value] = self._values.get(value, 0) + amount

    def samples(self) -> Iterator[Sample]:
        """One sample per series."""
        for value, count in self._values.items():
            yield "", _render_label(self._label, value), count


@final
class Gauge:
    """A value that can increase and decrease."""

    kind: Final = "gauge"

    def __init__(self, name: str, help_text: str = "") -> None:
        self.name, self.help = name, help_text
        self._value: float | None = None

    def set(self, value: float) -> None:
        """Set the value."""
        self._value = value

    def samples(self) -> Iterator[Sample]:
        """One sample with the value."""
        if self._value is not None:
            yield "", "", self._value


@final
class Histogram:
    """Counts of observations per bucket. There is one series, or one per value of `label`."""

    kind: Final = "histogram"

    def __init__(
        self, name: str, buckets: Sequence[float], help_text: str = "", label: str = ""
    ) -> None:
        self.name, self.help, self._label = name, help_text, label
        self._buckets = list(buckets)  # upper bounds in ascending order, without infinity
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, observation: float, value: str = "") -> None:
        """Add an observation to the series with the label value `value`."""
        counts = self._counts.get(value)
        if counts is None:
            counts = self._counts[value] = [0] * (len(self._buckets) + 1)
            self._sums[value] = 0.0
        counts[bisect.bisect_left(self._buckets, observation)] += 1
        self._sums[value] += observation

    def samples(self) -> Iterator[Sample]:
        """The cumulative buckets, the sum and the count of each series. The label of the series
        precedes `le`.
        """
        for value, counts in self._counts.items():
            label, cumulative = _render_label(self._label, value), 0
            for bound, count in zip([*self._buckets, math.inf], counts, strict=True):
                cumulative += count
                bucket = _render_label("le", _format_value(bound))
                yield "_bucket", f"{label},{bucket}" if label else bucket, cumulative
            yield "_sum", label, self._sums[value]
            yield "_count", label, cumulative


@final
class Summary:
    """Quantiles of the observations of the last 60 s, and the sum and count of all observations."""

    kind: Final = "summary"

    def __init__(
        self, name: str, help_text: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.help, self._clock = name, help_text, clock
        self._recent: deque[tuple[float, float, int]] = deque()  # time, observation, times
        self._sum, self._count = 0.0, 0

    def observe(self, observation: float, times: int = 1) -> None:
        """Add `times` equal observations."""
        now = self._clock()
        self._recent.append((now, observation, times))
        self._sum += observation * times
        self._count += times
        self._forget(now)

    def samples(self) -> Iterator[Sample]:
        """The quantiles, the sum and the count. Without recent observations, the
        quantiles are 0.
        """
        if not self._count:
            return
        self._forget(self._clock())
        ordered = sorted((observation, times) for _, observation, times in self._recent)
        total = sum(times for _, times in ordered)
        for quantile in _QUANTILES:
            yield (
                "",
                _render_label("quantile", _format_value(quantile)),
                _quantile(ordered, quantile * total),
            )
        yield "_sum", "", self._sum
        yield "_count", "", self._count

    def _forget(self, now: float) -> None:
        while self._recent and now - self._recent[0][0] > _WINDOW_SECONDS:
            self._recent.popleft()


def render(families: Sequence[Family]) -> str:
    """The text exposition of all families that have been updated."""
    lines: list[str] = []
    for family in sorted(families, key=lambda f: _ORDER[f.kind]):
        samples = [
            (
                f"{family.name}{suffix}{{{label}}} {_format_value(value)}"
                if label
                else f"{family.name}{suffix} {_format_value(value)}"
            )
            for suffix, label, value in family.samples()
        ]
        if samples:
            if family.help:
                lines.append(f"# HELP {family.name} {family.help}")
            lines += [f"# TYPE {family.name} {family.kind}", *samples, ""]
    return "".join(f"{line}\n" for line in lines)


def _quantile(ordered: list[tuple[float, int]], rank: float) -> float:
    cumulative = 0
    for observation, times in ordered:
        cumulative += times
        if cumulative >= rank:
            return observation
    return 0.0


def _render_label(name: str, value: str) -> str:
    if not name:
        return ""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}="{escaped}"'


def _format_value(value: float) -> str:
    return "+Inf" if value == math.inf else format_plain(value)

"""Line charts in SVG, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import final

__all__ = ["Panel", "svg_plot"]

_WIDTH, _HEIGHT = 480, 300  # size of one panel in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 44
# These colours can be distinguished with colour blindness.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_GRID_LINES = 5
_LEGEND_STEP = 16


@final
@dataclass(frozen=True)
class Panel:
    """One chart with one line per name. `places` are the labels of the x axis. A value of None is
    drawn as a gap.
    """

    title: str
    places: Sequence[str]
    lines: Mapping[str, Sequence[float | None]]
    unit: str = ""


def svg_plot(title: str, panels: Sequence[Panel]) -> str:
    """An SVG image with the panels side by side."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    height = _HEIGHT + 28 + _LEGEND_STEP * len(names)
    width = _WIDTH * len(panels)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            f' width="{width}" height="{height}" font-family="sans-serif" font-size="11">'
        ),
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="12" y="18" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({number * _WIDTH} 20)">')
        parts += _panel(panel, names)
        parts.append("</g>")
    for number, name in enumerate(names):
        y = _HEIGHT + 32 + number * _LEGEND_STEP
        parts.append(
            f'<rect x="{_LEFT}" y="{y - 9}" width="10" height="10" fill="{_colour(number)}"/>'
        )
        parts.append(f'<text x="{_LEFT + 16}" y="{y}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, names: Sequence[str]) -> list[str]:
    values = [value for line in panel.lines.values() for value in line if value is not None]
    top = _round_up(max(values, default=1.0))
    parts = [f'<text x="{_LEFT}" y="{_TOP - 14}" font-weight="bold">{escape(panel.title)}</text>']
    for step in range(_GRID_LINES + 1):
        value = top * step / _GRID_LINES
        y = _y(value, top)
        parts.append(
            f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#ddd"/>'
        )
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for place, label in enumerate(panel.places):
        x = _x(place, len(panel.places))
        parts.append(
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}"'
            f' text-anchor="middle">{escape(label)}</text>'
        )
    parts.append(
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end"'
        f' fill="#555">{escape(panel.unit)}</text>'
    )
    for name, line in panel.lines.items():
        parts += _line(line, top, _colour(names.index(name)))
    return parts


def _line(line: Sequence[float | None], top: float, colour: str) -> list[str]:
    points = [
        None if value is None else (_x(place, len(line)), _y(value, top))
        for place, value in enumerate(line)
    ]
    parts = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
        for x, y in filter(None, points)
    ]
    for start, end in pairwise(points):
        if start is not None and end is not None:
            ends = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
            parts.append(f'<line {ends} stroke="{colour}" stroke-width="2"/>')
    return parts


def _x(place: int, num_places: int) -> float:
    return _LEFT + (place + 0.5) / max(1, num_places) * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _TOP - _BOTTOM)


def _round_up(value: float) -> float:
    """Round up to 1, 2, 2.5 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(float(factor * power) for factor in (1, 2, 2.5, 5, 10) if value <= factor * power)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]

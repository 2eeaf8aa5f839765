"""A small writer of line charts as SVG. Knows points and axes; nothing of what they mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_COLOURS = ("#3465a4", "#c4a000", "#cc0000", "#4e9a06", "#75507b", "#2e3436")
_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 56, 44


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One series. ``dots`` draws its points alone, for many that do not follow from each other."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart of lines with a legend; ``marks`` are named vertical lines."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    marks: Sequence[tuple[str, float]] = ()

    def svg(self) -> str:
        """Return the chart. Colours do for a light and for a dark page."""
        xs = [x for line in self.lines for x, _ in line.points] + [x for _, x in self.marks] or [0.0]
        ys = [y for line in self.lines for _, y in line.points] or [0.0]
        across = _Scale(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
        up = _Scale(min(0.0, min(ys)), max(ys), _HEIGHT - _BOTTOM, _TOP)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            'font-family="sans-serif" font-size="11" fill="#808080">',
            _text(_LEFT, 16, self.title, size=13),
            *self._axes(across, up),
            *(
                _rule(across(x), _TOP, across(x), _HEIGHT - _BOTTOM, dashed=True)
                + _text(across(x) + 3, _TOP + 10, name)
                for name, x in self.marks
            ),
        ]
        offset = float(_LEFT)
        for number, line in enumerate(self.lines):
            colour = _COLOURS[number % len(_COLOURS)]
            parts.append(_drawn(line, colour, across, up))
            parts.append(f'<rect x="{offset}" y="26" width="10" height="10" fill="{colour}"/>')
            parts.append(_text(offset + 14, 35, line.name))
            offset += 26 + 6.2 * len(line.name)
        return "\n".join([*parts, "</svg>"]) + "\n"

    def _axes(self, across: _Scale, up: _Scale) -> list[str]:
        bottom = _HEIGHT - _BOTTOM
        parts = []
        for value in up.ticks():
            parts.append(_rule(_LEFT, up(value), _WIDTH - _RIGHT, up(value)))
            parts.append(_text(_LEFT - 6, up(value) + 4, f"{value:g}", anchor="end"))
        for value in across.ticks():
            parts.append(_rule(across(value), bottom, across(value), bottom + 4))
            parts.append(_text(across(value), bottom + 16, f"{value:g}", anchor="middle"))
        parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, self.x, anchor="middle"))
        parts.append(_text(_LEFT, _TOP - 6, self.y))
        return parts


class _Scale:
    """Values to pixels."""

    def __init__(self, low: float, high: float, first: float, last: float) -> None:
        self._low = low
        self._high = high if high > low else low + 1.0
        self._first = first
        self._last = last

    def __call__(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return round(self._first + share * (self._last - self._first), 1)

    def ticks(self) -> list[float]:
        """Round numbers within the span, about six."""
        rough = (self._high - self._low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first = math.ceil(self._low / step)
        last = math.floor(self._high / step + 1e-9)
        return [round(number * step, 10) for number in range(first, last + 1)]


def _drawn(line: Line, colour: str, across: _Scale, up: _Scale) -> str:
    points = [(across(x), up(y)) for x, y in line.points]
    if line.dots:
        return "".join(f'<circle cx="{x}" cy="{y}" r="1.5" fill="{colour}"/>' for x, y in points)
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _rule(x1: float, y1: float, x2: float, y2: float, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#808080" stroke-opacity="0.4"{dash}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'

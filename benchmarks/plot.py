"""Plots as SVG, written by hand: they are small, need no library, and suit a light and a dark page."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.table import Row, shown

_WIDTH, _LEFT, _RIGHT, _LINE = 1080, 560, 100, 26
_INK, _GRID = "#6b7280", "#9ca3af"
_OURS, _THEIRS, _WORSE = "#2563eb", "#9ca3af", "#ea580c"
_HUES = ("#1d4ed8", "#0891b2", "#059669", "#ca8a04", "#c026d3")


def _log(ratio: float) -> float:
    """Return the power of ten; a ratio of 0 is drawn as one in ten thousand."""
    return math.log10(max(ratio, 1e-4))


def ratios(rows: Sequence[Row]) -> str:
    """Each row's ratio on a logarithmic axis: to the left of 1 it is less than what it stands beside."""
    low = math.floor(min(-0.5, *(_log(row.ratio) for row in rows)))
    high = math.ceil(max(0.5, *(_log(row.ratio) for row in rows)))
    scale = (_WIDTH - _LEFT - _RIGHT) / (high - low)
    one = _LEFT - low * scale
    parts = []
    for power in range(low, high + 1):
        at = _LEFT + (power - low) * scale
        parts += [
            _line(at, 34, at, 40 + _LINE * len(rows), dashed=power != 0),
            _text(at, 26, f"{10.0**power:g} ×", "middle"),
        ]
    for number, row in enumerate(rows):
        top, length = 42 + _LINE * number, _log(row.ratio) * scale
        colour = _OURS if row.ratio <= 1 else _WORSE
        parts.append(_bar(min(one, one + length), top, abs(length), colour))
        parts.append(_text(_LEFT - 8, top + 13, f"{row.what} : {row.beside.partition(';')[0]}", "end"))
        parts.append(_text(_WIDTH - _RIGHT + 8, top + 13, f"{shown(row.ratio)} ×"))
    return _svg(48 + _LINE * len(rows), parts, "Ours divided by what it stands beside; less is better")


def latencies(bars: Mapping[str, Mapping[str, float]], unit: str = "ms") -> str:
    """Each bar is made of parts, on a linear axis from 0."""
    longest = max(sum(parts.values()) for parts in bars.values())
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    names = list(dict.fromkeys(name for parts in bars.values() for name in parts))
    drawn = []
    for number, (label, parts) in enumerate(bars.items()):
        top, left = 42 + _LINE * number, float(_LEFT)
        for name, value in parts.items():
            drawn.append(_bar(left, top, value * scale, _HUES[names.index(name) % len(_HUES)]))
            left += value * scale
        drawn += [
            _text(_LEFT - 8, top + 13, label, "end"),
            _text(left + 8, top + 13, f"{shown(sum(parts.values()))} {unit}"),
        ]
    top = 54 + _LINE * len(bars)
    for number, name in enumerate(names):
        row, column = divmod(number, 3)
        x, y = 20 + column * 280, top + row * 20
        drawn.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{_HUES[number % len(_HUES)]}"/>')
        drawn.append(_text(x + 18, y + 11, name))
    return _svg(top + 20 * (1 + (len(names) - 1) // 3) + 8, drawn, "The way of a flip, median of each hop")


def growth(curves: Mapping[str, Mapping[int, float]], what: str) -> str:
    """Curves over the number of pods, both axes logarithmic."""
    pods = sorted({x for curve in curves.values() for x in curve})
    highest = math.ceil(math.log10(max(y for curve in curves.values() for y in curve.values())))
    wide, high, left, top = 640.0, 260.0, 90.0, 36.0
    span = math.log10(pods[-1] / pods[0])

    def point(x: int, y: float) -> tuple[float, float]:
        return left + wide * math.log10(x / pods[0]) / span, top + high * (1 - math.log10(max(y, 1)) / highest)

    drawn = []
    for power in range(highest + 1):
        y = point(pods[0], 10.0**power)[1]
        drawn += [_line(left, y, left + wide, y, dashed=True), _text(left - 8, y + 4, f"{10**power:,}", "end")]
    drawn += [_text(point(x, 1)[0], top + high + 20, f"{x:,}", "middle") for x in pods]
    for number, (name, curve) in enumerate(curves.items()):
        points = [point(x, y) for x, y in sorted(curve.items())]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{_HUES[number]}" stroke-width="2.5"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{_HUES[number]}"/>' for x, y in points]
        drawn.append(_text(points[-1][0] + 10, points[-1][1] + 4, name))
    drawn.append(_text(left, 20, f"{what}, by the number of pods"))
    return _svg(int(top + high + 34), drawn, what)


def _svg(height: int, parts: Sequence[str], title: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img"'
    style = 'font-family="system-ui, sans-serif" font-size="12.5"'
    return "\n".join([f"{head} {style}>", f"<title>{escape(title)}</title>", *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, label: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{_INK}" text-anchor="{anchor}">{escape(label)}</text>'


def _bar(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1.5):.1f}" height="17" rx="2" fill="{colour}"/>'


def _line(x: float, y: float, x2: float, y2: float, *, dashed: bool) -> str:
    dash = ' stroke-dasharray="2 4"' if dashed else ""
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{_GRID}"{dash}/>'

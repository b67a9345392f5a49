"""Charts as SVG, drawn here: bars beside bars, and cost against size on two logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLORS = ("#1f5fa8", "#d2691e", "#3a8f5c", "#8a4fa3", "#b03a48", "#5f6b76", "#c9a227", "#2aa1a8")
FONT = 'font-family="sans-serif" font-size="12"'
LEFT, ROW, GAP, BAR_WIDTH = 150, 15, 12, 430


def bars(
    title: str, unit: str, groups: Mapping[str, Mapping[str, tuple[float, float, float]]]
) -> str:
    """Return a chart of groups of bars, one under the other, on a logarithmic axis.

    Args:
        title: Above it.
        unit: Of the figures.
        groups: Group -> tool -> median, least and most, which become a whisker.
    """
    tools = list(dict.fromkeys(tool for group in groups.values() for tool in group))
    values = [value for group in groups.values() for three in group.values() for value in three]
    low, high = _decades(values)
    top = 62
    height = top + sum(len(group) * ROW + GAP for group in groups.values()) + 30

    def x(value: float) -> float:
        return LEFT + BAR_WIDTH * (math.log10(max(value, low)) - math.log10(low)) / _span(low, high)

    out = [_text(10, 20, title, weight="bold"), *_legend(tools, 10, 42)]
    for decade in _each_decade(low, high):
        out.append(_line(x(decade), top - 6, x(decade), height - 24, "#ddd"))
        out.append(_text(x(decade), height - 10, f"{_short(decade)} {unit}", anchor="middle"))
    y = float(top)
    for name, group in groups.items():
        out.append(_text(LEFT - 8, y + len(group) * ROW / 2 + 4, name, anchor="end"))
        for tool, (median, least, most) in group.items():
            color, middle = _color(tools, tool), y + ROW / 2 - 1
            width = max(1.0, x(median) - LEFT)
            out.append(
                f'<rect x="{LEFT}" y="{y:.1f}" width="{width:.1f}" height="{ROW - 2}"'
                f' fill="{color}"/>'
            )
            out.append(_line(x(least), middle, x(most), middle, "#222"))
            out.append(_text(x(most) + 5, y + ROW - 4, _short(median)))
            y += ROW
        y += GAP
    return _svg(LEFT + BAR_WIDTH + 90, height, out)


def curves(
    title: str, x_name: str, y_name: str, lines: Mapping[str, Sequence[tuple[float, float]]]
) -> str:
    """Return a chart of cost against size, both axes logarithmic; a slope of 1 is linear."""
    points = [point for line in lines.values() for point in line]
    x_low, x_high = _decades([x for x, _ in points])
    y_low, y_high = _decades([y for _, y in points])
    left, top, width, height = 70, 40, 420, 300

    def at(point: tuple[float, float]) -> tuple[float, float]:
        x = (math.log10(point[0]) - math.log10(x_low)) / _span(x_low, x_high)
        y = (math.log10(max(point[1], y_low)) - math.log10(y_low)) / _span(y_low, y_high)
        return left + width * x, top + height * (1 - y)

    names = list(lines)
    out = [_text(10, 20, title, weight="bold")]
    for decade in _each_decade(x_low, x_high):
        x = at((decade, y_low))[0]
        out.append(_line(x, top, x, top + height, "#ddd"))
        out.append(_text(x, top + height + 16, _short(decade), anchor="middle"))
    for decade in _each_decade(y_low, y_high):
        y = at((x_low, decade))[1]
        out.append(_line(left, y, left + width, y, "#ddd"))
        out.append(_text(left - 6, y + 4, _short(decade), anchor="end"))
    out.append(_text(left + width / 2, top + height + 34, x_name, anchor="middle"))
    out.append(_text(10, top - 6, y_name))
    for number, (name, line) in enumerate(lines.items()):
        color = _color(names, name)
        # Where the colours begin again, lines are dashed, and the key is half as wide.
        dash = ' stroke-dasharray="6 4"' if number >= len(COLORS) else ""
        key = 5 if dash else 10
        spots = [at(point) for point in sorted(line)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        out.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>'
        )
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in spots]
        key_y = top + 10 + 17 * number
        out.append(
            f'<rect x="{left + width + 14}" y="{key_y - 9}" width="{key}" height="10"'
            f' fill="{color}"/>'
        )
        out.append(_text(left + width + 30, key_y, name))
    return _svg(left + width + 200, top + height + 46, out)


def _legend(names: Sequence[str], x: float, y: float) -> list[str]:
    out = []
    for name in names:
        out.append(
            f'<rect x="{x}" y="{y - 10}" width="10" height="10" fill="{_color(names, name)}"/>'
        )
        out.append(_text(x + 14, y, name))
        x += 30 + 8 * len(name)
    return out


def _decades(values: Sequence[float]) -> tuple[float, float]:
    known = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def _each_decade(low: float, high: float) -> list[float]:
    first, last = round(math.log10(low)), round(math.log10(high))
    return [10.0**power for power in range(first, last + 1)]


def _span(low: float, high: float) -> float:
    return math.log10(high) - math.log10(low)


def _color(names: Sequence[str], name: str) -> str:
    return COLORS[list(names).index(name) % len(COLORS)]


def _short(value: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def _line(x1: float, y1: float, x2: float, y2: float, color: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
    return f"<text {place} {FONT}>{escape(text)}</text>"


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    ground = f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>'
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', ground, *parts, "</svg>\n"]
    )

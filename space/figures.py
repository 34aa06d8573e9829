"""Figures as inline SVG: each has a name, texts on hover, and its numbers in a table below it."""

import math
from collections.abc import Sequence
from itertools import pairwise

from markup import escape, percent


_WIDTH, _HEIGHT = 480, 220
_LEFT, _BOTTOM, _TOP, _RIGHT = 48, 34, 8, 8
_MOST_ROWS = 200
_NUMBERED = 12  # columns; a heat map of more has no numbers in its cells

Number = float | int


def histogram(
    title: str, counts: Sequence[int], names: Sequence[str], *, across: str, up: str, marked: Sequence[int] = ()
) -> str:
    """A bar chart; the bars in `marked` are highlighted."""
    most = max([*counts, 1])
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(counts), 1)
    bars = ""
    for place, (count, name) in enumerate(zip(counts, names, strict=True)):
        height = _drawn_height() * count / most
        style = ' class="marked"' if place in marked else ""
        bars += (
            f'<rect{style} x="{_LEFT + place * step + 0.5:.1f}" y="{_HEIGHT - _BOTTOM - height:.1f}" '
            f'width="{max(step - 1, 0.5):.1f}" height="{height:.1f}"><title>{escape(name)}: {count:,}</title></rect>'
        )
    every = max(1, math.ceil(len(names) / 8))
    ticks = "".join(
        f'<text x="{_LEFT + (place + 0.5) * step:.1f}" y="{_HEIGHT - _BOTTOM + 13}" text-anchor="middle">'
        f"{escape(name)}</text>"
        for place, name in enumerate(names)
        if place % every == 0
    )
    grid = _levels([(count, count / most) for count in sorted({0, most // 2, most})])
    table = _table([across, up], [[name, f"{count:,}"] for name, count in zip(names, counts, strict=True)])
    return _figure(title, _svg(title, f"{grid}{bars}{ticks}", across, up), table)


def decay(title: str, values: Sequence[float], *, across: str, up: str, marked: float | None = None) -> str:
    """A decreasing curve on logarithmic axes; `marked` is a position on the horizontal axis."""
    shown = [(place, value) for place, value in enumerate(values, start=1) if value > values[0] * 1e-8 and value > 0]
    if len(shown) < 2:
        return _figure(title, '<p class="small">There is only one value above 0.</p>', "")
    high, low = math.log10(shown[0][1]), math.log10(shown[-1][1])
    span, reach = max(high - low, 1e-9), math.log10(shown[-1][0])

    def x(place: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log10(place) / reach

    def y(value: float) -> float:
        return _TOP + _drawn_height() * (high - math.log10(value)) / span

    line = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in shown)
    tens = [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]
    tens = tens[:: max(1, math.ceil(len(tens) / 5))] or [shown[0][1], shown[-1][1]]
    grid = _levels([(value, 1 - (y(value) - _TOP) / _drawn_height()) for value in tens])
    ticks = "".join(
        f'<text x="{x(place):.1f}" y="{_HEIGHT - _BOTTOM + 13}" text-anchor="middle">{place:,}</text>'
        for place in (10**power for power in range(math.floor(reach) + 1))
    )
    rule = ""
    if marked is not None and 1 <= marked <= shown[-1][0]:
        rule = (
            f'<line class="rule" x1="{x(marked):.1f}" x2="{x(marked):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
            f'<text x="{x(marked) - 4:.1f}" y="{_HEIGHT - _BOTTOM - 6}" text-anchor="end">'
            f"effective rank {marked:.0f}</text>"
        )
    table = _table([across, up], [[f"{place}", f"{value:.3g}"] for place, value in shown])
    drawing = f'{grid}<polyline class="line" points="{line}"/>{rule}{ticks}'
    return _figure(title, _svg(title, drawing, across, up), table)


def heat_map(
    title: str,
    counts: Sequence[Sequence[int]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    across: str,
    down: str,
    labelled: bool,
) -> str:
    """A heat map, each row relative to its sum; `labelled` writes the names at the sides."""
    left, top, right = (96, 64, 36) if labelled else (22, 22, 2)
    side = max((_WIDTH - left - right) / max(len(columns), 1), 4.0)
    width, height = left + side * len(columns) + right, top + side * len(rows)
    numbered = len(columns) <= _NUMBERED
    cells, table = "", []
    for row, (name, line) in enumerate(zip(rows, counts, strict=True)):
        total = max(sum(line), 1)
        for column, count in enumerate(line):
            if not count:
                continue
            share = count / total
            x, y = left + column * side, top + row * side
            text = f"{down} {name}, {across} {columns[column]}: {count:,} ({percent(share)})"
            cells += (
                f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{side - 0.6:.1f}" height="{side - 0.6:.1f}" '
                f'fill-opacity="{0.06 + 0.94 * share:.2f}"><title>{escape(text)}</title></rect>'
            )
            if numbered:
                kind = "on" if share > 0.55 else "off"
                cells += (
                    f'<text class="{kind}" x="{x + side / 2:.1f}" y="{y + side / 2 + 4:.1f}" '
                    f'text-anchor="middle">{count:,}</text>'
                )
            table.append([name, columns[column], f"{count:,}", percent(share)])
    names = ""
    if labelled:
        for row, name in enumerate(rows):
            names += (
                f'<text x="{left - 6}" y="{top + (row + 0.5) * side + 4:.1f}" text-anchor="end">'
                f"{escape(_short(name))}</text>"
            )
        for column, name in enumerate(columns):
            place = f"{left + (column + 0.5) * side + 4:.1f} {top - 6}"
            names += f'<text transform="translate({place}) rotate(-40)">{escape(_short(name))}</text>'
    else:
        names = (
            f'<text x="{left}" y="14">{escape(across)}</text>'
            f'<text transform="translate(14 {top}) rotate(-90)" text-anchor="end">{escape(down)}</text>'
        )
    frame = (
        f'<rect class="frame" x="{left}" y="{top}" width="{side * len(columns):.1f}" height="{side * len(rows):.1f}"/>'
    )
    svg = (
        f'<svg class="figure map" viewBox="0 0 {width:.0f} {height + 2:.0f}" role="img" aria-label="{escape(title)}">'
        f"{frame}{cells}{names}</svg>"
    )
    table.sort(key=lambda line: -int(line[2].replace(",", "")))
    return _figure(title, svg, _table([down, across, "images", "of the row"], table))


def meter(name: str, value: float, most: float, text: str) -> str:
    """A row of a table that shows a number as a share of its maximum."""
    share = 100 * min(max(value / most, 0.0), 1.0) if most > 0 else 0.0
    return (
        f'<tr><th scope="row">{escape(name)}</th><td><span class="bar"><span style="width:{share:.1f}%"></span>'
        f"</span></td><td>{escape(text)}</td></tr>"
    )


def _drawn_height() -> int:
    return _HEIGHT - _TOP - _BOTTOM


def _levels(levels: Sequence[tuple[Number, float]]) -> str:
    """Grid lines with their numbers, each at a share of the height."""
    lines = ""
    for value, share in levels:
        y = _HEIGHT - _BOTTOM - share * _drawn_height()
        number = f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.3g}"
        lines += (
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number}</text>'
        )
    return lines


def _svg(title: str, drawing: str, across: str, up: str) -> str:
    return (
        f'<svg class="figure" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}: {escape(up)} '
        f'by {escape(across)}">{drawing}<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}" text-anchor="end">'
        f"{escape(across)}</text></svg>"
    )


def _figure(title: str, picture: str, table: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{picture}{table}</figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows[:_MOST_ROWS])
    rest = f"<caption>The first {_MOST_ROWS} of {len(rows):,} rows</caption>" if len(rows) > _MOST_ROWS else ""
    return (
        f'<details><summary>As a table</summary><div class="numbers"><table>{rest}<thead><tr>{names}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div></details>"
    )


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"


def spans(edges: Sequence[int]) -> list[str]:
    """Names of ranges of whole numbers, upper edges excluded: `0`, `1`, `2-4`."""
    return [f"{low}" if high - low == 1 else f"{low}-{high - 1}" for low, high in pairwise(edges)]

"""A small plot as SVG: panels of horizontal bars, one bar a server and wire."""

from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

WIDTH, PANEL_WIDTH, LABEL_WIDTH, BAR, GAP, MARGIN = 940, 430, 170, 20, 8, 24
COLOURS = {
    "service": "#0f766e",
    "nothing stored": "#5eada5",
    "plain version": "#b45309",
    "raw relay": "#64748b",
}
_STYLE = (
    "text{font-family:system-ui,sans-serif;font-size:12px;fill:#1e293b}"
    ".title{font-size:14px;font-weight:600}.unit{fill:#64748b}"
)


class Panel(NamedTuple):
    """One scenario: a heading, the unit, and the scenario's name in the figures."""

    title: str
    unit: str
    scenario: str


def svg(
    panels: Sequence[Panel],
    targets: Sequence[str],
    figure: Callable[[str, str], float | None],
) -> str:
    """Return the plot, two panels a row; each panel has its own scale from 0."""
    height = 52 + len(targets) * (BAR + GAP) + MARGIN
    parts = []
    for index, panel in enumerate(panels):
        left = MARGIN + index % 2 * (PANEL_WIDTH + MARGIN)
        top = MARGIN + index // 2 * height
        values = [(target, figure(panel.scenario, target)) for target in targets]
        parts.append(f'<g transform="translate({left},{top})">{_bars(panel, values)}</g>')
    total = MARGIN + (len(panels) + 1) // 2 * height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" '
        f'width="{WIDTH}" height="{total}" role="img" aria-label="Benchmark">'
        f"<style>{_STYLE}</style>"
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _bars(panel: Panel, values: Sequence[tuple[str, float | None]]) -> str:
    """Return a panel's heading and bars; a figure that was not measured leaves no bar."""
    largest = max((value for _, value in values if value is not None), default=1.0)
    room = PANEL_WIDTH - LABEL_WIDTH - 50
    parts = [
        f'<text class="title" y="14">{escape(panel.title)}</text>',
        f'<text class="unit" y="32">{escape(panel.unit)}</text>',
    ]
    shown = [(target, value) for target, value in values if value is not None]
    for row, (target, value) in enumerate(shown):
        top = 44 + row * (BAR + GAP)
        length = max(1.0, value / largest * room)
        colour = COLOURS[target.partition(",")[0]]
        digits = 0 if value >= 100 else 1
        parts.append(
            f'<text x="{LABEL_WIDTH - 8}" y="{top + 14}" text-anchor="end">{escape(target)}</text>'
            f'<rect x="{LABEL_WIDTH}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2" '
            f'fill="{colour}"/>'
            f'<text x="{LABEL_WIDTH + length + 6:.1f}" y="{top + 14}">{value:,.{digits}f}</text>'
        )
    return "".join(parts)

"""How does a matplotlib figure become an inline SVG that follows the page's light or dark ground?

The SVG holds no fixed colours, fonts or dates: colours are CSS variables of the page, text is text,
and equal input gives equal bytes.
"""

import functools
import html
import io
import re
from collections.abc import Callable
from typing import Any, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Parameters = ParamSpec("Parameters")

# Drawn in these colours, which become var(--NAME) in the page. From Okabe and Ito's palette, which
# people of every kind of colour vision can tell apart; the page has another set for dark ground.
COLOURS = {
    "ink": "#1a1d21",
    "muted": "#5e656e",
    "rule": "#d7dade",
    "paper": "#fdfdfc",
    "model": "#0072b2",
    "virus": "#d55e00",
    "other": "#4b7fa3",
    "good": "#009e73",
    "grey": "#8b9199",
    "length0": "#b4cfe0",
    "length1": "#8db8d3",
    "length2": "#659fc5",
    "length3": "#3c85b5",
    "length4": "#1d6798",
    "length5": "#0b4a72",
}
LENGTH_COLOURS = [COLOURS[f"length{shade}"] for shade in range(6)]

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dnallm_jax",
    "path.simplify": True,
    "path.simplify_threshold": 0.2,
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 8.5,
    "axes.edgecolor": COLOURS["grey"],
    "axes.linewidth": 0.7,
    "axes.labelcolor": COLOURS["muted"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.6,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["grey"],
    "ytick.color": COLOURS["grey"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.visible": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.labelcolor": COLOURS["ink"],
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}

HALF, WHOLE = (
    5.0,
    10.3,
)  # inches: half and all of the page's width, so that letters are equally large


def styled(draw: Callable[Parameters, str]) -> Callable[Parameters, str]:
    """Draws and saves a figure under STYLE, whatever the caller's matplotlib settings are."""

    @functools.wraps(draw)
    def draw_in_style(*args: Parameters.args, **kwargs: Parameters.kwargs) -> str:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return draw_in_style


def framed(width: float, height: float) -> Figure:
    """A figure with the same margins in inches whatever it shows, so that frames line up."""
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=0.6 / width,
        right=1 - 0.12 / width,
        bottom=0.48 / height,
        top=1 - 0.32 / height,
        hspace=0.12,
    )
    return figure


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure without pyplot (no window system, no state) and its axes."""
    return (figure := framed(width, height)), figure.subplots()


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as SVG for use within HTML5.

    Args:
      name: prefix of every id, unique within the page.
      title, description: what a screen reader says.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (xmlns(:xlink)?|version)="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg))
    kept = {one or other for one, other in used}
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in kept else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(
        r"font: (?:bold|700) ([\d.]+)px [^;\"]*", r"font-weight: 600; font-size: \1px", svg
    )
    for colour, value in COLOURS.items():
        svg = svg.replace(value, f"var(--{colour})")
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    label = (
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-desc">{html.escape(description)}</desc>'
    )
    return f'{head} role="img" aria-labelledby="{name}-title {name}-desc">{label}{rest.strip()}'


def canvas_with_strip(width: float, height: float) -> tuple[Figure, tuple[Axes, Axes]]:
    """A figure with a low strip under its axes, on the same x axis."""
    figure = framed(width, height)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    return figure, (above, below)

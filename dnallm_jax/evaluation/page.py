"""What is the report made of? HTML5 building blocks and the one style sheet, without any script.

Every function returns markup and escapes the text that it is given.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dnallm_jax.evaluation.drawing import COLOURS

MINUS, EN_DASH, NO_BREAK = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{NO-BREAK SPACE}"

DARK = {
    "ink": "#e8e6e1",
    "muted": "#a3a8ae",
    "rule": "#33383e",
    "paper": "#15181b",
    "model": "#56b4e9",
    "virus": "#f0915a",
    "other": "#7fb0d0",
    "good": "#3cc39a",
    "grey": "#7d848c",
    "length0": "#2b4a5e",
    "length1": "#366480",
    "length2": "#417ea3",
    "length3": "#4d98c5",
    "length4": "#74b8e2",
    "length5": "#b5dcf5",
}
"""The colours of `drawing.COLOURS` on dark ground: the same hues, light enough to read."""

STYLE_SHEET = """
:root { color-scheme: light dark; LIGHT --wash: #f1f3f4; --warn: #fdf0e4; }
@media (prefers-color-scheme: dark) { :root { DARK --wash: #1e2226; --warn: #33241a; } }
* { box-sizing: border-box; }
html { font-size: 16px; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
  "Liberation Sans", Arial, sans-serif; font-variant-numeric: lining-nums; }
main, header, footer { max-width: 70rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 3rem; }
h1, h2, .verdict { font-family: "Iowan Old Style", "Palatino Linotype", Palatino, "Book Antiqua",
  "TeX Gyre Pagella", Georgia, "Liberation Serif", serif; }
h1 { font-size: 2.1rem; line-height: 1.2; margin: 0.2rem 0 1rem; font-weight: 600;
  letter-spacing: -0.01em; text-wrap: balance; }
h2 { font-size: 1.45rem; line-height: 1.25; margin: 3.5rem 0 0.5rem; padding-top: 1.1rem;
  border-top: 1px solid var(--rule); font-weight: 600; }
h3 { font-size: 1rem; margin: 2rem 0 0.4rem; }
p, ul { max-width: 44rem; margin: 0.5rem 0 1rem; }
li { margin: 0.3rem 0; }
a { color: var(--model); text-underline-offset: 0.15em; }
.eyebrow { text-transform: uppercase; letter-spacing: 0.09em; font-size: 0.75rem;
  color: var(--muted); margin: 0; }
.verdict { font-size: 1.3rem; line-height: 1.5; max-width: 48rem; margin: 0 0 0.8rem; }
.note { color: var(--muted); font-size: 0.875rem; line-height: 1.5; }
.warning { background: var(--warn); border-left: 4px solid var(--virus); padding: 0.7rem 1rem;
  max-width: 48rem; margin: 1rem 0; }
.cards { display: flex; flex-wrap: wrap; gap: 1px; background: var(--rule);
  border: 1px solid var(--rule); margin: 2rem 0 0.8rem; padding: 0; }
.cards > div { flex: 1 1 11.5rem; background: var(--paper); padding: 0.9rem 1rem 1rem; }
.cards dt { font-size: 0.8125rem; color: var(--muted); min-height: 2.5em; line-height: 1.25; }
.cards dd { margin: 0; }
.cards .big { font-size: 1.85rem; line-height: 1.2; font-weight: 600; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; display: block; }
.cards .span { font-size: 0.8125rem; color: var(--muted); font-variant-numeric: tabular-nums; }
.track { position: relative; display: block; height: 4px; background: var(--rule);
  margin: 0.55rem 0 0; border-radius: 2px; }
.track i { position: absolute; top: 0; bottom: 0; min-width: 3px; border-radius: 2px;
  background: var(--model); }
nav ul { list-style: none; padding: 0; margin: 1.5rem 0 0; max-width: none; display: flex;
  flex-wrap: wrap; gap: 0.2rem 1.2rem; font-size: 0.875rem; }
nav li { margin: 0; }
.scroll { overflow-x: auto; margin: 1rem 0 0.5rem; }
.scroll:focus-visible { outline: 2px solid var(--model); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: 0.875rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0.6rem 0.5rem; }
th, td { padding: 0.42rem 0.6rem; text-align: right; vertical-align: top; white-space: nowrap; }
table.even { table-layout: fixed; min-width: 50rem; }
table.even th:first-child { width: 13rem; }
td.text { min-width: 5.5rem; }
.figures table.even { min-width: 0; }
.figures table.even th:first-child { width: 28%; }
thead th { font-weight: 500; color: var(--muted); vertical-align: bottom; white-space: normal;
  border-bottom: 1.5px solid var(--ink); line-height: 1.25; }
tbody th { font-weight: 500; }
tbody tr { border-bottom: 1px solid var(--rule); }
tr.own { background: var(--wash); }
tr.own th, tr.own td { font-weight: 600; }
th.text, td.text { text-align: left; white-space: normal; }
.ci { display: block; color: var(--muted); font-size: 0.75rem; font-weight: 400; }
.none { color: var(--muted); }
.better { color: var(--virus); font-weight: 600; }
.figures { display: grid; gap: 1.5rem 2.5rem; margin: 1.2rem 0; }
@media (min-width: 52rem) { .figures { grid-template-columns: 1fr 1fr; } }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-family: inherit; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { color: var(--muted); font-size: 0.875rem; line-height: 1.5; margin-top: 0.4rem;
  max-width: 44rem; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono",
  monospace; font-size: 0.8125rem; }
pre { background: var(--wash); padding: 0.7rem 0.9rem; overflow-x: auto; margin: 0.3rem 0;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: minmax(7rem, 11rem) 1fr; gap: 0.5rem 1.5rem;
  font-size: 0.9rem; margin: 1rem 0; }
.facts dt { color: var(--muted); }
.facts dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.facts dd p { margin: 0 0 0.2rem; max-width: none; }
footer { margin-top: 4rem; padding-bottom: 3rem; color: var(--muted); font-size: 0.8125rem; }
@media (max-width: 36rem) { .facts { grid-template-columns: 1fr; gap: 0.1rem; }
  .facts dd { margin-bottom: 0.8rem; } h1 { font-size: 1.6rem; } .verdict { font-size: 1.1rem; } }
@media print {
  :root { color-scheme: light; LIGHT --wash: #f1f3f4; --warn: #fdf0e4; }
  html { font-size: 11px; }
  body { background: none; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main, header, footer { max-width: none; padding: 0; }
  nav { display: none; }
  .scroll { overflow: visible; break-inside: avoid; }
  .figures { grid-template-columns: 1fr 1fr; }
  h2, h3, caption { break-after: avoid; }
  figure, tr, .cards, .warning { break-inside: avoid; }
  a { color: inherit; text-decoration: none; }
}
@page { margin: 16mm; }
"""


def escape(text: object) -> str:
    """Text as it may stand anywhere in the page; "1 %" never breaks in two."""
    return re.sub(r"(?<=\d) (?=%)", NO_BREAK, html.escape(str(text), quote=True))


def style_sheet() -> str:
    """The CSS with both sets of colours filled in."""
    light, dark = (
        " ".join(f"--{name}: {value};" for name, value in colours.items())
        for colours in (COLOURS, DARK)
    )
    return STYLE_SHEET.replace("LIGHT", light).replace("DARK", dark).strip()


def document(title: str, header: str, sections: Sequence[tuple[str, str, str]], foot: str) -> str:
    """The whole page. `sections` are (id, heading, markup); each is named in the contents line."""
    contents = "".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, name, _ in sections)
    body = "\n".join(
        f'<section aria-labelledby="{key}">\n<h2 id="{key}">{escape(name)}</h2>\n{markup}\n'
        "</section>"
        for key, name, markup in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style_sheet()}\n</style>\n</head>\n<body>\n"
        f'<header>\n{header}\n<nav aria-label="Contents"><ul>{contents}</ul></nav>\n</header>\n'
        f"<main>\n{body}\n</main>\n<footer>\n{foot}\n</footer>\n</body>\n</html>\n"
    )


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    own: str | None = None,
    words: int = 1,
) -> str:
    """A table of cells that are markup already.

    Args:
      columns: headings, plain text. rows: the first cell heads the row.
      own: the first cell of a row to bring out.
      words: the first so many columns hold words, the rest figures.
    """

    def kind(position: int) -> str:
        return ' class="text"' if position < words else ""

    head = "".join(
        f'<th scope="col"{kind(i)}>{escape(name)}</th>' for i, name in enumerate(columns)
    )
    even = ' class="even"' if words == 1 else ""
    lines = []
    for row in rows:
        cells = "".join(f"<td{kind(i)}>{cell}</td>" for i, cell in enumerate(row) if i)
        mark = ' class="own"' if own is not None and row[0] == own else ""
        lines.append(f'<tr{mark}><th scope="row" class="text">{row[0]}</th>{cells}</tr>')
    return (
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">\n'
        f"<table{even}>\n<caption>{escape(caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody>\n</table>\n</div>"
    )


def figure(svg: str, caption: str) -> str:
    """A picture with its caption (plain text)."""
    return f"<figure>\n{svg}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def figures(*parts: str) -> str:
    """Pictures, or whatever else, side by side where the window is wide enough."""
    return f'<div class="figures">\n{"".join(parts)}\n</div>'


def paragraphs(value: object) -> str:
    """A fact of any plain-JSON kind: text, lines of text, or name -> value."""
    if isinstance(value, Mapping):
        return "".join(f"<p>{escape(name)}: {escape(v)}</p>" for name, v in value.items())
    if isinstance(value, str) or not isinstance(value, Iterable):
        return f"<p>{escape(value)}</p>"
    return "".join(f"<p>{escape(line)}</p>" for line in value)


def decimal(value: float, digits: int = 3) -> str:
    """0.9183 -> '0.918', with a true minus sign."""
    return f"{value:.{digits}f}".replace("-", MINUS)


def percentage(value: float) -> str:
    """0.4343 -> '43.4 %', 0.00312 -> '0.31 %': three figures, two where they are small."""
    digits = 0 if value in (0, 1) else 1 if abs(value) >= 0.0995 else 2
    return f"{100 * value:.{digits}f}{NO_BREAK}%".replace("-", MINUS)


def interval(measure: Mapping[str, Any], *, percent: bool = False) -> str:
    """'0.911–0.924', or nothing where there is none."""
    if measure.get("low") is None or measure.get("high") is None:
        return ""
    low, high = (
        percentage(v) if percent else decimal(v) for v in (measure["low"], measure["high"])
    )
    return f"{low.removesuffix(NO_BREAK + '%')}{EN_DASH}{high}"


def cell(measure: Mapping[str, Any] | None, *, percent: bool = False) -> str:
    """A measure and its interval under it; a dash that says why where it does not exist."""
    if measure is None or measure["value"] is None:
        reason = escape((measure or {}).get("reason", "not measured"))
        return f'<span class="none" title="{reason}">{EN_DASH}</span>'
    value = percentage(measure["value"]) if percent else decimal(measure["value"])
    span = interval(measure, percent=percent)
    return f'{value}<span class="ci">{span}</span>' if span else value


def card(name: str, measure: Mapping[str, Any], *, percent: bool = False, note: str = "") -> str:
    """A headline figure, its interval, and where that lies between 0 and 1."""
    if measure["value"] is None:
        shown, track = EN_DASH, ""
        span = escape(measure.get("reason", ""))
    else:
        shown = percentage(measure["value"]) if percent else decimal(measure["value"])
        span = escape(interval(measure, percent=percent) + (f" · {note}" if note else ""))
        low = measure["value"] if measure["low"] is None else measure["low"]
        high = measure["value"] if measure["high"] is None else measure["high"]
        left, width = 100 * min(max(low, 0), 1), 100 * min(max(high - low, 0), 1)
        track = f'<span class="track"><i style="left:{left:.1f}%;width:{width:.1f}%"></i></span>'
    return (
        f'<div><dt>{escape(name)}</dt><dd><span class="big">{shown}</span>'
        f'<span class="span">{span}</span>{track}</dd></div>'
    )

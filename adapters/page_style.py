"""How every page looks that this project writes: no network, no scripts; phone and paper, light and dark."""

from collections.abc import Iterable, Mapping
from html import escape

COLOURS: Mapping[str, tuple[str, str]] = {
    "ink": ("#1b1f24", "#e6e9ec"),
    "dim": ("#5c6670", "#9aa5b0"),
    "paper": ("#fff", "#14181c"),
    "card": ("#f4f6f8", "#1d2329"),
    "line": ("#d9dee3", "#333b44"),
    "ground": ("#eef1f4", "#20272e"),
    "used": ("#3d7ec9", "#5b9be6"),
    "left": ("#b9d3ef", "#2d4766"),
    "bad": ("#c62f2f", "#ff6b6b"),
    "late": ("#f9dede", "#4a2323"),
    "outage": ("#8a939c", "#6b7580"),
    "hub": ("#b3a27a", "#8a7a52"),
    "good": ("#2c7a4b", "#5cc98a"),
    "calm": ("#8fbfa3", "#3f7d5a"),
    "clock": ("#8b3fb5", "#c583e8"),
    "wait": ("#e6c25c", "#a98a35"),
    "work": ("#e8793a", "#f08a4b"),
}
"By name: in the light, and in the dark."

_PAPER = {"ink": "#000", "dim": "#444", "card": "#fff", "line": "#bbb"}
"On paper what is not light."


def _variables(place: int, **other: str) -> str:
    return ";".join(f"--{name}:{other.get(name, pair[place])}" for name, pair in COLOURS.items())


_COMMON = f"""
:root{{{_variables(0)};color-scheme:light dark}}
@media (prefers-color-scheme:dark){{:root{{{_variables(1)}}}}}
*{{box-sizing:border-box}}
body{{margin:0 auto;padding:20px 16px 48px;max-width:1000px;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}}
h1{{font-size:1.35rem;margin:0;line-height:1.3}}h2{{font-size:1.05rem;margin:32px 0 8px}}
p{{margin:4px 0}}.dim{{color:var(--dim)}}.good{{color:var(--good)}}.bad{{color:var(--bad)}}
.verdict{{font-size:1.05rem;font-weight:600;margin:8px 0 16px}}
.cards{{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:8px;margin:0}}
.cards div{{background:var(--card);border-radius:6px;padding:8px 12px}}
dt{{color:var(--dim);font-size:.85rem}}dd{{margin:0;overflow-wrap:anywhere}}
.legend{{display:flex;flex-wrap:wrap;gap:2px 14px;margin:8px 0 0;padding:0;list-style:none;font-size:.85rem;
color:var(--dim)}}
.legend i{{display:inline-block;width:12px;height:10px;margin-right:5px;border-radius:2px}}
summary{{cursor:pointer;color:var(--dim);margin:8px 0}}
@media (max-width:560px){{.cards{{grid-template-columns:1fr 1fr}}}}
@media print{{:root{{{_variables(0, **_PAPER)}}}html{{font-size:11px}}
body{{max-width:none;padding:0;font-size:1rem}}
*{{print-color-adjust:exact;-webkit-print-color-adjust:exact}}.cards div{{border:1px solid var(--line)}}
h2{{break-after:avoid}}}}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"Whatever a page quotes, nothing of it runs or is fetched."


def document(title: str, style: str, parts: Iterable[str]) -> str:
    """The whole page; ``parts`` are HTML, escaped by who wrote them."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{_COMMON}{style}</style></head><body>\n"
        f"{''.join(parts)}</body></html>\n"
    )


def definitions(rows: Iterable[tuple[str, str]]) -> str:
    """What goes into a `dl`: labels and texts."""
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in rows)


def legend(rows: Iterable[tuple[str, str]]) -> str:
    """Colours, by the names of their variables, and what they stand for."""
    return "".join(
        f'<li><i style="background:var({colour})"></i>{escape(about)}</li>' for colour, about in rows
    )

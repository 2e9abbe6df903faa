"""What the pages of a run and of a table have in common: one file of HTML that needs no other, light or dark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

__all__ = ["html_document", "table_of_values"]


def html_document(title: str, content: str) -> str:
    """A page: its title as plain text, its content as HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><main>{content}</main></body></html>\n"
    )


def table_of_values(values: Mapping[str, Any]) -> str:
    """Names and values, one pair a row, as HTML; what is no text is shown as JSON."""
    rows = "".join(
        f"<tr><th>{escape(str(key))}</th>"
        f"<td><code>{escape(value if isinstance(value, str) else json.dumps(value))}</code></td></tr>"
        for key, value in values.items()
    )
    return f'<div class="scroll"><table class="plain">{rows}</table></div>'


_STYLE = """
:root { color-scheme: light dark;
  --page: #f6f6f4; --card: #ffffff; --text: #1d2023; --muted: #666d75; --line: #dfe1e4; --accent: #2a66a8;
  --good: #2e7d4f; --bad: #b3372f; --bad-soft: #fbe9e7;
  --s0: #2f6db5; --s1: #d07a1c; --s2: #2f8f63; --s3: #8a5bb5; --s4: #b84a62; --s5: #6a7480; --s6: #1f9aa6;
  --s7: #a3852b; }
@media (prefers-color-scheme: dark) { :root {
  --page: #141619; --card: #1d2024; --text: #e7e8ea; --muted: #9ba2ab; --line: #33383e; --accent: #82b4ea;
  --good: #6fc795; --bad: #f0877d; --bad-soft: #3a2321;
  --s0: #78aeea; --s1: #f0a653; --s2: #6fc795; --s3: #b995de; --s4: #e58a9e; --s5: #a7b0ba; --s6: #62c7d1;
  --s7: #d3b75f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 2px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 12px; }
h3 { font-size: 15px; margin: 22px 0 8px; }
p { margin: 6px 0; } .muted, figcaption, summary, .sub { color: var(--muted); }
code { font: 12.5px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 12px; margin: 18px 0; }
.tile, figure, .card, .box { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 14px 16px; border-top: 3px solid var(--s5); } .tile b { display: block; font-size: 30px;
  line-height: 1.2; }
.tile.s0 { border-top-color: var(--s0); } .tile.s1 { border-top-color: var(--s1); }
.tile.s2 { border-top-color: var(--s2); }
.box { padding: 12px 16px; margin: 12px 0; } .warn { background: var(--bad-soft); border-color: var(--bad);
  color: var(--bad); }
.scroll { overflow-x: auto; } .scroll.matrix { overflow: auto; max-height: 90vh; }
.drawn { display: grid; gap: 14px; margin-top: 14px; grid-template-columns: minmax(0, 1fr); }
.drawn img { max-width: 100%; min-width: 640px; display: block; }
.figures td, .figures th { white-space: nowrap; }
.figures td:first-child { white-space: normal; min-width: 11em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
.plain { width: 100%; } .plain th { text-align: left; color: var(--muted); font-weight: 500; }
.plain th, .plain td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.plain td small { color: var(--muted); white-space: nowrap; } .plain .changed td { font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 14px; }
.plots.small { grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); }
.heats { display: flex; flex-wrap: wrap; gap: 14px; margin: 14px 0; } .heats figure { max-width: 100%; }
figure { margin: 0; padding: 12px 14px; } figcaption { font-size: 13px; margin-bottom: 4px; }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 11px; fill: var(--muted); }
.plots.small svg text { font-size: 13px; } .plots.small svg .count { font-size: 12px; }
.grid { stroke: var(--line); } .mark { stroke: var(--muted); stroke-dasharray: 4 4; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 12.5px; color: var(--muted); margin-top: 6px; }
.legend i { display: inline-block; width: 12px; height: 3px; border-radius: 2px; margin-right: 6px;
  vertical-align: middle; }
.legend b { color: var(--text); font-weight: 500; }
.line.s0 { stroke: var(--s0); } .line.s1 { stroke: var(--s1); } .line.s2 { stroke: var(--s2); }
.line.s3 { stroke: var(--s3); }
.line.s4 { stroke: var(--s4); } .line.s5 { stroke: var(--s5); } .line.s6 { stroke: var(--s6); }
.line.s7 { stroke: var(--s7); }
i.s0 { background: var(--s0); } i.s1 { background: var(--s1); } i.s2 { background: var(--s2); }
i.s3 { background: var(--s3); }
i.s4 { background: var(--s4); } i.s5 { background: var(--s5); } i.s6 { background: var(--s6); }
i.s7 { background: var(--s7); }
.bar { fill-opacity: .75; stroke-width: 1; } .bar.s0 { stroke: var(--s0); } .bar.s1 { stroke: var(--s1); }
.bar.s2 { stroke: var(--s2); } .bar { stroke: var(--s5); }
svg .count { fill: var(--text); paint-order: stroke; stroke: var(--card); stroke-width: 3px; }
 .bar.s0, .dot.s0 { fill: var(--s0); } .bar.s1, .dot.s1 { fill: var(--s1); }
.bar.s2, .dot.s2 { fill: var(--s2); } .bar, .dot { fill: var(--s5); }
.heat { font-size: 11px; } .heat td { width: 26px; min-width: 26px; height: 24px; text-align: center;
  border: 1px solid var(--line); }
.heat tr:first-child td { border: 0; }
.heat th { font-weight: 400; text-align: right; padding-right: 6px; white-space: nowrap; position: sticky;
  background: var(--card); z-index: 1; }
.heat th span { display: inline-block; max-width: 14em; overflow: hidden; text-overflow: ellipsis;
  vertical-align: middle; }
.heat th[scope=row] { left: 0; }
.heat th[scope=col] { top: 0; vertical-align: bottom; padding: 0 0 5px; text-align: center; }
.heat th[scope=col] span { writing-mode: vertical-rl; transform: rotate(180deg); max-width: none; max-height: 14em; }
.heat tr:first-child td { position: sticky; top: 0; left: 0; background: var(--card); z-index: 2; }
.heat .hit { background: color-mix(in srgb, var(--accent) calc(var(--a) * 70%), transparent); }
.heat .miss { background: color-mix(in srgb, var(--bad) calc(10% + var(--a) * 75%), transparent); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(232px, 1fr)); gap: 12px; }
.card { padding: 10px; font-size: 12.5px; } .card .pictures { display: flex; gap: 6px; margin-bottom: 8px; }
.card img { width: 0; flex: 1; max-width: 104px; aspect-ratio: 1; border-radius: 6px; image-rendering: auto; }
.card b { font-size: 13.5px; } .card div.answer { display: flex; gap: 6px; }
.answer span:nth-child(1) { width: 3.2em; color: var(--muted); } .answer span:nth-child(2) { flex: 1; }
.card { min-width: 0; } .card b, .answer span:nth-child(2) { overflow-wrap: anywhere; min-width: 0; }
.answer span:nth-child(1), .answer span:last-child { flex: none; }
.yes { color: var(--good); } .no { color: var(--bad); }
details { margin: 10px 0; } summary { cursor: pointer; font-size: 14px; }
details[open] summary { margin-bottom: 8px; }
"""

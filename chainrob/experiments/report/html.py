"""The report in HTML: one file with the figures inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import get_args

from chainrob.experiments.report.document import (
    Block,
    Code,
    Image,
    Outcome,
    Section,
    Table,
    Text,
    Verdict,
    verdicts_by_rule,
)

__all__ = ["to_html"]

_STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --page: #fff; --quiet: #444; --line: #ccc;
        --strong: #666; --box: #f4f4f4; --good: #eaf4fb; --bad: #fdf0e8; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e4e4; --page: #16181b; --quiet: #b0b0b0; --line: #444; --strong: #999;
          --box: #24272b; --good: #12303f; --bad: #43260f; }
  a { color: #7ab8f5; } img { background: #fff; padding: .3rem; }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 .6rem; }
nav ul { columns: 2; padding-left: 1.2rem; }
nav li.sub { margin-left: 1.2rem; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: left;
         vertical-align: top; }
th { border-bottom: 2px solid var(--strong); }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: var(--quiet); font-size: .9rem; }
pre { background: var(--box); padding: .8rem; overflow-x: auto; font-size: .85rem; }
code { background: var(--box); }
.rule { margin: 1rem 0; } .rule p { margin: .3rem 0; }
.verdict { border-left: .4rem solid var(--strong); padding: .3rem .9rem; }
td.number, td.holds, td.doesnothold, td.notshown, td.cannotbesaid { white-space: nowrap; }
.holds { border-left-color: #0072B2; background: var(--good); }
.doesnothold { border-left-color: #D55E00; background: var(--bad); border-left-style: double; }
td.doesnothold { font-weight: bold; border-left-style: none; }
.notshown, .cannotbesaid { border-left-color: #888; background: var(--box); }
p.notshown, p.cannotbesaid { border-left-style: dotted; }
td.notshown, td.cannotbesaid { font-style: italic; }
@media (max-width: 40rem) {
  body { margin: 1rem auto; } nav ul { columns: 1; } h1 { font-size: 1.5rem; }
  th, td { padding: .25rem .4rem; }
}
@media print {
  :root { color-scheme: light; --text: #000; --page: #fff; --quiet: #333; --line: #bbb;
          --strong: #666; --box: #f4f4f4; --good: #eaf4fb; --bad: #fdf0e8; }
  body { max-width: none; margin: 0; font-size: 10pt; } nav { display: none; } a { color: inherit; }
  .table { overflow: visible; } td.number { white-space: normal; } pre { white-space: pre-wrap; }
  figure, .rule, tr { break-inside: avoid; } h1, h2, h3 { break-after: avoid; }
}
"""


def to_html(
    title: str, sections: Iterable[Section], pictures: Mapping[str, bytes] | None = None
) -> str:
    """The report as one HTML page that needs no other file.

    Args:
        title: Title of the page.
        sections: Content of the page.
        pictures: For the name of each image, the content of its PNG file.

    Returns:
        str: The page.

    Example:
        >>> from chainrob.experiments.report.document import Section, Text
        >>> from chainrob.experiments.report.html import to_html
        >>> "<p>1 &lt; <code>2</code></p>" in to_html("R", [Section("A", [Text("1 < `2`")])])
        True
    """
    sections = list(sections)
    contents, body = [], []
    for number, section in enumerate(sections):
        tag = f"h{section.level}"
        kind = ' class="sub"' if section.level > 2 else ""
        contents.append(f'<li{kind}><a href="#s{number}">{_inline(section.title)}</a></li>')
        body.append(f'<{tag} id="s{number}">{_inline(section.title)}</{tag}>')
        body += [_block(block, pictures or {}) for block in verdicts_by_rule(section.blocks)]
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    )
    navigation = "<nav><ul>\n" + "\n".join(contents) + "\n</ul></nav>\n"
    return (
        f"{head}<h1>{escape(title)}</h1>\n{navigation}" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _inline(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text, quote=False))


def _block(block: Block | list[Verdict], pictures: Mapping[str, bytes]) -> str:
    if isinstance(block, Text):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Code):
        return f"<pre>{escape(block.text, quote=False)}</pre>"
    if isinstance(block, Image):
        data = base64.b64encode(pictures[block.name]).decode()
        return (
            f'<figure><img alt="{escape(block.alt)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{_inline(block.caption)}</figcaption></figure>"
        )
    if isinstance(block, Table):
        head = "".join(f"<th>{_inline(str(cell))}</th>" for cell in block.columns)
        rows = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in block.rows)
        return f'<div class="table"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>'
    verdicts = block if isinstance(block, list) else [block]
    found = [
        f'<p class="verdict {_class(v.outcome)}"><strong>{v.outcome}</strong>: {_inline(v.claim)}. '
        f"Found: {_inline(v.found)}</p>"
        for v in verdicts
    ]
    return "\n".join(
        ['<div class="rule">', f"<p>Rule: {_inline(verdicts[0].rule)}</p>", *found, "</div>"]
    )


def _cell(cell: object) -> str:
    text, kind = str(cell), ""
    if text in get_args(Outcome):
        kind = f' class="{_class(text)}"'
    elif re.fullmatch(r"-?[\d.]+ \[[^\]]*\]", text):  # a number and its interval
        kind = ' class="number"'
    return f"<td{kind}>{_inline(text)}</td>"


def _class(outcome: str) -> str:
    return outcome.replace(" ", "")

"""A summary for people to read: text for a terminal, Markdown and HTML."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from tabulate import DataRow, TableFormat, tabulate

from openvclip.report.summary.collect import Summary
from openvclip.report.summary.columns import Column
from openvclip.report.summary.notes import HEADINGS
from openvclip.report.summary.sweeps import PICTURE
from openvclip.report.summary.tables import Table, list_tables
from openvclip.utils.text import clean

PICTURE_TITLE = "Accuracy against the patching ratio"
# GitHub's Markdown without the spaces that align columns: nobody reads a table this wide as text.
MARKDOWN = TableFormat(
    lineabove=None, linebelowheader=lambda widths, _: "|" + "---|" * len(widths),
    linebetweenrows=None, linebelow=None, headerrow=DataRow("|", "|", "|"),
    datarow=DataRow("|", "|", "|"), padding=1, with_header_hide=None,
)
STYLE = """
body { max-width: 100em; margin: 2em auto; padding: 0 1em; color: #222; background: #fff;
       font: 15px/1.45 system-ui, sans-serif; }
h1 { margin: 2em 0 .6em; font-size: 1.4em; }
h2 { margin: 1.6em 0 .4em; font-size: 1.1em; }
p, li { max-width: 60em; overflow-wrap: anywhere; }
img { max-width: 100%; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: left;
         vertical-align: top; }
th, td:nth-child(-n+4) { white-space: normal; overflow-wrap: break-word; max-width: 24em; }
th { border-bottom: 2px solid #888; }
tbody tr:hover { background: #f3f6fa; }
"""

# ---- Terminal ----------------------------------------------------------------------------------
def format_text(summary: Summary, width: int = 120) -> str:
    """Format tables and notes as plain text; a table too wide is split between its groups."""
    parts = []
    for table in list_tables(summary):
        below = [*table.legend, table.footer, *table.sources]
        parts += [table.title, *_split_table(table, width), _wrap_all(below, width)]
        parts += [_wrap_all(table.notes, width)] if table.notes else []
    parts += [
        "\n".join([heading, *(_wrap(text, width, "  - ", "    ") for text in texts)])
        for heading, texts in _notes_by_heading(summary)
    ]
    return "\n\n".join(parts) + "\n"


def _split_table(table: Table, width: int) -> Iterator[str]:
    """Yield the table, split between groups of columns where it is wider than ``width``."""
    columns: list[Column] = []
    for _, group in groupby(table.columns, key=lambda column: column.group):
        more = [*columns, *group]
        if columns and max(map(len, _align(table, more))) > width:
            yield "\n".join(_align(table, columns))
            more = more[len(columns):]
        columns = more
    yield "\n".join(_align(table, columns))


def _align(table: Table, columns: Sequence[Column]) -> list[str]:
    """Lines of a table with some of its columns, under the headings of its rows."""
    heads = [[*table.label, *(column.kind for column in columns)]]
    if any(column.group for column in columns):
        heads.insert(0, [*("" for _ in table.label), *(column.group for column in columns)])
    places = [table.columns.index(column) for column in columns]
    cells = [[clean(text) for text in (*row.label, *(row.cells[place] for place in places))]
             for row in table.rows]
    # Its cells are not numbers: they have signs, and all the same number of decimals.
    sides = ["left"] * len(table.label) + [table.side] * len(columns)
    text = tabulate([*heads, *cells], tablefmt="plain", disable_numparse=True, colalign=sides)
    lines = [line.rstrip() for line in text.splitlines()]
    if any(row.heading for row in table.rows):  # below which the rows are set in
        lines = [f"  {line}" for line in lines]
    above, below = lines[:len(heads)], lines[len(heads):]
    body, last = [], ""
    for row, line in zip(table.rows, below, strict=True):
        if row.heading != last:
            body.append(clean(row.heading))
            last = row.heading
        body.append(line)
    rule = "-" * max(map(len, [*above, *body]))
    return [*above, rule, *body, rule]


def _wrap(text: str, width: int, first: str = "", rest: str = "  ") -> str:
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=rest,
        break_long_words=False, break_on_hyphens=False,
    )


def _wrap_all(texts: Sequence[str], width: int) -> str:
    return "\n".join(_wrap(clean(text), width) for text in texts)


def _notes_by_heading(summary: Summary) -> Iterator[tuple[str, list[str]]]:
    """Yield each heading that has notes, with their texts."""
    for kind, notes in groupby(summary.notes, key=lambda note: note.kind):
        texts = []
        for note in notes:
            every = len(note.rows) == len(summary.rows) > 1
            of = "all rows: " if every else f"{'; '.join(note.rows)}: " if note.rows else ""
            texts.append(clean(of + note.text))
        yield HEADINGS[kind], texts


# ---- Files -------------------------------------------------------------------------------------
def _list_blocks(summary: Summary) -> Iterator[tuple[str, Any]]:
    """Yield what a file shows, in order: its kind, an HTML element or "table", and its content."""
    for table in list_tables(summary):
        yield "h1", table.title
        yield "table", table
        if table.legend:
            yield "ul", table.legend
        yield from (("p", text) for text in (table.footer, *table.notes))
    if summary.sweeps.curves:
        yield "img", PICTURE
    for heading, texts in _notes_by_heading(summary):
        yield "h2", heading
        yield "ul", texts


def format_markdown(summary: Summary) -> str:
    """Format tables and notes as GitHub's Markdown."""

    def show(kind: str, content: Any) -> str:
        if kind == "table":
            rows = [[*map(escape_markdown, cells)] for cells in content.cells]
            return tabulate(rows, content.header, MARKDOWN, disable_numparse=True, stralign=None)
        if kind == "ul":
            return "\n".join(f"- {escape_markdown(text)}" for text in content)
        if kind == "img":
            return f"![{PICTURE_TITLE}]({content})"
        return {"h1": "# ", "h2": "## ", "p": ""}[kind] + escape_markdown(content)

    return "\n\n".join(show(*block) for block in _list_blocks(summary)) + "\n"


def escape_markdown(text: str) -> str:
    """Return text on one line, without a meaning in Markdown."""
    text = clean(text)
    for sign in "\\|*`<":
        text = text.replace(sign, f"\\{sign}")
    return text


def format_html(summary: Summary) -> str:
    """Format tables and notes as a page for a browser, without scripts or links."""

    def show(kind: str, content: Any) -> str:
        if kind == "table":
            rows = [[*map(clean, cells)] for cells in content.cells]
            table = tabulate(rows, content.header, "html", disable_numparse=True, stralign=None)
            return f'<div class="wide">{table}</div>'
        if kind == "ul":
            return f"<ul>{''.join(show('li', text) for text in content)}</ul>"
        if kind == "img":
            return f'<img src="{content}" alt="{PICTURE_TITLE}">'
        return f"<{kind}>{html.escape(clean(content))}</{kind}>"

    body = "\n".join(show(*block) for block in _list_blocks(summary))
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n<title>openvclip: results</title>\n'
        f"<style>{STYLE}</style>\n<body>\n{body}\n</body>\n</html>\n"
    )

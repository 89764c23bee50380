"""Finding the commands in the documentation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGES = ("README.md", "INSTALL.md", "docs/*.md", "*/README.md")
SHELL = ("bash", "sh", "console", "shell")
FENCE = re.compile(r"^ *```+ *(\w*) *$")
SPAN = re.compile(r"`([^`]+)`")
# A span of code is a command if it starts a program; names of files and options are not.
STARTS = re.compile(r"^(?:[A-Z_]+=\S* )*(?:python3?|openvclip|bash|torchrun|pip|apt) \S")


@dataclass(frozen=True)
class Command:
    """A command or block of Python in a page; ``text`` is on one line, a block as it is."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


@dataclass
class Page:
    """What a page has to be run, in its order."""

    name: str
    commands: list[Command]
    blocks: list[Command]
    others: list[Command]


def find_pages(root: Path) -> list[str]:
    found = {str(path.relative_to(root)) for pattern in PAGES for path in root.glob(pattern)}
    return sorted(found - {"docs/api.md"})


def read_page(root: Path, name: str) -> Page:
    """Read the shell commands (fenced and in the text), Python blocks and other fenced blocks."""
    page = Page(name, [], [], [])
    language, start, block, prose = None, 0, [], []
    for number, line in enumerate((root / name).read_text(encoding="utf-8").splitlines(), 1):
        fence = FENCE.match(line)
        if fence and language is None:
            page.commands += _spans(name, prose)
            language, start, block, prose = fence[1], number + 1, [], []
        elif fence:
            _add_block(page, language, start, block)
            language = None
        elif language is None:
            prose.append((number, line))
        else:
            block.append(line)
    assert language is None, f"{name}: the block in line {start} has no end"
    page.commands += _spans(name, prose)
    return page


def _add_block(page: Page, language: str, start: int, lines: list[str]) -> None:
    if language in SHELL:
        page.commands += _commands(page.name, start, lines)
    else:
        found = page.blocks if language in ("python", "py") else page.others
        found.append(Command(page.name, start, "\n".join(lines) + "\n"))


def _commands(name: str, start: int, lines: list[str]) -> list[Command]:
    """Join lines that end in a backslash; leave comments out."""
    found, parts, first = [], [], start
    for number, line in enumerate(lines, start):
        text = re.sub(r"(^|\s)#.*$", "", line).strip().removeprefix("$ ")
        first = first if parts else number
        parts.append(text.removesuffix("\\").strip())
        if not text.endswith("\\"):
            if any(parts):
                found.append(Command(name, first, " ".join(filter(None, parts))))
            parts = []
    return found


def _spans(name: str, prose: list[tuple[int, str]]) -> list[Command]:
    """Commands between backticks; a span may go on in the next line."""
    text = "\n".join(line for _, line in prose)
    found = []
    for match in SPAN.finditer(text):
        span = " ".join(match[1].split())
        if STARTS.match(span):
            line = prose[text[:match.start()].count("\n")][0]
            found.append(Command(name, line, span))
    return found

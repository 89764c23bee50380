"""The live line in a real pseudo-terminal: it never wraps, the log goes above it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from openvclip.utils.live import Field, fit

BEGIN = """
import sys, time
from openvclip.utils import live
from openvclip.utils.command_line import run_tool
from openvclip.utils.logging import Progress, get_logger, setup_logging
live.PERIOD = 0.0
setup_logging(sys.argv[1])
"""
WORK = """
def work():
    progress = Progress(3, "testing " + "x" * 30, "videos", period=0.0)
    for i in range(3):
        progress.update(note="n" * 30)
        if i == 1:
            get_logger().warning("%s", "careful " * 15)
            END
run_tool(work, log=False)
"""


class Screen:
    """As much of a terminal as the log uses; text that reaches the edge is noted as wrapped."""

    def __init__(self, columns: int) -> None:
        self.columns, self.lines, self.column, self.wrapped = columns, [""], 0, []

    def feed(self, text: str) -> Screen:
        for part in re.findall(r"\r|\n|\x1b\[K|\x1b|[^\r\n\x1b]+", text):
            if part == "\r":
                self.column = 0
            elif part == "\n":
                self.lines.append("")
            elif part == "\x1b[K":
                self.lines[-1] = self.lines[-1][:self.column]
            else:
                assert part != "\x1b", "an unknown control sequence"
                line = self.lines[-1].ljust(self.column)
                self.lines[-1] = line[:self.column] + part + line[self.column + len(part):]
                self.column += len(part)
                if self.column >= self.columns:
                    self.wrapped.append(part)
        return self


@pytest.fixture
def terminal(tmp_path, repo):
    """Run code in a terminal of so many columns; returns its screen and the log file's text."""

    def start(code: str, columns: int = 80, term: str = "xterm") -> tuple[Screen, str]:
        mine, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-c", BEGIN + code, str(tmp_path)], stdout=theirs, stderr=theirs,
            stdin=subprocess.DEVNULL, cwd=repo, env={**os.environ, "TERM": term},
        )
        os.close(theirs)
        found = b""
        while True:
            try:
                piece = os.read(mine, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            found += piece
        process.wait(30)
        os.close(mine)
        self = Screen(columns).feed(found.decode())
        self.raw = found.decode()
        return self, (tmp_path / "stdout.log").read_text()

    return start


@pytest.mark.parametrize("columns", [20, 80, 120, 400])
def test_the_line_never_wraps_and_the_log_stands_above_it(terminal, columns):
    screen, log = terminal(WORK.replace("END", "pass"), columns)
    assert all("careful" in text or "testing" in text for text in screen.wrapped)
    drawn = [text for text in re.findall(r"\r\x1b\[K([^\r\n\x1b]*)", screen.raw) if text]
    live_lines = [text for text in drawn if not text.startswith("[")]
    assert live_lines and all(len(text) < columns for text in live_lines)
    assert [line.split("] ")[-1][:7] for line in screen.lines] == ["careful", "testing", ""]
    assert screen.column == 0, "the cursor is on a fresh line"
    # The file has every plain line and no control characters.
    assert [f"{i}/3 videos" in log for i in (1, 2, 3)] == [True] * 3
    assert "\r" not in log and "\x1b" not in log


@pytest.mark.parametrize(("end", "said"), [
    ("raise RuntimeError('broken')", "RuntimeError: broken"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)",
     "[WARNING] stopped by Ctrl-C"),
    ("raise live_error()", "[ERROR] DataError: no such list"),
])
def test_an_end_in_the_middle_leaves_a_fresh_line(terminal, end, said):
    code = ("from openvclip.utils.errors import DataError\n"
            "def live_error(): return DataError('no such list')\n")
    screen, _ = terminal(code + WORK.replace("END", end))
    (at,) = [i for i, line in enumerate(screen.lines) if line.startswith("testing")]
    assert "2/3" in screen.lines[at], "it still says how far the work had come"
    assert "careful" in screen.lines[at - 1]
    assert any(said in line for line in screen.lines[at + 1:])
    assert screen.column == 0 and screen.lines[-1] == ""


def test_a_dumb_terminal_gets_plain_lines(terminal):
    screen, log = terminal(WORK.replace("END", "pass"), term="dumb")
    assert "\x1b" not in screen.raw and "\r" not in screen.raw.replace("\r\n", "\n")
    assert screen.raw.replace("\r\n", "\n") == log and log.count("testing") == 3


def test_a_warning_of_python_does_not_run_into_the_line(terminal):
    screen, _ = terminal(WORK.replace("END", "import warnings; warnings.warn('soon gone')"))
    (line,) = [line for line in screen.lines if "soon gone" in line]
    assert line.startswith("[") and "testing" not in line


def test_short_pieces_and_few_of_them_where_there_is_little_room():
    fields = [Field("epoch 1/8", "1/8"), Field("learning rate 0.1", "lr 0.1", 2),
              Field("ETA 1:00", "1:00", 1)]
    assert fit(fields, 38) == "epoch 1/8  learning rate 0.1  ETA 1:00"
    assert fit(fields, 37) == "1/8  lr 0.1  1:00"
    assert fit(fields, 16) == "1/8 lr 0.1 1:00"
    assert fit(fields, 14) == "1/8 1:00"
    assert fit(fields, 4) == "1/8" and fit(fields, 2) == "1/" and fit(fields, 0) == ""
    assert fit([Field("日本\x1b[2J", "")], 80) == "???[2J"

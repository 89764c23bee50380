"""docs/api.md is what the docstrings say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import make_api_docs

    yield make_api_docs
    sys.modules.pop("make_api_docs")


def test_the_page_is_up_to_date(tool, capsys):
    assert tool.main(["--check"]) == 0, "run: python tools/make_api_docs.py"


def test_a_changed_docstring_is_noticed(tool, tmp_path, monkeypatch, capsys):
    stale = tmp_path / "api.md"
    stale.write_text(tool.render().replace("Draw the share", "Draw a share"))
    monkeypatch.setattr(tool, "OUTPUT", stale)
    assert tool.main(["--check"]) == 1
    assert "out of date; run" in capsys.readouterr().err
    assert tool.main([]) == 0 and tool.main(["--check"]) == 0


def test_links_lead_somewhere(tool):
    page = tool.render()
    headings = {tool.anchor(line.lstrip("# ")) for line in page.splitlines()
                if line.startswith("#")}
    anchors = re.findall(r"\]\(#([^)]+)\)", page)
    assert len(anchors) >= 15 and set(anchors) <= headings
    for link in re.findall(r"\]\(\.\./([^)]+)\)", page):
        assert (ROOT / link).is_file()
    assert ":func:" not in page and "``" not in page.replace("```", "")


SOURCE = '''
"""A module of ``names``."""

def measure(video: str, *, scale: float = 1.0, **more: int) -> list[float]:
    """Measure it as :func:`other` does.

    Args:
        video: a file, which may
            be long.
        scale, more: factors.

    Returns:
        One number a frame.

    Raises:
        DataError: it is not there.
    """

def _hidden():
    """Not shown."""
'''


def test_a_docstring_becomes_markdown(tool, tmp_path, monkeypatch):
    (tmp_path / "some.py").write_text(SOURCE.lstrip())
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    lines, names = tool.render_module(tmp_path / "some.py", "some", [])
    assert names == ["measure"]
    text = "\n".join(lines)
    assert "A module of `names`." in text
    assert "measure(video: str, *, scale: float = 1.0, **more: int) -> list[float]" in text
    assert "Measure it as `other` does." in text
    assert "- `video`: a file, which may be long.\n- `scale`, `more`: factors." in text
    assert "Returns: One number a frame." in text and "- `DataError`: it is not there." in text
    with pytest.raises(SystemExit, match="no public nothing"):
        tool.render_module(tmp_path / "some.py", "some", ["nothing"])

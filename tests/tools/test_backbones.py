"""``openvclip backbones``: its table, its count, and that docs/backbones.md has the same rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from openvclip.clip.open_clip_names import import_open_clip
from openvclip.commands.backbones import main
from openvclip.models.backbone.listing import format_head
from openvclip.models.backbone.survey import list_pairs

PAGE = (Path(__file__).resolve().parents[2] / "docs/backbones.md").read_text(encoding="utf-8")


def read_rows(text: str) -> dict[str, set[str]]:
    """Return the table's rows: model -> weights."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| model |"):
            model, tags = line.strip("| ").split(" | ")[:2]
            found.setdefault(model, set()).update(tags.split(", "))
    return found


def test_names_choose_rows_and_the_page_has_them(capsys):
    assert main(["rn50", "ViT-B-32-2*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "\n".join(lines[:2]) == format_head() and format_head() in PAGE
    assert set(read_rows("\n".join(lines))) == {"RN50", "ViT-B-32-256"}
    if import_open_clip().__version__ in PAGE:  # another may list other weights
        assert not set(lines) - set(PAGE.splitlines()), "the page's table is out of date"
    # 12 blocks of 64 patches and a class token, 768 channels; as multiplications and additions:
    # projections and MLP 12·D², attention 2·L·D, and patches of 32x32x3.
    length, width = 65, 768
    operations = 8 * 2 * (12 * length * (12 * width**2 + 2 * length * width)
                          + (length - 1) * 32 * 32 * 3 * width + width * 512)
    cells = next(line for line in lines if "ViT-B-32-256" in line).split(" | ")
    assert cells[3:] == [f"{operations / 1e9:.0f}", "256, shortest, bicubic", "65", "all |"]


def test_the_page_has_every_pair():
    if import_open_clip().__version__ not in PAGE:
        pytest.skip("the page is about another version of open_clip")
    pairs = {f"{model}/{tag}" for model, tags in read_rows(PAGE).items() for tag in tags}
    assert pairs == set(list_pairs())
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    some = sum(len(row.split(" | ")[1].split(", ")) for row in rows if row.endswith("| all |"))
    assert f"{some} of the {len(pairs)} pairs" in PAGE
    assert f"the other {len(pairs) - some} none." in PAGE


def test_check_counts_and_says_why_not(capsys):
    assert main(["--check", "RN50", "ViT-B-32-256"]) == 0
    counts, refused = capsys.readouterr().out.splitlines()
    assert counts == "4 pairs of a model and its weights: frames alone 4, temporal view 1"
    assert refused.startswith("3: the frames of this tower cannot see each other: its image tower "
                              "(ModifiedResNet) has no blocks of attention")
    assert refused.endswith(": RN50/openai, RN50/yfcc15m, RN50/cc12m")


def test_a_name_that_does_not_exist_is_one_line(capsys):
    assert main(["ViT-B-17"]) == 2
    (line,) = "".join(capsys.readouterr()).splitlines()
    assert "no weights for ViT-B-17" in line


def test_open_clip_s_results_are_a_column(tmp_path, capsys):
    table = tmp_path / "results.csv"
    table.write_text("name,pretrained,ImageNet 1k\nRN50,openai,0.5982\n")
    assert main(["RN50", "--results", str(table)]) == 0
    head, _, row = capsys.readouterr().out.splitlines()
    assert head.endswith("| ImageNet, %, of each, by open_clip's own table |")
    assert "openai, yfcc15m, cc12m" in row and row.endswith("| 59.8, -, - |")
    table.write_text("model,accuracy\nRN50,59.8\n")
    assert main(["RN50", "--results", str(table)]) == 2
    (line,) = "".join(capsys.readouterr()).splitlines()
    assert "results.csv is not a table of open_clip's results" in line

"""Few-shot, base-to-novel and supervised tables: numbers worked out by hand, and the notes."""

from __future__ import annotations

import csv
import json

import pytest

from openvclip.data.lists.draws import parse_draw, read_draw
from openvclip.data.prepare.subsets import plan_base_to_novel, plan_few_shot
from openvclip.data.prepare.writer import write_preparation
from openvclip.report.summary.collect import summarize
from openvclip.report.summary.files import build_json, save_summary
from openvclip.report.summary.formats import format_markdown, format_text
from openvclip.report.summary.published import PUBLISHED_PROMPTS_SHA256
from openvclip.report.summary.sections import compute_harmonic_mean, name_dataset
from openvclip.utils.errors import DataError


def draw(kind, seed=1, shots=16, dataset="ucf101_split1"):
    return {"kind": kind, "dataset": dataset, "shots": shots, "seed": seed}


def training(own, seed=None, **changes):
    """What a result says of a training on the lists of a draw."""
    return {"list": "label_db/x/train.csv", "label_set": "f" * 64, "draw": own,
            "interpolated": True, "seed": own["seed"] if seed is None else seed, **changes}


@pytest.fixture
def write(tmp_path):
    """Write a ``results.json``; ``top1`` is a number, or ratio -> number."""

    def start(folder, top1, weights="a", **changes):
        sweep = top1 if isinstance(top1, dict) else {None: top1}
        content = {
            "list": f"/lists/{folder}/test.csv", "draw": None,
            "label_set": {"file": "m.json", "classes": 51, "sha256": "e" * 64},
            "prompts": {"name": "openvclip28", "count": 28, "sha256": PUBLISHED_PROMPTS_SHA256},
            "arch": "vitb16", "clip": {"source": "ViT-B-16.pt", "sha256": "a" * 64},
            "checkpoint": weights and {"file": f"/runs/{weights}/swa.pth", "sha256": weights},
            "trained_on": None, "temporal_modeling": "expand_temporal_view",
            "frames": 8, "views": 1, "crops": 1, "ensemble": "sum", "videos": 100, "failed": [],
            "results": [{"patching_ratio": ratio, "top1": value, "top5": value + 5}
                        for ratio, value in sweep.items()],
            **changes,
        }
        path = tmp_path / folder / "results.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))

    return start


@pytest.fixture
def table(tmp_path, repo):
    return lambda **options: summarize([tmp_path], root=repo, **options)


def notes(summary, kind):
    return [note.text for note in summary.notes if note.kind == kind]


def write_base_to_novel(write, seed, base, novel, weights=None):
    own = training(draw("base", seed))
    for kind, value in (("base", base), ("novel", novel)):
        if value is not None:
            write(f"s{seed}_{weights}/{kind}", value, weights or f"w{seed}",
                  draw=draw(kind, seed), trained_on=own)


def test_harmonic_mean():
    assert compute_harmonic_mean(90.0, 60.0) == pytest.approx(72.0)
    assert compute_harmonic_mean(0.0, 0.0) == 0.0


def test_base_and_novel_of_three_seeds(write, table):
    for seed, base, novel in ((1, 90.0, 60.0), (2, 93.0, 63.0), (3, 96.0, 66.0)):
        write_base_to_novel(write, seed, base, novel)
    summary = table()
    (section,) = summary.sections
    (line,) = section.lines
    assert line.dataset == "UCF-101 split 1, 16 shots" and line.seeds == ["1", "2", "3"]
    assert line.number("base") == (pytest.approx(93.0), pytest.approx(6**0.5))
    assert line.number("novel") == (pytest.approx(63.0), pytest.approx(6**0.5))
    harmonic = [2 * b * n / (b + n) for b, n in ((90, 60), (93, 63), (96, 66))]
    mean = sum(harmonic) / 3
    spread = (sum((x - mean) ** 2 for x in harmonic) / 3) ** 0.5
    assert line.number("hm") == (pytest.approx(2 * 93 * 63 / 156), pytest.approx(spread))
    assert [line.marks(column) for column in ("base", "novel", "hm")] == ["", "", ""]
    assert not summary.notes, "nothing is missing, and nothing is outside the tables"
    text = format_text(summary)
    assert "Zero-shot" not in text and "93.0 ± 2.4" in text and "75.1 ± 2.5" in text


def test_novel_tests_find_their_base_by_the_weights(write, table):
    write_base_to_novel(write, 1, 90.0, None)
    write_base_to_novel(write, 2, 92.0, None)
    for weights, value in (("w1", 60.0), ("w2", 64.0)):  # the lists of seed 1 serve both
        write(f"novel_{weights}", value, weights, draw=draw("novel", 1))
    line = table().sections[0].lines[0]
    assert {seed: test.value for seed, test in line.cells["novel"].items()} == {
        "1": 60.0, "2": 64.0}


def test_a_base_without_its_novel_is_said_and_has_no_harmonic_mean(write, table, tmp_path):
    write_base_to_novel(write, 1, 90.0, None)
    summary = table()
    (line,) = summary.sections[0].lines
    assert line.number("base") == (90.0, None) and line.number("hm") is None
    (note,) = notes(summary, "missing")
    assert f"seed 1: {tmp_path}/s1_None/base tests the base classes, but no test of the novel" in (
        note)
    write_base_to_novel(write, 2, 92.0, 60.0)
    summary = table()
    (line,) = summary.sections[0].lines
    assert line.number("hm") == (pytest.approx(2 * 92 * 60 / 152), None)
    assert [line.marks(c) for c in ("base", "novel", "hm")] == ["", "†", "†"]
    assert "no harmonic mean" in notes(summary, "partial")[0]


def test_few_shot_by_shots_and_seeds(write, table):
    for shots in (2, 4, 8, 16):
        for seed in (1, 2):
            own = draw("few-shot", seed, shots)
            write(f"k{shots}_{seed}", 60.0 + shots + seed, f"{shots}{seed}", draw=own,
                  trained_on=training(own, interpolated=shots > 0))
    write("clip", 50.0, None, draw=draw("few-shot", 1, 2))
    summary = table()
    (section,) = summary.sections
    assert list(section.columns.values()) == ["K = 0", "K = 2", "K = 4", "K = 8", "K = 16"]
    raw, tuned = section.lines
    assert raw.method == "CLIP" and raw.number("0") == (50.0, None)
    assert tuned.number("16") == (77.5, 0.5)
    assert not summary.notes
    line = [row for row in format_markdown(summary).splitlines() if "swa.pth" in row]
    assert line == ["| UCF-101 split 1 | B/16 | swa.pth | 1 x 1 views, 8 frames | - | 63.5 ± 0.5 | "
                    "65.5 ± 0.5 | 69.5 ± 0.5 | 77.5 ± 0.5 | 1, 2 |"]


def test_shots_are_those_of_the_training_not_of_the_tested_list(write, table):
    write("x", 70.0, draw=draw("few-shot", 1, 2), trained_on=training(draw("few-shot", 3, 8)))
    line = table().sections[0].lines[0]
    assert list(line.cells) == ["8"] and line.seeds == ["3"]
    assert notes(table(), "missing")[0].endswith("no results with K = 2, 4, 16")


def test_seeds_that_are_lacking_are_marked(write, table):
    for shots, seed in ((2, 1), (2, 2), (4, 2)):
        own = draw("few-shot", seed, shots)
        write(f"k{shots}_{seed}", 60.0, f"{shots}{seed}", draw=own, trained_on=training(own))
    summary = table()
    (line,) = summary.sections[0].lines
    assert (line.marks("2"), line.marks("4")) == ("", "†")
    assert "K = 4 lacks the seeds 1" in notes(summary, "partial")[0]


def test_seeds_of_the_training_on_one_draw_are_kept_apart(write, table):
    own = draw("few-shot", 1, 4)
    for seed in (1, 7):
        write(f"t{seed}", 60.0 + seed, f"t{seed}", draw=own, trained_on=training(own, seed))
    assert table().sections[0].lines[0].seeds == ["1", "1/7"]


@pytest.mark.parametrize("trained, said", [
    (None, "was trained on is not known: no config.yaml"),
    (training(draw("few-shot", 1, 4, "hmdb_split1")), "was trained on label_db/x/train.csv, not"),
    ({**training(draw("base")), "draw": None}, "not on these lists' draw"),
])
def test_weights_of_another_training_are_said(write, table, trained, said):
    write("x", 70.0, draw=draw("few-shot", 1, 4), trained_on=trained)
    (note,) = notes(table(), "training")
    assert said in note


def test_supervised_results_are_those_on_the_training_classes(write, table):
    trained = training(draw("base"), draw=None, label_set="e" * 64)
    write("k400", 80.0, trained_on=trained, views=4, crops=3,
          list="label_db/weng_compress_full_splits/test.csv")
    write("zero_shot", 40.0, trained_on={**trained, "label_set": "d" * 64})
    summary = table(protocols=None)
    section, own = summary.sections
    assert [(line.dataset, line.setup) for line in section.lines] == [
        ("K400 val", "4 x 3 views, 8 frames")]
    assert section.lines[0].number("top5") == (85.0, None)
    assert [line.dataset for line in own.lines] == ["zero_shot"], "its classes are others"


def test_cleaned_lists_are_named_by_what_they_are_of(write, table):
    trained = training(draw("base"), draw=None, label_set="e" * 64)
    for name, top1 in (("a", 80.0), ("b", 60.0)):
        write(name, top1, trained_on=trained, list=f"/x/{name}/clean/test.csv")
    (section,) = table(protocols=None).sections
    assert {line.dataset: line.number("top1")[0] for line in section.lines} == {
        "a/clean": 80.0, "b/clean": 60.0}


def test_own_lists_have_a_table_of_their_own(write, table, tmp_path):
    trained = training(None, seed=1)
    write("mine/a", {0.0: 40.0, 0.5: 60.0}, "x", trained_on=trained, list="/d/one/mine/test.csv")
    write("mine/b", 50.0, "y", list="/d/one/mine/test.csv")
    write("mine/c", 45.0, "z", list="/d/one/mine/test.csv")
    write("mine/d", 30.0, None, list="/d/two/mine/test.csv")
    summary = table()
    assert not summary.zero_shot
    (own,) = summary.sections
    assert own.columns == {"top1": "top-1", "top5": "top-5"}
    assert {(line.dataset, line.method): line.number("top1")[0] for line in own.lines} == {
        ("one/mine", "swa.pth, ratio 0"): 40.0, ("one/mine", "swa.pth, ratio 0.5"): 60.0,
        ("one/mine", "swa.pth, y y"): 50.0, ("one/mine", "swa.pth, z z"): 45.0,
        ("two/mine", "CLIP"): 30.0}
    text = format_text(summary)
    assert "Accuracy on own test sets (%)" in text and "60.0" in text
    assert "# Accuracy on own test sets" in format_markdown(summary)
    save_summary(summary, tmp_path / "out")
    with open(tmp_path / "out" / "summary_protocols.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["measure"] == "top-1"]
    assert {row["table"] for row in rows} == {"own"} and len(rows) == 5
    assert not table(protocols=["ucf101_full"]).sections, "others were asked for"


def test_methods_are_told_apart(write, table):
    own = draw("few-shot", 1, 4)
    given = {"draw": own, "trained_on": training(own)}
    write("a", {0.0: 60.0, 0.5: 62.0}, **given)
    write("b", 61.0, draw=own, trained_on=training(own, interpolated=False))
    write("c", 63.0, **given, prompts={"name": "action16", "count": 16, "sha256": "1"})
    write("f", 62.0, draw=own, trained_on=training(own, captions="trainable"))
    write("d", 64.0, **given, views=3)
    write("e", 65.0, **given, temporal_modeling="channel_shift", views=3)
    found = {line.method for line in table().sections[0].lines}
    assert found == {
        "swa.pth, plain", "swa.pth, ratio 0", "swa.pth, ratio 0.5", "swa.pth, prompts action16",
        "swa.pth, expand_temporal_view", "swa.pth, channel_shift",
        "swa.pth, captions (trainable text tower)",
    }


def test_of_two_tests_one_is_shown_and_the_other_named(write, table):
    own = draw("few-shot", 1, 4)
    for name in ("a", "b"):
        write(name, 60.0, draw=own, trained_on=training(own),
              failed=[{"row": 1, "path": "x", "reason": "y"}])
    for name in ("c", "d"):
        write(name, 50.0, None, draw=own)
    summary = table()
    (note,) = notes(summary, "replaced")
    assert "left out" in note and "CLIP" not in note
    assert "60.0‡" in format_text(summary) and "1 of 100" in notes(summary, "failed")[0]


def test_chosen_protocols_choose_tables_too(write, table):
    write("a", 60.0, draw=draw("few-shot", 1, 4))
    write("b", 60.0, draw=draw("few-shot", 1, 4, "hmdb_split1"))
    found = table(protocols=["hmdb51"]).sections[0].lines
    assert [line.dataset for line in found] == ["HMDB-51 split 1"]
    assert not notes(table(protocols=["hmdb51"]), "other")


def test_files_have_every_number(write, table, tmp_path):
    write_base_to_novel(write, 1, 90.0, 60.0)
    summary = table()
    paths = save_summary(summary, tmp_path / "out")
    assert [path.name for path in paths] == [
        "summary.md", "summary.csv", "summary.json", "summary_protocols.csv"]
    with open(paths[-1], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["measure"], row["mean"], row["std"], row["seeds"]) for row in rows] == [
        ("base", "90.00", "", "1"), ("novel", "60.00", "", "1"), ("HM", "72.00", "", "1")]
    (found,) = json.loads(json.dumps(build_json(summary)))["tables"]
    assert found["lines"][0]["cells"]["base"]["results"]["1"]["value"] == 90.0
    assert found["lines"][0]["cells"]["hm"]["mean"] == pytest.approx(72.0)


@pytest.mark.parametrize("name, shown", [
    ("ucf101_split2", "UCF-101 split 2"), ("hmdb_full", "HMDB-51 full"), ("ssv2", "SSv2 val"),
    ("kinetics400", "K400 val"), ("ucf101_half3", "UCF-101 half 3"), ("mine", "mine"),
])
def test_names_of_datasets(name, shown):
    assert name_dataset(name) == shown


def make_source(folder):
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        rows = (f"{name}/{label}/{i}.mp4,{label}\n" for label in range(4) for i in range(4))
        (folder / f"{name}.csv").write_text("".join(rows))
    label_map = folder / "x-index2cls.json"
    label_map.write_text('{"0": "a", "1": "b", "2": "c", "3": "d"}')
    return folder, label_map


def test_lists_say_what_they_were_drawn_from(tmp_path):
    source, label_map = make_source(tmp_path / "zs_label_db" / "hmdb_split1")
    write_preparation(plan_few_shot(source, label_map, tmp_path / "few", shots=[2], seed=5))
    write_preparation(plan_base_to_novel(source, label_map, tmp_path / "half", shots=2, seed=6))
    assert read_draw(tmp_path / "few/shots_2") == parse_draw(
        draw("few-shot", 5, 2, "hmdb_split1"))
    for kind in ("base", "novel"):
        assert read_draw(tmp_path / "half" / kind) == parse_draw(draw(kind, 6, 2, "hmdb_split1"))
    assert read_draw(source) is None and read_draw(tmp_path / "absent") is None
    other, label_map = make_source(tmp_path / "mine")
    write_preparation(plan_few_shot(other, label_map, tmp_path / "f", shots=[2]))
    assert read_draw(tmp_path / "f/shots_2").dataset == "mine"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"kind": "few-shot"}', "[" * 100_000,
                                  '{"kind": "base", "dataset": "x", "shots": "2", "seed": 1}'])
def test_draws_that_say_nothing_are_refused_by_name(tmp_path, text):
    (tmp_path / "draw.json").write_text(text)
    with pytest.raises(DataError, match="draw.json"):
        read_draw(tmp_path)


def test_names_and_seeds_of_several_lines_stay_in_their_row(write, table):
    trained = training(draw("base"), draw=None, label_set="e" * 64, seed="1\n\u20282")
    write("a", 80.0, "x\n\x1by", trained_on=trained, list="/d/m\u2028n/test.csv")
    for text in (format_text(table()), format_markdown(table())):
        (line,) = [line for line in text.splitlines() if "80.0" in line]
        assert r"\u2028n" in line and r"\u20282" in line

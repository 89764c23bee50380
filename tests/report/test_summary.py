"""The zero-shot table from made-up results: numbers worked out by hand, and every kind of note."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import subprocess
import sys

import pytest

from openvclip.data.lists.labels import LabelSpace
from openvclip.data.lists.protocols import PROTOCOLS, draw_halves
from openvclip.report.summary.collect import summarize
from openvclip.report.summary.columns import COLUMNS
from openvclip.report.summary.files import build_csv, build_json, save_summary
from openvclip.report.summary.formats import format_html, format_markdown, format_text
from openvclip.report.summary.published import PUBLISHED, PUBLISHED_PROMPTS_SHA256
from openvclip.report.summary.runs import find_backbone
from openvclip.utils.errors import ConfigError, DataError

TUNED = {"file": "/runs/swa_2_22.pth", "sha256": "b" * 64}
UCF_SPLITS = {"ucf101_split1": 82.0, "ucf101_split2": 83.0, "ucf101_split3": 87.0}


@pytest.fixture
def write(tmp_path, repo):
    """Write a ``results.json`` as a test of a protocol leaves it; keywords replace fields."""

    def label_set(protocol):
        if protocol.kind != "half":
            space = LabelSpace.from_json(repo / protocol.label_map)
        else:
            full = PROTOCOLS[protocol.of]
            draw = draw_halves(full.classes, protocol.classes)[int(protocol.name[-1])]
            names = LabelSpace.from_json(repo / full.label_map).names
            space = LabelSpace(tuple(names[i] for i in draw))
        return {"file": protocol.label_map, "classes": len(space), "sha256": space.digest()}

    def start(name, top1, folder=None, **changes):
        protocol = PROTOCOLS[name]
        sweep = top1 if isinstance(top1, dict) else {None: top1}
        content = {
            "list": f"{protocol.folder}/test.csv",
            "label_set": label_set(protocol),
            "prompts": {"count": 28, "sha256": PUBLISHED_PROMPTS_SHA256},
            "arch": "vitb16",
            "clip": {"source": "/clip/ViT-B-16.pt", "sha256": "a" * 64},
            "checkpoint": None,
            "temporal_modeling": "expand_temporal_view",
            "frames": 8, "views": 3, "crops": 1, "ensemble": "sum",
            "videos": protocol.rows or 20000, "failed": [], "seconds": 1.0,
            "results": [
                {"patching_ratio": ratio, "top1": value, "top5": min(value + 5, 100.0),
                 "top1_decoded": value, "top5_decoded": min(value + 5, 100.0)}
                for ratio, value in sweep.items()
            ],
            **changes,
        }
        path = tmp_path / (folder or name) / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return start


@pytest.fixture
def table(tmp_path, repo):
    """Summarise what the test has written."""
    return lambda **options: summarize([tmp_path], root=repo, **options)


def cell(row, key):
    (column,) = (column for column in COLUMNS if column.key == key)
    return row.cell(column)


def notes(summary, kind):
    return [note.text for note in summary.notes if note.kind == kind]


def test_splits_are_mean_and_population_deviation(write, table):
    for name, top1 in UCF_SPLITS.items():
        write(name, top1)
    summary = table()
    found = cell(summary.rows[0], "ucf101_split")
    assert found.mean == pytest.approx(84.0)
    assert found.std == pytest.approx((14 / 3) ** 0.5)  # squares of -2, -1 and 3
    assert found.marks == ""
    assert "84.0 ± 2.2" in format_text(summary) and "ddof 0" in format_text(summary)


def test_halves_are_mean_over_ten_draws(write, table):
    for draw in range(10):
        write(f"hmdb_half{draw}", 60.0 + draw)
    found = cell(table().rows[0], "hmdb51_half")
    assert (found.mean, found.std) == (pytest.approx(64.5), pytest.approx(8.25**0.5))
    assert not notes(table(), "setup"), "the label sets of the draws are recognised"


def test_a_good_row_has_no_mark_and_only_missing_notes(write, table):
    write("ucf101_full", 74.25)
    summary = table()
    assert {note.kind for note in summary.notes} == {"missing"}
    (missing,) = notes(summary, "missing")
    assert missing.startswith("UCF-101 3 splits, UCF-101 half x 10, HMDB-51 full, HMDB-51 3 splits")
    assert "derive_results.py can make some of them from" in missing
    assert "SSv2" not in missing and "UCF-101 full" not in missing


def test_each_ratio_of_a_sweep_is_a_row_in_order(write, table):
    sweep = {0.5: 83.0, 0.0: 80.0, 1.0: 74.0}
    write("ucf101_full", sweep, checkpoint=TUNED)
    write("hmdb_full", {0.5: 53.0}, checkpoint=TUNED)
    write("ucf101_full", {1.0: 74.5}, folder="raw")  # CLIP patched with CLIP
    rows = table().rows
    assert [row.label for row in rows] == [
        "CLIP", "swa_2_22.pth, ratio 0", "swa_2_22.pth, ratio 0.5", "swa_2_22.pth, ratio 1"
    ]
    assert [cell(row, "ucf101_full").mean for row in rows] == [74.5, 80.0, 83.0, 74.0]
    assert cell(rows[2], "hmdb51_full").mean == 53.0 and cell(rows[1], "hmdb51_full") is None


@pytest.mark.parametrize("changes, suffix", [
    ({"checkpoint": {"file": "/other/swa_2_22.pth", "sha256": "c" * 64}}, "other"),
    ({"checkpoint": {"file": "/runs/swa_2_22.pth", "sha256": "c" * 64}}, "weights cccccccc"),
    ({"temporal_modeling": "channel_shift"}, "channel_shift"),
    ({"clip": {"source": "/clip/ViT-B-16.pt", "sha256": "d" * 64}}, "CLIP dddddddd"),
    ({"prompts": {"count": 1, "sha256": "e" * 64}}, "prompts eeeeeeee"),
    ({"prompts": {"name": "action16", "count": 16, "sha256": "e" * 64}}, "prompts action16"),
    ({"prompts": {"name": "descriptions", "count": 9, "sha256": "e" * 64,
                  "descriptions": {"file": "/a/ucf.json", "sha256": "d" * 64}}},
     "prompts descriptions ucf.json"),
])
def test_other_weights_or_prompts_make_a_row_of_another_name(write, table, changes, suffix):
    write("ucf101_full", 80.0, checkpoint=TUNED)
    write("hmdb_full", 50.0, **{"checkpoint": TUNED, **changes})
    labels = [row.label for row in table().rows]
    assert len(set(labels)) == 2 and f"swa_2_22.pth, {suffix}" in labels


def test_fewer_splits_are_marked_and_named(write, table):
    write("ucf101_split1", 82.0)
    write("ucf101_split3", 84.0)
    summary = table()
    found = cell(summary.rows[0], "ucf101_split")
    assert (found.mean, found.std, found.marks) == (83.0, 1.0, "†")
    assert notes(summary, "partial") == ["UCF-101 3 splits: 2 of 3; missing: ucf101_split2"]
    assert "UCF-101 3 splits" not in notes(summary, "missing")[0]


def test_failed_videos_are_marked_and_counted(write, table):
    failed = [{"row": row, "path": "a.avi", "reason": "damaged"} for row in (3, 4)]
    write("ucf101_full", 80.0, failed=failed)
    summary = table()
    assert cell(summary.rows[0], "ucf101_full").marks == "‡"
    assert notes(summary, "failed") == ["ucf101_full: 2 of 13,320"]
    assert "80.0‡" in format_text(summary)


def test_other_numbers_of_videos_are_noted(write, table):
    write("hmdb_full", 50.0, videos=5000)
    write("k600_split1", 70.0, videos=7300)
    summary = table()
    assert cell(summary.rows[0], "hmdb51_full").marks == "§"
    (note,) = notes(summary, "rows")
    assert "hmdb_full: 5,000 of the 5,100 videos of the published list" in note
    assert "k600_split1: 7,300 videos, the published list has 7,276" in note


@pytest.mark.parametrize("name, changes, said", [
    ("ucf101_full", {"label_set": {"file": "my.json", "classes": 101, "sha256": "f" * 64}},
     "another label set: my.json with 101 classes; the protocol's is zs_label_db/ucf101-"),
    ("hmdb_half3", {"label_set": {"file": "my.json", "classes": 25, "sha256": "f" * 64}},
     "the protocol's is draw 3 of zs_label_db/hmdb-index2cls.json"),
    ("ucf101_full", {"label_set": None}, "another label set: None"),
    ("ucf101_full", {"prompts": {"count": 1, "sha256": "12345678abc"}},
     r"another prompt set \(count 1, sha256 12345678\)"),
    ("ucf101_full", {"prompts": {"name": "name_only", "count": 1, "sha256": "12345678abc"}},
     r"another prompt set, name_only \(count 1, sha256 12345678\)"),
    ("ucf101_full", {"views": 10, "crops": 3}, "views 10 instead of 3, crops 3 instead of 1"),
    ("ucf101_full", {"frames": 16}, "frames 16 instead of 8"),
    ("ucf101_full", {"ensemble": "max"}, "ensemble max instead of sum"),
])
def test_tests_made_otherwise_are_marked_and_described(write, table, name, changes, said):
    write(name, 80.0, **changes)
    summary = table()
    (note,) = notes(summary, "setup")
    assert re.search(said, note)
    assert "¶" in format_text(summary).split("official")[0]


def test_rows_of_different_prompts_are_said_not_to_compare(write, table):
    write("ucf101_full", 80.0)
    write("ucf101_full", 81.0, folder="b", prompts={"count": 1, "sha256": "e" * 64})
    assert "the rows were made with 2 different prompt sets and do not compare" in notes(
        table(), "setup")


def test_a_row_of_other_prompts_says_so_even_alone(write, table):
    write("ucf101_full", 80.0, prompts={"name": "my/own.txt", "count": 2, "sha256": "e" * 64})
    summary = table()
    assert [row.label for row in summary.rows] == ["CLIP, prompts own.txt"]
    assert "80.0¶" in format_text(summary)
    line = dict(zip(*build_csv(summary)[:2], strict=True))
    assert line["prompts"] == "own.txt"
    assert build_json(summary)["rows"][0]["prompt_set"] == "own.txt"


def test_missing_label_maps_are_named_not_taken_for_other_labels(write, tmp_path):
    write("ucf101_full", 80.0)
    write("ucf101_half0", 80.0)
    summary = summarize([tmp_path], root=tmp_path)
    (note,) = notes(summary, "unchecked")
    assert "zs_label_db/ucf101-index2cls.json" in note
    assert not notes(summary, "setup")


def age(path, seconds):
    os.utime(path, (path.stat().st_mtime - seconds,) * 2)


def test_of_two_results_the_newer_is_shown_and_the_other_named(write, table, tmp_path):
    age(write("ucf101_full", 80.0, folder="new"), 5)
    age(write("ucf101_full", 70.0, folder="old"), 500)
    summary = table()
    assert cell(summary.rows[0], "ucf101_full").mean == 80.0
    (note,) = notes(summary, "replaced")
    assert note == (f"ucf101_full: shown is {tmp_path}/new (newer, 80.0), "
                    f"left out {tmp_path}/old (70.0)")


def test_of_two_results_the_one_tested_by_the_protocol_is_shown(write, table):
    write("ucf101_full", 80.0, folder="views_10", views=10)
    age(write("ucf101_full", 79.0, folder="views_3"), 500)
    summary = table()
    assert cell(summary.rows[0], "ucf101_full").mean == 79.0
    assert "tested as the protocol says" in notes(summary, "replaced")[0]
    assert not notes(summary, "setup"), "what is left out is not described any further"


def test_unknown_lists_have_a_table_and_the_union_is_listed_beside_it(write, table, tmp_path):
    write("ucf101_full", 81.0, folder="mine", list="/data/mine/test.csv")
    write("k600_union", 61.0)
    write("ucf101_full", 0.0, folder="charades",
          results=[{"patching_ratio": None, "map_decoded": 22.5}])
    summary = table()
    found = sorted(notes(summary, "other"))
    assert found == [
        f"{tmp_path}/charades: ucf101_full, with several labels per video: mAP 22.5 %",
        f"{tmp_path}/k600_union: k600_union, all 217 classes of its splits together: top-1 61.0 %",
    ]
    assert "can make some of them from" in notes(summary, "missing")[0]
    (section,) = summary.sections
    assert section.key == "own" and [line.dataset for line in section.lines] == ["mine"]
    text = format_text(summary)
    assert text.count("81.0") == 1 and "Accuracy on own test sets (%)" in text


def test_a_result_of_the_union_says_what_follows_from_it(write, table, tmp_path):
    write("hmdb_union", 50.0)
    (other,) = notes(table(), "other")
    assert other == (f"{tmp_path}/hmdb_union: hmdb_union, all videos of its splits together: "
                     "top-1 50.0 %")
    assert f"can make some of them from {tmp_path}/hmdb_union)" in notes(table(), "missing")[0]
    write("hmdb_full", 51.0)  # from which the halves and split 1 follow, too
    (missing,) = notes(table(), "missing")
    assert f"from {tmp_path}/hmdb_full, {tmp_path}/hmdb_union)" in missing


def test_derived_results_count_and_are_said_once(write, table):
    for name, top1 in UCF_SPLITS.items():
        write(name, {0.4: top1, 0.5: top1}, checkpoint=TUNED, derived_from={"protocol": "x"})
    summary = table()
    assert [cell(row, "ucf101_split").marks for row in summary.rows] == ["", ""]
    (note,) = notes(summary, "derived")
    assert note.startswith("UCF-101 3 splits: from the saved predictions")


def write_config(folder, **test):
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"TEST": {"ENABLE": True, **test}, "MODEL": {"ARCH": "vitl14"}})
    (folder / "config.yaml").write_text(text)
    return hashlib.sha256(text.encode()).hexdigest()


def test_unfinished_and_unreadable_tests_are_named(write, table, tmp_path):
    write("ucf101_full", 80.0)
    write_config(tmp_path / "busy")
    write_config(tmp_path / "broken")
    (tmp_path / "broken" / "stdout.log").write_text(
        "[07/01 10:00:00][INFO] a\n[07/01 10:00:01][ERROR] DataError: no list\n[x][INFO] b\n"
    )
    write_config(tmp_path / "training", ENABLE=False)
    write_config(tmp_path / "views", NUM_TEMPORAL_CLIPS=[1, 3])
    write("hmdb_full", 50.0, folder="views/views_1")
    (tmp_path / "garbled").mkdir()
    (tmp_path / "garbled" / "config.yaml").write_text("TEST: [}")
    (tmp_path / "half_written").mkdir()
    (tmp_path / "half_written" / "results.json").write_text('{"list": "')
    found = notes(table(), "unfinished")
    assert [note.split(":")[0].removeprefix(f"{tmp_path}/") for note in found] == [
        "broken", "busy", "garbled", "half_written", "views/views_3"
    ]
    assert found[0].endswith("unfinished; its log says: DataError: no list")
    assert "config.yaml cannot be read" in found[2] and "cannot read" in found[3]


def test_results_older_than_a_failed_rerun_are_told(write, table, tmp_path):
    digest = write_config(tmp_path / "ucf101_full")
    write("ucf101_full", 80.0, config_sha256=digest)
    assert notes(table(), "unfinished") == []
    write_config(tmp_path / "ucf101_full", BATCH_SIZE=4)
    (note,) = notes(table(), "unfinished")
    assert "later test there failed or is unfinished" in note
    write("ucf101_full", 80.0, config_sha256=digest, derived_from={})
    assert notes(table(), "unfinished") == []


@pytest.mark.parametrize("changes, said", [
    ({"results": []}, "no videos"),
    ({"results": [{"patching_ratio": None}]}, "accuracy None"),
    ({"results": [{"patching_ratio": None, "top1": float("nan")}]}, "accuracy nan"),
    ({"results": [{"patching_ratio": "x", "top1": 1.0}]}, "'results' has"),
    ({"failed": [{"row": 99999}]}, "'failed' has"),
    ({"videos": None}, "'videos' is None"),
    ({"clip": "ViT"}, "'clip' is 'ViT'"),
])
def test_foreign_results_are_named(write, table, changes, said):
    write("hmdb_full", 50.0)
    write("ucf101_full", 80.0, **changes)
    (note,) = notes(table(), "unfinished")
    assert "ucf101_full" in note and said in note


@pytest.mark.parametrize("arch, source, config, backbone", [
    ("vitb32", "x.pt", "", "B/32"),
    ("vitl14_336", "x.pt", "", "L/14@336"),
    ("auto", "/a/ViT-L-14-336px.pt", "", "L/14@336"),
    ("auto", "/a/ViT-B-16.pt", "", "B/16"),
    ("auto", "hf-hub:laion/CLIP-ViT-B-32-laion2B", "", "B/32"),
    (None, "clip.pt", "MODEL: {ARCH: vitl14}", "L/14"),
    (None, "clip.pt", "MODEL: 3", "?"),
    ("auto", "tiny.pt", "", "?"),
])
def test_backbone_is_told_by_arch_config_or_file_name(tmp_path, arch, source, config, backbone):
    if config:
        (tmp_path / "config.yaml").write_text(config)
    content = {"arch": arch, "clip": {"source": source}}
    assert find_backbone(tmp_path, content) == backbone


def test_published_rows_are_those_of_the_backbones_present(write, table):
    write("ucf101_full", 80.0, arch="vitl14")
    assert {row.backbone for row in table().published} == {"L/14"}
    write("ucf101_full", 80.0, folder="b", arch="vitb32", clip={"source": "b32", "sha256": "3"})
    assert {row.backbone for row in table().published} == {"L/14"}
    assert "None are known for B/32." in format_text(table())


def test_all_published_rows_are_shown_where_no_backbone_can_be_told(write, table):
    write("ucf101_full", 80.0, arch="auto", clip={"source": "tiny.pt", "sha256": "1"})
    summary = table()
    assert summary.published == list(PUBLISHED)
    text = format_text(summary)
    assert text.index("unknown backbone") < text.index("published by others")
    assert "83.4 ± 1.2" in text and "88.7" in text


def test_published_numbers_belong_to_columns_and_the_prompts_are_the_models():
    from openvclip.models.text import TEMPLATES

    keys = {column.key for column in COLUMNS}
    assert all(set(row.numbers) <= keys and row.numbers for row in PUBLISHED)
    digest = hashlib.sha256("\n".join(TEMPLATES).encode()).hexdigest()
    assert digest == PUBLISHED_PROMPTS_SHA256


@pytest.mark.parametrize("names, keys", [
    (["ucf101_split2"], ["ucf101_split"]),
    (["hmdb51", "kinetics400"], ["hmdb51_full", "hmdb51_split", "hmdb51_half", "kinetics400_full"]),
    (["kinetics600_split", "ssv2"], ["kinetics600_split", "ssv2_full"]),
])
def test_protocols_choose_columns_and_what_can_be_missing(write, table, names, keys):
    write("ucf101_full", 80.0)
    summary = table(protocols=names)
    assert [column.key for column in summary.columns] == keys
    assert "UCF-101 full" not in format_text(summary)


def test_unknown_protocols_are_refused(write, table):
    write("ucf101_full", 80.0)
    with pytest.raises(ConfigError, match="ucf_split9: unknown; .*hmdb51, .*ssv2, "):
        table(protocols=["ucf101", "ucf_split9"])


def test_text_fits_120_columns_and_is_split_between_datasets(write, table):
    for name, protocol in PROTOCOLS.items():
        write(name, 75.0 + len(name), checkpoint={**TUNED, "file": "x" * 90 + ".pth"},
              failed=[{"row": 0, "path": "a", "reason": "b"}], videos=(protocol.rows or 9) + 1)
    text = format_text(table())
    table_part = text.split("UCF-101 full:")[0]
    assert max(map(len, table_part.splitlines())) <= 120
    heads = [line.split() for line in table_part.splitlines() if "-101" in line or "K600" in line]
    assert heads == [["UCF-101"] * 3 + ["HMDB-51"] * 3, ["K600", "K400", "SSv2"]]


def test_markdown_has_as_many_cells_in_every_line(write, table):
    write("ucf101_full", {0.5: 80.0}, checkpoint={**TUNED, "file": "a|b.pth"})
    lines = [line for line in format_markdown(table()).splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert len(cells) == 1 and len(lines) == 2 + 1 + 7
    assert r"| B/16 | a\|b.pth, ratio 0.5 | ours | 80.0 | - |" in lines[2]
    assert lines[3].startswith("| B/16 | CLIP | published: FROSTER's table | 74.2 | 73.8 ± 0.6 |")


def test_csv_and_json_have_every_number(write, table):
    for name, top1 in UCF_SPLITS.items():
        write(name, top1)
    summary = table()
    header, first, published = build_csv(summary)[:3]
    line = dict(zip(header, first, strict=True))
    assert line["source"] == "ours" and line["ucf101_full"] == ""
    assert [line[f"ucf101_split_{x}"] for x in ("mean", "std", "lists")] == ["84.00", "2.16", 3]
    line = dict(zip(header, published, strict=True))
    assert (line["ucf101_full"], line["ucf101_split_std"]) == ("74.20", "0.60")
    content = json.loads(json.dumps(build_json(summary)))
    results = content["rows"][0]["cells"]["ucf101_split"]["results"]
    assert {name: result["top1"] for name, result in results.items()} == UCF_SPLITS
    assert results["ucf101_split1"]["top5"] == 87.0
    assert content["published"][0]["numbers"]["ucf101_split"] == {"mean": 73.8, "std": 0.6}


def start(repo, *args):
    return subprocess.run(
        [sys.executable, str(repo / "tools" / "summarize.py"), *map(str, args)],
        capture_output=True, text=True, encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )


def test_tool_prints_and_saves(write, repo, tmp_path):
    write("ucf101_full", 80.0, folder="a/ucf101_full")
    write("hmdb_full", 50.0, folder="b/hmdb_full")
    done = start(repo, tmp_path / "a", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    assert "Zero-shot top-1 accuracy" in done.stdout
    markdown = (tmp_path / "a" / "summary.md").read_text("utf-8")
    assert "| B/16 | CLIP | ours | 80.0 | - | - | 50.0 |" in markdown
    with open(tmp_path / "a" / "summary.csv", newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["hmdb51_full"] == "50.00"
    assert json.loads((tmp_path / "a" / "summary.json").read_text("utf-8"))["rows"]
    # Its own output is no test, and can be put elsewhere.
    done = start(repo, tmp_path / "a", "--output", tmp_path / "new", "--protocols", "hmdb51")
    assert done.returncode == 0 and "UCF-101" not in done.stdout
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_tool_ends_quietly_when_its_output_is_not_read_on(write, repo, tmp_path):
    write("ucf101_full", 80.0)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, str(repo / "tools" / "summarize.py"), str(tmp_path)],
        stdout=writer, stderr=subprocess.PIPE, text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(tmp_path.glob("summary.*"))) == 3


def test_tool_ends_with_2_without_results(repo, tmp_path):
    write_config(tmp_path / "busy")
    done = start(repo, tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"no results.json of a test under {tmp_path}" in done.stdout
    assert "busy: no results.json" in done.stdout
    assert start(repo, tmp_path / "absent").returncode == 2
    assert not list(tmp_path.glob("summary.*"))


def test_unwritable_output_is_an_error_that_names_it(write, repo, tmp_path):
    write("ucf101_full", 80.0)
    (tmp_path / "file").write_text("")
    done = start(repo, tmp_path, "--output", tmp_path / "file")
    assert done.returncode == 2 and "give another --output" in done.stdout
    assert "80.0" in done.stdout, "the table is shown nevertheless"


def test_table_needs_no_torch(repo):
    code = "import sys, openvclip.report.summary.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repo).returncode == 0


def test_a_missing_folder_is_named(tmp_path, repo):
    with pytest.raises(DataError, match="no folder .*absent"):
        summarize([tmp_path / "absent"], root=repo)


def test_the_page_has_the_tables_and_notes_of_the_text_and_no_names_that_are_markup(
        write, table, tmp_path):
    write("ucf101_full", {0.5: 80.0}, checkpoint={**TUNED, "file": "<script>x\x1b&y.pth"})
    (tmp_path / "busy").mkdir()
    write_config(tmp_path / "busy")
    page = format_html(table())
    assert "<h1>Zero-shot top-1 accuracy (%)</h1>" in page and "80.0" in page
    assert "&lt;script&gt;x\\x1b&amp;y.pth, ratio 0.5" in page and "<script" not in page
    assert page.count("<table>") == 1 and page.count("<tr>") == 1 + 1 + 7
    assert f"{tmp_path}/busy: no results.json" in page and "74.2" in page
    assert [path.name for path in save_summary(table(), tmp_path / "out", page=True)] == [
        "summary.md", "summary.csv", "summary.json", "summary.html"]
    assert (tmp_path / "out" / "summary.html").read_text("utf-8") == page

"""Accuracy against the patching ratio: which tests make a curve, and what is set against what."""

from __future__ import annotations

import json
import logging
import os

import pytest
import yaml

from openvclip.data.lists.labels import find_digest
from openvclip.data.lists.protocols import PROTOCOLS
from openvclip.demo.table import SETS
from openvclip.report import plots
from openvclip.report.plots import compute_tradeoff, draw_ratio_sweep
from openvclip.report.styles import BLUE, ORANGE, colour_runs, style_sets
from openvclip.report.summary.collect import summarize
from openvclip.report.summary.files import build_json, save_summary
from openvclip.report.summary.formats import format_markdown
from openvclip.report.summary.sweeps import PICTURE, name_lists, write_test_sweep
from openvclip.utils.errors import ConfigError

RATIOS = (0.0, 0.5, 1.0)
FALLING, RISING = (80.0, 70.0, 50.0), (40.0, 60.0, 50.0)


def content(listed, top1, checkpoint, label_map="x-index2cls.json", ratios=RATIOS,
            trained_on=None):
    return {
        "list": listed, "label_set": {"file": label_map, "classes": 3, "sha256": label_map},
        "checkpoint": checkpoint and {"file": str(checkpoint), "sha256": None},
        "clip": {"source": "/clip/ViT-B-16.pt", "sha256": "a"}, "arch": "vitb16",
        "videos": 9, "failed": [], "seconds": 1.0, "trained_on": trained_on,
        "results": [{"patching_ratio": r, "top1": v, "top5": v, "top1_decoded": v,
                     "top5_decoded": v} for r, v in zip(ratios, top1, strict=True)],
    }


@pytest.fixture
def write(tmp_path):
    """Write a test's results; each is a second newer than the one before."""
    written = []

    def start(listed, top1, checkpoint="/runs/a/swa.pth", **options):
        folder = tmp_path / "tests" / str(len(written))
        folder.mkdir(parents=True)
        path = folder / "results.json"
        path.write_text(json.dumps(content(listed, top1, checkpoint, **options)))
        written.append(path)
        os.utime(path, (1e9 + len(written),) * 2)

    return start


@pytest.fixture
def sweeps(tmp_path, repo):
    return lambda **options: summarize([tmp_path / "tests"], root=repo, **options).sweeps


def protocol_list(name):
    return f"{PROTOCOLS[name].folder}/test.csv"


def test_lists_are_named_by_as_many_folders_as_it_takes():
    assert name_lists(["d/unseen/test.csv", "d/knew/test.csv"]) == {
        "d/unseen/test.csv": "unseen", "d/knew/test.csv": "knew"}
    assert list(name_lists(["a/x/test.csv", "b/x/test.csv"]).values()) == ["a/x", "b/x"]
    assert list(name_lists(["a/x/clean/test.csv"]).values()) == ["x/clean"]
    assert list(name_lists(["a/x/test.csv", "a/x/test_openset.csv"]).values()) == [
        "x", "test_openset"]
    assert name_lists(["test.csv"]) == {"test.csv": "test.csv"} and name_lists([]) == {}


def test_kinetics_400_is_set_against_the_others(write, sweeps):
    write(protocol_list("ucf101_full"), RISING)
    write(protocol_list("kinetics400"), FALLING)
    write(protocol_list("hmdb_full"), RISING)
    found = sweeps()
    assert list(found.curves) == ["swa.pth"]
    assert list(found.curves["swa.pth"]) == ["K400 val", "HMDB-51 full", "UCF-101 full"]
    assert found.curves["swa.pth"]["K400 val"] == dict(zip(RATIOS, FALLING, strict=True))
    assert (found.trained, found.zero_shot) == (["K400 val"], ["HMDB-51 full", "UCF-101 full"])


def test_a_column_of_several_lists_is_their_mean_where_all_are_there(write, sweeps):
    for number in (1, 2, 3):
        write(protocol_list(f"ucf101_split{number}"), [x + number for x in RISING])
    write(protocol_list("ucf101_split1"), [99.0], ratios=(0.3,))
    assert sweeps().curves["swa.pth"] == {"UCF-101 3 splits": {0.0: 42.0, 0.5: 62.0, 1.0: 52.0}}


def test_the_trained_set_is_that_of_the_config_beside_the_checkpoint(write, sweeps, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    config = {"TRAIN": {"ENABLE": True}, "DATA": {"INDEX_LABEL_MAPPING_FILE": "d/ours.json"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for checkpoint in (run / "swa.pth", run / "checkpoints" / "checkpoint_epoch_00002.pyth"):
        write("data/ours/test.csv", FALLING, checkpoint, label_map="elsewhere/ours.json")
        write("data/new/test.csv", RISING, checkpoint, label_map="elsewhere/new.json")
        write(protocol_list("kinetics400"), RISING, checkpoint)
    found = sweeps()
    assert list(found.curves) == ["checkpoint_epoch_00002.pyth", "swa.pth"]
    assert found.trained == ["ours"] and sorted(found.zero_shot) == ["K400 val", "new"]
    # A test in the same folder later leaves a config that says nothing of the training.
    config["TRAIN"]["ENABLE"] = False
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert sweeps().trained == ["K400 val"]


def test_classes_that_were_trained_on_are_told_by_their_sha256(write, sweeps, tmp_path):
    labels = {"run": ["x", "y"], "same": ["x", "y"], "other": ["x", "z"]}
    digests = {}
    for name, classes in labels.items():
        (tmp_path / name).mkdir()
        path = tmp_path / name / "labels.json"  # one name for different classes
        path.write_text(json.dumps(dict(enumerate(classes))))
        digests[name] = find_digest(path)

    def tests(trained_on, checkpoint):
        for name, points in (("same", FALLING), ("other", RISING)):
            write(f"data/{name}/test.csv", points, checkpoint, label_map=digests[name],
                  trained_on=trained_on)

    tests({"label_set": digests["run"]}, "/gone/swa.pth")
    assert (sweeps().trained, sweeps().zero_shot) == (["same"], ["other"])
    # Results of older versions: by the label map that the training's config names.
    config = {"TRAIN": {"ENABLE": True},
              "DATA": {"INDEX_LABEL_MAPPING_FILE": str(tmp_path / "run" / "labels.json")}}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    tests(None, tmp_path / "run" / "old.pth")
    assert (sweeps().trained, sweeps().zero_shot) == (["same"], ["other"])


def test_one_can_say_which_sets_are_trained(write, sweeps):
    write("d/ours/test.csv", FALLING)
    write("d/new/test.csv", RISING)
    assert (sweeps().trained, sweeps().zero_shot) == ([], [])
    found = sweeps(trained=["ours"])
    assert (found.trained, found.zero_shot) == (["ours"], ["new"])
    with pytest.raises(ConfigError, match="--trained mine: not tested.*new, ours"):
        sweeps(trained=["mine"])


def test_single_ratios_of_one_checkpoint_come_together_and_the_newer_counts(write, sweeps):
    write("d/new/test.csv", [10.0], ratios=(0.0,))
    write("d/new/test.csv", [20.0], ratios=(0.5,))
    write("d/new/test.csv", [30.0], ratios=(0.5,))
    write("d/new/test.csv", [90.0], "/runs/b/swa.pth", ratios=(0.5,))  # another's, alone
    write("d/new/test.csv", [50.0], None, ratios=(1.0,))
    assert sweeps().curves == {"swa.pth": {"new": {0.0: 10.0, 0.5: 30.0}}}


def test_checkpoints_of_one_name_are_told_apart_and_only_common_sets_compared(write, sweeps):
    for run in "ab":
        write(protocol_list("kinetics400"), FALLING, f"/runs/{run}/swa.pth")
        write(protocol_list("ucf101_full"), RISING, f"/runs/{run}/swa.pth")
    write(protocol_list("hmdb_full"), RISING, "/runs/a/swa.pth")
    found = sweeps()
    assert list(found.curves) == ["swa.pth, a", "swa.pth, b"]
    assert found.zero_shot == ["UCF-101 full"] and "HMDB-51 full" in found.curves["swa.pth, a"]


def test_the_summary_has_the_picture_or_none(write, tmp_path, repo):
    write("d/new/test.csv", [10.0], ratios=(0.0,))
    out = tmp_path / "out"
    summary = summarize([tmp_path / "tests"], root=repo)
    assert PICTURE not in [path.name for path in save_summary(summary, out)]
    assert not (out / PICTURE).exists() and PICTURE not in format_markdown(summary)
    write("d/new/test.csv", RISING)
    summary = summarize([tmp_path / "tests"], root=repo)
    assert save_summary(summary, out)[-1] == out / PICTURE
    assert (out / PICTURE).read_bytes().startswith(b"\x89PNG")
    assert f"({PICTURE})" in (out / "summary.md").read_text()
    assert build_json(summary)["sweeps"]["curves"]["swa.pth"]["new"][0.5] == 60.0


def test_a_test_at_several_ratios_draws_its_own(tmp_path, caplog, monkeypatch):
    results = content("d/new/test.csv", RISING, "/runs/a/swa.pth")
    assert write_test_sweep(tmp_path, results) == tmp_path / PICTURE
    (tmp_path / PICTURE).unlink()
    one = content("d/new/test.csv", [10.0], "/runs/a/swa.pth", ratios=(0.5,))
    assert write_test_sweep(tmp_path, one) is None and not (tmp_path / PICTURE).exists()
    rows = [{"patching_ratio": r, "map_decoded": 3.0} for r in RATIOS]
    assert write_test_sweep(tmp_path, {**results, "results": rows}) is not None
    caplog.set_level(logging.WARNING, logger="openvclip")
    monkeypatch.setattr(plots, "save_figure", lambda *_: 1 / 0)
    assert write_test_sweep(tmp_path, results) is None
    assert f"{PICTURE} was not drawn (ZeroDivisionError" in caplog.text


def test_one_run_and_one_set_look_alike_in_every_picture(write, sweeps, tmp_path):
    """The quickstart's picture and that of its summary have other names in another order."""
    ours = draw_ratio_sweep(
        {name: {title: dict(zip(RATIOS, FALLING, strict=True)) for title in SETS.values()}
         for name in ("fine-tuned", "interpolated training")},
        trained=[SETS["trained"]], zero_shot=[SETS["knew"]],
        kinds={"fine-tuned": "plain", "interpolated training": "interpolated"})
    for run in ("interpolated", "plain"):
        for name in SETS:
            write(f"data/{name}/test.csv", FALLING, f"/runs/{run}/swa.pth",
                  trained_on={"interpolated": run == "interpolated"})
    found = sweeps(trained=["trained"])
    theirs = draw_ratio_sweep(found.curves, trained=found.trained, zero_shot=found.zero_shot,
                              kinds=found.kinds)
    assert list(found.curves) == ["swa.pth, interpolated", "swa.pth, plain"]
    looks = [{(line.get_color(), line.get_linestyle(), line.get_marker())
              for line in figure.axes[0].get_lines()} for figure in (ours, theirs)]
    assert looks[0] == looks[1] and len(looks[0]) == 6
    for figure, names in ((ours, ("fine-tuned", "interpolated training")),
                          (theirs, ("swa.pth, plain", "swa.pth, interpolated"))):
        colours = {line.get_label(): line.get_color() for line in figure.axes[1].get_lines()}
        assert [colours[name] for name in names] == [ORANGE, BLUE]
        drawn = [text.get_text() for text in figure.axes[1].texts]
        assert drawn == 2 * [f"{ratio:g}" for ratio in RATIOS]


def test_styles_that_are_taken_go_to_the_next_one():
    colours = colour_runs(["a", "b", "c", "d"], {"b": "interpolated", "d": "interpolated"})
    assert colours["b"] == BLUE and colours["a"] == ORANGE and len(set(colours.values())) == 4
    colours, styles = style_sets(["K400 val", "UCF", "HMDB"], ["K400 val"])
    assert [styles[name]["linestyle"] for name in styles] == ["-", "--", ":"]
    assert style_sets(["UCF", "HMDB"])[1]["UCF"]["linestyle"] == "-"


def test_the_trade_off_takes_ratios_that_all_sets_have():
    tested = {"t": {0.0: 80.0, 0.5: 70.0, 1.0: 50.0}, "a": {0.0: 10.0, 0.5: 30.0}, "b": {0.5: 50.0}}
    assert compute_tradeoff(tested, ["t"], ["a", "b"]) == {0.5: (40.0, 70.0)}
    assert compute_tradeoff(tested, ["t"], ["a"]) == {0.0: (10.0, 80.0), 0.5: (30.0, 70.0)}
    assert compute_tradeoff(tested, ["t"], []) == compute_tradeoff(tested, ["t"], ["c"]) == {}


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_every_curve_can_be_told_from_the_others_and_nothing_is_cut(count):
    sets = {name: dict(zip(RATIOS, FALLING, strict=True)) for name in ("K400 val", "UCF", "HMDB")}
    curves = {f"swa_2_22.pth, a_run_with_quite_a_long_name_{i}": sets for i in range(count)}
    figure = draw_ratio_sweep(curves, trained=["K400 val"], zero_shot=["UCF", "HMDB"])
    figure.draw_without_rendering()
    left, right = figure.axes
    looks = {(str(x.get_color()), x.get_linestyle(), x.get_marker()) for x in left.get_lines()}
    assert len(looks) == 3 * count and len(right.get_lines()) == count
    whole = figure.bbox
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    boxes += [axes.get_legend().get_window_extent() for axes in figure.axes if axes.get_legend()]
    for box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= whole.x1 + 1 and box.y1 <= whole.y1 + 1
    for axes in figure.axes:
        if axes.get_legend():
            label = axes.xaxis.label.get_window_extent()
            assert axes.get_legend().get_window_extent().y1 <= label.y0


def test_tables_and_picture_agree_on_what_was_trained_on(write, tmp_path, repo):
    known = {"label_set": "ours.json", "interpolated": True, "seed": 3}
    write("d/ours/test.csv", FALLING, label_map="ours.json", trained_on=known)
    write("d/new/test.csv", RISING, label_map="new.json", trained_on=known)
    write(protocol_list("kinetics400"), RISING, label_map="k400.json", trained_on=known)
    found = summarize([tmp_path / "tests"], root=repo)
    assert (found.sweeps.trained, found.sweeps.zero_shot) == (["ours"], ["K400 val", "new"])
    supervised, own = found.sections
    assert (supervised.key, own.key) == ("supervised", "own")
    assert {line.dataset for line in supervised.lines} == {"ours"}
    assert {line.dataset for line in own.lines} == {"new"}


def test_a_config_beside_the_checkpoint_makes_a_supervised_table(write, tmp_path, repo):
    """For results of versions that did not record the training."""
    (tmp_path / "run").mkdir()
    config = {"TRAIN": {"ENABLE": True}, "DATA": {"INDEX_LABEL_MAPPING_FILE": "d/ours.json"}}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    for name in ("ours", "new"):
        write(f"d/{name}/test.csv", RISING, tmp_path / "run/swa.pth", label_map=f"x/{name}.json")
    supervised, own = summarize([tmp_path / "tests"], root=repo).sections
    assert [line.dataset for line in supervised.lines] == ["ours"] * 3
    assert supervised.lines[0].seeds == ["-"]
    assert [line.dataset for line in own.lines] == ["new"] * 3

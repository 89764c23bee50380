"""Results derived from a full list's predictions are those of a test of the subset itself."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest
import torch

from openvclip.data.lists.labels import LabelSpace
from openvclip.data.lists.protocols import PROTOCOLS
from openvclip.metrics.classification import compute_scores
from openvclip.report.summary.subset_lists import list_subsets
from openvclip.report.summary.subsets import derive_all
from openvclip.utils.errors import ConfigError, DataError

CLASSES = [f"class {letter}" for letter in "abcdefgh"]
HALF = [5, 1, 6, 2]  # Not in order: columns go by name.
RATIOS = [0.0, 0.3, 1.0]
FAILED = [2, 7, 30]


def write_map(path, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({str(i): name for i, name in enumerate(names)}))


def write_list(root, name, rows):
    path = root / PROTOCOLS[name].folder / "test.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{video},{label}\n" for video, label in rows))
    return path


class Full:
    """A made-up test of UCF-101's full list, with lists of a split and a half, below ``root``."""

    def __init__(self, root, ratios=RATIOS, list_name=None):
        self.root, self.out = root, root / "out"
        generator = torch.Generator().manual_seed(0)
        count = 64
        self.labels = torch.randint(0, len(CLASSES), (count,), generator=generator)
        self.videos = [f"Class/v, {i}.avi" for i in range(count)]
        self.scores = {r: torch.randn(count, len(CLASSES), generator=generator) for r in ratios}
        self.done = torch.ones(count, dtype=torch.bool)
        self.done[FAILED] = False
        for scores in self.scores.values():
            # Failed videos have zeros, and would count as right for the first class.
            scores[FAILED] = 0.0
        self.labels[FAILED[0]] = 0
        self.split = list(range(40, 0, -3)) + FAILED[:2]
        self.half = [i for i in range(count) if int(self.labels[i]) in HALF]
        full = PROTOCOLS["ucf101_full"]
        write_map(root / full.label_map, CLASSES)
        write_map(root / PROTOCOLS["ucf101_half0"].label_map, [CLASSES[i] for i in HALF])
        rows = list(zip(self.videos, self.labels.tolist(), strict=True))
        self.list = write_list(root, "ucf101_full", rows)
        write_list(root, "ucf101_split1", [rows[i] for i in self.split])
        write_list(root, "ucf101_half0", [(rows[i][0], HALF.index(rows[i][1])) for i in self.half])
        self.folder = self.out / "ucf101_full"
        self.folder.mkdir(parents=True)
        self.content = {
            "list": list_name or str(self.list),
            "label_set": {"file": str(root / full.label_map), "classes": len(CLASSES),
                          "sha256": LabelSpace(tuple(CLASSES)).digest()},
            "arch": "vitb16", "clip": {"source": "x", "sha256": "a"}, "checkpoint": None,
            "views": 3, "videos": count, "seconds": 7.0,
            "failed": [{"row": i, "path": f"/v/{self.videos[i]}", "reason": "damaged"}
                       for i in FAILED],
            "results": [
                {"patching_ratio": r, **compute_scores(s, self.labels, self.done)}
                for r, s in self.scores.items()
            ],
        }
        self.save()

    def save(self):
        (self.folder / "results.json").write_text(json.dumps(self.content))
        for ratio, scores in self.scores.items():
            several = len(self.scores) > 1
            name = f"predictions_ratio{ratio:.2f}.pth" if several else "predictions.pth"
            torch.save([scores, self.labels], self.folder / name)

    def derive(self, *names, **options):
        return derive_all(
            self.folder, names, root=self.root, **{"output": self.out, **options}
        )


@pytest.fixture
def full(tmp_path):
    return Full(tmp_path)


def read(full, name):
    return json.loads((full.out / name / "results.json").read_text())


def count_from_scratch(scores, labels, done, k):
    """Top-k accuracy (%) by counting how many classes score higher, failures being wrong."""
    right = 0
    for score, label, fine in zip(scores.tolist(), labels, done.tolist(), strict=True):
        right += fine and sum(other > score[label] for other in score) < k
    return 100 * right / len(labels)


@pytest.mark.parametrize("name, k, key", [
    ("ucf101_split1", 1, "top1"), ("ucf101_split1", 5, "top5"), ("ucf101_half0", 1, "top1"),
])
def test_derived_accuracies_are_those_counted_from_scratch(full, name, k, key):
    full.derive(name)
    half = name == "ucf101_half0"
    rows = full.half if half else full.split
    columns = HALF if half else list(range(len(CLASSES)))
    labels = [columns.index(label) for label in full.labels[rows].tolist()]
    found = read(full, name)["results"]
    assert [row["patching_ratio"] for row in found] == RATIOS
    for row, scores in zip(found, full.scores.values(), strict=True):
        wanted = count_from_scratch(scores[rows][:, columns], labels, full.done[rows], k)
        assert row[key] == pytest.approx(wanted)
        decoded = full.done[rows].double().mean().item()
        assert row[f"{key}_decoded"] == pytest.approx(wanted / decoded)


def test_derived_results_have_the_fields_of_a_direct_run(full):
    full.derive("ucf101_split1")
    found = read(full, "ucf101_split1")
    source = found.pop("derived_from")
    assert set(found) == set(full.content)
    assert source["protocol"] == "ucf101_full" and source["videos"] == 64
    assert found["list"] == str(full.root / "zs_label_db/ucf101_split1/test.csv")
    assert found["videos"] == len(full.split) and found["seconds"] < 7.0
    assert {k: found[k] for k in ("arch", "clip", "views")} == {
        k: full.content[k] for k in ("arch", "clip", "views")}
    places = [full.split.index(row) for row in FAILED[:2]]
    assert sorted(f["row"] for f in found["failed"] if f["row"] in places) == sorted(places)
    assert all(full.split[f["row"]] in FAILED and f["reason"] == "damaged"
               for f in found["failed"])
    full.derive("ucf101_half0")
    names = tuple(CLASSES[i] for i in HALF)
    assert read(full, "ucf101_half0")["label_set"]["sha256"] == LabelSpace(names).digest()


def test_videos_that_were_trained_on_are_those_of_the_subset(full):
    elsewhere = min(set(range(64)) - set(full.split))
    rows = sorted([full.split[1], full.split[4], elsewhere])
    (full.folder / "results.json").write_text(json.dumps({
        **full.content, "tested_on_training": {"videos": 3, "rows": rows}}))
    full.derive("ucf101_split1")
    assert read(full, "ucf101_split1")["tested_on_training"] == {"videos": 2, "rows": [1, 4]}


def test_per_class_table_is_that_of_a_direct_run(full):
    full.derive("ucf101_half0")
    with open(full.out / "ucf101_half0" / "per_class.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == [
        "index", "class", "videos", "top1_ratio0", "top1_ratio0.3", "top1_ratio1"
    ]
    assert [row["class"] for row in table] == [CLASSES[i] for i in HALF]
    results = read(full, "ucf101_half0")["results"]
    for result in results:
        key = f"top1_ratio{result['patching_ratio']:g}"
        right = sum(float(row[key]) * int(row["videos"]) for row in table)
        assert right / len(full.half) == pytest.approx(result["top1"], abs=0.01)


def test_unpatched_results_are_read_from_one_file(tmp_path):
    full = Full(tmp_path, ratios=[None])
    full.derive("ucf101_split1")
    (row,) = read(full, "ucf101_split1")["results"]
    assert row["patching_ratio"] is None
    head = (full.out / "ucf101_split1" / "per_class.csv").read_text().splitlines()[0]
    assert head == "index,class,videos,top1"


@pytest.mark.parametrize("name", ["zs_label_db/ucf101_full/test.csv",
                                  "/elsewhere/zs_label_db/ucf101_full/test.csv"])
def test_list_is_found_again_below_root(tmp_path, monkeypatch, name):
    full = Full(tmp_path, list_name=name)
    full.content["label_set"]["file"] = "/elsewhere/ucf101-index2cls.json"
    full.save()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    full.derive("ucf101_split1")
    assert read(full, "ucf101_split1")["derived_from"]["list"] == name


def test_arch_is_taken_from_the_config_of_older_results(full):
    del full.content["arch"]
    full.save()
    (full.folder / "config.yaml").write_text("MODEL: {ARCH: vitl14}\n")
    full.derive("ucf101_split1")
    assert read(full, "ucf101_split1")["arch"] == "vitl14"


def drop_row(full):
    full.list.write_text("".join(full.list.read_text().splitlines(keepends=True)[:-1]))


def relabel(full):
    lines = full.list.read_text().splitlines()
    lines[0] = f"{full.videos[0]},{(int(full.labels[0]) + 1) % 8}"
    full.list.write_text("\n".join(lines))


def foreign_video(full):
    write_list(full.root, "ucf101_split1", [("Class/new.avi", 0)])


def other_class(full):
    write_list(full.root, "ucf101_split1", [(full.videos[0], (int(full.labels[0]) + 1) % 8)])


def foreign_class(full):
    write_map(full.root / PROTOCOLS["ucf101_half0"].label_map, ["a", "b", "c", "class a"])


def other_map(full):
    write_map(full.root / PROTOCOLS["ucf101_full"].label_map, CLASSES[::-1])


def other_predictions(full):
    full.scores[0.3] = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    content = json.dumps(full.content)
    full.save()
    assert (full.folder / "results.json").read_text() == content


def narrow_predictions(full):
    full.scores[0.3] = full.scores[0.3][:, :5]
    full.save()


def multi_label(full):
    full.content["results"] = [{"patching_ratio": None, "map_decoded": 20.0}]
    full.save()


def unknown_list(full):
    full.content["list"] = "/mine/test.csv"
    full.save()


@pytest.mark.parametrize("spoil, said", [
    (drop_row, r"ucf101_full/test.csv has 63 rows, but .* was made with 64: the list has changed"),
    (relabel, "do not belong to the list"),
    (foreign_video, "'Class/new.avi' of the class 'class a' is not in the list of ucf101_full"),
    (other_class, "is not in the list of ucf101_full"),
    (foreign_class, r"half_test/0/ucf101-index2cls.json: the class 'a' .*\(3 such classes\)"),
    (other_map, "not there any more"),
    (other_predictions, r"predictions_ratio0.30.pth gives top-1 .* the predictions are another"),
    (narrow_predictions, r"scores of shape \(64, 5\) that do not belong"),
    (multi_label, "DATA.MULTI_LABEL"),
    (unknown_list, "not the list of a known protocol"),
    (lambda full: full.list.unlink(), "that was tested is not there any more"),
    (lambda full: (full.folder / "predictions_ratio0.30.pth").unlink(), "TEST.SAVE_RESULTS_PATH"),
    (lambda full: (full.folder / "predictions_ratio1.00.pth").write_bytes(b"x"), "cannot read"),
    (lambda full: (full.folder / "results.json").unlink(), "cannot read .*results.json"),
])
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_written(full, spoil, said):
    spoil(full)
    with pytest.raises(DataError, match=said):
        full.derive("ucf101_split1", "ucf101_half0")
    assert [path.name for path in full.out.iterdir()] == ["ucf101_full"]


def test_all_leaves_out_what_has_no_list(full, caplog):
    written = full.derive("all")
    assert sorted(path.name for path in written) == ["ucf101_half0", "ucf101_split1"]
    assert "ucf101_split2 is left out: it has no list" in caplog.text


def test_of_all_those_that_follow_are_written_before_the_others_are_an_error(full):
    foreign_video(full)
    with pytest.raises(DataError, match="ucf101_split1 cannot be derived from .*'Class/new.avi'"):
        full.derive("all")
    assert sorted(p.name for p in full.out.iterdir()) == ["ucf101_full", "ucf101_half0"]
    assert read(full, "ucf101_half0")["derived_from"]["protocol"] == "ucf101_full"


def test_a_missing_list_of_a_subset_is_named(full):
    with pytest.raises(DataError, match="ucf101_split2/test.csv of ucf101_split2 does not exist"):
        full.derive("ucf101_split1", "ucf101_split2")
    assert not (full.out / "ucf101_split1").exists()


def test_all_are_the_protocols_within_the_full_one():
    assert [p.name for p in list_subsets(PROTOCOLS["k600_union"], ["all"])] == [
        "k600_split1", "k600_split2", "k600_split3"]
    assert len(list_subsets(PROTOCOLS["hmdb_full"], ["all"])) == 11  # without splits 2 and 3
    assert len(list_subsets(PROTOCOLS["hmdb_union"], ["all"])) == 14
    with pytest.raises(ConfigError, match="hmdb_split1: cannot be derived from ucf101_full"):
        list_subsets(PROTOCOLS["ucf101_full"], ["ucf101_split1", "hmdb_split1"])
    with pytest.raises(ConfigError, match="nothing can be derived from a test of kinetics400"):
        list_subsets(PROTOCOLS["kinetics400"], ["all"])


def test_results_of_a_direct_run_are_kept(full, caplog):
    assert full.derive("ucf101_split1") == full.derive("ucf101_split1"), "derived: written again"
    path = full.out / "ucf101_split1" / "results.json"
    content = json.loads(path.read_text())
    del content["derived_from"]
    path.write_text(json.dumps(content))
    assert full.derive("ucf101_split1", "ucf101_half0") == [full.out / "ucf101_half0"]
    assert "kept" in caplog.text and json.loads(path.read_text()) == content
    path.write_text(json.dumps({**content, "checkpoint": {"file": "other"}}))
    with pytest.raises(DataError, match=r"of something else \(checkpoint\)"):
        full.derive("ucf101_split1")


def test_other_texts_are_something_else_but_other_names_of_them_are_not(full):
    full.content["prompts"] = {"name": "openvclip28", "count": 28, "sha256": "a"}
    full.save()
    (folder,) = full.derive("ucf101_split1")
    content = read(full, "ucf101_split1")
    assert content["prompts"] == full.content["prompts"]
    del content["derived_from"]
    content["prompts"] = {"count": 28, "sha256": "a"}  # as earlier versions recorded them
    (folder / "results.json").write_text(json.dumps(content))
    assert full.derive("ucf101_split1") == []
    content["prompts"]["sha256"] = "b"
    (folder / "results.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"of something else \(prompts\)"):
        full.derive("ucf101_split1")


def test_tool_derives_or_ends_with_2(full, repo):
    def start(*args):
        return subprocess.run(
            [sys.executable, str(repo / "tools" / "derive_results.py"), "--from", str(full.folder),
             "--root", str(full.root), "--output", str(full.root / "new"), *args],
            capture_output=True, text=True,
        )

    done = start("--protocol", "ucf101_half0", "ucf101_split1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(p.name for p in (full.root / "new").iterdir()) == [
        "ucf101_half0", "ucf101_split1"]
    done = start("--protocol", "ucf101_split2")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "ucf101_split2 does not exist" in done.stdout

"""Published scripts' command lines train and test, on real mp4 files with a tiny CLIP."""

from __future__ import annotations

import json

import pytest
import torch
from conftest_integration import CLASSES

from tests.published_scripts import CONFIGS, fill_in, read_scripts

# What does not fit a tiny tree or a machine without GPUs; the rest is as the scripts say.
SMALL = {
    "NUM_GPUS": 0, "TRAIN.BATCH_SIZE": 4, "TEST.BATCH_SIZE": 8, "SOLVER.MAX_EPOCH": 2,
    "MODEL.ARCH": "auto", "MODEL.NUM_CLASSES": len(CLASSES), "DATA.TRAIN_JITTER_SCALES": "[32,36]",
    "DATA.TRAIN_CROP_SIZE": 32, "DATA.TEST_CROP_SIZE": 32, "DATA_LOADER.NUM_WORKERS": 0,
    "TRAIN.EVAL_PERIOD": 1,
}

TEXTS = {"MODEL.TEXT_TEMPLATES": "froster29"}
FROSTER = {"MODEL.RAW_MODEL_DISTILLATION": False, "TRAIN.OBJECTIVES": "[froster]", **TEXTS}


@pytest.fixture
def tree(tiny, tmp_path):
    """FROSTER's layout: lists of several names in one folder, a map for each half of the classes.

    ``train_1.csv`` and ``base.csv`` have the classes 0 and 1, ``novel.csv`` has class 2 as its 0.
    """
    folder = tmp_path / "lists"
    folder.mkdir()
    for name, source, labels in (("train_1", "train", "01"), ("base", "val", "01"),
                                 ("novel", "test", "2")):
        rows = [row.rpartition(",") for row in (tiny / f"{source}.csv").read_text().splitlines()]
        (folder / f"{name}.csv").write_text("".join(
            f"{path},{labels.index(label)}\n" for path, _, label in rows if label in labels))
    for name, classes in (("base", CLASSES[:2]), ("novel", CLASSES[2:])):
        (folder / f"{name}.json").write_text(json.dumps(dict(enumerate(classes))))
    return folder


def start(in_process, tiny, script: tuple, out, paths: dict, **changes: object) -> None:
    """Run a script's command line with its paths filled in and the sizes of ``SMALL``."""
    cfg, pairs = script
    filled = fill_in(pairs, {
        "DATA.PATH_TO_DATA_DIR": tiny, "DATA.PATH_PREFIX": tiny / "videos", "OUTPUT_DIR": out,
        "DATA.INDEX_LABEL_MAPPING_FILE": tiny / "tiny-index2cls.json",
        "TRAIN.CLIP_ORI_PATH": tiny / "clip.pt", "TEST.CLIP_ORI_PATH": tiny / "clip.pt",
        "MODEL.NUM_CLASSES": 0,  # from SMALL
        **paths,
    })
    last = {**SMALL, "MODEL.TEXT_CACHE_DIR": out / "texts", **changes}
    in_process(CONFIGS / cfg, [*filled, *(str(x) for pair in last.items() for x in pair)])


def read_stats(out, kind: str) -> list[dict]:
    rows = map(json.loads, (out / "json_stats.jsonl").read_text().splitlines())
    return [row for row in rows if row["_type"] == kind]


def read_results(out) -> dict:
    return json.loads((out / "results.json").read_text())


def count_moved(checkpoint, clip) -> int:
    """Return how many of CLIP's tensors training has changed."""
    trained = torch.load(checkpoint, weights_only=True)["model_state"]
    original = torch.load(clip, weights_only=True)
    return sum(not torch.equal(trained[f"model.{name}"], tensor.float())
               for name, tensor in original.items() if f"model.{name}" in trained)


def test_open_vclips_scripts(in_process, tiny, tmp_path):
    scripts = read_scripts("openvclip")
    out, tested = tmp_path / "trained", tmp_path / "tested"
    name = "training/temporal_b16/train_tclip_interpolation_0.0-0.6_ratio0.5.sh"
    start(in_process, tiny, scripts[name], out, {})
    assert len(read_stats(out, "train_epoch")) == len(read_stats(out, "val_epoch")) == 2
    assert all(row["connect_loss"] > 0 for row in read_stats(out, "train_iter"))
    last = out / "checkpoints" / "checkpoint_epoch_00002.pyth"
    assert count_moved(last, tiny / "clip.pt") > 20
    assert read_results(out)["views"] == 3  # training ends with a test

    start(in_process, tiny, scripts["testing/temporal_test_b16/ucf.sh"], tested,
          {"TEST.CUSTOM_LOAD_FILE": last})
    results = read_results(tested)
    assert results["checkpoint"]["file"] == str(last) and results["videos"] == 9
    assert results["trained_on"]["interpolated"] is True
    assert [row["patching_ratio"] for row in results["results"]] == [0.5]
    assert (tested / "temp.pyth").is_file()

    # The untouched CLIP: published with a ratio of 1.0, at which patching leaves nothing else.
    raw = tmp_path / "raw"
    start(in_process, tiny, scripts["testing/raw_test_b16/ucf.sh"], raw, {},
          **{"TEST.PATCHING_RATIO": 1.0})
    assert read_results(raw)["checkpoint"] is None


@pytest.mark.parametrize(("script", "changes", "term"), [
    ("training/temporal_b16/train_clip_B2N_ucf.sh", {}, "distill_loss"),
    # The loss that FROSTER's code adds under the key that is another one's here.
    ("training/temporal_b16/train_clip.sh", FROSTER, "froster_loss"),
])
def test_frosters_scripts(in_process, tiny, tree, tmp_path, script, changes, term):
    """Training on the base classes, then a test of both halves, by TEST_FILE and their maps."""
    scripts = read_scripts("froster")
    out = tmp_path / "trained"
    names = {"DATA.PATH_TO_DATA_DIR": tree, "TRAIN_FILE": "train_1.csv", "VAL_FILE": "base.csv"}
    start(in_process, tiny, scripts[script], out, {
        **names, "TEST_FILE": tree / "base.csv",
        "DATA.INDEX_LABEL_MAPPING_FILE": tree / "base.json",
    }, **{"MODEL.NUM_CLASSES": 2}, **changes)
    assert all(row[term] > 0 for row in read_stats(out, "train_iter"))
    log = (out / "stdout.log").read_text()
    assert f"{tree}/train_1.csv: 8 videos" in log and f"{tree}/base.csv: 4 videos" in log
    assert len(read_stats(out, "val_epoch")) == 2 and read_results(out)["videos"] == 4
    last = out / "checkpoints" / "checkpoint_epoch_00002.pyth"
    assert count_moved(last, tiny / "clip.pt") > 20

    for half, videos in (("base", 4), ("novel", 3)):
        tested = tmp_path / half
        start(in_process, tiny, scripts["testing/temporal_test_b16/ucf_clip_B2N.sh"], tested, {
            **names, "TEST_FILE": f"{half}.csv", "TEST.CUSTOM_LOAD_FILE": last,
            "DATA.INDEX_LABEL_MAPPING_FILE": tree / f"{half}.json",
        }, **{"MODEL.NUM_CLASSES": 2 if half == "base" else 1}, **(TEXTS if changes else {}))
        results = read_results(tested)
        assert results["list"] == str(tree / f"{half}.csv") and results["videos"] == videos
        assert results["trained_on"]["list"] == str(tree / "train_1.csv")
        assert results["tested_on_training"]["videos"] == 0
        assert results["label_set"]["classes"] == (2 if half == "base" else 1)


def test_a_list_that_is_named_must_exist(in_process, tiny, tree, tmp_path, capsys):
    script = read_scripts("froster")["training/temporal_b16/train_clip_B2N_ucf.sh"]
    with pytest.raises(AssertionError):
        start(in_process, tiny, script, tmp_path / "out", {
            "DATA.PATH_TO_DATA_DIR": tree, "TRAIN_FILE": "train_1.csv", "VAL_FILE": "val_1.csv",
            "TEST_FILE": "base.csv", "DATA.INDEX_LABEL_MAPPING_FILE": tree / "base.json",
        }, **{"MODEL.NUM_CLASSES": 2})
    assert "val_1.csv does not exist (the folder has base.csv, novel.csv, train_1.csv)" in (
        capsys.readouterr().out)

"""Text choices and drawn lists through the tools: what is recorded, refused and summed up."""

from __future__ import annotations

import json

import pytest
from conftest_integration import CLASSES, options

from openvclip.config import load_cfg
from openvclip.evaluation.build import build_runner


@pytest.fixture
def rng(tiny, tmp_path, tool):
    """Few-shot and base-to-novel lists of the tiny dataset."""
    given = ("--source", tiny, "--map", tiny / "tiny-index2cls.json")
    tool("prepare_labels", "few-shot", *given, "--output", tmp_path / "few", "--shots", 2)
    tool("prepare_labels", "base-to-novel", *given, "--output", tmp_path / "half", "--shots", 2,
         "--seed", 3)
    return tmp_path


def lists(folder, **changes):
    """Options for lists with a label map of their own."""
    maps = list(folder.glob("*-index2cls.json"))
    own = {"DATA__INDEX_LABEL_MAPPING_FILE": maps[0],
           "MODEL__NUM_CLASSES": len(json.loads(maps[0].read_text()))} if maps else {}
    return {"DATA__PATH_TO_DATA_DIR": folder, **own, "TEST__NUM_ENSEMBLE_VIEWS": 1, **changes}


def test_few_shot_and_base_to_novel_from_lists_to_table(tiny, rng, empty_cfg, in_process, tool):
    short = {"SOLVER__MAX_EPOCH": 1, "TRAIN__EVAL_PERIOD": 9}
    in_process(empty_cfg, options(tiny, rng / "out/k2", **lists(rng / "few/shots_2", **short)))
    base = rng / "out/base"
    in_process(empty_cfg, options(tiny, base, **lists(rng / "half/base", **short)))
    weights = base / "checkpoints/checkpoint_epoch_00001.pyth"
    in_process(empty_cfg, options(tiny, rng / "out/novel", **lists(
        rng / "half/novel", TRAIN__ENABLE=False, TEST__CUSTOM_LOAD=True,
        TEST__CUSTOM_LOAD_FILE=weights)))

    found = {name: json.loads((rng / "out" / name / "results.json").read_text())
             for name in ("k2", "base", "novel")}
    assert found["k2"]["draw"] == {
        "kind": "few-shot", "dataset": tiny.name, "shots": 2, "seed": 1}
    trained = found["novel"]["trained_on"]
    assert (trained["draw"]["kind"], trained["draw"]["seed"]) == ("base", 3)
    assert trained == found["base"]["trained_on"] and trained["interpolated"] is False
    assert trained["list"] == str(rng / "half/base/train.csv")
    assert trained["label_set"] == found["base"]["label_set"]["sha256"]

    tool("summarize", rng / "out")
    tables = json.loads((rng / "out/summary.json").read_text())["tables"]
    assert [table["key"] for table in tables] == ["few_shot", "base_to_novel"]
    cells = tables[1]["lines"][0]["cells"]
    b, n = (found[name]["results"][0]["top1"] for name in ("base", "novel"))
    assert (cells["base"]["mean"], cells["novel"]["mean"]) == (b, n)
    assert cells["hm"]["mean"] == pytest.approx(2 * b * n / (b + n) if b + n else 0.0)


def test_texts_are_recorded_and_change_the_scores(tiny, tmp_path, empty_cfg, in_process):
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({name: [f"{name} seen", "long " * 99] for name in CLASSES}))
    choices = {"default": {}, "action16": {"MODEL__TEXT_TEMPLATES": "action16"},
               "own": {"MODEL__CLASS_DESCRIPTIONS": texts}}
    found, scores = {}, {}
    for name, changes in choices.items():
        in_process(empty_cfg, options(
            tiny, tmp_path / name, TRAIN__ENABLE=False, TEST__NUM_ENSEMBLE_VIEWS=1,
            TEST__SAVE_RESULTS_PATH="p.pth", **changes))
        found[name] = json.loads((tmp_path / name / "results.json").read_text())["prompts"]
        scores[name] = (tmp_path / name / "p.pth").read_bytes()
    assert [(p["name"], p["count"]) for p in found.values()] == [
        ("openvclip28", 28), ("action16", 16), ("descriptions", 2 * len(CLASSES))]
    assert found["own"]["descriptions"]["file"] == str(texts)
    assert len({p["sha256"] for p in found.values()}) == len(set(scores.values())) == 3


def test_a_journal_is_of_its_texts(tiny, tmp_path):
    texts = tmp_path / "texts.json"
    keys = []
    for content in ("one", "two"):
        texts.write_text(json.dumps(dict.fromkeys(CLASSES, content)))
        for changes in ({}, {"MODEL__TEXT_TEMPLATES": "name_only"},
                        {"MODEL__CLASS_DESCRIPTIONS": texts}):
            cfg = load_cfg(None, options(
                tiny, tmp_path / "out", TRAIN__ENABLE=False, TEST__RESUME=True, **changes))
            keys.append(json.dumps(build_runner(cfg, tmp_path / "out").resume_key))
    assert keys[0] == keys[3] and keys[1] == keys[4]
    assert len(set(keys)) == 4, "other texts, another journal"


def test_texts_that_do_not_fit_end_the_run_with_2(tiny, tmp_path, empty_cfg, tool):
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({name: "x" for name in (*CLASSES[:-1], "blue blinkin")}))
    finished = tool("run_net", "--cfg", empty_cfg, "--opts", *options(
        tiny, tmp_path / "out", TRAIN__ENABLE=False, MODEL__CLASS_DESCRIPTIONS=texts), check=2)
    assert "DataError" in finished.output and "nearest: 'blue blinking'" in finished.output
    assert "Traceback" not in finished.output

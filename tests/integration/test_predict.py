"""tools/predict.py as a person uses it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest
from conftest_integration import CLASSES, options

from openvclip.report.run.predictions_file import load_predictions
from tests.data.conftest import write_video

OPTIONS = ("--sampling-rate", 6, "--num-frames", 4)


@pytest.fixture
def predict(repo, monkeypatch, tmp_path, capsys):
    """Call the tool in this process; returns its exit code and what it said."""
    monkeypatch.syspath_prepend(str(repo / "tools"))
    monkeypatch.delitem(sys.modules, "predict", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    import predict

    def start(*args: object) -> tuple[int, str]:
        code = predict.main([*map(str, args), "--output", str(tmp_path / "out")])
        return code, capsys.readouterr().out

    return start


def read_json(tmp_path) -> dict:
    return json.loads((tmp_path / "out/predictions.json").read_text("utf-8"))


def test_a_folder_with_bad_files_gives_tables_files_and_pictures(tiny, predict, tmp_path):
    folder = tmp_path / "videos"
    for number, path in enumerate(sorted((tiny / "videos/test").rglob("*.mp4"))[:3]):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "same.mp4").write_bytes(path.read_bytes())
    (folder / "broken.mp4").write_bytes(b"\0" * 999)
    code, said = predict(
        "--video", folder, "--label-file", tiny / "tiny-index2cls.json", "--clip",
        tiny / "clip.pt", "--top-k", 2, "--save-figure", "--timeline", "--window", 1,
        "--stride", 0.5, *OPTIONS,
    )
    assert code == 0
    assert "[1/4]" in said and "skipped: cannot be opened as a video" in said
    assert "4/4 videos" in said and "1 skipped" in said
    found = read_json(tmp_path)
    assert found["labels"] == list(CLASSES) and found["frames"] == 4
    assert [v["video"] for v in found["failed"]] == [str(folder / "broken.mp4")]
    assert [len(v["ranking"]) for v in found["videos"]] == [2, 2, 2]
    names = [v[kind] for v in found["videos"] for kind in ("figure",)]
    names += [v["timeline"][kind] for v in found["videos"] for kind in ("figure", "csv")]
    assert len(set(names)) == 9
    for name in names:
        start = (tmp_path / "out" / name).read_bytes()[:8]
        assert start == (b"start,en" if name.endswith(".csv") else b"\x89PNG\r\n\x1a\n")
    segments = found["videos"][0]["timeline"]["segments"]
    assert segments[0]["start"] == 0 and segments[-1]["end"] == pytest.approx(2.0)
    with open(tmp_path / "out/predictions.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3 * 2 + 1


def test_scores_are_those_of_a_test(tiny, predict, in_process, empty_cfg, tmp_path):
    opts = options(tiny, tmp_path / "tested", TRAIN__ENABLE=False, TEST__SAVE_RESULTS_PATH="s.pkl",
                   DATA__SAMPLING_RATE=6, DATA__TRAIN_JITTER_SCALES="[32,32]")
    in_process(empty_cfg, opts)
    scores, _ = load_predictions(tmp_path / "tested/s.pkl")
    rows = (tiny / "test.csv").read_text().splitlines()
    paths = [tiny / "videos" / row.rpartition(",")[0] for row in rows]
    code, _ = predict(
        "--video", *paths, "--label-file", tiny / "tiny-index2cls.json", "--clip",
        tiny / "clip.pt", "--config", tmp_path / "tested/config.yaml", "--views", 2, "--as-tested",
        "--top-k", 3,
    )
    assert code == 0
    for video, expected in zip(read_json(tmp_path)["videos"], scores / 2, strict=True):
        found = {row["label"]: row["score"] for row in video["ranking"]}
        assert [found[name] for name in CLASSES] == pytest.approx(expected.tolist(), abs=2e-3)


def test_no_video_that_can_be_read_is_an_error_with_the_list(tiny, predict, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    code, said = predict("--video", tmp_path / "*.mp4", "--labels", "a, b", "--clip",
                         tiny / "clip.pt")
    assert code == 2 and "none of the 1 videos could be read" in said
    assert len(read_json(tmp_path)["failed"]) == 1


def test_what_was_predicted_before_an_interruption_is_kept(tiny, predict, tmp_path, monkeypatch):
    from openvclip.predict import videos as predict_videos

    def stop(self, *args):
        add(self, *args)
        if len(self.predictions) == 2:
            raise KeyboardInterrupt

    add = predict_videos._Run.add
    monkeypatch.setattr(predict_videos._Run, "add", stop)
    code, said = predict("--video", tiny / "videos/test", "--labels", "a, b", "--clip",
                         tiny / "clip.pt", *OPTIONS)
    assert code == 130 and len(read_json(tmp_path)["videos"]) == 2
    assert "stopped by Ctrl-C: what was predicted is kept" in said


def test_an_interruption_before_the_first_video_says_so_and_keeps_earlier_files(
    tiny, predict, tmp_path, monkeypatch
):
    from openvclip.predict.classifier import VideoClassifier

    def stop(*_, **__):
        raise KeyboardInterrupt

    given = ("--video", tiny / VIDEO, "--labels", "a, b", "--clip", tiny / "clip.pt", *OPTIONS)
    assert predict(*given)[0] == 0
    monkeypatch.setattr(VideoClassifier, "encode_many", stop)
    code, said = predict(*given)
    assert code == 130 and "stopped by Ctrl-C: nothing was predicted yet" in said
    assert len(read_json(tmp_path)["videos"]) == 1


def test_an_interruption_during_a_timeline_keeps_the_prediction(
    tiny, predict, tmp_path, monkeypatch
):
    from openvclip.predict.classifier import VideoClassifier

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoClassifier, "timeline", stop)
    code, said = predict("--video", tiny / VIDEO, "--labels", "a, b", "--clip", tiny / "clip.pt",
                         "--timeline", *OPTIONS)
    assert code == 130 and "what was predicted is kept" in said
    assert len(read_json(tmp_path)["videos"]) == 1


AT_ONCE = """
import sys
sys.path.insert(0, "tools")
import predict
code = predict.main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(code)
"""


def test_a_missing_video_is_said_before_torch_is_imported(repo):
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE, "--video", "no.mp4", "--labels", "a,b", "--clip", "no.pt"],
        capture_output=True, text=True, cwd=repo, timeout=120)
    assert done.returncode == 2 and "no.mp4' does not exist" in done.stdout
    assert done.stdout.endswith("False\n")


def test_a_timeline_or_a_folder_that_fails_is_a_line(tiny, predict, tmp_path, monkeypatch):
    from openvclip.predict.classifier import VideoClassifier
    from openvclip.utils.errors import DataError

    def fail(*_):
        raise DataError("x.mp4: breaks")

    monkeypatch.setattr(VideoClassifier, "timeline", fail)
    given = ("--video", tiny / "videos/test/red moving", "--labels", "a, b", "--clip",
             tiny / "clip.pt", *OPTIONS)
    code, said = predict(*given, "--timeline")
    assert code == 0 and said.count("no timeline: x.mp4: breaks") == 3
    assert all("timeline" not in video for video in read_json(tmp_path)["videos"])
    (tmp_path / "out/figures").write_text("a file in the way")
    code, said = predict(*given, "--save-figure")
    assert code == 2 and said.count("ERROR") == 1 and "cannot write to --output" in said


def test_a_gap_of_a_day_is_said_and_what_was_cut_too(tiny, predict, tmp_path, monkeypatch):
    from openvclip.predict import timelines

    gap = [i if i < 20 else i + 86400 * 25 for i in range(40)]
    video = write_video(tmp_path / "gap.mp4", 40, shown_at=gap)
    given = ("--video", video, "--labels", "a, b", "--clip", tiny / "clip.pt", "--timeline",
             "--window", 0.4, *OPTIONS)
    code, said = predict(*given)
    (found,) = read_json(tmp_path)["videos"]
    assert code == 0 and "show the same frames as the one before" in said
    assert found["timeline"]["merged"] > 400_000 and found["timeline"]["cut_at"] is None
    rows = (tmp_path / "out" / found["timeline"]["csv"]).read_text().splitlines()
    assert len(rows) < 25
    monkeypatch.setattr(timelines, "MOST_WINDOWS", 3)
    code, said = predict(*given)
    (found,) = read_json(tmp_path)["videos"]
    assert code == 0 and "ends at 0.8 s, after 3 windows; a longer --stride" in said
    assert found["timeline"]["cut_at"] == pytest.approx(0.8)


def test_what_is_no_file_is_a_line_each_and_nothing_hangs(tiny, predict, tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    code, said = predict("--video", tmp_path / "pipe.mp4", "/dev/zero", tiny / VIDEO, "--labels",
                         "a, b", "--clip", tiny / "clip.pt", "--timeline", *OPTIONS)
    assert code == 0 and said.count("skipped:") == 2
    assert "it is a FIFO" in said and "it is a device" in said


VIDEO = "videos/test/red moving/0.mp4"


@pytest.mark.parametrize("changes, said", [
    ({"--video": None, "--vidio": VIDEO}, "no option --vidio; the nearest is --video"),
    ({"--labels": None, "--label": "a,b"}, "no option --label; the nearest is --labels"),
    ({"--chekpoint": "x"}, "no option --chekpoint; the nearest is --checkpoint"),
    ({"--video": "no.mp4"}, "no.mp4' does not exist"),
    ({"--video": "no/*.mp4"}, "matches no file"),
    ({"--clip": "no.pt"}, "no.pt does not exist"),
    ({"--checkpoint": "no.pth"}, "no.pth does not exist"),
    ({"--labels": None, "--label-file": "no.txt"}, "no.txt: No such file"),
    ({"--labels": "a,,b"}, "label 2 of 3 is empty"),
    ({"--labels": "red bar,b,Red Bar"}, "labels 1 and 3 are the same"),
    ({"--labels": "a," + "jump " * 80}, "label 2 is too long"),
    ({"--labels": None}, "give the labels either with"),
    ({"--patching-ratio": "0.5"}, "no checkpoint is given"),
    ({"--top-k": "0"}, "--top-k is 0"),
    ({"--top-k": "many"}, "many is not a whole number"),
    ({"--window": "2"}, "belong to --timeline"),
])
def test_one_clear_line_before_anything_is_read(tiny, predict, monkeypatch, changes, said):
    from openvclip.checkpoints import loading
    from openvclip.predict import classifier as predictor

    for module, name in ((loading, "load_tower"), (predictor, "read_views")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("something was read"))
    monkeypatch.chdir(tiny)
    given = {"--video": VIDEO, "--labels": "a,b", "--clip": "clip.pt", **changes}
    code, output = predict(*(x for k, v in given.items() if v is not None for x in (k, v)))
    assert code == 2 and output.count("\n") == 1 and "ERROR" in output and said in output


def test_the_tool_runs_as_a_process_of_its_own(tiny, tool, tmp_path):
    found = tool("predict", "--video", tiny / "videos/test/red moving", "--labels", "red, green",
                 "--clip", tiny / "clip.pt", "--output", tmp_path / "out")
    assert found.stdout.count("(2.0 s, 1 clip)") == 3
    assert (tmp_path / "out/predictions.csv").is_file()

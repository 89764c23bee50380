"""Checking lists of videos: what is found out, kept over interruptions, and written."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path

import av
import psutil
import pytest

from openvclip.config import load_cfg
from openvclip.data.check import pool
from openvclip.data.check.run import check_lists
from openvclip.data.check.video import check_video
from openvclip.data.loader import build_list
from openvclip.utils.errors import ConfigError, DataError
from tests.data.check_functions import crash_once, misbehave, note_and_check
from tests.integration.conftest_integration import COLOURS, write_clip

ODD_NAMES = ["a, b/c d.mp4", "ünï/日本 !.mp4", "we're \"here\" [1] & there: 0.mp4"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path, COLOURS[0], seed=1)
    return path


@pytest.fixture
def folder(tmp_path, clip):
    """Return a maker of a video folder with copies of the clip."""

    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip, path)
        return tmp_path / "videos"

    return make


def write_list(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name},{i}\n" for i, name in enumerate(names)), encoding="utf-8")
    return path


def read_table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def statuses(output: Path) -> dict[str, str]:
    return {row["path"]: row["status"] for row in read_table(output / "videos.csv")}


def run(lists, tmp_path: Path, decoded: list | None = None, **options) -> dict:
    """Check ``lists`` into tmp_path/out; put the names of the files decoded into ``decoded``."""
    log = tmp_path / "decoded.txt"
    log.write_text("")
    summary = check_lists(
        lists, tmp_path / "out", **{
            "prefix": str(tmp_path / "videos"), "workers": 1,
            "check": partial(note_and_check, log), **options,
        }
    )
    if decoded is not None:
        decoded[:] = log.read_text(encoding="utf-8").split("\n")[:-1]
    return summary


# --- one video


def test_a_sound_video_is_described(clip):
    assert check_video(str(clip)) == {
        "status": "ok", "codec": "h264", "pixel_format": "yuv420p", "fps": 10.0, "frames": 20,
        "frames_declared": 20, "width": 40, "height": 40, "duration": 2.0, "rotation": 0,
        "reason": "",
    }


@pytest.mark.parametrize("name", ["bframes", "opengop", "avi", "mkv", "ts", "raw", "vfr", "odd",
                                  "tenbit", "short", "single"])
def test_sound_files_of_all_sorts_are_ok(videos, name):
    found = check_video(str(videos[name]))
    assert (found["status"], found["reason"]) == ("ok", "")


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi"])
def test_files_that_were_cut_off_are_damaged(videos, name):
    found = check_video(str(videos[name]))
    assert found["status"] == "damaged"
    assert 0 < found["frames"] < 36
    assert found["reason"]


@pytest.mark.parametrize(("name", "reason"), [
    ("garbage", "Invalid data"), ("headless", "Invalid data"), ("audio", "no video stream"),
])
def test_files_without_a_frame_are_unreadable(videos, name, reason):
    found = check_video(str(videos[name]))
    assert found["status"] == "unreadable"
    assert reason in found["reason"]


@pytest.mark.parametrize("start", [15, 30])
def test_frames_that_an_edit_list_leaves_out_are_not_missed(videos, tmp_path, start):
    path = tmp_path / "trimmed.mp4"
    with av.open(str(videos["bframes"])) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.pts -= start * 512
                packet.dts -= start * 512
                packet.stream = stream
                target.mux(packet)
    found = check_video(str(path))
    assert (found["status"], found["frames"]) == ("ok", 40 - start)


def test_a_changing_frame_size_is_damage(tmp_path):
    for size in (40, 80):
        write_clip(tmp_path / f"{size}.h264", COLOURS[0], seed=1, frames=5, size=size)
    both = tmp_path / "both.h264"
    both.write_bytes(b"".join((tmp_path / f"{size}.h264").read_bytes() for size in (40, 80)))
    found = check_video(str(both))
    assert (found["status"], found["reason"]) == (
        "damaged", "the frame size changes (40x40, 80x80)"
    )


def test_real_videos(shared):
    found = {path.name: check_video(str(path)) for path in (shared / "videos").iterdir()}
    bad = {name for name, fields in found.items() if fields["status"] != "ok"}
    assert bad == {"corrupted.mp4"}
    assert found["corrupted.mp4"]["frames_declared"] == 50
    assert found["av1_video.mkv"]["codec"] == "av1"


# --- lists


def test_lists_are_cleaned_and_the_table_is_in_their_order(folder, tmp_path, videos):
    root = folder("z.mp4", "a.mp4", *ODD_NAMES)
    shutil.copy(videos["cut.mp4"], root / "cut.mp4")
    shutil.copy(videos["audio"], root / "audio.wav")
    (root / "empty.mp4").write_bytes(b"")
    (root / "folder.mp4").mkdir()
    names = ["z.mp4", "cut.mp4", *ODD_NAMES, "empty.mp4", "gone.mp4", "audio.wav", "folder.mp4",
             "a.mp4"]
    source = write_list(tmp_path / "test.csv", *names)
    summary = run([source], tmp_path, workers=2)
    out = tmp_path / "out"
    good = {"z.mp4", "a.mp4", *ODD_NAMES}
    assert list(statuses(out)) == names
    assert {name for name, status in statuses(out).items() if status == "ok"} == good
    assert {statuses(out)[name] for name in ("empty.mp4", "audio.wav", "folder.mp4")} == {
        "unreadable"
    }
    rows = source.read_text("utf-8").splitlines()
    kept = [row for row in rows if row.rpartition(",")[0] in good]
    assert (out / "clean" / "test.csv").read_text("utf-8").splitlines() == kept
    assert summary == json.loads((out / "summary.json").read_text("utf-8"))
    assert summary["status"] == {
        "ok": 5, "damaged": 1, "unreadable": 3, "missing": 1, "crashed": 0, "timeout": 0
    }
    assert (summary["videos"], summary["decoded"]) == (10, 7)
    assert summary["codec"] == {"h264": 6}
    assert sorted(p.name for p in out.iterdir()) == ["clean", "summary.json", "videos.csv"]
    row = read_table(out / "videos.csv")[0]
    assert int(row["size_bytes"]) == (root / "z.mp4").stat().st_size
    assert int(row["mtime_ns"]) == (root / "z.mp4").stat().st_mtime_ns

    run([source], tmp_path, keep_damaged=True)
    kept.insert(1, "cut.mp4,1")
    assert (out / "clean" / "test.csv").read_text("utf-8").splitlines() == kept


def test_rows_stay_as_they_are_whatever_their_label(folder, tmp_path):
    folder("a.mp4", "b c.mp4")
    source = tmp_path / "odd.csv"
    source.write_bytes(b"\xef\xbb\xbfa.mp4  no label\r\n\nb c.mp4 3,4;5\ngone.mp4 1\n a.mp4 0")
    run([source], tmp_path, separator=" ")
    assert statuses(tmp_path / "out") == {"a.mp4  no": "missing", "b c.mp4": "ok",
                                          "gone.mp4": "missing", "a.mp4": "ok"}
    cleaned = (tmp_path / "out" / "clean" / "odd.csv").read_bytes()
    assert cleaned == b"b c.mp4 3,4;5\n a.mp4 0\n"


def test_lists_that_share_files_have_each_decoded_once(folder, tmp_path):
    folder("a.mp4", "b.mp4", "c.mp4")
    first = write_list(tmp_path / "lists/x/0/test.csv", "b.mp4", "gone.mp4", "a.mp4")
    second = write_list(tmp_path / "lists/y/0/test.csv", "c.mp4", "a.mp4", "b.mp4")
    decoded = []
    summary = run([first, second, first], tmp_path, decoded)
    assert decoded == ["b.mp4", "a.mp4", "c.mp4"]
    assert list(statuses(tmp_path / "out")) == ["b.mp4", "gone.mp4", "a.mp4", "c.mp4"]
    clean = tmp_path / "out" / "clean"
    assert (clean / "x/0/test.csv").read_text() == "b.mp4,0\na.mp4,2\n"
    assert (clean / "y/0/test.csv").read_text() == second.read_text()
    assert [(item["rows"], item["kept"]) for item in summary["lists"]] == [(3, 2), (3, 3)]


def test_bad_files_are_named_but_not_endlessly(folder, tmp_path, caplog):
    folder("a.mp4")
    run([write_list(tmp_path / "l.csv", "a.mp4", *(f"gone{i}.mp4" for i in range(25)))], tmp_path)
    records = caplog.get_records("call")
    warnings = list(dict.fromkeys(r.getMessage() for r in records if r.levelname == "WARNING"))
    assert warnings[0] == "gone0.mp4: missing (no such file)"
    assert len(warnings) == 21
    assert warnings[-1].startswith("... and 5 more")


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"workers": 0}, ConfigError, "--workers is 0"),
    ({"timeout": 0.0}, ConfigError, "--timeout is 0"),
    ({"separator": ""}, ConfigError, "--separator"),
    ({"recheck": ["broken"]}, ConfigError, "--recheck names 'broken'"),
    ({"prefix": "/no/such/folder"}, ConfigError, "--prefix '/no/such/folder' is not a folder"),
    ({"separator": "4"}, DataError, "none of the 1 listed videos exists"),
])
def test_options_that_cannot_be(folder, tmp_path, options, error, message):
    folder("a.mp4")
    with pytest.raises(error, match=message):
        run([write_list(tmp_path / "l.csv", "a.mp4")], tmp_path, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("content", "message"), [
    (None, "cannot read the list"), (b"\n \n", "is empty"), (b"\xff\xfe,1\n", "cannot read"),
])
def test_lists_that_cannot_be_read(tmp_path, content, message):
    source = tmp_path / "l.csv"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(DataError, match=message):
        check_lists([source], tmp_path / "out")


def test_an_output_that_cannot_be_is_said_before_anything_is_decoded(folder, tmp_path):
    folder("a.mp4")
    source = write_list(tmp_path / "l.csv", "a.mp4")
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        with pytest.raises(DataError, match=re.escape(
                f"cannot write to --output {tmp_path / place}: {tmp_path / 'file'} is not a folder;"
                " give another folder")):
            check_lists([source], tmp_path / place, prefix=str(tmp_path / "videos"))


def test_a_list_is_not_replaced_by_its_cleaned_self(folder, tmp_path):
    folder("a.mp4")
    source = write_list(tmp_path / "out/clean/l.csv", "a.mp4", "gone.mp4")
    with pytest.raises(ConfigError, match="would replace the list"):
        run([source], tmp_path)
    assert source.read_text() == "a.mp4,0\ngone.mp4,1\n"


def test_a_cleaned_folder_can_be_given_to_a_run(folder, tmp_path, caplog):
    folder("a.mp4", "b.mp4")
    lists = tmp_path / "lists"
    train, val = (write_list(lists / f"{name}.csv", "a.mp4", "gone.mp4", "b.mp4")
                  for name in ("train", "val"))
    write_list(lists / "val.csv", "b.mp4", "gone.mp4")
    shutil.copy(val, lists / "test.csv")
    write_list(lists / "test_openset.csv", "a.mp4")
    (lists / "draw.json").write_text('{"kind": "few-shot"}')
    (lists / "x-index2cls.json").write_text('{"0": "ä", "1": "b", "2": "c"}', encoding="utf-8")
    run([train, val], tmp_path)
    clean = tmp_path / "out" / "clean"
    assert {path.name for path in clean.iterdir()} == {
        "train.csv", "val.csv", "test.csv", "draw.json", "x-index2cls.json"}
    assert f"{clean} has no test_openset.csv for a run to read" in caplog.text
    cfg = load_cfg(None, [
        "DATA.PATH_TO_DATA_DIR", str(clean), "DATA.PATH_PREFIX", str(tmp_path / "videos"),
        "DATA.PATH_LABEL_SEPARATOR", ",", "MODEL.NUM_CLASSES", "3",
        "DATA.INDEX_LABEL_MAPPING_FILE", str(clean / "x-index2cls.json")])
    found = {split: [Path(path).name for path in build_list(cfg, split)[0].paths]
             for split in ("train", "val", "test")}
    assert found == {"train": ["a.mp4", "b.mp4"], "val": ["b.mp4"], "test": ["b.mp4"]}
    # Again, with more lists: nothing is left of the first time's.
    run([train, val, lists / "test_openset.csv"], tmp_path)
    assert (clean / "test_openset.csv").read_text() == "a.mp4,0\n"


# --- starting again


def test_a_finished_check_decodes_only_what_changed(folder, tmp_path, videos):
    names = ["a.mp4", "b.mp4", "c.mp4"]
    root = folder(*names)
    source = write_list(tmp_path / "l.csv", *names)
    decoded = []
    run([source], tmp_path)
    before = read_table(tmp_path / "out" / "videos.csv")
    assert run([source], tmp_path, decoded)["decoded"] == 0
    assert decoded == []
    assert read_table(tmp_path / "out" / "videos.csv") == before

    os.utime(root / "a.mp4")
    shutil.copy(videos["cut.mp4"], root / "b.mp4")
    run([source], tmp_path, decoded)
    assert decoded == ["a.mp4", "b.mp4"]
    assert statuses(tmp_path / "out") == {"a.mp4": "ok", "b.mp4": "damaged", "c.mp4": "ok"}

    run([source], tmp_path, decoded, recheck=["damaged", "timeout"])
    assert decoded == ["b.mp4"]
    run([source], tmp_path, decoded, recheck=[])
    assert decoded == names


def test_results_outlast_other_lists_and_absent_files(folder, tmp_path):
    root = folder("a.mp4", "b.mp4", "c.mp4")
    both = write_list(tmp_path / "both.csv", "a.mp4", "b.mp4")
    other = write_list(tmp_path / "other.csv", "c.mp4")
    decoded = []
    run([both], tmp_path)
    run([other], tmp_path, decoded)
    assert decoded == ["c.mp4"]
    assert statuses(tmp_path / "out") == {"c.mp4": "ok"}
    os.rename(root / "a.mp4", root / "away.mp4")
    run([both], tmp_path, decoded)
    assert decoded == []
    assert statuses(tmp_path / "out") == {"a.mp4": "missing", "b.mp4": "ok"}
    os.rename(root / "away.mp4", root / "a.mp4")
    assert run([both, other], tmp_path)["decoded"] == 0
    assert set(statuses(tmp_path / "out").values()) == {"ok"}
    assert not (tmp_path / "out" / "videos.partial.csv").exists()


def test_a_broken_table_costs_only_its_broken_rows(folder, tmp_path):
    names = ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    folder(*names)
    source = write_list(tmp_path / "l.csv", *names)
    run([source], tmp_path)
    out = tmp_path / "out"
    head, a, b, c, d = (out / "videos.csv").read_text().split("\n")[:5]
    (out / "videos.csv").unlink()
    # A row cut off in its last column has as many columns as a whole one.
    b_without_status = b.replace(",ok,", ",,")
    text = "\n".join([head, a, b_without_status, "\0\0\0", '"x,' + c, d])
    (out / "videos.partial.csv").write_text(text)
    decoded = []
    run([source], tmp_path, decoded)
    assert decoded == ["b.mp4", "c.mp4", "d.mp4"]
    assert list(statuses(out)) == names


STUCK = """
import sys, time
sys.path[:0] = [{root!r}]
from openvclip.data.check.run import check_lists
from openvclip.data.check.video import check_video

def check(path):
    if path.endswith("3.mp4"):
        time.sleep(600)
    return check_video(path)

if __name__ == "__main__":
    check_lists([{source!r}], {output!r}, prefix={prefix!r}, workers=1, check=check)
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_check_leaves_no_process_and_goes_on(folder, tmp_path, repo, kind):
    names = [f"{i}.mp4" for i in range(6)]
    root = folder(*names)
    source = write_list(tmp_path / "l.csv", *names)
    script, partial_table = tmp_path / "stuck.py", tmp_path / "out" / "videos.partial.csv"
    script.write_text(STUCK.format(
        root=str(repo), source=str(source), output=str(tmp_path / "out"), prefix=str(root)
    ))
    process = subprocess.Popen(
        [sys.executable, str(script)], start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not partial_table.exists() or partial_table.read_bytes().count(b"\n") < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    if kind == signal.SIGINT:  # as a terminal does
        os.killpg(process.pid, kind)
    else:
        process.send_signal(kind)
    assert process.wait(timeout=60) != 0
    assert psutil.wait_procs(children, timeout=60)[1] == []
    with open(partial_table, "a") as file:
        file.write("3.mp4,ok,h26")
    decoded = []
    run([source], tmp_path, decoded)
    assert decoded == names[3:]
    assert list(statuses(tmp_path / "out").items()) == [(name, "ok") for name in names]


# --- processes that die


def test_a_death_is_blamed_on_the_file_at_hand(folder, tmp_path):
    names = ["0.mp4", "segfault.mp4", "1.mp4", "hang.mp4", "memory.mp4", "2.mp4", "exit.mp4",
             "3.mp4"]
    folder(*names)
    source = write_list(tmp_path / "l.csv", *names)
    run([source], tmp_path, workers=2, timeout=2.0, check=misbehave)
    table = {row["path"]: row for row in read_table(tmp_path / "out" / "videos.csv")}
    bad = {path: row["status"] for path, row in table.items() if row["status"] != "ok"}
    assert bad == {"segfault.mp4": "crashed", "hang.mp4": "timeout", "memory.mp4": "crashed",
                   "exit.mp4": "crashed"}
    assert "SIGSEGV" in table["segfault.mp4"]["reason"]
    assert "exit code 7" in table["exit.mp4"]["reason"]
    assert "MemoryError" in table["memory.mp4"]["reason"]
    assert run([source], tmp_path)["decoded"] == 0


def test_a_process_that_ends_without_an_error_is_a_crash_and_noticed_at_once(folder, tmp_path):
    folder("a.mp4", "quiet exit.mp4")
    source = write_list(tmp_path / "l.csv", "a.mp4", "quiet exit.mp4")
    run([source], tmp_path, timeout=60.0, check=misbehave)
    row = read_table(tmp_path / "out" / "videos.csv")[1]
    assert (row["status"], row["reason"]) == ("crashed", "its process ended with exit code 0")


def test_a_process_that_cannot_die_does_not_stop_the_others(folder, tmp_path, monkeypatch):
    folder("hang.mp4", *(f"{i}.mp4" for i in range(3)))
    source = write_list(tmp_path / "l.csv", "hang.mp4", *(f"{i}.mp4" for i in range(3)))
    monkeypatch.setattr(pool, "GRACE", 0.1)
    monkeypatch.setattr(SpawnProcess, "kill", lambda process: None)  # as if a disk did not answer
    try:
        run([source], tmp_path, timeout=2.0, workers=1, check=misbehave)
    finally:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
    assert statuses(tmp_path / "out") == {
        "hang.mp4": "timeout", "0.mp4": "ok", "1.mp4": "ok", "2.mp4": "ok"}


def test_a_file_that_does_not_crash_a_fresh_process_is_not_blamed(folder, tmp_path):
    folder("a.mp4", "b.mp4")
    source = write_list(tmp_path / "l.csv", "a.mp4", "b.mp4")
    run([source], tmp_path, check=partial(crash_once, tmp_path / "flag"))
    assert statuses(tmp_path / "out") == {"a.mp4": "ok", "b.mp4": "ok"}


# --- the tool


def call_tool(repo: Path, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(repo / "tools" / "check_videos.py"), *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8",
    )


def test_the_tool_from_the_command_line(folder, tmp_path, repo):
    root = folder("a.mp4")
    source = write_list(tmp_path / "l.csv", "a.mp4", "gone.mp4")
    arguments = ["--list", source, "--prefix", root, "--output", tmp_path / "out"]
    done = call_tool(repo, *arguments, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "gone.mp4: missing" in done.stdout
    assert (tmp_path / "out" / "clean" / "l.csv").read_text() == "a.mp4,0\n"
    done = call_tool(repo, *arguments, "--workers", 0)
    assert done.returncode == 2
    assert "--workers is 0" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_the_tool_needs_no_torch(repo):
    code = (
        "import sys; sys.path.insert(0, 'tools'); import check_videos; "
        "import openvclip.data.check.run; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=repo).returncode == 0

"""Caption files: what is found under which name, by which process, and damage."""

from __future__ import annotations

import multiprocessing
import pickle
import sqlite3
from collections import Counter

import pytest

from openvclip.data.captions.index import (
    CaptionFile,
    candidate_keys,
    caption_key,
    draw_caption,
    write_captions,
)
from openvclip.utils.errors import DataError

CAPTIONS = {
    "0347ZoDXyP0": ["a man climbs a wall"],
    "b-_cDEfghij": ["second in the alphabet", "a first sentence", "a third"],
    "Zażółć_gęślą": ["日本"],
}


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "odd ?#%20 name" / "captions.sqlite"
    write_captions(target, CAPTIONS)
    return target


@pytest.mark.parametrize(("video", "key"), [
    ("train/rock climbing/0347ZoDXyP0.mp4", "0347ZoDXyP0"),
    ("/data/k400/0347ZoDXyP0.MKV", "0347ZoDXyP0"),
    ("C:\\clips\\0347ZoDXyP0.webm", "0347ZoDXyP0"),
    ("0347ZoDXyP0", "0347ZoDXyP0"),
    ("a b/some clip 1.avi", "some_clip_1"),
    ("some_clip 1", "some_clip_1"),
    ("take.2", "take.2"),
    ("take.2.mp4", "take.2"),
    ("x/.mp4", ".mp4"),
    ("x/", ""),
    ("Zaz\u0307o\u0301l\u0301c\u0301.mp4", "Za\u017c\u00f3\u013a\u0107"),
])
def test_what_is_compared_of_a_path(video, key):
    assert caption_key(video) == key


def test_letter_case_counts(path):
    captions = CaptionFile(path)
    assert captions.get("x/0347ZoDXyP0.mp4") == ["a man climbs a wall"]
    assert captions.get("x/0347zodxyp0.mp4") == []


def test_captions_come_in_their_order(path):
    captions = CaptionFile(path)
    assert captions.get("b-_cDEfghij.mp4") == CAPTIONS["b-_cDEfghij"]
    assert captions.get("Zażółć gęślą.avi") == ["日本"]
    assert (len(captions), captions.count) == (3, 5)
    assert list(captions.names()) == sorted(CAPTIONS)


def test_clips_with_times_in_their_names_have_the_captions_of_their_id(tmp_path):
    assert candidate_keys("a/b-_cDEfghij_000095_000105.mp4") == (
        "b-_cDEfghij_000095_000105", "b-_cDEfghij")
    assert candidate_keys("a/short_000095_000105.mp4") == ("short_000095_000105",)
    write_captions(tmp_path / "c", {"b-_cDEfghij": ["any"], "b-_cDEfghij_000001_000011": ["own"]})
    captions = CaptionFile(tmp_path / "c")
    assert captions.get("b-_cDEfghij_000001_000011.mp4") == ["own"]
    assert captions.get("b-_cDEfghij_000095_000105.mp4") == ["any"]


def test_match_counts_what_is_there_and_what_shares_a_name(path):
    captions = CaptionFile(path)
    listed = ["a/0347ZoDXyP0.mp4", "b/0347ZoDXyP0.mp4", "none.mp4", "b-_cDEfghij.mp4"]
    match = captions.match(iter(listed))
    assert (match.videos, match.matched, match.rate) == (4, 3, 0.75)
    assert match.unmatched == ["none.mp4"] and match.shared == ["b/0347ZoDXyP0.mp4"]
    assert match.keys == {"0347ZoDXyP0", "b-_cDEfghij"}
    assert captions.match([]).rate == 0.0


def test_paths_that_are_no_text_have_no_captions(path):
    captions = CaptionFile(path)
    assert captions.get("x/\udcff.mp4") == []
    assert captions.match(["\udcff.mp4"]).unmatched == ["\udcff.mp4"]


def _look_up(captions: CaptionFile, queue) -> None:
    queue.put((captions._process, captions.get("b-_cDEfghij.mp4")))


def test_works_after_a_fork_and_after_pickling(path):
    captions = CaptionFile(path)
    parent = captions._connection
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_look_up, args=(captions, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [queue.get(timeout=60)[1] for _ in workers]
    for worker in workers:
        worker.join(60)
    assert found == [CAPTIONS["b-_cDEfghij"]] * 2
    assert captions.get("b-_cDEfghij.mp4") == found[0] and captions._connection is parent
    copy = pickle.loads(pickle.dumps(captions))
    assert copy._connection is None and len(copy) == 3
    assert copy.get("b-_cDEfghij") == found[0]


def test_a_process_does_not_use_another_ones_connection(path, monkeypatch):
    captions = CaptionFile(path)
    parent = captions._connection
    monkeypatch.setattr("openvclip.data.captions.index.os.getpid", lambda: -1)
    assert captions.get("b-_cDEfghij") == CAPTIONS["b-_cDEfghij"]
    assert captions._connection is not parent


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.sqlite does not exist; write it again: python"):
        CaptionFile(tmp_path / "none.sqlite")
    with pytest.raises(DataError, match="does not exist"):
        CaptionFile(tmp_path)
    for name, content in {"captions.pt": b"PK\3\4" + bytes(999), "empty": b"",
                          "c.json": b"{}"}.items():
        (tmp_path / name).write_bytes(content)
        said = rf"{name} is not a prepared .*--captions '?/.*{name}'? --output"
        with pytest.raises(DataError, match=said):
            CaptionFile(tmp_path / name)
    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("CREATE TABLE captions (video)")
    with pytest.raises(DataError, match="not a prepared caption file"):
        CaptionFile(tmp_path / "other")


def test_a_later_format_is_refused(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(DataError, match="has the format 9, this version reads 1"):
        CaptionFile(path)


@pytest.fixture
def large(tmp_path):
    target = tmp_path / "large"
    write_captions(target, {f"v{i:04d}": ["word " * 50] for i in range(400)})
    return target


@pytest.mark.parametrize("rest", [0.5, 0.99, -1, 1000])
def test_a_file_that_is_cut_off_or_grew_is_refused(large, rest):
    whole = large.read_bytes()
    kept = int(len(whole) * rest) if 0 < rest < 1 else len(whole) + rest
    large.write_bytes((whole + bytes(1000))[:kept])
    with pytest.raises(DataError, match=f"is damaged: it has {kept} bytes.*should have"):
        CaptionFile(large)


def test_damage_inside_is_reported_by_the_look_up(large):
    whole = bytearray(large.read_bytes())
    whole[8192:-8192] = b"\xff" * (len(whole) - 16384)
    large.write_bytes(whole)
    with pytest.raises(DataError, match="cannot read the caption file .*large: .*write it again"):
        captions = CaptionFile(large)
        for i in range(400):
            captions.get(f"v{i:04d}")


def test_an_old_file_stays_where_the_new_one_fails(path):
    before = path.read_bytes()
    path.with_name(f".{path.name}.tmp").write_text("left by a killed run")
    with pytest.raises(DataError, match="cannot write the caption file"):
        write_captions(path, {"a": ["good"], "b": [object()]})
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == [f".{path.name}.tmp", path.name]
    write_captions(path, {"a": ["good"]})
    assert CaptionFile(path).get("a") == ["good"] and len(CaptionFile(path)) == 1


def test_the_same_captions_make_the_same_bytes(path, tmp_path):
    write_captions(tmp_path / "again", dict(reversed(CAPTIONS.items())))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_draws_depend_on_seed_epoch_and_row_alone():
    captions = ["a", "b", "c"]
    drawn = {(s, e, i): draw_caption(captions, seed=s, epoch=e, index=i)
             for s in (0, 7, -1) for e in range(20) for i in range(20)}
    again = {key: draw_caption(captions, seed=key[0], epoch=key[1], index=key[2])
             for key in reversed(drawn)}
    assert drawn == again
    assert min(Counter(drawn.values()).values()) > 300
    for axis in range(3):
        fixed = [(0, 0, 0), (7, 1, 1)]
        lines = [[v for k, v in drawn.items()
                  if all(k[a] == point[a] for a in range(3) if a != axis)] for point in fixed]
        assert any(len(set(line)) > 1 for line in lines)
    assert draw_caption(["only"], seed=1, epoch=2, index=3) == "only"

from __future__ import annotations

import errno
import itertools
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from openvclip.data.video import cache as cache_module
from openvclip.data.video.cache import LEDGER_BYTES, FrameCache

FORK = multiprocessing.get_context("fork")


def make_cache(tmp_path: Path, max_bytes: int = 10**7, spec: str = "8x16") -> FrameCache:
    return FrameCache(tmp_path / "cache", max_bytes=max_bytes, spec=spec)


def make_videos(tmp_path: Path, count: int) -> list[str]:
    paths = [tmp_path / f"{number}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(number + 1))
    return [str(path) for path in paths]


def frames(number: int, size: int = 5000) -> dict[str, np.ndarray]:
    """Arrays that are told apart by their content."""
    rng = np.random.default_rng(number)
    return {
        "frames": rng.integers(0, 256, (size // 30, 2, 5, 3), dtype=np.uint8),
        "number": np.array([number, size]),
    }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def levels(caplog) -> list[str]:
    """Return the levels of what was logged; a record that propagates is seen twice."""
    return [record.levelname for record in {id(r): r for r in caplog.records}.values()]


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("??/*") if path.suffix != ".tmp")


def ledger(folder: Path) -> int:
    with cache_module._locked(str(folder)) as found:
        return found.total


def test_what_was_put_is_got_by_another_process_too(tmp_path):
    (video,) = make_videos(tmp_path, 1)
    arrays = {
        **frames(1),
        "strided": np.arange(24, dtype=np.float32).reshape(4, 6)[::2, 1::2],
        "empty": np.zeros((0, 3), np.int16),
        "scalar": np.array(2.5),
    }
    assert make_cache(tmp_path).get(video) is None
    assert make_cache(tmp_path).put(video, arrays)
    found = make_cache(tmp_path).get(video)
    assert_same(found, arrays)
    found["frames"] += 1  # Nobody else sees this.
    assert_same(make_cache(tmp_path).get(video), arrays)
    (place,) = entries(tmp_path / "cache")
    assert len(place.parent.name) == 2


def test_arrays_are_aligned_for_their_type(tmp_path):
    (video,) = make_videos(tmp_path, 1)
    cache = make_cache(tmp_path)
    cache.put(video, {"odd": np.zeros(7, np.uint8), "wide": np.arange(5, dtype=np.int64)})
    assert all(array.flags.aligned for array in cache.get(video).values())


def test_a_relative_path_is_the_same_video(tmp_path, monkeypatch):
    (video,) = make_videos(tmp_path, 1)
    cache = make_cache(tmp_path)
    cache.put(video, frames(1))
    monkeypatch.chdir(tmp_path)
    assert cache.get("0.mp4") is not None


def test_another_spec_and_another_version_miss(tmp_path, monkeypatch):
    (video,) = make_videos(tmp_path, 1)
    cache = make_cache(tmp_path)
    cache.put(video, frames(1))
    assert make_cache(tmp_path, spec="8x8").get(video) is None
    monkeypatch.setattr(cache_module, "VERSION", 2)
    assert cache.get(video) is None


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_changed_file_misses(tmp_path, change):
    (video,) = make_videos(tmp_path, 1)
    cache = make_cache(tmp_path)
    cache.put(video, frames(1))
    before = os.stat(video)
    if change == "size":
        Path(video).write_bytes(b"more")
        os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
    assert cache.get(video) is None
    assert cache.put(video, frames(2))
    assert_same(cache.get(video), frames(2))


def test_what_was_decoded_of_a_file_that_changed_meanwhile_is_not_kept(tmp_path):
    (video,) = make_videos(tmp_path, 1)
    cache = make_cache(tmp_path)
    assert cache.get(video) is None
    Path(video).write_bytes(b"another video")
    assert not cache.put(video, frames(1))
    assert cache.get(video) is None
    assert cache.put(video, frames(2))


def test_a_missing_video_is_a_miss(tmp_path, caplog):
    cache = make_cache(tmp_path)
    assert cache.get(str(tmp_path / "none.mp4")) is None
    assert not cache.put(str(tmp_path / "none.mp4"), frames(1))
    assert not caplog.records


def test_objects_are_refused(tmp_path):
    (video,) = make_videos(tmp_path, 1)
    with pytest.raises(TypeError, match="the array names is of object"):
        make_cache(tmp_path).put(video, {"names": np.array(["a", None], object)})


@pytest.mark.parametrize("where", ["magic", "checksum", "lengths", "header", "middle", "end"])
def test_a_flipped_bit_is_a_miss(tmp_path, where, caplog):
    (video,) = make_videos(tmp_path, 1)
    cache = make_cache(tmp_path)
    cache.put(video, frames(1))
    (place,) = entries(tmp_path / "cache")
    raw = bytearray(place.read_bytes())
    at = {"magic": 0, "checksum": 8, "lengths": 13, "header": 40, "middle": len(raw) // 2,
          "end": len(raw) - 1}[where]
    raw[at] ^= 1
    place.write_bytes(raw)
    assert cache.get(video) is None
    assert levels(caplog) == ["WARNING"]
    assert "damaged" in caplog.text and str(place) in caplog.text
    assert not place.exists()
    assert ledger(tmp_path / "cache") == 0
    assert cache.put(video, frames(1))
    assert_same(cache.get(video), frames(1))


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999, 1.1])
def test_an_entry_of_another_length_is_a_miss(tmp_path, keep, caplog):
    (video,) = make_videos(tmp_path, 1)
    cache = make_cache(tmp_path)
    cache.put(video, frames(1))
    (place,) = entries(tmp_path / "cache")
    os.truncate(place, int(place.stat().st_size * keep))
    assert cache.get(video) is None
    assert "cut off" in caplog.text
    assert not place.exists()


def test_an_entry_in_the_place_of_another_is_a_miss(tmp_path):
    one, two = make_videos(tmp_path, 2)
    cache = make_cache(tmp_path)
    cache.put(one, frames(1))
    (place,) = entries(tmp_path / "cache")
    raw = place.read_bytes()
    place.unlink()
    cache.put(two, frames(2))
    entries(tmp_path / "cache")[0].write_bytes(raw)
    assert cache.get(two) is None


def fill(cache: FrameCache, videos: list[str]) -> list[bool]:
    return [
        cache.get(video) is not None or cache.put(video, frames(number))
        for number, video in enumerate(videos)
    ]


def test_a_full_folder_takes_nothing_more_and_loses_nothing(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    videos = make_videos(tmp_path, 12)
    cache = make_cache(tmp_path, 40_000)
    assert fill(cache, videos) == [True] * 6 + [False] * 6
    assert bytes_in(tmp_path / "cache") <= 40_000
    assert fill(pickle.loads(pickle.dumps(cache)), videos) == [True] * 6 + [False] * 6
    assert levels(caplog) == ["INFO"]
    assert "the frame cache is full" in caplog.text
    assert fill(make_cache(tmp_path, 40_000), videos[::-1])[-6:] == [True] * 6
    for number in range(6):
        assert_same(cache.get(videos[number]), frames(number))


def test_another_run_may_have_more_room(tmp_path):
    videos = make_videos(tmp_path, 12)
    fill(make_cache(tmp_path, 40_000), videos)
    assert all(fill(make_cache(tmp_path, 200_000), videos))


def test_a_full_folder_drops_entries_of_changed_and_deleted_videos(tmp_path):
    videos = make_videos(tmp_path, 12)
    fill(make_cache(tmp_path, 40_000), videos)
    Path(videos[0]).write_bytes(b"new")
    os.unlink(videos[1])
    cache = make_cache(tmp_path, 40_000)
    assert [cache.put(video, frames(9)) for video in videos[6:9]] == [True, True, False]
    assert all(cache.get(video) for video in videos[2:8])
    assert bytes_in(tmp_path / "cache") <= 40_000


def test_entries_of_a_disk_that_is_away_are_kept(tmp_path):
    (tmp_path / "disk").mkdir()
    videos = make_videos(tmp_path / "disk", 7)
    fill(make_cache(tmp_path, 40_000), videos)
    (tmp_path / "disk").rename(tmp_path / "away")
    (other,) = make_videos(tmp_path, 1)
    assert not make_cache(tmp_path, 40_000).put(other, frames(1))
    (tmp_path / "away").rename(tmp_path / "disk")
    assert sum(make_cache(tmp_path).get(video) is not None for video in videos) == 6


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"[100, []] 00000000\n"])
def test_a_missing_or_damaged_total_is_counted_again(tmp_path, content):
    videos = make_videos(tmp_path, 3)
    fill(make_cache(tmp_path), videos)
    total = tmp_path / "cache" / "total"
    expected = ledger(tmp_path / "cache")
    total.unlink()
    if content is not None:
        total.write_bytes(content)
    assert ledger(tmp_path / "cache") == expected
    assert expected == sum(path.stat().st_size for path in entries(tmp_path / "cache"))


def test_an_emptied_folder_is_filled_again(tmp_path):
    videos = make_videos(tmp_path, 3)
    cache = make_cache(tmp_path)
    fill(cache, videos)
    shutil.rmtree(tmp_path / "cache")
    assert fill(cache, videos) == [True] * 3
    assert cache.get(videos[2]) is not None


@pytest.mark.parametrize("broken", ["write", "flock", "ftruncate"])
def test_a_full_disk_is_one_warning(tmp_path, broken, monkeypatch, caplog):
    videos = make_videos(tmp_path, 4)
    cache = make_cache(tmp_path)
    assert cache.put(videos[0], frames(0))
    before = ledger(tmp_path / "cache")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache_module.fcntl if broken == "flock" else os, broken, fail)
        assert not any(cache.put(video, frames(1)) for video in videos[1:])
    assert not cache.put(videos[1], frames(1))
    assert levels(caplog) == ["WARNING"]
    assert "No space left on device" in caplog.text
    assert cache.get(videos[0]) is not None
    assert len(entries(tmp_path / "cache")) == 1
    if broken != "ftruncate":  # Which also ends the total: it is then counted again.
        assert not list((tmp_path / "cache").glob("??/*.tmp"))
        assert ledger(tmp_path / "cache") == before


def test_a_folder_that_cannot_be_made_is_one_warning(tmp_path, caplog):
    videos = make_videos(tmp_path, 2)
    (tmp_path / "cache").write_text("a file")
    cache = make_cache(tmp_path)
    assert fill(cache, videos) == [False, False]
    assert levels(caplog) == ["WARNING"]


def hammer(tmp_path: Path, videos: list[str], seed: int, until_killed: bool) -> None:
    """Get and put entries in a random order; fail if a wrong one is got."""
    cache = make_cache(tmp_path, 300_000)
    order = np.random.default_rng(seed).permutation(len(videos)).tolist()
    for number in itertools.cycle(order) if until_killed else order:
        expected = frames(number, 3000 + 400 * number)
        found = cache.get(videos[number])
        if found is not None:
            assert_same(found, expected)
        cache.put(videos[number], expected)


def run_hammers(tmp_path: Path, videos: list[str], kill: int) -> None:
    """Run four processes to their end, or the first ``kill`` of them until they are killed."""
    workers = [
        FORK.Process(target=hammer, args=(tmp_path, videos, seed, seed < kill))
        for seed in range(4)
    ]
    for worker in workers:
        worker.start()
    while kill and not entries(tmp_path / "cache"):
        time.sleep(0.001)
    for worker in workers[:kill]:
        worker.kill()
    for worker in workers:
        worker.join()
    expected = [-signal.SIGKILL] * kill + [0] * (4 - kill)
    assert [worker.exitcode for worker in workers] == expected


@pytest.mark.parametrize("kill", [0, 2])
def test_many_processes_keep_the_bound_and_give_whole_entries(tmp_path, kill):
    videos = make_videos(tmp_path, 40)
    (tmp_path / "cache").mkdir()
    run_hammers(tmp_path, videos, kill)
    assert bytes_in(tmp_path / "cache") <= 300_000
    assert ledger(tmp_path / "cache") >= cache_module._count(str(tmp_path / "cache"))
    run_hammers(tmp_path, videos, 0)
    assert bytes_in(tmp_path / "cache") <= 300_000
    cache = make_cache(tmp_path)
    found = [cache.get(video) for video in videos]
    assert sum(entry is not None for entry in found) >= 15
    for number, entry in enumerate(found):
        if entry is not None:
            assert_same(entry, frames(number, 3000 + 400 * number))


def put_and_die(tmp_path: Path, video: str, moment: str) -> None:
    """Be killed at a moment of ``put``."""
    cache = make_cache(tmp_path, 40_000)

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "half":
        cache_module._write_all = lambda fd, part: (os.write(fd, bytes(part)[:100]), die())
    else:
        owner, name = {
            "created": (cache_module.io, "FileIO"),
            "sized": (os, "ftruncate"),
            "renamed": (os, "replace"),
        }[moment]
        setattr(owner, name, die)
    cache.put(video, frames(0))


@pytest.mark.parametrize("moment", ["created", "sized", "half", "renamed"])
def test_a_killed_writer_leaves_nothing_to_get_and_its_room_is_found_again(tmp_path, moment):
    videos = make_videos(tmp_path, 12)
    for video in videos[:3]:
        worker = FORK.Process(target=put_and_die, args=(tmp_path, video, moment))
        worker.start()
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
    assert make_cache(tmp_path).get(videos[0]) is None
    assert entries(tmp_path / "cache") == []
    cache = make_cache(tmp_path, 40_000)
    assert fill(cache, videos) == [True] * 6 + [False] * 6
    assert not list((tmp_path / "cache").glob("??/*.tmp"))
    assert bytes_in(tmp_path / "cache") <= 40_000 - LEDGER_BYTES + 1000


def test_a_sweep_leaves_the_file_that_is_being_written(tmp_path, monkeypatch):
    videos = make_videos(tmp_path, 8)
    writer, other = make_cache(tmp_path, 40_000), make_cache(tmp_path, 40_000)
    write_all = cache_module._write_all

    def interrupted(descriptor, part):
        monkeypatch.setattr(cache_module, "_write_all", write_all)
        assert fill(other, videos[1:]) == [True] * 5 + [False] * 2
        write_all(descriptor, part)

    monkeypatch.setattr(cache_module, "_write_all", interrupted)
    assert writer.put(videos[0], frames(0))
    assert_same(writer.get(videos[0]), frames(0))
    assert bytes_in(tmp_path / "cache") <= 40_000


def test_no_file_stays_open(tmp_path):
    videos = make_videos(tmp_path, 8)
    before = len(os.listdir("/proc/self/fd"))
    cache = make_cache(tmp_path, 40_000)
    fill(cache, videos)
    fill(cache, videos)
    assert len(os.listdir("/proc/self/fd")) == before

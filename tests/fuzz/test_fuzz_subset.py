"""A few seconds of what fuzz_video_io.py does for minutes, and that it sees what goes wrong."""

from __future__ import annotations

import gc
import json
from collections import Counter
from contextlib import suppress

import pytest

from openvclip.utils.errors import DataError
from tests.fuzz import fuzz_video_io, pipelines, reading
from tests.fuzz.corruption import KINDS, make_case, read_sources
from tests.fuzz.sources import FORMATS, make_sources
from tests.fuzz.times import CAMPAIGN, find_times


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    make_sources(folder)
    return folder


def test_undamaged_sources_give_frames(folder):
    for name in FORMATS:
        assert reading.outcome(folder / name, reading.VIEWS) == ("frames", ""), name


def test_damaged_files_give_frames_or_one_data_error(folder, tmp_path):
    reports = [reading.read_case([folder], tmp_path, 500, str(seed)) for seed in range(150)]
    assert [report for report in reports if report["result"] in fuzz_video_io.BAD] == []
    counts = Counter(report["result"] for report in reports)
    assert counts["frames"] > 50 and counts["error"] > 20
    assert {report["kind"] for report in reports} == set(KINDS)
    assert list(tmp_path.iterdir()) == []


def test_a_seed_gives_its_case_again(folder):
    sources = read_sources([folder])
    cases = [make_case(seed, sources) for seed in range(40)]
    assert cases == [make_case(seed, sources) for seed in range(40)]
    assert len({case.data for case in cases}) == 40
    whole = {source.name: source.data for source in sources}
    changed = sum(case.data != whole[case.source] for case in cases)
    assert changed >= 35  # To swap equal bytes, or to zero zeros, changes nothing.


def fail(*_, **__):
    raise KeyError("stamp")


def test_an_exception_that_is_no_data_error_is_harm(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "read_clips", fail)
    report = reading.read_case([folder], tmp_path, 500, "3")
    assert report["result"] == "exception" and "KeyError" in report["reason"]
    assert [path.name for path in tmp_path.iterdir()] == [report["file"]]


def test_memory_beyond_the_limit_is_harm(folder, tmp_path, monkeypatch):
    held = []

    def hoard(*args):
        held.append(bytearray(b"\1") * (512 << 20))
        return "error", ""

    monkeypatch.setattr(reading, "outcome", hoard)
    gc.collect()  # What other tests left could be freed meanwhile, and be taken for less memory.
    assert reading.read_case([folder], tmp_path, 40, "3")["result"] == "memory"


def test_a_file_left_by_a_process_that_died_is_harm(folder, tmp_path):
    case = make_case(3, read_sources([folder]))
    (tmp_path / case.file_name).write_bytes(case.data)
    assert reading.read_case([folder], tmp_path, 500, "3")["result"] == "crash"


def test_the_script_replays_seeds_and_fails_where_their_files_do_harm(folder, tmp_path):
    keep, output = tmp_path / "keep", tmp_path / "summary.json"
    keep.mkdir()
    cases = [make_case(seed, read_sources([folder])) for seed in (3, 8)]
    for case in cases:
        (keep / case.file_name).write_bytes(case.data)  # As an earlier run would have left it.
    options = ["--videos", folder, "--only", 3, 8, "--jobs", 1, "--max-memory", -1000]
    code = fuzz_video_io.main([str(o) for o in [*options, "--keep", keep, "--output", output]])
    assert code == 1
    summary = json.loads(output.read_text())
    assert [bad["seed"] for bad in summary["bad"]] == [3, 8]
    kinds = Counter(case.kind for case in cases)
    assert summary["table"] == {kind: {"memory": count} for kind, count in kinds.items()}
    assert {path.name for path in keep.iterdir()} == {case.file_name for case in cases}


def test_damaged_files_pass_training_testing_and_the_timeline(folder, tmp_path):
    reports = [pipelines.read_case_through([folder], tmp_path, 500, str(seed))
               for seed in range(25)]
    assert [report for report in reports if report["result"] in fuzz_video_io.BAD] == []
    counts = Counter(report["result"] for report in reports)
    assert counts["frames"] > 10 and counts["error"] > 2
    assert sum(report["kind"] == "times" for report in reports) > 5
    assert list(tmp_path.iterdir()) == []


def test_damaged_times_are_found_in_every_container(folder):
    for source in read_sources([folder]):
        found = find_times(source.data)
        assert len(found) >= 5, source.name
        assert all(place + width <= len(source.data) for place, width, _ in found), source.name
    videos = [make_case(seed, read_sources([folder]), {"times": CAMPAIGN["times1"]})
              for seed in range(20)]
    whole = {source.name: source.data for source in read_sources([folder])}
    assert sum(case.data != whole[case.source] for case in videos) >= 18
    assert all(len(case.data) == len(whole[case.source]) for case in videos)


def test_a_gap_made_by_damage_makes_windows_that_are_merged(folder, tmp_path):
    """What the campaign is for must occur in it."""
    merged = 0
    for seed in range(60):
        case = make_case(seed, read_sources([folder]), {"times": CAMPAIGN["times1"]})
        path = tmp_path / case.source
        path.write_bytes(case.data)
        with suppress(DataError):
            found = pipelines.model().timeline(path, pipelines.LABELS)
            merged += found.merged > 1000
    assert merged >= 3


@pytest.mark.parametrize("name", ["dataset_item", "predicted", "timeline"])
def test_an_exception_on_any_way_through_is_harm(folder, tmp_path, monkeypatch, name):
    monkeypatch.setattr(pipelines, name, fail)
    report = pipelines.read_case_through([folder], tmp_path, 500, "3")
    assert report["result"] == "exception" and "KeyError" in report["reason"]

"""The journal of an evaluation: what was written whole comes back, and nothing else."""

from __future__ import annotations

import json

import pytest
import torch

from openvclip.evaluation.resume_log import (
    FOLDER,
    FRAME,
    ScoredGroup,
    open_resume_log,
    read_records,
)

KEY = {"list": "abc", "ratios": [0.0, 0.5]}
SHAPE = (2, 5)


def record(first: int) -> ScoredGroup:
    rng = torch.Generator().manual_seed(first)
    return ScoredGroup(first, [first, first + 2], torch.randn(2, 2, 5, generator=rng),
                  {first + 1: "bröken"})


def same(one: ScoredGroup, other: ScoredGroup) -> bool:
    return (one.first, one.rows, one.failures) == (other.first, other.rows, other.failures) and (
        torch.equal(one.scores, other.scores))


@pytest.fixture
def written(tmp_path):
    journal = open_resume_log(tmp_path, KEY, SHAPE)
    for first in (0, 3, 6):
        journal.append(record(first))
    journal.close()
    return journal


def test_what_was_written_comes_back_and_grows(written, tmp_path):
    again = open_resume_log(tmp_path, KEY, SHAPE)
    assert again.done == {0, 3, 6} and again.path != written.path
    assert all(same(r, record(r.first)) for r in again.restored)
    again.append(record(9))
    third = open_resume_log(tmp_path, KEY, SHAPE)
    assert third.done == {0, 3, 6, 9}
    third.remove()
    assert not (tmp_path / FOLDER).exists()


def test_a_journal_cut_at_any_byte_gives_its_whole_records(written, tmp_path):
    whole = written.path.read_bytes()
    ends, position = [], 0
    while position < len(whole):
        position += FRAME.size + FRAME.unpack_from(whole, position)[1]
        ends.append(position)
    assert len(ends) == 4
    for cut in range(len(whole)):
        written.path.write_bytes(whole[:cut])
        found = read_records(written.path, written.digest, SHAPE)
        assert [r.first for r in found] == [0, 3, 6][:max(sum(end <= cut for end in ends) - 1, 0)]
        assert all(same(r, record(r.first)) for r in found)


def test_damage_ends_what_is_read(written):
    whole = written.path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0x40
        written.path.write_bytes(damaged)
        found = read_records(written.path, written.digest, SHAPE)
        assert len(found) < 3 and all(same(r, record(r.first)) for r in found)


def test_another_evaluation_does_not_use_it(written, tmp_path, caplog):
    with caplog.at_level("INFO", logger="openvclip"):
        other = open_resume_log(tmp_path, {**KEY, "list": "abd"}, SHAPE)
    assert other.done == frozenset() and written.path.name in caplog.text
    other.remove()
    assert written.path.exists()
    # Not even under its name: the digest inside counts as well.
    assert read_records(written.path, "0" * 64, SHAPE) == []
    assert read_records(written.path, written.digest, (2, 6)) == []


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, caplog):
    (tmp_path / FOLDER).write_text("a file")
    journal = open_resume_log(tmp_path, KEY, SHAPE)
    journal.append(record(0))
    journal.remove()
    assert "cannot be written" in caplog.text


def test_the_digest_is_of_the_whole_key(tmp_path):
    names = {open_resume_log(tmp_path, json.loads(text), SHAPE).digest for text in
             ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', '{"a": 1, "b": 3}')}
    assert len(names) == 2

"""Predictions: what plain pickle reads, what ours reads, and what it refuses."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from openvclip.report.run.predictions_file import load_predictions, save_predictions
from openvclip.utils.errors import DataError

SCORES = torch.arange(12, dtype=torch.float32).reshape(4, 3).sin()
LABELS = torch.tensor([2, 0, 1, 1])


def check(found, scores=SCORES, labels=LABELS):
    assert all(isinstance(part, torch.Tensor) for part in found)
    assert torch.equal(found[0], scores) and torch.equal(found[1], labels)


def test_plain_pickle_reads_what_is_written(tmp_path):
    path = tmp_path / "deep" / "er" / "results.pkl"
    save_predictions(path, SCORES, LABELS)
    with open(path, "rb") as file:
        check(pickle.load(file))
    with open(path, "rb") as file:
        check(pickle.load(file, encoding="latin1"))  # as PySlowFast's tools call it
    check(load_predictions(path))
    assert os.listdir(path.parent) == ["results.pkl"]


def test_a_view_does_not_bring_along_what_it_views(tmp_path):
    save_predictions(tmp_path / "p", torch.zeros(1000, 1000)[:4, :3], LABELS)
    assert (tmp_path / "p").stat().st_size < 4000
    check(load_predictions(tmp_path / "p"), torch.zeros(4, 3))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("change", [
    lambda t: t, lambda t: t.numpy(), lambda t: np.asfortranarray(t.numpy()),
    lambda t: t.numpy().astype(t.numpy().dtype.newbyteorder(">")), lambda t: t.t().contiguous().t(),
], ids=["tensors", "arrays", "fortran", "big-endian", "transposed"])
def test_pickles_of_others_are_read(tmp_path, protocol, change):
    path = tmp_path / "p.pkl"
    content = [change(SCORES), change(LABELS) if change(LABELS).ndim == 1 else LABELS]
    path.write_bytes(pickle.dumps(content, protocol))
    check(load_predictions(path))


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_save_are_read(tmp_path, zipped):
    path = tmp_path / "p.pth"
    torch.save([SCORES, LABELS], path, _use_new_zipfile_serialization=zipped)
    if zipped:
        check(load_predictions(path))
    else:  # neither published code nor ours ever wrote these
        with pytest.raises(DataError, match="cannot read the predictions"):
            load_predictions(path)


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def storage_bytes(payload):
    """What torch pickles of a tensor's memory, with another pickle in the place of its content."""
    head = [pickle.dumps(part, 2) for part in (0x1950a86a20f9469cfc6c, 1001, {})]
    return b"".join(head) + payload


def hostile(marker):
    touch = Call(os.system, f"touch '{marker}'")
    inner = storage_bytes(pickle.dumps(touch, 2))
    return {
        "a call": pickle.dumps([touch, LABELS]),
        "a call, old protocol": pickle.dumps([touch, LABELS], 0),
        "eval": pickle.dumps([Call(eval, "1 + 1"), LABELS]),
        "torch.load": pickle.dumps([Call(torch.load, "x"), LABELS]),
        "a call in a tensor's memory": pickle.dumps([
            Call(torch.storage._load_from_bytes, inner), LABELS]),
        "getattr": b"cbuiltins\ngetattr\n.",
        "a dotted name": b"\x80\x04\x8c\x0ctorch._utils\x8c\x1b_rebuild_tensor_v2.__globals__\x93.",
        "an object array": pickle.dumps([np.array([touch, None]), LABELS]),
        "a great memo": b"\x80\x02]r" + struct.pack("<I", 0x7FFFFFFF) + b".",
        "a great frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"]",
        "great bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"ab",
        "a great number": b"I" + b"9" * 100_000 + b"\n.",
        "no end": b"\x80\x02" + b"]" * 20_000,
        "nesting": b"\x80\x02" + b"]" * 9_000 + b"a" * 8_999 + b".",
        "an alias of little memory": pickle.dumps([
            Call(torch._utils._rebuild_tensor_v2, torch.zeros(4).untyped_storage(), 0,
                 (10**6, 10**6), (0, 0), False, {}), LABELS]),
    }


@pytest.mark.parametrize("name", list(hostile("")))
def test_a_hostile_file_is_refused_in_one_line_and_nothing_runs(tmp_path, name):
    marker, path = tmp_path / "ran", tmp_path / "p.pkl"
    path.write_bytes(hostile(marker)[name])
    with pytest.raises(DataError, match="cannot read the predictions") as error:
        load_predictions(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert not marker.exists()


def test_a_compressed_archive_is_refused(tmp_path):
    path, packed = tmp_path / "p.pth", tmp_path / "packed.pth"
    torch.save([torch.zeros(1000, 1000), LABELS], path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for name in source.namelist():
            out.writestr(name, source.read(name))
    with pytest.raises(DataError, match="never compressed"):
        load_predictions(packed)


@pytest.mark.parametrize("content, said", [
    ([SCORES], "it holds a list, not"),
    ({"scores": SCORES}, "it holds a dict, not"),
    ([SCORES, None], "a NoneType where a tensor"),
    ([SCORES, LABELS[:2]], r"shapes \(4, 3\) and \(2,\)"),
    ([SCORES[0], LABELS], r"shapes \(3,\) and"),
    ([LABELS[:, None], LABELS], "must be floating-point"),
])
def test_what_is_not_scores_and_labels_is_said(tmp_path, content, said):
    (tmp_path / "p").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=said):
        load_predictions(tmp_path / "p")


def test_missing_empty_and_cut_off_files_are_said(tmp_path):
    path = tmp_path / "p"
    with pytest.raises(DataError, match="no predictions"):
        load_predictions(path)
    save_predictions(path, SCORES, LABELS)
    whole = path.read_bytes()
    for size in (0, 1, 50, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="cannot read the predictions"):
            load_predictions(path)

"""Averaging of checkpoint files by function and by tool."""

from __future__ import annotations

import pytest
import torch

from openvclip.engine import checkpoint as ckpt
from openvclip.engine.averaging import average_checkpoints
from openvclip.utils.errors import CheckpointError, ConfigError


@pytest.fixture
def run(tmp_path):
    for number in range(1, 6):
        state = {"model.w": torch.full((2,), float(number))}
        ckpt.save_file(ckpt.checkpoint_path(tmp_path, number), {"model_state": state})
    return tmp_path


def test_both_ends_are_included_and_either_folder_will_do(run):
    for source in (run, run / ckpt.FOLDER):
        out = average_checkpoints(source, start=2, end=5, output=run / "swa_2_5.pth")
        assert ckpt.load_file(out)["model_state"]["model.w"].tolist() == [3.5, 3.5]


def test_missing_files_are_named(run):
    with pytest.raises(CheckpointError, match=r"lacks 2 of .* 4..7: 6, 7; it has 1..5"):
        average_checkpoints(run, start=4, end=7, output=run / "x.pth")
    with pytest.raises(CheckpointError, match="no folder"):
        average_checkpoints(run / "nowhere", start=1, end=1, output=run / "x.pth")


def test_a_damaged_file_is_named_and_nothing_is_written(run):
    ckpt.checkpoint_path(run, 3).write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="checkpoint_epoch_00003"):
        average_checkpoints(run, start=2, end=5, output=run / "x.pth")
    assert not (run / "x.pth").exists()


def test_ranges_and_clip_are_checked(run):
    for start, end in ((-1, 3), (4, 3)):
        with pytest.raises(ConfigError, match="0 <= start <= end"):
            average_checkpoints(run, start=start, end=end, output=run / "x.pth")
    with pytest.raises(ConfigError, match="--clip"):
        average_checkpoints(run, start=0, end=3, output=run / "x.pth")
    with pytest.raises(ConfigError, match="--start 0 only"):
        average_checkpoints(run, start=1, end=3, output=run / "x.pth", clip="clip.pt")

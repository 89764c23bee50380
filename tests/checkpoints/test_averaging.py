"""Averaging of checkpoint files by function and by tool."""

from __future__ import annotations

import logging
import os

import pytest
import torch

from openvclip.checkpoints import averaging
from openvclip.checkpoints import files as ckpt
from openvclip.checkpoints.averaging import average_checkpoints
from openvclip.checkpoints.loading import load_weights
from openvclip.interpolation.merging.method import MergeMethod
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


def test_a_pipe_is_refused_before_anything_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe is a pipe .*not a regular file; give another"):
        average_checkpoints(tmp_path / "none", start=1, end=2, output=tmp_path / "pipe")
    assert os.listdir(tmp_path) == ["pipe"] and (tmp_path / "pipe").is_fifo()


def test_ranges_and_clip_are_checked(run):
    for start, end in ((-1, 3), (4, 3)):
        with pytest.raises(ConfigError, match="0 <= start <= end"):
            average_checkpoints(run, start=start, end=end, output=run / "x.pth")
    with pytest.raises(ConfigError, match="--clip"):
        average_checkpoints(run, start=0, end=3, output=run / "x.pth")
    with pytest.raises(ConfigError, match="--start 0 only"):
        average_checkpoints(run, start=1, end=3, output=run / "x.pth", clip="clip.pt")


def write_epoch(folder, number, **tensors):
    state = {f"model.{name}": tensor for name, tensor in tensors.items()}
    ckpt.save_file(ckpt.checkpoint_path(folder, number), {"model_state": state})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_epoch_that_is_not_finite_is_named_with_its_tensor(tmp_path, value):
    for number in range(1, 5):
        v = torch.tensor([1.0, value if number >= 3 else 1.0])
        write_epoch(tmp_path, number, w=torch.ones(2), v=v)
    with pytest.raises(CheckpointError, match=r"epoch_00003.pyth holds NaN or inf.* model\.v;"):
        average_checkpoints(tmp_path, start=1, end=4, output=tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()
    average_checkpoints(tmp_path, start=1, end=2, output=tmp_path / "x.pth")


def test_numbers_too_large_for_fp32_are_said_to_be(tmp_path):
    for number, sign in ((1, 1), (2, -1)):
        write_epoch(tmp_path, number, w=torch.tensor([sign * 3e38]))
    with pytest.raises(CheckpointError, match=r"model\.w is not finite, although"):
        average_checkpoints(tmp_path, start=1, end=2, output=tmp_path / "x.pth")


def test_an_epoch_with_other_tensors_is_named_with_the_tensor(tmp_path):
    write_epoch(tmp_path, 1, w=torch.ones(2), v=torch.ones(2))
    write_epoch(tmp_path, 2, w=torch.ones(2))
    write_epoch(tmp_path, 3, w=torch.ones(2), u=torch.ones(2))
    for first, message in (
        (1, r"epoch_00002.pyth lacks model\.v, which .*epoch_00001.pyth has"),
        (2, r"epoch_00003.pyth has model\.u, which .*epoch_00002.pyth lacks"),
    ):
        with pytest.raises(CheckpointError, match=message):
            average_checkpoints(tmp_path, start=first, end=3, output=tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()


@pytest.mark.parametrize("count", [6, 8, 21])
def test_a_frozen_text_tower_stays_the_original_clips(tiny_video_clip, tmp_path, caplog, count):
    """Of an fp32 CLIP: sums of OpenAI's fp16 numbers happen to be exact."""
    caplog.set_level(logging.INFO, logger="openvclip")
    model = tiny_video_clip
    model.model.token_embedding.weight.data.zero_()  # 13 MB of no interest, in each of 21 files
    state = {n: p.detach().clone() for n, p in model.named_parameters()
             if n != "model.token_embedding.weight"}
    table = {"model.token_embedding.weight": model.model.token_embedding.weight.detach()}
    for number in range(1, count + 1):
        moved = {n: t + 0.01 * number if ".visual." in n else t for n, t in state.items()}
        write_epoch(tmp_path, number, **{n.removeprefix("model."): t for n, t in moved.items()})
    path = average_checkpoints(tmp_path, start=1, end=count, output=tmp_path / "mean.pth")
    mean = ckpt.load_file(path)["model_state"]
    torch.save({"model_state": {**mean, **table}}, tmp_path / "whole.pth")
    assert not load_weights(model, tmp_path / "whole.pth")
    assert not torch.equal(mean["model.visual.proj"], state["model.visual.proj"])
    assert "loaded the weights of" in caplog.text and "whose text tower" not in caplog.text


def test_published_epochs_with_the_original_clip_beside_the_model_are_averaged(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="openvclip")
    for number in (1, 2):
        ckpt.save_file(ckpt.checkpoint_path(tmp_path, number), {"model_state": {
            "model.w": torch.full((2,), float(number)),
            "raw_model.w": torch.full((2,), torch.nan)}})
    out = average_checkpoints(tmp_path, start=1, end=2, output=tmp_path / "swa_1_2.pth")
    state = ckpt.load_file(out)["model_state"]
    assert list(state) == ["model.w"] and state["model.w"].tolist() == [1.5, 1.5]
    assert "named raw_model.*, is not used" in caplog.text


def test_a_method_that_is_not_there_is_refused_by_the_nearest(run, capsys):
    from openvclip.commands import average as weight_average

    options = ["--source", str(run), "--start", "2", "--end", "5", "--output", str(run / "x.pth")]
    assert weight_average.main([*options, "--method", "meen"]) == 2
    assert "--method 'meen' is unknown; use only 'mean'" in capsys.readouterr().out
    assert weight_average.main([*options, "--method", "mean"]) == 0
    assert ckpt.load_file(run / "x.pth")["model_state"]["model.w"].tolist() == [3.5, 3.5]


def test_a_method_gets_the_weights_again_and_the_original(run, monkeypatch):
    class Steps(MergeMethod):
        """CLIP plus all steps from it, looked at twice."""

        uses_clip = True

        def merge(self, sources):
            assert len(sources) == 2 and sources.names[0].endswith("00004.pyth")
            total = sum(state["model.w"] - sources.clip["model.w"] for state in sources)
            assert [state["model.w"][0].item() for state in sources] == [4.0, 5.0]
            return {"model.w": sources.clip["model.w"] + total}

    with pytest.raises(ConfigError, match="this --method needs the original CLIP; name it by"):
        average_checkpoints(run, start=4, end=5, output=run / "x.pth", method=Steps())
    monkeypatch.setattr(averaging, "load_original_clip", lambda clip: {"model.w": torch.ones(2)})
    average_checkpoints(run, start=4, end=5, output=run / "x.pth", method=Steps(), clip="c.pt")
    assert ckpt.load_file(run / "x.pth")["model_state"]["model.w"].tolist() == [8.0, 8.0]

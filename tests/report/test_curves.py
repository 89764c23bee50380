"""A run's curves, read back from its statistics."""

from __future__ import annotations

import json
import logging

from openvclip.report.run.curves import Curves, read_curves, write_curves
from openvclip.report.training_plot import draw_training, group_losses, list_losses


def iteration(epoch, done, loss, of=4):
    return json.dumps({"_type": "train_iter", "epoch": f"{epoch}/3", "iter": f"{done}/{of}",
                       "loss": loss, "lr": 0.1 / epoch, "connect_loss": loss + 0.1})


def epoch_line(epoch, loss):
    return json.dumps({"_type": "train_epoch", "epoch": f"{epoch}/3", "loss": loss})


def validation(epoch, top1, **more):
    return json.dumps({"_type": "val_epoch", "epoch": f"{epoch}/3", "top1_acc": top1, **more})


def draw(lines):
    curves = read_curves(lines)
    return draw_training(curves.points, curves.names)


LINES = [iteration(1, 2, 4.0), iteration(1, 4, 3.0), epoch_line(1, 3.5), validation(1, 20.0),
         iteration(2, 2, 2.0)]


def test_places_are_the_epochs_that_were_done():
    curves = read_curves(LINES)
    assert curves.points("train_iter", "loss") == ([0.5, 1.0, 1.5], [4.0, 3.0, 2.0])
    assert curves.points("train_epoch", "loss") == ([1.0], [3.5])
    assert curves.points("val_epoch", "top1_acc") == ([1.0], [20.0])
    assert curves.points("val_epoch", "top1_acc_patched") == ([], [])


def test_a_resumed_run_takes_back_what_it_does_again():
    killed = [*LINES, iteration(2, 4, 1.0), epoch_line(2, 1.5), validation(2, 30.0),
              iteration(3, 2, 0.9)[:40]]
    again = read_curves([*killed, iteration(2, 2, 2.5), iteration(2, 4, 1.2)])
    assert again.points("train_iter", "loss") == ([0.5, 1.0, 1.5, 2.0], [4.0, 3.0, 2.5, 1.2])
    assert again.points("val_epoch", "top1_acc") == ([1.0], [20.0])
    anew = read_curves([*killed, iteration(1, 1, 9.0)])
    assert anew.points("train_iter", "loss") == ([0.25], [9.0])
    assert anew.points("train_epoch", "loss") == ([], [])


def test_lines_of_other_kinds_and_values_that_are_no_numbers_are_left_out():
    lines = [*LINES, "[]", "null", "{", json.dumps({"_type": "test_final", "top1": 3.0}),
             json.dumps({"_type": "train_iter", "epoch": "2/3", "iter": "4/4", "loss": None}),
             json.dumps({"_type": "train_iter", "epoch": "2/3", "iter": "0/0"}),
             json.dumps({"_type": "train_iter", "epoch": "2/3"})]
    assert read_curves(lines).points("train_iter", "loss")[1] == [4.0, 3.0, 2.0]


def test_the_picture_has_what_the_run_had(tmp_path):
    path = tmp_path / "json_stats.jsonl"
    path.write_text("\n".join(LINES) + "\n")
    assert write_curves(tmp_path) == tmp_path / "curves.png"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")

    def labels(lines):
        figure = draw(lines)
        legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
        return len(figure.axes), [t.get_text() for one in legends for t in one.get_texts()]

    many = [*LINES, epoch_line(2, 2.0), validation(2, 40.0, top1_acc_patched=50.0,
                                                   patching_ratio=0.5)]
    assert labels(many) == (3, ["loss", "connect loss", "top-1, unpatched",
                                "top-1, patched at 0.5"])
    assert labels([LINES[0], LINES[2]])[0] == 2, "no picture of a validation that there was not"


def test_a_learning_rate_is_drawn_also_where_no_iteration_was_logged():
    lines = [json.dumps({**json.loads(epoch_line(epoch, 2.0)), "lr": 0.1 / epoch})
             for epoch in (1, 2)]
    rates = draw(lines).axes[1]
    (line,) = rates.get_lines()
    assert list(line.get_xdata()) == [1.0, 2.0] and list(line.get_ydata()) == [0.1, 0.05]
    (line,) = draw(lines[:1]).axes[1].get_lines()
    assert line.get_marker() == "o", "a point alone is no line"


def test_nothing_to_draw_and_failing_to_draw_end_no_run(tmp_path, caplog, monkeypatch):
    assert write_curves(tmp_path) is None
    path = tmp_path / "json_stats.jsonl"
    path.write_text(LINES[3] + "\n")
    assert write_curves(tmp_path) is None and not list(tmp_path.glob("*.png"))
    path.write_text("\n".join(LINES))
    caplog.set_level(logging.WARNING, logger="openvclip")
    (tmp_path / "curves.png").mkdir()
    assert write_curves(tmp_path) is None
    assert "curves.png was not drawn (UnfitFileError" in caplog.text


def losses(**values):
    """A log of two epochs with these losses."""
    return [json.dumps({"_type": "train_epoch", "epoch": f"{epoch}/2", "lr": 0.1, "grad_norm": 2.0,
                        **{name: value * epoch for name, value in values.items()}})
            for epoch in (1, 2)]


MANY = {"loss": 1.0, "connect_loss": 1.1, "caption_loss": 2.0, "connect_caption_loss": 2.1,
        "ewc_loss": 1e-6, "distill_loss": 90.0, "connect_distill_loss": 80.0, "total_loss": 3.0}


def test_losses_at_other_weights_look_like_those_of_their_kind():
    kinds = {curve.name: curve.kind for curve in list_losses(sorted(MANY))}
    assert kinds == {"loss": "loss", "connect_loss": "loss", "caption_loss": "caption_loss",
                     "connect_caption_loss": "caption_loss", "distill_loss": "distill_loss",
                     "connect_distill_loss": "distill_loss", "ewc_loss": "ewc_loss",
                     "total_loss": "total_loss"}
    looks = {curve.name: (curve.colour, curve.line) for curve in list_losses(sorted(MANY))}
    assert looks["connect_loss"] == (looks["loss"][0], "--") and looks["loss"][1] == "-"
    assert len({colour for colour, _ in looks.values()}) == 5
    one = list_losses(["loss", "distill_loss", "total_loss"])
    assert [curve.line for curve in one] == ["-"] * 3 and one[1].kind == "distill_loss"


def test_losses_of_other_sizes_have_panels_of_their_own():
    lines = [*losses(**MANY), validation(1, 20.0, top1_acc_ema=30.0, top1_acc_ema_patched=40.0,
                                         top1_acc_patched=50.0, patching_ratio=0.5)]
    curves: Curves = read_curves(lines)
    panels = group_losses(list_losses(curves.names("train_epoch")), curves.points)
    assert [[curve.name for curve in panel] for panel in panels] == [
        ["loss", "connect_loss", "caption_loss", "connect_caption_loss", "total_loss"],
        ["ewc_loss"], ["distill_loss", "connect_distill_loss"]]
    figure = draw(lines)
    drawn = {line.get_label() for axes in figure.axes for line in axes.get_lines()}
    assert {name.replace("_", " ") for name in MANY} <= drawn, "every loss is in the picture"
    assert {"top-1, unpatched", "top-1, patched at 0.5", "top-1, ema, unpatched",
            "top-1, ema, patched at 0.5"} <= drawn
    assert len(figure.axes) == 5
    figure.canvas.draw()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])

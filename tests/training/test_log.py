"""Running means."""

from __future__ import annotations

import pytest

from openvclip.training.log import Mean, list_loss_fields, restore_means
from openvclip.utils.live import fit


def test_mean_weighs_and_its_window_starts_anew():
    mean = Mean()
    assert mean.mean == mean.window() == 0.0
    mean.add(1.0, 3)
    mean.add(5.0, 1)
    assert mean.mean == mean.window() == 2.0
    mean.add(10.0, 2)
    assert mean.window() == 10.0
    assert mean.mean == pytest.approx(28 / 6)


def test_every_loss_that_occurred_is_in_the_live_line_and_the_first_stays_longest():
    means = restore_means({name: {} for name in ("ewc_loss", "connect_ewc_loss", "total_loss")})
    for value, name in enumerate(
            ("loss", "connect_loss", "ewc_loss", "connect_ewc_loss", "total_loss", "grad_norm")):
        means[name].add(value)
    fields = list_loss_fields(means)
    assert fit(fields, 200) == (
        "loss 0.000  connect 1.000  ewc 2.000  connect ewc 3.000  total 4.000")
    assert fit(fields, 60) == "loss 0.000  con 1.000  ewc 2.000  con-ewc 3.000  tot 4.000"
    assert fit(fields, 45) == "loss 0.000 con 1.000 ewc 2.000 con-ewc 3.000"
    assert fit(fields, 10) == "loss 0.000"
    assert [f.text for f in list_loss_fields(restore_means({}))] == ["loss 0.000"]

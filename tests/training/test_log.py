"""Running means."""

from __future__ import annotations

import pytest

from openvclip.training.log import Mean


def test_mean_weighs_and_its_window_starts_anew():
    mean = Mean()
    assert mean.mean == mean.window() == 0.0
    mean.add(1.0, 3)
    mean.add(5.0, 1)
    assert mean.mean == mean.window() == 2.0
    mean.add(10.0, 2)
    assert mean.window() == 10.0
    assert mean.mean == pytest.approx(28 / 6)

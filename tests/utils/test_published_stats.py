"""Statistics as PySlowFast's log readers look for them."""

from __future__ import annotations

import pytest

from openvclip.utils.logging import as_published


def test_an_iteration_has_its_type_and_forms_beside_ours():
    ours = {"_type": "train_iter", "epoch": "1/22", "iter": "10/300", "eta": "2:03", "loss": 1.5,
            "connect_loss": 2.0, "lr": 1e-6, "dt": 0.5}
    assert as_published(ours) == {
        **ours, "_type": "train_iter_", "eta": "0:02:03", "gpu_mem": "0.00G"}
    assert ours["_type"] == "train_iter", "ours is left as it is"
    assert as_published({"_type": "train_epoch", "eta": "1:02:03", "gpu_mem": "7.10G"}) == {
        "_type": "train_epoch", "eta": "1:02:03", "gpu_mem": "7.10G"}


@pytest.mark.parametrize(("row", "wanted"), [
    ({"top1": 76.123, "top5": 93.456},
     {"split": "test_final", "top1_acc": "76.12", "top5_acc": "93.46"}),
    ({"map_decoded": 50.0},
     {"split": "test_final", "map": "50.00", "top1_acc": "50.00", "top5_acc": "50.00"}),
    ({"task": "retrieval", "t2v_r1": 3.0}, {}),
])
def test_a_test_has_split_and_texts(row, wanted):
    ours = {"_type": "test_final", "patching_ratio": 0.5, **row}
    assert as_published(ours) == {**ours, **wanted}

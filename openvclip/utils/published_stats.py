"""Statistics under the names and in the forms that PySlowFast's log readers look for.

They take the ``json_stats: {...}`` lines of ``stdout.log``, distinguish them by ``_type`` (tests by
``split``) and read fields such as ``epoch``, ``iter``, ``eta``, ``gpu_mem``, ``RAM``, ``loss``,
``lr``, ``top1_err`` and ``top1_acc``. Our own fields are added to those.
"""

from __future__ import annotations

from typing import Any

TYPES = {"train_iter": "train_iter_"}
NO_GPU = "0.00G"


def as_published(stats: dict[str, Any]) -> dict[str, Any]:
    """Return the statistics of a line, ours first, with PySlowFast's names and forms.

    ``train_iter`` becomes ``train_iter_``; ``eta`` has hours; ``gpu_mem`` is present without a GPU,
    too; a test's ``top1_acc`` and ``top5_acc`` are strings with two decimals.
    """
    kind = stats.get("_type", "")
    published = {**stats, "_type": TYPES.get(kind, kind)} if kind else dict(stats)
    eta = stats.get("eta")
    if isinstance(eta, str) and eta.count(":") == 1:
        published["eta"] = f"0:{eta.zfill(5)}"
    if kind.startswith(("train_", "val_")):
        published.setdefault("gpu_mem", NO_GPU)
    if kind == "test_final":
        published.update(_test_fields(stats))
    return published


def _test_fields(stats: dict[str, Any]) -> dict[str, str]:
    if "map_decoded" in stats:
        value = f"{stats['map_decoded']:.2f}"
        return {"split": "test_final", "map": value, "top1_acc": value, "top5_acc": value}
    if "top1" not in stats:  # retrieval, which PySlowFast lacks
        return {}
    return {"split": "test_final",
            **{f"top{k}_acc": f"{stats[f'top{k}']:.2f}" for k in (1, 5) if f"top{k}" in stats}}

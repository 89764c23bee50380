"""What ``tools/run_net.py`` runs in every process: training, then testing."""

from __future__ import annotations

from pathlib import Path

from openvclip.data.loader import explain_dead_worker
from openvclip.engine.build import build_trainer
from openvclip.engine.tester import run_test
from openvclip.utils import distributed


def run(cfg) -> None:
    """Train (``TRAIN.ENABLE``), or validate only (``VAL_MODE``), and test (``TEST.ENABLE``).

    The resolved config is left in ``OUTPUT_DIR/config.yaml``; that file can be given as ``--cfg``.

    Raises:
        DataError: a decoding process was killed, among other reasons.
    """
    try:
        _run(cfg)
    except RuntimeError as error:
        explained = explain_dead_worker(error)
        if explained is None:
            raise
        raise explained from error


def _run(cfg) -> None:
    if distributed.is_main():
        Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
        (Path(cfg.OUTPUT_DIR) / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    if cfg.VAL_MODE:
        build_trainer(cfg).validate(epoch=0)
        return
    if cfg.TRAIN.ENABLE:
        trainer = build_trainer(cfg)
        trainer.run()
        del trainer
    if cfg.TEST.ENABLE:
        run_test(cfg)

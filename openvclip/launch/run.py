"""What ``tools/run_net.py`` runs in every process: training, then testing."""

from __future__ import annotations

from pathlib import Path

from openvclip.config import load_extensions
from openvclip.config.idle import find_idle
from openvclip.data.loader import explain_dead_worker
from openvclip.evaluation.build import build_runners
from openvclip.evaluation.runner import run_tests
from openvclip.models.resolve import build_resolved
from openvclip.training.build import build_trainer
from openvclip.utils import distributed
from openvclip.utils.files import replacing
from openvclip.utils.logging import get_logger
from openvclip.utils.signals import StopSignals

logger = get_logger(__name__)


def run(cfg) -> None:
    """Train (``TRAIN.ENABLE``) or only validate (``VAL_MODE``), and test (``TEST.ENABLE``).

    The resolved config is left in ``OUTPUT_DIR/config.yaml``; that file can be given as ``--cfg``.

    SIGTERM and SIGUSR1 end training with a checkpoint after the step, and testing immediately.

    Raises:
        DataError: a decoding process was killed, among other reasons.
        Interrupted: for one of these signals.
    """
    try:
        with StopSignals() as stop:
            _run(cfg, stop)
    except RuntimeError as error:
        explained = explain_dead_worker(error)
        if explained is None:
            raise
        raise explained from error


def _run(cfg, stop: StopSignals) -> None:
    load_extensions(cfg.EXTENSIONS)  # again in each process that was started
    cfg = build_resolved(cfg)
    logger.info("OUTPUT_DIR is %s", cfg.OUTPUT_DIR)
    if distributed.is_main():
        with replacing(Path(cfg.OUTPUT_DIR) / "config.yaml") as file:
            file.write(cfg.dump())
    for line in find_idle(cfg):
        logger.info("%s", line)
    if cfg.VAL_MODE:
        stop.leave_at_once()
        trainer = build_trainer(cfg)
        trainer.validate(epoch=max(trainer.start_epoch - 1, 0))  # that of the loaded checkpoint
        return
    if cfg.TRAIN.ENABLE:
        trainer = build_trainer(cfg)
        trainer.run(stop)
        del trainer
    stop.leave_at_once()
    if cfg.TEST.ENABLE:
        run_tests(build_runners(cfg))

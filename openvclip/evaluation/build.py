"""cfg -> the tests that it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from openvclip.checkpoints.loading import build_autocast, build_tested
from openvclip.config.doors import TASKS
from openvclip.data.loader import build_loader
from openvclip.evaluation.facts import build_facts, build_resume_key
from openvclip.evaluation.runner import Runner
from openvclip.evaluation.tasks.task import Setup, Task
from openvclip.utils import distributed


def build_runners(cfg) -> Iterator[Runner]:
    """Build the test that ``TEST.TASK`` names, or one for each of ``TEST.NUM_TEMPORAL_CLIPS``.

    Results of several numbers of views go to ``OUTPUT_DIR/views_N``. Each test is built when it is
    asked for.
    """
    if not cfg.TEST.NUM_TEMPORAL_CLIPS:
        yield build_runner(cfg, cfg.OUTPUT_DIR)
    for views in cfg.TEST.NUM_TEMPORAL_CLIPS:
        variant = cfg.clone()
        variant.defrost()
        variant.TEST.NUM_ENSEMBLE_VIEWS = views
        if variant.TEST.SAVE_RESULTS_PATH:
            variant.TEST.SAVE_RESULTS_PATH = f"views_{views}/{cfg.TEST.SAVE_RESULTS_PATH}"
        variant.freeze()
        yield build_runner(variant, Path(cfg.OUTPUT_DIR) / f"views_{views}")


def build_runner(cfg, output_dir: str | Path) -> Runner:
    """Build one test, with results in ``output_dir``; lists, names and weights are read here."""
    device = distributed.select_device(cfg.NUM_GPUS)
    task: Task = TASKS.get(cfg.TEST.TASK).build(cfg)
    loader = build_loader(
        cfg, "test", rank=distributed.rank(), world_size=distributed.world_size(), device=device,
        videos=task.videos,
    )
    model, weights, ratios, checkpoint = build_tested(cfg, task.class_names, device)
    path = cfg.TEST.SAVE_RESULTS_PATH
    setup = Setup(
        model=model,
        loader=loader,
        device=device,
        output_dir=Path(output_dir),
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS,
        weights=weights,
        ratios=list(dict.fromkeys(ratios)),
        autocast=build_autocast(cfg, device, "TEST"),
        save_path=Path(cfg.OUTPUT_DIR) / path if path else None,
        log_period=cfg.LOG_PERIOD,
    )
    facts = {**task.prepare(model),
             **build_facts(cfg, checkpoint, device, loader.dataset.videos.paths,
                           getattr(model.model, "tower", None))}
    key = build_resume_key(cfg, facts, loader, ratios) if cfg.TEST.RESUME else None
    return Runner(task, setup, facts, key)

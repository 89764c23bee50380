"""Multi-view zero-shot testing, with patching at one ratio or at many."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openvclip import __version__
from openvclip.checkpoints import files as ckpt
from openvclip.checkpoints.loading import (
    build_test_precision,
    load_weights,
    name_test_precision,
)
from openvclip.checkpoints.training_config import find_overlap, find_training
from openvclip.clip.weights import find_not_finite
from openvclip.config.defaults import flatten
from openvclip.data.lists.draws import read_draw
from openvclip.data.lists.labels import build_label_space
from openvclip.data.loader import build_loader
from openvclip.evaluation.lines import EvaluationLines
from openvclip.evaluation.patching import build_weights
from openvclip.evaluation.runner import Predictions, describe_failures, predict_ratios
from openvclip.interpolation import Weights, WeightsAndClassifier
from openvclip.metrics.classification import compute_mean_average_precision, compute_scores
from openvclip.models.build import build_classifier, build_model, resolve_clip
from openvclip.models.text_choices import build_text_choice
from openvclip.models.video_clip import VideoCLIP
from openvclip.report.run.details import build_details
from openvclip.report.run.page import write_report
from openvclip.report.run.predictions_file import save_predictions
from openvclip.report.run.results import name_predictions, name_top1, write_per_class
from openvclip.report.summary.sweeps import write_test_sweep
from openvclip.report.writers import (
    TensorboardWriter,
    build_tensorboard,
    write_json,
)
from openvclip.utils import distributed
from openvclip.utils.errors import CheckpointError
from openvclip.utils.files import compute_file_hash
from openvclip.utils.logging import get_logger, log_json_stats

logger = get_logger(__name__)


class Tester:
    """Evaluates a list of videos, every clip of every video exactly once.

    Args:
        model: maps video (M, 3, T, H, W) to logits (M, C), weights already loaded.
        loader: test batches, see :func:`openvclip.data.loader.build_loader`.
        class_names: names of the C classes.
        num_clips: clips (views x crops) of a video.
        output_dir: where ``results.json``, ``per_class.csv`` and ``report.html`` go.
        device: where the model is.
        weights: the model's, which patching mixes; None: as they are.
        ratios: patching ratios to report; none: the weights as they are.
        method: ensemble over clips, ``sum`` or ``max``.
        autocast: makes the context of the forward passes.
        predictions_path: file for ``[scores, labels]``, or None; with several ratios each gets
            its own, ``name_ratio0.30.ext``.
        multi_label: labels are 0/1 vectors; mean average precision is reported.
        facts: what else to write into the results: the protocol and what was loaded.
        writer: TensorBoard, or None.
        journal_key: what the scores depend on, to keep a journal of them and go on with one that
            a killed run left; None keeps none.
        log_period: batches from one ``test_iter`` line of the log's file to the next.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        loader: Any,
        class_names: Sequence[str],
        num_clips: int,
        output_dir: str | Path,
        device: torch.device,
        weights: Weights | None = None,
        ratios: Sequence[float] = (),
        method: str = "sum",
        autocast: Callable = nullcontext,
        predictions_path: str | Path | None = None,
        multi_label: bool = False,
        facts: dict[str, Any] | None = None,
        writer: TensorboardWriter | None = None,
        journal_key: dict[str, Any] | None = None,
        log_period: int = 10,
    ) -> None:
        self.model, self.loader = model, loader
        self.class_names = list(class_names)
        self.num_clips = num_clips
        self.output_dir = Path(output_dir)
        self.device = device
        self.weights, self.ratios = weights or Weights(), list(ratios)
        self.method, self.autocast = method, autocast
        self.predictions_path = Path(predictions_path) if predictions_path else None
        self.multi_label = multi_label
        self.facts = facts or {}
        self.writer = writer
        self.journal_key, self.journal = journal_key, None
        self.log_period = log_period

    def run(self) -> dict[str, Any]:
        """Test, log and write the results; returns what ``results.json`` holds.

        The journal stays; whoever needs it no more removes it.
        """
        started = time.monotonic()
        found, self.journal = predict_ratios(
            self.model,
            self.loader,
            weights=self.weights,
            ratios=self.ratios or [0.0],
            num_outputs=len(self.class_names),
            output_dir=self.output_dir,
            journal_key=self.journal_key,
            num_clips=self.num_clips,
            method=self.method,
            device=self.device,
            autocast=self.autocast,
            what="testing",
            lines=EvaluationLines("test_iter", self.log_period, self.device),
        )
        labels = self.loader.dataset.label_tensor()
        rows = [
            {"patching_ratio": ratio if self.ratios else None, **self._score(predictions, labels)}
            for ratio, predictions in found.items()
        ]
        results = {
            **self.facts,
            "videos": len(labels),
            "failed": describe_failures(
                next(iter(found.values())), self.loader.dataset.videos.paths
            ),
            "seconds": round(time.monotonic() - started, 1),
            "results": rows,
        }
        if distributed.is_main():
            self._write(results, found, labels)
        distributed.barrier()
        return results

    def _score(self, predictions: Predictions, labels: torch.Tensor) -> dict[str, float]:
        """What ``results.json`` says about one patching ratio."""
        done = predictions.complete
        if self.multi_label:
            found = compute_mean_average_precision(predictions.scores[done], labels[done])
            return {"map_decoded": found}
        return compute_scores(predictions.scores, labels, done)

    def _write(
        self, results: dict[str, Any], found: dict[float, Predictions], labels: torch.Tensor
    ) -> None:
        """Log the numbers and write every file of the results."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for row in results["results"]:
            shown = {k: v for k, v in row.items() if v is not None}
            log_json_stats({"_type": "test_final", **shown}, self.output_dir)
        if results["failed"]:
            logger.warning(
                "%d of %d videos could not be evaluated and count as wrong; see results.json",
                len(results["failed"]), results["videos"],
            )
        write_json(self.output_dir / "results.json", results)
        write_test_sweep(self.output_dir, results)
        if not self.multi_label:
            self._write_per_class(found, labels)
        for ratio, predictions in found.items():
            if self.predictions_path is not None:
                path = name_predictions(self.predictions_path, ratio, several=len(found) > 1)
                save_predictions(path, predictions.scores, labels)
                logger.info("wrote %s", path)
            if self.writer is not None and not self.multi_label:
                done = predictions.complete
                tag = f"Test/ratio_{ratio:g}" if self.ratios else "Test"
                self.writer.add_predictions(tag, predictions.scores[done], labels[done], 0)
                self.writer.add_wrong_predictions(
                    tag, self.loader.dataset, predictions.scores, labels, done, 0,
                    self._clips_in_score,
                )
        self._write_report(results, found, labels)
        logger.info("wrote %s", self.output_dir / "results.json")

    @property
    def _clips_in_score(self) -> int:
        return self.num_clips if self.method == "sum" else 1

    def _write_report(
        self, results: dict[str, Any], found: dict[float, Predictions], labels: torch.Tensor
    ) -> None:
        columns = [(predictions.scores, predictions.complete) for predictions in found.values()]
        write_report(self.output_dir / "report.html", lambda: build_details(
            results, self.class_names, labels, columns, self.loader.dataset, self._clips_in_score,
        ))

    def _write_per_class(self, found: dict[float, Predictions], labels: torch.Tensor) -> None:
        columns = {
            name_top1(ratio if self.ratios else None): (predictions.scores, predictions.complete)
            for ratio, predictions in found.items()
        }
        write_per_class(self.output_dir / "per_class.csv", self.class_names, labels, columns)


def find_test_checkpoint(cfg) -> str | None:
    """Return the file whose weights are tested, or None for the untouched CLIP.

    ``TEST.CUSTOM_LOAD_FILE`` (with ``TEST.CUSTOM_LOAD``), then ``TEST.CHECKPOINT_FILE_PATH``, then
    the last checkpoint of the training that this very run did. A checkpoint that merely lies in
    ``OUTPUT_DIR`` is not picked up: a test of raw CLIP must stay one.
    """
    if cfg.TEST.CUSTOM_LOAD:
        return cfg.TEST.CUSTOM_LOAD_FILE
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        return cfg.TEST.CHECKPOINT_FILE_PATH
    found = ckpt.list_checkpoints(Path(cfg.OUTPUT_DIR) / ckpt.FOLDER)
    if not found:
        return None
    last = str(list(found.values())[-1])
    if cfg.TRAIN.ENABLE:
        return last
    logger.warning(
        "%s lies in OUTPUT_DIR but is not tested; name it in TEST.CHECKPOINT_FILE_PATH if it "
        "should be", last,
    )
    return None


def collect_facts(
    cfg, labels, checkpoint: str | None, device: torch.device, paths: Sequence[str]
) -> dict[str, Any]:
    """What a reader of the results needs to compare them: protocol, label set, weights."""
    name = "test_openset.csv" if cfg.TEST.OPENSET else "test.csv"
    draw = read_draw(cfg.DATA.PATH_TO_DATA_DIR)
    return {
        "list": str(Path(cfg.DATA.PATH_TO_DATA_DIR) / name),
        "draw": draw and asdict(draw),
        "label_set": {
            "file": cfg.DATA.INDEX_LABEL_MAPPING_FILE,
            "classes": len(labels),
            "sha256": labels.digest(),
        },
        "prompts": build_text_choice(cfg, labels.names).facts(),
        **collect_setup(cfg, checkpoint, device, paths),
    }


def collect_setup(
    cfg, checkpoint: str | None, device: torch.device, paths: Sequence[str]
) -> dict[str, Any]:
    """What :func:`collect_facts` says of any test: weights, sampling, versions.

    ``paths`` are those of the tested videos, to say which of them were trained on.
    """
    source = resolve_clip(cfg)
    return {
        "arch": cfg.MODEL.ARCH,
        "clip": {"source": str(source), "sha256": compute_file_hash(source)},
        "checkpoint": checkpoint
        and {"file": checkpoint, "sha256": compute_file_hash(checkpoint)},
        "trained_on": find_training(checkpoint),
        "tested_on_training": find_overlap(checkpoint, paths, cfg.DATA.PATH_PREFIX)
        if distributed.is_main() else None,
        "temporal_modeling": cfg.MODEL.TEMPORAL_MODELING_TYPE,
        "frames": cfg.DATA.NUM_FRAMES,
        "sampling_rate": cfg.DATA.SAMPLING_RATE,
        "views": cfg.TEST.NUM_ENSEMBLE_VIEWS,
        "crops": cfg.TEST.NUM_SPATIAL_CROPS,
        "ensemble": cfg.DATA.ENSEMBLE_METHOD,
        "config_sha256": hashlib.sha256(cfg.dump().encode()).hexdigest(),
        "seed": cfg.RNG_SEED,
        "precision": name_test_precision(cfg, device),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {
            "openvclip": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


# Keys of DATA and TEST, by their beginnings, that scores do not depend on.
NOT_IN_SCORES = ("DATA.CACHE_", "DATA.MAX_BAD_FRACTION", "TEST.BATCH_SIZE", "TEST.RESUME",
                 "TEST.SAVE_RESULTS_PATH", "TEST.NUM_TEMPORAL_CLIPS")

# Facts that scores do not depend on.
NO_CAUSE = ("config_sha256", "draw", "trained_on", "tested_on_training")


def describe_scores(cfg, facts: dict[str, Any], loader: Any, ratios: list[float]) -> dict[str, Any]:
    """Return everything that the scores of a test depend on, for its journal.

    The videos' contents are not read for it: their paths stand for them.
    """
    keys = {name: value for name, value in flatten(cfg).items()
            if name.startswith(("DATA.", "TEST.", "MODEL.MODEL_NAME", "MODEL.CONTEXT_LENGTH"))
            and not name.startswith(NOT_IN_SCORES)}
    rows = "\n".join(loader.dataset.videos.paths)
    return {
        "facts": {name: value for name, value in facts.items() if name not in NO_CAUSE},
        "keys": keys,
        "compiled": cfg.MODEL.COMPILE,
        "rows": hashlib.sha256(rows.encode("utf-8", "surrogateescape")).hexdigest(),
        "group": loader.sampler.group,
        "ratios": ratios,
        "patched_with": compute_file_hash(cfg.TEST.CLIP_ORI_PATH) if cfg.TEST.CLIP_ORI_PATH
        else facts["clip"]["sha256"],
    }


def load_tested_weights(cfg, model: VideoCLIP) -> tuple[str | None, bool]:
    """Load what :func:`find_test_checkpoint` finds into the model.

    Returns:
        What that was, and whether it has a text tower of its own.

    Raises:
        CheckpointError: it does not fit, or is not finite.
    """
    checkpoint = find_test_checkpoint(cfg)
    if checkpoint is None:
        logger.info("testing the untouched CLIP: no checkpoint was given")
        return None, False
    own_text = load_weights(model, checkpoint)
    if find_not_finite(dict(model.named_parameters())):
        raise CheckpointError(
            f"{checkpoint} holds NaN or infinity (named above), with which every score is NaN; "
            "test an earlier checkpoint"
        )
    return checkpoint, own_text


def build_tester(cfg, output_dir: str | Path) -> Tester:
    """Build the tester; lists, class names and weights are read and checked here.

    Args:
        cfg: the resolved config.
        output_dir: where the results go.
    """
    device = distributed.select_device(cfg.NUM_GPUS)
    labels = build_label_space(cfg)
    loader = build_loader(
        cfg, "test", rank=distributed.rank(), world_size=distributed.world_size(), device=device
    )
    model = build_model(cfg, labels.names)
    checkpoint, own_text = load_tested_weights(cfg, model)
    model = model.to(device)
    weights, ratios = build_weights(cfg, model, checkpoint)
    if own_text:
        weights = WeightsAndClassifier.embedded(
            weights, model, partial(build_classifier, cfg, label_names=labels.names),
            ratios or [0.0],
        )
    autocast = build_test_precision(cfg, device)
    facts = collect_facts(cfg, labels, checkpoint, device, loader.dataset.videos.paths)
    return Tester(
        model=model,
        loader=loader,
        class_names=labels.names,
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS,
        output_dir=output_dir,
        device=device,
        weights=weights,
        ratios=ratios,
        method=cfg.DATA.ENSEMBLE_METHOD,
        autocast=autocast,
        predictions_path=Path(cfg.OUTPUT_DIR) / cfg.TEST.SAVE_RESULTS_PATH
        if cfg.TEST.SAVE_RESULTS_PATH
        else None,
        multi_label=cfg.DATA.MULTI_LABEL,
        facts=facts,
        writer=build_tensorboard(cfg, labels.names),
        journal_key=describe_scores(cfg, facts, loader, ratios) if cfg.TEST.RESUME else None,
        log_period=cfg.LOG_PERIOD,
    )


def run_test(cfg, build: Callable[..., Any] | None = None) -> list[dict[str, Any]]:
    """Test once, or once for each number of views in ``TEST.NUM_TEMPORAL_CLIPS``.

    Results of several numbers of views go to ``OUTPUT_DIR/views_N``.

    Args:
        cfg: the resolved config.
        build: makes what tests, of a config and an output folder; :func:`build_tester` by default.
    """
    build = build or build_tester
    testers = _vary_views(cfg) if cfg.TEST.NUM_TEMPORAL_CLIPS else [(cfg, cfg.OUTPUT_DIR)]
    results, journals = [], []
    for variant, output_dir in testers:
        tester = build(variant, output_dir)
        results.append(tester.run())
        journals.append(tester.journal)
    # Not before the last one is done: a kill until then costs none of them.
    for journal in journals:
        if journal is not None:
            journal.remove()
    return results


def _vary_views(cfg) -> Iterator[tuple[Any, Path]]:
    """Yield the config and the output folder of each number of views."""
    for views in cfg.TEST.NUM_TEMPORAL_CLIPS:
        variant = cfg.clone()
        variant.defrost()
        variant.TEST.NUM_ENSEMBLE_VIEWS = views
        if variant.TEST.SAVE_RESULTS_PATH:
            variant.TEST.SAVE_RESULTS_PATH = f"views_{views}/{cfg.TEST.SAVE_RESULTS_PATH}"
        variant.freeze()
        yield variant, Path(cfg.OUTPUT_DIR) / f"views_{views}"

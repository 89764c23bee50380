"""One pass over a list of videos at every patching ratio, and a test made of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from openvclip.evaluation.ensemble import ViewEnsemble
from openvclip.evaluation.lines import EvaluationLines
from openvclip.evaluation.resume_log import ResumeLog, ScoredGroup, open_resume_log
from openvclip.evaluation.tasks.task import Predictions, Setup, Task
from openvclip.interpolation import Weights
from openvclip.report.writers import write_json
from openvclip.utils import distributed
from openvclip.utils.finite import require_finite
from openvclip.utils.logging import Progress, get_logger, log_json_stats

logger = get_logger(__name__)


class Runner:
    """Asks a model one question about every video of a list, each clip exactly once.

    Args:
        task: the question.
        setup: the model, the list's loader, weights, ratios and folders.
        facts: what else to write into the results: the protocol and what was loaded.
        resume_key: what the outputs depend on, to keep a log of them and resume from one that
            a killed run left; None: no log.
    """

    def __init__(
        self,
        task: Task,
        setup: Setup,
        facts: dict[str, Any] | None = None,
        resume_key: dict[str, Any] | None = None,
    ) -> None:
        self.task, self.setup, self.facts = task, setup, facts or {}
        self.resume_key = resume_key
        self.resume_log: ResumeLog | None = None

    def run(self) -> dict[str, Any]:
        """Test, log and write the results; return the content of ``results.json``.

        The resume log stays; the caller removes it when it is no longer needed.
        """
        started = time.monotonic()
        predictions = self._predict()
        dataset = self.setup.loader.dataset
        results = {
            **self.facts,
            "videos": len(dataset),
            "failed": describe_failures(next(iter(predictions.values())), dataset.videos.paths),
            "seconds": 0.0,
            "results": self.task.score(self.setup, predictions),
        }
        results["seconds"] = round(time.monotonic() - started, 1)
        if distributed.is_main():
            self._write(results, predictions)
        distributed.barrier()
        return results

    def _predict(self) -> dict[float, Predictions]:
        setup, loader = self.setup, self.setup.loader
        ratios = list(setup.ratios) or [0.0]
        forward, count = self.task.outputs(setup.model.eval())
        if self.resume_key is not None:
            self.resume_log = open_resume_log(
                setup.output_dir, self.resume_key, (len(ratios), count))
            loader.skip(self.resume_log.done)
        ensemble = partial(
            ViewEnsemble, len(loader.dataset), count, setup.num_clips, self.task.method)
        return predict(
            forward, loader, ensemble, own_videos=loader.count_rows(),
            weights=setup.weights, ratios=ratios, device=setup.device, autocast=setup.autocast,
            resume_log=self.resume_log, what=self.task.doing,
            lines=EvaluationLines("test_iter", setup.log_period, setup.device),
        )

    def _write(
        self, results: dict[str, Any], predictions: Mapping[float, Predictions]
    ) -> None:
        """Log the numbers and write every file of the results."""
        folder = self.setup.output_dir
        folder.mkdir(parents=True, exist_ok=True)
        task = {"task": results["task"]} if "task" in results else {}
        for row in results["results"]:
            shown = {k: v for k, v in row.items() if v is not None and not isinstance(v, dict)}
            log_json_stats({"_type": "test_final", **task, **shown}, folder)
        if results["failed"]:
            logger.warning(
                "%d of %d videos could not be evaluated and count as wrong; see results.json",
                len(results["failed"]), results["videos"],
            )
        write_json(folder / "results.json", results)
        self.task.write(self.setup, results, predictions)
        logger.info("wrote %s", folder / "results.json")


def run_tests(runners: Iterable[Runner]) -> list[dict[str, Any]]:
    """Run tests one after another; each is requested when the one before it is done."""
    results: list[dict[str, Any]] = []
    resume_logs: list[ResumeLog | None] = []
    for runner in runners:
        results.append(runner.run())
        resume_logs.append(runner.resume_log)
    # Not before the last one is done: a kill until then costs none of them.
    for resume_log in resume_logs:
        if resume_log is not None:
            resume_log.remove()
    return results


def describe_failures(predictions: Predictions, paths: Sequence[str]) -> list[dict[str, Any]]:
    """Return row, path and reason of each video that could not be evaluated, for the results."""
    return [{"row": row, "path": paths[row], "reason": reason}
            for row, reason in predictions.failures.items()]


@torch.no_grad()
def predict(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[dict],
    ensemble: Callable[[], ViewEnsemble],
    *,
    weights: Weights | None = None,
    ratios: Sequence[float] = (0.0,),
    own_videos: int,
    device: torch.device,
    autocast: Callable = nullcontext,
    resume_log: ResumeLog | None = None,
    what: str = "evaluating",
    lines: EvaluationLines | None = None,
) -> dict[float, Predictions]:
    """Evaluate every clip once at every share of CLIP in the weights.

    A forward pass takes one of the groups that the loader cut the list into, whatever batch it
    came in, so that the scores are the same floats on any number of processes.

    Args:
        forward: maps video (M, 3, T, H, W) to (M, K), by a model in evaluation mode.
        batches: this process's share of the list; one without ``groups`` is a single group.
        ensemble: makes the object that joins the clips of each video in the list.
        weights: the model's; None: unchanged at every ratio.
        ratios: shares of CLIP. A batch is decoded once and evaluated at each.
        own_videos: number of rows in ``batches``, for showing progress.
        device: where the model is.
        autocast: makes the context of the forward passes.
        resume_log: gets the scores of each group; earlier ones in it count as scored.
        what: name of the work in the progress line.
        lines: gets each batch, with the scores at the first ratio; or None.

    Returns:
        Predictions by ratio, the same in every process.

    Raises:
        CheckpointError: a clip's scores are not finite.
    """
    weights = weights or Weights()
    ensembles = {ratio: ensemble() for ratio in ratios}
    failures = _restore(resume_log, list(ensembles.values()))
    progress = Progress(own_videos, what, "videos")
    if lines is not None:
        lines.start(own_videos)
    for batch in batches:
        failures.update(batch["bad"])
        parts = _split(batch, device)
        for ratio, joined in ensembles.items():
            which = what + (f", patching ratio {ratio:g}" if len(ensembles) > 1 else "")
            with weights.at(ratio):
                _score(forward, parts, joined, autocast, which)
        if resume_log is not None:
            _note(resume_log, batch, list(ensembles.values()))
        if lines is not None:
            lines.batch_done(batch["index"], len(batch["bad"]), next(iter(ensembles.values())))
        progress.update(len(set(batch["index"].tolist())) + len(batch["bad"]))
    return {ratio: _gather(joined, failures) for ratio, joined in ensembles.items()}


def _split(batch: dict, device: torch.device) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return (video, row of each clip, number of each clip) for each group that has any."""
    rows = batch["index"]
    clips = batch.get("clip", torch.zeros_like(rows))
    video = batch["video"].to(device, non_blocking=True)
    if "groups" not in batch or len(batch["groups"]) == 1:
        return [(video, rows, clips)] if len(rows) else []
    parts = []
    for first, end in batch["groups"].tolist():
        where = ((rows >= first) & (rows < end)).nonzero().flatten()
        if len(where):
            # A copy: kernels may round differently at another alignment in memory.
            parts.append((video[where.to(video.device)], rows[where], clips[where]))
    return parts


def _restore(resume_log: ResumeLog | None, ensembles: list[ViewEnsemble]) -> dict[int, str]:
    """Give ensembles the earlier records of a resume log; return row -> reason of its failures."""
    failures: dict[int, str] = {}
    for record in resume_log.restored if resume_log is not None else ():
        failures.update(record.failures)
        for ensemble, scores in zip(ensembles, record.scores, strict=True):
            ensemble.restore(record.rows, scores)
    return failures


def compute_outputs(
    forward: Callable[[Tensor], Tensor], video: Tensor, autocast: Callable = nullcontext
) -> Tensor:
    """Return what ``forward`` makes of video (M, 3, T, H, W): float32 (M, K) on the CPU.

    It is the only place of a test or a prediction that waits for the device.
    """
    with autocast():
        outputs = forward(video)
    return outputs.float().cpu()


def _score(
    forward: Callable[[Tensor], Tensor], parts: Iterable[tuple[Tensor, Tensor, Tensor]],
    ensemble: ViewEnsemble, autocast: Callable, which: str,
) -> None:
    """Add the model's outputs for each group of a batch, if finite, to an ensemble."""
    for video, rows, clips in parts:
        ensemble.add(_check(compute_outputs(forward, video, autocast), rows, which), rows, clips)


def _check(logits: Tensor, rows: Tensor, which: str) -> Tensor:
    """Return a model's outputs (M, C) for clips of the videos ``rows`` (M,), if finite."""
    wrong = rows[~logits.isfinite().all(dim=1)]
    first = f", such as that in row {int(wrong[0])} of the list" if len(wrong) else ""
    return require_finite(logits, f"{which}: of some videos{first}, the model gives")


def _note(resume_log: ResumeLog, batch: dict, ensembles: list[ViewEnsemble]) -> None:
    """Append each group of a batch to the resume log."""
    for first, end in batch["groups"].tolist():
        rows = [row for row in range(first, end) if ensembles[0].seen[row].all()]
        failures = {row: reason for row, reason in batch["bad"] if first <= row < end}
        scores = torch.stack([ensemble.scores[rows] for ensemble in ensembles])
        resume_log.append(ScoredGroup(first, rows, scores, failures))


def _gather(ensemble: ViewEnsemble, failures: dict[int, str]) -> Predictions:
    """Combine what each process evaluated; each video was evaluated by one of them."""
    mine = ensemble.complete
    scores = torch.where(mine[:, None], ensemble.scores, torch.zeros_like(ensemble.scores))
    rows = mine.nonzero().flatten()
    complete = torch.zeros_like(mine)
    all_failures: dict[int, str] = {}
    for part_rows, part_scores, part_failures in distributed.all_gather_object(
        (rows, scores[rows], failures)
    ):
        scores[part_rows] = part_scores
        complete[part_rows] = True
        all_failures.update(part_failures)
    return Predictions(scores, complete, dict(sorted(all_failures.items())))

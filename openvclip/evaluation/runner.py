"""One pass over a list at every patching ratio, the ensemble of views, and a test made of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from openvclip.evaluation.lines import EvaluationLines
from openvclip.evaluation.pace import iterate_in_step
from openvclip.evaluation.resume_log import ResumeLog, ScoredGroup, open_resume_log
from openvclip.evaluation.tasks.task import Predictions, Setup, Task
from openvclip.interpolation import Weights
from openvclip.report.writers import write_json
from openvclip.utils import distributed
from openvclip.utils.errors import ConfigError
from openvclip.utils.finite import require_finite
from openvclip.utils.logging import Progress, get_logger, log_json_stats

logger = get_logger(__name__)

# What predictions are by: the share of CLIP in the weights, with the name of other weights before.
Held = float | tuple[str, float]


class ViewEnsemble:
    """Combines the logits of a video's clips into one prediction.

    Every clip counts once; a repeated clip is an error, since it would count double.

    Args:
        num_videos, num_classes: N and C.
        num_clips: clips per video (views x crops).
        method: ``sum`` adds logits; ``max`` takes their maximum.
    """

    def __init__(
        self, num_videos: int, num_classes: int, num_clips: int = 1, method: str = "sum"
    ) -> None:
        if method not in ("sum", "max"):
            raise ConfigError(f"DATA.ENSEMBLE_METHOD is {method!r}; it must be sum or max")
        self.method = method
        start = 0.0 if method == "sum" else -torch.inf
        self.scores = torch.full((num_videos, num_classes), start, dtype=torch.float32)
        self.seen = torch.zeros(num_videos, num_clips, dtype=torch.bool)

    def add(self, logits: Tensor, videos: Tensor, clips: Tensor) -> None:
        """Add logits (M, C) of clips (M,) of videos (M,), all by index.

        Clips of a video are added in the order of their index, so that the sum does not depend on
        how they were batched.
        """
        logits = logits.detach().float().cpu()
        order = sorted(range(len(videos)), key=lambda i: (int(videos[i]), int(clips[i])))
        for i in order:
            video, clip = int(videos[i]), int(clips[i])
            if self.seen[video, clip]:
                raise ValueError(f"clip {clip} of video {video} was evaluated twice")
            self.seen[video, clip] = True
            if self.method == "sum":
                self.scores[video] += logits[i]
            else:
                torch.maximum(self.scores[video], logits[i], out=self.scores[video])

    def restore(self, videos: Sequence[int], scores: Tensor) -> None:
        """Add finished scores (M, C) of videos (M,), all of whose clips were added elsewhere."""
        rows = torch.tensor(videos, dtype=torch.int64)
        if self.seen[rows].any():
            raise ValueError(f"one of the videos {list(videos)} was evaluated twice")
        self.seen[rows] = True
        self.scores[rows] = scores

    @property
    def complete(self) -> Tensor:
        """bool (N,): videos of which every clip was added."""
        return self.seen.all(dim=1)


@dataclass(eq=False)
class Runner:
    """Asks a model one question about every video of a list, each clip exactly once.

    Args:
        task: the question.
        setup: what is tested, how, and where the results go.
        facts: what else to write into the results: the protocol and what was loaded.
        resume_key: what the outputs depend on, to keep a log of them and resume from one that
            a killed run left; None: no log.
    """

    task: Task
    setup: Setup
    facts: dict[str, Any] = field(default_factory=dict)
    resume_key: dict[str, Any] | None = None
    resume_log: ResumeLog | None = field(default=None, init=False)

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
            "failed": [{"row": row, "path": dataset.videos.paths[row], "reason": reason}
                       for row, reason in next(iter(predictions.values())).failures.items()],
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
        found = predict(
            forward, loader, ensemble, own_videos=loader.count_rows(),
            weights=setup.weights, ratios=ratios, device=setup.device, autocast=setup.autocast,
            resume_log=self.resume_log, what=self.task.doing,
            lines=EvaluationLines("test_iter", setup.log_period, setup.device),
        )
        return {ratio: found[ratio] for ratio in ratios}

    def _write(self, results: dict[str, Any], predictions: Mapping[float, Predictions]) -> None:
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
    done = [(runner.run(), runner.resume_log) for runner in runners]
    # Not before the last one is done: a kill until then costs none of them.
    for _, resume_log in done:
        if resume_log is not None:
            resume_log.remove()
    return [results for results, _ in done]


@torch.no_grad()
def predict(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[dict],
    ensemble: Callable[[], ViewEnsemble],
    *,
    weights: Weights | None = None,
    ratios: Sequence[float] = (0.0,),
    others: Mapping[str, Weights] | None = None,
    own_videos: int,
    device: torch.device,
    autocast: Callable = nullcontext,
    resume_log: ResumeLog | None = None,
    what: str = "evaluating",
    lines: EvaluationLines | None = None,
    idle: Tensor | None = None,
) -> dict[Held, Predictions]:
    """Evaluate every clip once at every share of CLIP in the weights.

    A forward pass takes one of the groups that the loader cut the list into, whatever batch it
    came in, so that the scores are the same floats on any number of processes.

    Args:
        forward: maps video (M, 3, T, H, W) to (M, K), by a model in evaluation mode.
        batches: this process's ``own_videos`` rows; one without ``groups`` is a single group.
        ensemble: makes the object that joins the clips of each video in the list.
        weights: the model's; None: unchanged at every ratio.
        ratios: shares of CLIP. A batch is decoded once and evaluated at each.
        others: further weights that the model may hold, evaluated at the same ratios.
        device, autocast: where the model is, and the maker of its forward passes' context.
        resume_log: gets the scores of each group; earlier ones in it count as scored.
        what: name of the work in the progress line.
        lines: gets each batch, with the scores at the first ratio; or None.
        idle: for a sharded model, see :mod:`openvclip.evaluation.pace`.

    Returns:
        Predictions by ratio, those of ``others`` by name and ratio; the same in every process.

    Raises:
        CheckpointError: a clip's scores are not finite.
    """
    held = _name_weights(weights or Weights(), others or {}, ratios)
    ensembles = {key: ensemble() for key in held}
    failures = _restore(resume_log, list(ensembles.values()))
    progress = _start(own_videos, what, lines)
    for batch, parts, idling in iterate_in_step(batches, partial(_split, device=device), idle):
        for key, (which, own, ratio) in held.items():
            with own.at(ratio):
                _score(forward, parts, ensembles[key], autocast, what + which)
                for video in idling:
                    compute_outputs(forward, video, autocast)
        if batch is None:
            continue
        failures.update(batch["bad"])
        if resume_log is not None:
            _note(resume_log, batch, list(ensembles.values()))
        if lines is not None:
            lines.batch_done(batch["index"], len(batch["bad"]), ensembles[ratios[0]].scores)
        progress.update(len(set(batch["index"].tolist())) + len(batch["bad"]))
    return {key: _gather(joined, failures) for key, joined in ensembles.items()}


def _start(own_videos: int, what: str, lines: EvaluationLines | None) -> Progress:
    if lines is not None:
        lines.start(own_videos)
    return Progress(own_videos, what, "videos")


def _name_weights(
    weights: Weights, others: Mapping[str, Weights], ratios: Sequence[float]
) -> dict[Held, tuple[str, Weights, float]]:
    """Return what to evaluate: words for it, the weights, and their ratio."""
    at = {ratio: f", patching ratio {ratio:g}" if len(ratios) > 1 else "" for ratio in ratios}
    held: dict[Held, tuple[str, Weights, float]] = {
        ratio: (words, weights, ratio) for ratio, words in at.items()}
    held.update({(name, ratio): (f", weights {name}{words}", other, ratio)
                 for name, other in others.items() for ratio, words in at.items()})
    return held


def _restore(resume_log: ResumeLog | None, ensembles: list[ViewEnsemble]) -> dict[int, str]:
    """Give ensembles the earlier records of a resume log; return row -> reason of its failures."""
    failures: dict[int, str] = {}
    for record in resume_log.restored if resume_log is not None else ():
        failures.update(record.failures)
        for joined, scores in zip(ensembles, record.scores, strict=True):
            joined.restore(record.rows, scores)
    return failures


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
        logits = compute_outputs(forward, video, autocast)
        wrong = rows[~logits.isfinite().all(dim=1)]
        first = f", such as that in row {int(wrong[0])} of the list" if len(wrong) else ""
        require_finite(logits, f"{which}: of some videos{first}, the model gives")
        ensemble.add(logits, rows, clips)


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

"""Text-video retrieval: every video of a list by its captions, and its captions by the video."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvclip.checkpoints.loading import build_test_precision
from openvclip.clip.tokenizer import count_tokens, tokenize
from openvclip.data.lists.retrieval import RetrievalList, build_retrieval_list
from openvclip.data.loader import build_loader
from openvclip.evaluation.patching import build_weights
from openvclip.evaluation.runner import Predictions, describe_failures, predict_ratios
from openvclip.evaluation.tasks.classification import (
    collect_setup,
    describe_scores,
    load_tested_weights,
)
from openvclip.interpolation import Weights
from openvclip.metrics.retrieval import (
    compute_ranks,
    compute_retrieval_scores,
    count_ranks,
    find_worst,
)
from openvclip.models.backbone import CLIP
from openvclip.models.build import build_model
from openvclip.models.text import embed_tokens
from openvclip.models.video_clip import VideoCLIP
from openvclip.report.retrieval_numbers import format_scores
from openvclip.report.run.page import write_report
from openvclip.report.run.results import name_predictions
from openvclip.report.run.retrieval_details import build_retrieval_details
from openvclip.report.writers import write_json
from openvclip.utils import distributed
from openvclip.utils.files import replacing_file
from openvclip.utils.logging import get_logger, log_json_stats

logger = get_logger(__name__)

EXAMPLES = 20  # Worst-ranked queries of each direction that the results name.


class PooledFrames(nn.Module):
    """A model's embedding of a video in place of its logits: (M, 3, T, H, W) -> (M, D)."""

    def __init__(self, model: VideoCLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, video: Tensor) -> Tensor:
        """See :meth:`VideoCLIP.pool_frames`."""
        return self.model.pool_frames(video)


class Captions:
    """Texts as token ids, each different one once.

    Args:
        texts: N texts; longer ones are cut off after ``context_length`` tokens.
        context_length: most tokens of a text, the start and end token counted.
    """

    def __init__(self, texts: Sequence[str], context_length: int) -> None:
        unique = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        self.places = torch.tensor([unique[text] for text in texts])
        self.tokens = tokenize(list(unique), context_length, truncate=True)
        full = self.tokens[:, -1] != 0  # the others are shorter
        cut = torch.tensor([
            bool(fills) and count_tokens(text) > context_length
            for text, fills in zip(unique, full, strict=True)
        ])
        self.truncated = int(cut[self.places].sum())

    def encode(self, clip: CLIP) -> Tensor:
        """Encode all, shared by the processes: fp32 (N, D) on the CPU, each of length 1.

        The same text has the same embedding, and the numbers are the same floats for any number of
        processes.
        """
        share = (distributed.rank(), distributed.world_size())
        features = torch.empty(len(self.tokens), clip.embed_dim)
        part = embed_tokens(clip, self.tokens, share=share, what="embedding captions")
        for rows, encoded in distributed.all_gather_object(part):
            features[rows] = encoded
        return features[self.places]


class RetrievalTester:
    """Ranks the videos of a list for each caption, and the captions for each video.

    A video's embedding is the mean of its frames' over all clips, at length 1; every clip of every
    video is evaluated exactly once.

    Args:
        model: the weights already loaded.
        loader: batches of ``pairs.videos``, see :func:`openvclip.data.loader.build_loader`.
        pairs: the videos and what is said of them.
        captions: the same texts, ready to be encoded.
        num_clips: clips (views x crops) of a video.
        output_dir: where ``results.json`` and ``report.html`` go.
        device: where the model is.
        weights: the model's, which patching mixes; None: as they are.
        ratios: patching ratios to report; none: the weights as they are.
        autocast: makes the context of the image tower's forward passes.
        embeddings_path: file for the embeddings, or None; with several ratios each gets its own,
            ``name_ratio0.30.ext``.
        facts: what else to write into the results.
        journal_key: what the videos' embeddings depend on, to keep a journal of them and go on
            with one that a killed run left; None keeps none.
    """

    def __init__(
        self,
        *,
        model: VideoCLIP,
        loader: Any,
        pairs: RetrievalList,
        captions: Captions,
        num_clips: int,
        output_dir: str | Path,
        device: torch.device,
        weights: Weights | None = None,
        ratios: Sequence[float] = (),
        autocast: Callable = nullcontext,
        embeddings_path: str | Path | None = None,
        facts: dict[str, Any] | None = None,
        journal_key: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.loader = model.eval(), loader
        self.pairs, self.captions = pairs, captions
        self.owner = torch.from_numpy(pairs.owner)
        self.num_clips, self.device, self.autocast = num_clips, device, autocast
        self.output_dir = Path(output_dir)
        self.weights, self.ratios = weights or Weights(), list(ratios)
        self.embeddings_path = embeddings_path
        self.facts = facts or {}
        self.journal_key, self.journal = journal_key, None

    def run(self) -> dict[str, Any]:
        """Test, log and write the results; returns what ``results.json`` holds.

        The journal stays; whoever needs it no more removes it.
        """
        started = time.monotonic()
        found, self.journal = predict_ratios(
            PooledFrames(self.model).eval(),
            self.loader,
            weights=self.weights,
            ratios=self.ratios or [0.0],
            num_outputs=self.model.model.embed_dim,
            output_dir=self.output_dir,
            journal_key=self.journal_key,
            num_clips=self.num_clips,
            method="sum",
            device=self.device,
            autocast=self.autocast,
            what="embedding videos",
        )
        results = {
            **self.facts,
            "videos": len(self.pairs.videos),
            "failed": describe_failures(next(iter(found.values())), self.pairs.videos),
            "seconds": 0.0,
            "results": self._score_all(found),
        }
        results["seconds"] = round(time.monotonic() - started, 1)
        if distributed.is_main():
            self._write(results)
        distributed.barrier()
        return results

    def _score_all(self, found: dict[float, Predictions]) -> list[dict[str, Any]]:
        """Score each ratio in the main process, for all."""
        rows, texts = [], None
        for ratio, predictions in found.items():
            if texts is None or self._patches_text():
                with self.weights.at(ratio):
                    texts = self.captions.encode(self.model.model)

            def score(ratio=ratio, predictions=predictions, texts=texts):
                return self._score(ratio, predictions, texts) if distributed.is_main() else None

            rows.append(distributed.all_gather_object(distributed.run_together(score))[0])
        return rows

    def _patches_text(self) -> bool:
        """Whether patching changes the text tower, so that each ratio has texts of its own."""
        names = {f"model.{name}" for name in self.model.model.text_parameters()}
        return not names.isdisjoint(self.weights.names)

    def _score(self, ratio: float, predictions: Predictions, texts: Tensor) -> dict[str, Any]:
        """What ``results.json`` says about one patching ratio."""
        done = predictions.complete
        videos = F.normalize(predictions.scores, dim=-1)
        if self.embeddings_path is not None:
            self._save(ratio, videos, texts, done)
        given = (tensor.to(self.device) for tensor in (videos, texts, self.owner, done))
        ranks = compute_ranks(*given)
        of_texts, of_videos = ranks.text_to_video.cpu(), ranks.video_to_text.cpu()
        known = done[self.owner]
        return {
            "patching_ratio": ratio if self.ratios else None,
            **{f"t2v_{k}": v for k, v in compute_retrieval_scores(of_texts, known).items()},
            **{f"v2t_{k}": v for k, v in compute_retrieval_scores(of_videos, done).items()},
            "t2v_ranks": count_ranks(of_texts, known),
            "v2t_ranks": count_ranks(of_videos, done),
            "examples": self._find_examples(
                of_texts.where(known, 0), of_videos.where(done, 0), videos, texts, done
            ),
        }

    def _find_examples(
        self, of_texts: Tensor, of_videos: Tensor, videos: Tensor, texts: Tensor, done: Tensor
    ) -> dict[str, list[dict[str, Any]]]:
        """Name the queries that went worst, what came first, and what should have."""
        paths, said, owner = self.pairs.videos, self.pairs.captions, self.owner.tolist()
        rows = done.nonzero().flatten().tolist()
        worst_texts = find_worst(of_texts, texts, videos[done], EXAMPLES)
        worst_videos = find_worst(of_videos, videos, texts, EXAMPLES)
        return {
            "text_to_video": [
                {"caption": said[t], "rank": float(of_texts[t]), "video": paths[owner[t]],
                 "first": paths[rows[v]]}
                for t, v in worst_texts
            ],
            "video_to_text": [
                {"video": paths[v], "rank": float(of_videos[v]), "caption": said[owner.index(v)],
                 "first": said[t]}
                for v, t in worst_videos
            ],
        }

    def _save(self, ratio: float, videos: Tensor, texts: Tensor, done: Tensor) -> None:
        path = name_predictions(self.embeddings_path, ratio, len(self.ratios) > 1)
        # By the file, not its name: torch.save puts a name into what it writes.
        with replacing_file(path) as temporary, open(temporary, "wb") as file:
            torch.save({"videos": videos, "texts": texts, "owner": self.owner, "complete": done,
                        "paths": self.pairs.videos, "captions": self.pairs.captions}, file)
        logger.info("wrote %s", path)

    def _write(self, results: dict[str, Any]) -> None:
        """Log the numbers and write the results."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for row in results["results"]:
            shown = {k: v for k, v in row.items() if v is not None and not isinstance(v, dict)}
            log_json_stats({"_type": "test_final", "task": "retrieval", **shown}, self.output_dir)
        for line in format_scores(results["results"]):
            logger.info(line)
        if results["failed"]:
            logger.warning(
                "%d of %d videos could not be evaluated and count as wrong; see results.json",
                len(results["failed"]), results["videos"],
            )
        write_json(self.output_dir / "results.json", results)
        write_report(
            self.output_dir / "report.html",
            lambda: build_retrieval_details(results, self.pairs.videos, self.loader.dataset),
            kind="retrieval",
        )
        logger.info("wrote %s", self.output_dir / "results.json")


def describe_pairs(pairs: RetrievalList, captions: Captions) -> dict[str, Any]:
    """What the results say of the list; the log says what its reader should know."""
    facts = {
        "count": len(pairs.captions),
        "sha256": pairs.digest(),
        "split": pairs.split,
        "repeated": pairs.count_repeated(),
        "shared": pairs.count_shared(),
        "truncated": captions.truncated,
    }
    logger.info(
        "%s%s: %d videos, %d captions; %d pairs repeated, %d captions shared by several videos, "
        "%d cut off", pairs.source, f", split {pairs.split}" if pairs.split else "",
        len(pairs.videos), *(facts[name] for name in ("count", "repeated", "shared", "truncated")),
    )
    return facts


def build_retrieval(cfg, output_dir: str | Path) -> RetrievalTester:
    """Build the test of ``TEST.TASK retrieval``; the list and the weights are checked here.

    Args:
        cfg: the resolved config.
        output_dir: where the results go.
    """
    device = distributed.select_device(cfg.NUM_GPUS)
    pairs = build_retrieval_list(cfg)
    loader = build_loader(
        cfg, "test", rank=distributed.rank(), world_size=distributed.world_size(), device=device,
        videos=pairs.as_videos(),
    )
    model = build_model(cfg, None)
    checkpoint, _ = load_tested_weights(cfg, model)
    model = model.to(device)
    weights, ratios = build_weights(cfg, model, checkpoint)
    autocast = build_test_precision(cfg, device)
    length = min(cfg.MODEL.CONTEXT_LENGTH, model.model.context_length)
    captions = Captions(pairs.captions, length)
    facts = {
        "task": "retrieval",
        "list": pairs.source,
        "captions": describe_pairs(pairs, captions),
        **collect_setup(cfg, checkpoint, device, pairs.videos),
    }
    path = cfg.TEST.SAVE_RESULTS_PATH
    return RetrievalTester(
        model=model,
        loader=loader,
        pairs=pairs,
        captions=captions,
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS,
        output_dir=output_dir,
        device=device,
        weights=weights,
        ratios=ratios,
        autocast=autocast,
        embeddings_path=Path(cfg.OUTPUT_DIR) / path if path else None,
        facts=facts,
        journal_key=describe_scores(cfg, facts, loader, ratios) if cfg.TEST.RESUME else None,
    )

"""Text-video retrieval: every video of a list by its captions, and its captions by the video."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openvclip.clip.text_tokens import TextTokenizer
from openvclip.data.lists.retrieval import RetrievalList, build_retrieval_list
from openvclip.evaluation.tasks.task import Predictions, Setup, Task
from openvclip.metrics.retrieval import (
    compute_ranks,
    compute_retrieval_scores,
    count_ranks,
    find_worst,
)
from openvclip.models.backbone import Backbone
from openvclip.models.text import embed_tokens
from openvclip.models.video_clip import VideoCLIP
from openvclip.report.retrieval_numbers import format_scores
from openvclip.report.run.page import write_report
from openvclip.report.run.retrieval_details import build_retrieval_details
from openvclip.utils import distributed
from openvclip.utils.files import replacing_file
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

EXAMPLES = 20  # Worst-ranked queries of each direction that the results name.


class TokenizedTexts:
    """Texts as token ids, each distinct one once.

    Args:
        texts: N texts.
        context_length: most tokens of a text, with start and end tokens; longer ones are cut off.
        tokenizer: of the text tower.
    """

    def __init__(
        self, texts: Sequence[str], context_length: int, tokenizer: TextTokenizer
    ) -> None:
        unique = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        self.places = torch.tensor([unique[text] for text in texts])
        self.tokens = tokenizer.tokenize(list(unique), context_length, truncate=True)
        # The last of a text that is padded is shorter: it equals that of no text at all.
        padding = tokenizer.tokenize([""], context_length)[0, -1]
        cut = torch.tensor([
            bool(fills) and tokenizer.count(text) > context_length
            for text, fills in zip(unique, self.tokens[:, -1] != padding, strict=True)
        ])
        self.truncated = int(cut[self.places].sum())

    def encode(self, clip: Backbone) -> Tensor:
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


class Retrieval(Task):
    """Ranks the videos of a list for each caption, and the captions for each video.

    A video's embedding is the mean of its frames' over all clips, at length 1.

    Args:
        pairs: the videos and their captions.
        context_length: most tokens of a caption, if the model takes that many.
    """

    doing = "embedding videos"

    def __init__(self, pairs: RetrievalList, context_length: int = 77) -> None:
        self.pairs, self.context_length = pairs, context_length
        self.videos = pairs.as_videos()
        self.owner = torch.from_numpy(pairs.owner)

    @classmethod
    def build(cls, cfg: Any) -> Retrieval:
        """Read ``TEST.RETRIEVAL_FILE``."""
        return cls(build_retrieval_list(cfg), cfg.MODEL.CONTEXT_LENGTH)

    def prepare(self, model: VideoCLIP) -> dict[str, Any]:
        """Tokenize the captions, and describe the list."""
        length = min(self.context_length, model.model.context_length)
        pairs = self.pairs
        self.captions = TokenizedTexts(pairs.captions, length, model.model.tokenizer)
        facts = {
            "count": len(pairs.captions),
            "sha256": pairs.digest(),
            "split": pairs.split,
            "repeated": pairs.count_repeated(),
            "shared": pairs.count_shared(),
            "truncated": self.captions.truncated,
        }
        logger.info(
            "%s%s: %d videos, %d captions; %d pairs repeated, %d captions shared by several "
            "videos, %d cut off", pairs.source, f", split {pairs.split}" if pairs.split else "",
            len(pairs.videos),
            *(facts[name] for name in ("count", "repeated", "shared", "truncated")),
        )
        return {"task": "retrieval", "list": pairs.source, "captions": facts}

    def outputs(self, model: VideoCLIP) -> tuple[Callable[[Tensor], Tensor], int]:
        """Embeddings of videos."""
        return model.pool_frames, model.model.embed_dim

    def score(
        self, setup: Setup, predictions: Mapping[float, Predictions]
    ) -> list[dict[str, Any]]:
        """Score each ratio in the main process, for all."""
        model, rows, texts = setup.model.model, [], None
        patches_text = not {f"model.{name}" for name in model.text_parameters()}.isdisjoint(
            setup.weights.names)
        for ratio, one in predictions.items():
            if texts is None or patches_text:
                with setup.weights.at(ratio):
                    texts = self.captions.encode(model)

            def score(ratio=ratio, one=one, texts=texts):
                return self._score(setup, ratio, one, texts) if distributed.is_main() else None

            rows.append(distributed.all_gather_object(distributed.run_together(score))[0])
        return rows

    def _score(
        self, setup: Setup, ratio: float, predictions: Predictions, texts: Tensor
    ) -> dict[str, Any]:
        """What ``results.json`` says about one patching ratio."""
        done = predictions.complete
        videos = F.normalize(predictions.scores, dim=-1)
        if setup.save_path is not None:
            path = setup.name_saved(ratio)
            # By the file, not its name: torch.save puts a name into what it writes.
            with replacing_file(path) as temporary, open(temporary, "wb") as file:
                torch.save({"videos": videos, "texts": texts, "owner": self.owner,
                            "complete": done, "paths": self.pairs.videos,
                            "captions": self.pairs.captions}, file)
            logger.info("wrote %s", path)
        device = setup.device
        ranks = compute_ranks(videos.to(device), texts.to(device), self.owner.to(device),
                              done.to(device))
        of_texts, of_videos = ranks.text_to_video.cpu(), ranks.video_to_text.cpu()
        known = done[self.owner]
        return {
            "patching_ratio": setup.name_ratio(ratio),
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

    def write(
        self, setup: Setup, results: dict[str, Any], predictions: Mapping[float, Predictions]
    ) -> None:
        """Log the recalls and write the report."""
        for line in format_scores(results["results"]):
            logger.info(line)
        write_report(
            setup.output_dir / "report.html",
            lambda: build_retrieval_details(results, self.pairs.videos, setup.loader.dataset),
            kind="retrieval",
        )

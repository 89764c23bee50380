"""Computes the recorded Fisher information of two processes; started by torchrun.

Prints on rank 0 the largest difference from the recording, relative to each tensor's largest entry,
and whether DistributedDataParallel still averages gradients afterwards.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.distributed as dist

from openvclip.models.temporal import build_temporal_clip
from openvclip.models.video_clip import VideoCLIP
from openvclip.training.objectives.fisher import compute_fisher
from openvclip.training.objectives.losses import cross_entropy

GOLDEN = Path(__file__).parents[1] / "golden"


def build_model(temporal_type: str) -> VideoCLIP:
    """The recorded tiny CLIP."""
    state = {}
    for part in ("visual_a", "visual_b", "text"):
        state |= torch.load(GOLDEN / f"tiny_clip_{part}.pt", weights_only=True)
    state = {name: t if t.dtype == torch.int32 else t.float() for name, t in state.items()}
    rows = state.pop("token_embedding.rows")
    state["token_embedding.weight"] = torch.zeros(49408, rows.shape[1])
    state.pop("token_embedding.ids")
    clip = build_temporal_clip(state, temporal_type=temporal_type, num_frames=8)
    classifier = torch.load(GOLDEN / "classifier5.pt", weights_only=True)["classifier"]
    return VideoCLIP(clip, 8, classifier).train()


def draw(case: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The recorded batch."""
    torch.manual_seed(case["input_seed"])
    return torch.randn(*case["input_shape"]), case["labels"]


def main() -> None:
    dist.init_process_group("gloo")
    recorded = torch.load(GOLDEN / "ewc.pt", weights_only=True)["two_ranks"]
    model = build_model(recorded["type"])
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    cases = recorded["ranks"][dist.get_rank()]
    fisher = compute_fisher(model, cross_entropy, trained, map(draw, cases))
    worst = 0.0
    for name, kept in recorded["fisher"].items():
        values = fisher[f"model.{name}"].flatten()[:: kept["step"]][: len(kept["values"])]
        worst = max(worst, float((values - kept["values"]).abs().max()) / kept["absmax"])
    video, label = draw(cases[0])
    cross_entropy(wrapped(video), label).backward()
    found = [torch.zeros_like(model.model.visual.proj) for _ in range(2)]
    dist.all_gather(found, model.model.visual.proj.grad)
    if dist.get_rank() == 0:
        print("found", json.dumps([worst, len(fisher), torch.equal(*found)]), flush=True)
    dist.barrier()


if __name__ == "__main__":
    main()

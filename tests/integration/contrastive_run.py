"""Prints the loss of fixed pairs and its gradients; started by torchrun.

The argument says how many of the pairs each process has; ``sigmoid`` after it takes that loss.
"""

from __future__ import annotations

import json
import os
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F

from openvclip.training.objectives.contrastive import contrastive_loss, sigmoid_pair_loss


class Towers(torch.nn.Module):
    """Two linear towers, a scale and, for the sigmoid loss, a bias."""

    def __init__(self, sigmoid: bool) -> None:
        super().__init__()
        self.video, self.text = torch.nn.Linear(9, 7), torch.nn.Linear(5, 7)
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
        self.bias = torch.nn.Parameter(torch.tensor(-3.0)) if sigmoid else None

    def forward(self, video, text):
        return (F.normalize(self.video(video), dim=1), F.normalize(self.text(text), dim=1),
                self.scale.exp(), *([] if self.bias is None else [self.bias]))


def compute(
    shares: list[int], rank: int, wrap, no_sync, sigmoid: bool = False
) -> dict[str, list[float]]:
    """Return the loss and the gradients of half of one pass and of another."""
    torch.manual_seed(3)
    towers = Towers(sigmoid).double()
    pair_loss = sigmoid_pair_loss if sigmoid else contrastive_loss
    video, text = (torch.randn(sum(shares), n, dtype=torch.float64) for n in (9, 5))
    first = sum(shares[:rank])
    mine = slice(first, first + shares[rank])
    model = wrap(towers)
    with no_sync(model):  # as the first pass of an interpolated step: added up, exchanged later
        (0.5 * pair_loss(*model(video[mine], text[mine]))).backward()
    loss = pair_loss(*model(video[mine], text[mine]))
    loss.backward()
    return {"loss": [loss.item()], **{
        name: p.grad.flatten().tolist() for name, p in towers.named_parameters()
    }}


def main() -> None:
    dist.init_process_group("gloo")
    found = compute(json.loads(sys.argv[1]), dist.get_rank(),
                    torch.nn.parallel.DistributedDataParallel, lambda model: model.no_sync(),
                    sigmoid="sigmoid" in sys.argv)
    if dist.get_rank() == 0:
        print("found", json.dumps(found), flush=True)
    dist.barrier()  # no process leaves while another one is still in an exchange
    # gloo's threads may still release tensors, for which they need the interpreter: one that is
    # shutting down ends them in the middle of it, and that aborts the process.
    os._exit(0)


if __name__ == "__main__":
    main()

"""Trains as ``tools/run_net.py`` does, but in float64; started by torchrun, or alone.

Prints on rank 0 a line ``exchanged [...]``: how many gradient entries each step's processes
exchanged.
"""

from __future__ import annotations

import sys

import torch

from openvclip.config import load_cfg
from openvclip.launch.processes import launch
from openvclip.models.resolve import build_resolved
from openvclip.training import build
from openvclip.utils import distributed


def count_exchanges(model: torch.nn.parallel.DistributedDataParallel) -> list[int]:
    """Average gradients as DDP does; return a list that gets the size of each exchange."""
    exchanged: list[int] = []

    def exchange(state, bucket):
        buffer = bucket.buffer().div_(distributed.world_size())
        exchanged.append(buffer.numel())
        work = torch.distributed.all_reduce(buffer, async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    model.register_comm_hook(None, exchange)
    return exchanged


def train(cfg) -> None:
    """Train in float64 and say what was exchanged."""
    build_model = build.build_model
    build.build_model = lambda *args: build_model(*args).double()
    trainer = build.build_trainer(build_resolved(cfg))
    steps, exchanged = [], []
    if isinstance(trainer.model, torch.nn.parallel.DistributedDataParallel):
        exchanged = count_exchanges(trainer.model)
    call = trainer.step

    def step(*args):
        exchanged.clear()
        result = call(*args)
        steps.append(sum(exchanged))
        return result

    trainer.step = type("Counted", (), {
        "__call__": lambda self, *args: step(*args), "__getattr__": lambda self, n: getattr(call, n)
    })()
    trainer.run()
    if distributed.is_main():
        print("exchanged", steps)


if __name__ == "__main__":
    launch(train, load_cfg(None, sys.argv[1:]), "tcp://localhost:9999")

"""Processes that share a sharded model run equally many forward passes."""

from __future__ import annotations

import threading

import pytest
import torch

from openvclip.evaluation import pace


class Meeting:
    """Threads instead of processes, which exchange what each of them brings."""

    def __init__(self, count: int) -> None:
        self.barrier, self.brought = threading.Barrier(count, timeout=20), [None] * count
        self.own = threading.local()

    def gather(self, value):
        self.brought[self.own.rank] = value
        self.barrier.wait()
        values = list(self.brought)
        self.barrier.wait()
        return values


@pytest.mark.parametrize("shares", [[[2], [1, 1, 1]], [[], [3]], [[], []], [[1, 2], [2, 1]]])
def test_every_process_runs_as_many_passes_as_the_others(shares, monkeypatch):
    meeting, passes, idle = Meeting(len(shares)), {}, torch.zeros(1)
    monkeypatch.setattr(pace.distributed, "all_gather_object", meeting.gather)

    def evaluate(rank: int) -> None:
        meeting.own.rank = rank
        batches = [{"parts": count} for count in shares[rank]]
        steps = list(pace.iterate_in_step(batches, lambda b: [0] * b["parts"], idle))
        assert [batch for batch, *_ in steps if batch is not None] == batches
        passes[rank] = [len(parts) + len(idling) for _, parts, idling in steps]

    threads = [threading.Thread(target=evaluate, args=(rank,)) for rank in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(passes) == len(shares)  # none is left waiting or has failed
    assert passes[0] == passes[1]
    longest = max(map(len, shares))
    assert passes[0] == [max(share[i] for share in shares if i < len(share))
                         for i in range(longest)]


def test_without_sharding_no_process_asks_another(monkeypatch):
    monkeypatch.setattr(pace.distributed, "all_gather_object", None)
    steps = list(pace.iterate_in_step([{}, {}], lambda batch: [1], None))
    assert steps == [({}, [1], []), ({}, [1], [])]

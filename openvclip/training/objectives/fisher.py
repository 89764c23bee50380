"""The diagonal Fisher information of elastic weight consolidation: computed, stored, read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import xxhash
from torch import Tensor, nn

from openvclip.checkpoints import files as ckpt
from openvclip.models.video_clip import take_logits
from openvclip.training.batches import BadRows
from openvclip.training.log import IterationTimer
from openvclip.training.objectives.losses import Loss
from openvclip.utils import distributed, live
from openvclip.utils.errors import CheckpointError, TrainingError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

# Published files say where the parameters lay: in a model within DistributedDataParallel.
PREFIX = "module."

Fisher = dict[str, Tensor]
Forward = Callable[[Tensor], Any]


def _add_batch(
    forward: Forward, loss: Loss, batch: tuple[Tensor, Tensor], parameters: Sequence[Tensor],
    parts: int,
) -> tuple[list[Tensor | None], int]:
    """Return the gradient of a batch's loss, wrong clips counting 0, and how many are right.

    A parameter on which the logits do not depend has None.
    """
    video, label = batch
    total: list[Tensor | None] = [None] * len(parameters)
    right = 0
    for own, target in zip(video.chunk(parts), label.chunk(parts), strict=True):
        logits = take_logits(forward(own))
        hits = logits.argmax(dim=1) == target
        count = int(hits.sum())
        # The loss is a mean. Without a hit the graph is the same, for other processes wait.
        value = loss(logits[hits], target[hits]) * count if count else logits.sum() * 0.0
        gradients = torch.autograd.grad(value / len(video), parameters, allow_unused=True)
        total = [new if old is None else old + new
                 for old, new in zip(total, gradients, strict=True)]
        right += count
    return total, right


def _average(tensors: Iterable[Tensor]) -> None:
    """Let tensors be their means over all processes."""
    if distributed.is_distributed():
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= distributed.world_size()


def compute_fisher(
    forward: Forward, loss: Loss, parameters: Mapping[str, nn.Parameter],
    batches: Iterable[tuple[Tensor, Tensor]], *, parts: int = 1,
) -> Fisher:
    """Compute the diagonal Fisher information of a classifier, as published (EWC, 1612.00796).

    With c_b clips of n_b predicted right in batch b, and G_b the gradient, averaged over all
    processes, of 1/n_b times the sum of the right clips' losses:
    ``F = sum_b c_b G_b^2 / sum_b c_b``, with the process's own c_b; then the mean over the
    processes, of those that had any right.

    Args:
        forward: maps video to logits.
        loss: a mean over clips.
        parameters: the weights, by name.
        batches: video (n, 3, T, H, W) and class indices (n,), as many in every process.
        parts: number of parts that a batch is cut into to save memory.

    Returns:
        Of each weight that the logits depend on.

    Raises:
        TrainingError: no clip was predicted right, in any process.
    """
    names, weights = list(parameters), list(parameters.values())
    sums: Fisher = {}
    right = 0
    for batch in batches:
        gradients, count = _add_batch(forward, loss, batch, weights, parts)
        found = {name: g for name, g in zip(names, gradients, strict=True) if g is not None}
        _average(found.values())
        sums = sums or {name: torch.zeros_like(g) for name, g in found.items()}
        torch._foreach_addcmul_(
            list(sums.values()), list(found.values()), list(found.values()), value=count)
        right += count
    counts = distributed.all_gather_object(right)
    if not any(counts):
        raise TrainingError(
            "the Fisher information of TRAIN.EWC_SET True is undefined: not one clip of the "
            "training list was predicted right. Begin with weights that know some "
            "(TRAIN.CUSTOM_LOAD_FILE), give TRAIN.EWC_LOAD_FILE, or set TRAIN.EWC_IDENTITY_FISHER "
            "True")
    share = len(counts) / sum(map(bool, counts))
    for tensor in sums.values():
        tensor *= share / max(right, 1)
    _average(sums.values())
    return sums


def find_used(
    forward: Forward, parameters: Mapping[str, nn.Parameter], video: Tensor
) -> list[str]:
    """Return the names of the parameters on which the logits of ``video`` depend."""
    gradients = torch.autograd.grad(
        take_logits(forward(video)).sum(), list(parameters.values()), allow_unused=True)
    return [name for name, gradient in zip(parameters, gradients, strict=True)
            if gradient is not None]


def iterate_logged(
    loader: Any, device: torch.device, *, period: int, max_bad_fraction: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a training loader's videos and labels, and show how far it is.

    Args:
        loader: a training loader; its first epoch is taken.
        device: where to put the labels.
        period: batches between lines of the log.
        max_bad_fraction: as for :class:`openvclip.training.batches.BadRows`.
    """
    loader.set_epoch(0)
    bad, total = BadRows(loader.dataset, max_bad_fraction), len(loader)
    timer = IterationTimer(total)
    for number, batch in enumerate(loader, 1):
        timer.data_ready()
        bad.note(batch["bad"])
        yield batch["video"], batch["label"].to(device, non_blocking=True)
        timer.iteration_done(len(batch["label"]) * distributed.world_size())
        text = f"Fisher information: batch {number} of {total}"
        if (line := live.current()) is not None:
            line.show([live.Field(text, f"Fisher {number}/{total}"),
                       live.Field(f"ETA {timer.eta()}", f"ETA {timer.eta()}", 1)])
        if number % period == 0 or number == total:
            logger.info("%s, ETA %s", text, timer.eta())


def digest(fisher: Fisher) -> str:
    """Return a checksum of names and values."""
    checksum = xxhash.xxh3_128()
    for name in sorted(fisher):
        checksum.update(name.encode())
        checksum.update(fisher[name].detach().cpu().contiguous().numpy().tobytes())
    return checksum.hexdigest()


def save_fisher(path: str | Path, fisher: Fisher) -> None:
    """Write it under published names; all processes must call this, and rank 0 writes."""
    def write() -> None:
        if distributed.is_main():
            ckpt.save_file(path, {PREFIX + name: tensor for name, tensor in fisher.items()})

    distributed.run_together(write)


def load_fisher(
    path: str | Path, parameters: Mapping[str, nn.Parameter], optional: Iterable[str] = ()
) -> Fisher:
    """Read a file of :func:`save_fisher`, or of published code, onto the parameters' devices.

    Args:
        path: the file.
        parameters: those of the model that train and that CLIP has.
        optional: names of those that the file may lack: the others must be there.

    Raises:
        CheckpointError: it cannot be read, is of another model, or holds impossible values.
    """
    content = ckpt.load_file(path)
    stored = {str(name).removeprefix(PREFIX): value for name, value in content.items()}
    missing = parameters.keys() - stored.keys() - set(optional)
    known = {name: value for name, value in stored.items() if name in parameters}
    if missing or not known:
        raise CheckpointError(
            f"{path} has no Fisher information of {min(missing, default='any weight')} "
            f"({len(missing)} of {len(parameters)} are missing; its first name: "
            f"{next(iter(content), 'none')}); it is of another model, or of one of which less "
            "trained: leave TRAIN.EWC_LOAD_FILE out to compute it")
    fisher = {}
    for name, value in known.items():
        parameter = parameters[name]
        if not isinstance(value, Tensor) or value.shape != parameter.shape:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(f"{path} has {shape} for {name}, which is "
                                  f"{tuple(parameter.shape)} in the model; it is of another model")
        fisher[name] = value.to(parameter.device, parameter.dtype, copy=True)
        if not bool((torch.isfinite(fisher[name]) & (fisher[name] >= 0)).all()):
            raise CheckpointError(f"{path} has negative or not finite values for {name}; compute "
                                  "it again, without TRAIN.EWC_LOAD_FILE")
    if left := stored.keys() - known.keys():
        logger.info("%s: %d tensors that do not train here are not used, such as %s", path,
                    len(left), min(left))
    return fisher

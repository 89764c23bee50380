"""What a training run leaves behind, and what a checkpoint says about where to resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openvclip.checkpoints import files as ckpt
from openvclip.checkpoints.loading import unwrap
from openvclip.report.writers import TensorboardWriter
from openvclip.training.objectives.objective import Objective
from openvclip.training.step import StepResult
from openvclip.utils import distributed
from openvclip.utils.errors import CheckpointError, TrainingError
from openvclip.utils.files import iterate_lines
from openvclip.utils.json_text import parse_json
from openvclip.utils.logging import get_logger
from openvclip.utils.shards import gather, local, shard_like

logger = get_logger(__name__)


@dataclass(frozen=True)
class Output:
    """What a training run leaves behind.

    Attributes:
        folder: where log, checkpoints and statistics go.
        config: text of the resolved config, stored in checkpoints.
        train_videos: what they store of the training list, see
            :func:`openvclip.checkpoints.training_config.describe_videos`; or None.
        keep: which epoch checkpoints to keep when a newer one is written.
    """

    folder: Path
    config: str = ""
    train_videos: Tensor | None = None
    keep: ckpt.Keep = field(default_factory=ckpt.Keep)
    writer: TensorboardWriter | None = None


def validation_missed(output_dir: str | Path, epoch: int) -> bool:
    """Whether the log has the end of ``epoch`` (from 0) but not the validation after it.

    Rank 0 looks on behalf of all.
    """
    missed = False
    path = Path(output_dir) / "json_stats.jsonl"
    if distributed.is_main() and path.is_file():
        seen = set()
        for line in iterate_lines(path, errors="replace"):
            try:
                stats = parse_json(line)
            except ValueError:  # cut off when a run was killed
                continue
            if str(stats.get("epoch", "")).split("/")[0] == str(epoch + 1):
                seen.add(stats.get("_type"))
        missed = "train_epoch" in seen and "val_epoch" not in seen
    return distributed.all_gather_object(missed)[0]


def check_progress(content: dict, where: str | Path, iterations: int) -> tuple[int, int]:
    """Return (epoch, iteration) at which training resumes, both counted from 0.

    ``iterations`` is the number per epoch of this run.

    Raises:
        CheckpointError: it does not say, or it is from within an epoch of another length.
    """
    epoch, iteration = content.get("epoch"), content.get("iteration", 0)
    if not isinstance(epoch, int) or not isinstance(iteration, int):
        raise CheckpointError(
            f"{where} does not say how many epochs it has seen; take the weights only, with "
            "TRAIN.CHECKPOINT_EPOCH_RESET True"
        )
    if iteration and content.get("iterations") != iterations:
        raise CheckpointError(
            f"{where} was written inside an epoch of {content.get('iterations')} iterations, and "
            f"this run's have {iterations}: the training list or TRAIN.BATCH_SIZE has changed. "
            "Change it back, or delete the file to resume from the last whole epoch"
        )
    return epoch + 1, iteration


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict, where: str | Path) -> None:
    """Take an optimizer's state from a checkpoint, if it belongs to exactly the same parameters.

    Raises:
        CheckpointError: it belongs to others.
    """
    state = _regroup(state, optimizer.state_dict()["param_groups"])
    names = [group.get("names") for group in state["param_groups"]]
    if names != [group["names"] for group in optimizer.param_groups]:
        raise CheckpointError(
            f"the optimizer state in {where} is not of this model's parameters (it was "
            "written by other code or for another model); take the weights only, with "
            "TRAIN.CHECKPOINT_EPOCH_RESET True"
        )
    optimizer.load_state_dict(state)
    # Off the mapped file, which is deleted while this run continues.
    for parameter, values in optimizer.state.items():
        values.update({k: shard_like(v, parameter).clone() for k, v in values.items()
                       if isinstance(v, torch.Tensor)})


def _regroup(state: dict, groups: list[dict]) -> dict:
    """Give an optimizer's state the ``groups`` of another one if it is of the same parameters.

    Earlier versions grouped parameters by the values of their learning-rate factors, not by words.
    """
    places = {name: place for group in state["param_groups"]
              for name, place in zip(group.get("names", ()), group["params"], strict=False)}
    if places.keys() != {name for group in groups for name in group["names"]}:
        return state
    if [group["names"] for group in state["param_groups"]] == [g["names"] for g in groups]:
        return state
    return {**state, "param_groups": [
        {**group, "params": [places[name] for name in group["names"]]} for group in groups]}


def load_objectives(
    objectives: Sequence[Objective], states: Mapping[str, Any], where: str | Path
) -> None:
    """Give objectives their states from a checkpoint; log any that are left over."""
    for objective in objectives:
        if objective.name in states:
            objective.load_state_dict(states[objective.name])
    for name in states.keys() - {objective.name for objective in objectives}:
        logger.warning("%s holds the state of the objective %r, which this run does not have",
                       where, name)


def stop_at_nonfinite(
    output: Output, *, epoch: int, iteration: int, model: nn.Module, result: StepResult,
    norm: float, rows: list[int], videos: list[str],
) -> None:
    """Save the state of a step whose loss or gradient is not finite, and raise.

    All processes must call it. Rank 0 writes
    ``checkpoints/nonfinite_epoch_NNNNN_iter_NNNNNNN.pth``: the weights before the update, losses,
    ratio, gradient norm, the rows and videos of every process, and its own parameters without a
    finite gradient. Nothing resumes from such a file.

    Raises:
        TrainingError: always, the same in every process.
    """
    own = {
        "broken": [name for name, p in unwrap(model).named_parameters()
                   if p.grad is not None and not bool(torch.isfinite(local(p.grad)).all())],
        "rows": rows, "videos": videos, "gradient_norm": norm, "ratio": result.ratio,
        "finite": result.is_finite(), "connect_loss": None,
        **{name: float(loss) for name, loss in result.losses().items()},
    }
    parts = distributed.all_gather_object(own)
    # The gradient is shared by all; if a loss is the cause, naming its own videos is enough.
    blamed = [part for part in parts if not part["finite"]] or parts
    name = f"nonfinite_epoch_{epoch + 1:05d}_iter_{iteration + 1:07d}.pth"
    where = output.folder / ckpt.FOLDER / name
    note = f"the weights, losses and rows are in {where}"
    weights = gather(unwrap(model).state_dict(), keep=distributed.is_main())
    if distributed.is_main():
        broken = list(dict.fromkeys(name for part in parts for name in part.pop("broken")))
        try:
            ckpt.save_file(where, {
                "model_state": weights, "processes": parts,
                "nonfinite_gradients": broken, "epoch": epoch, "iteration": iteration,
                "cfg": output.config,
            })
        except CheckpointError as error:
            note = f"its state could not be saved: {error}"
    note = distributed.all_gather_object(note)[0]
    first = blamed[0]
    losses = ", ".join(f"{name.replace('_', ' ')} {first[name]}" for name in result.losses())
    raise TrainingError(
        f"epoch {epoch + 1}, iteration {iteration + 1}: {losses}, gradient norm {norm} (ratio "
        f"{first['ratio']}); videos "
        f"{[video for part in blamed for video in part['videos']]}. Lower SOLVER.BASE_LR, or train "
        f"in fp32 (TRAIN.MIXED_PRECISION False); {note}; the last checkpoint is whole"
    )

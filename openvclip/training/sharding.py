"""TRAIN.SHARDING fsdp: weights, gradients and optimizer states are cut among the processes.

By torch's fully_shard (FSDP2): a block's weights are gathered just before it computes. Mixing and
patching work on each process's own part.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from openvclip.checkpoints.loading import build_dtype
from openvclip.models.video_clip import VideoCLIP
from openvclip.utils import distributed
from openvclip.utils.errors import ConfigError
from openvclip.utils.logging import get_logger
from openvclip.utils.shards import is_sharded, local

logger = get_logger(__name__)


def shard(model: VideoCLIP, device: torch.device) -> None:
    """Cut the towers of a model among all processes, in place; each block is gathered on its own.

    Scalars (the logit scale) and a tuned head stay whole; their gradients are averaged as
    DistributedDataParallel averages.
    """
    towers = model.model
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    scalars = {p for p in towers.parameters() if p.ndim == 0}
    for block in (*towers.vision_blocks(), *towers.text_blocks()):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # The rest is also dropped after a forward pass: at the next one the weights may be others.
    fully_shard(towers, mesh=mesh, reshard_after_forward=True, ignored_params=scalars)
    for method in ("encode_image", "encode_text"):
        register_fsdp_forward_method(towers, method)
    for parameter in model.parameters():
        if parameter.requires_grad and not is_sharded(parameter):
            parameter.register_post_accumulate_grad_hook(_average_gradient)
    total = sum(p.numel() for p in model.parameters())
    held = sum(local(p).numel() for p in model.parameters())
    logger.info("FSDP: each of %d processes holds %.2f of %.2f M parameters",
                distributed.world_size(), held / 1e6, total / 1e6)


def _average_gradient(parameter: torch.Tensor) -> None:
    """Average over the processes; what earlier passes left there is the same in all of them."""
    assert parameter.grad is not None  # the hook runs when there is one
    dist.all_reduce(parameter.grad)
    parameter.grad /= distributed.world_size()


def build_wrapped(cfg: Any, model: VideoCLIP, device: torch.device) -> nn.Module:
    """Move a model to the device, its processes exchanging gradients, or sharded among them.

    Raises:
        ConfigError: gradients would have to be scaled, for fp16, while they are sharded.
    """
    if distributed.world_size() == 1:
        if cfg.TRAIN.SHARDING == "fsdp":
            logger.info("TRAIN.SHARDING fsdp: a single process holds everything")
        return model.to(device)
    if cfg.TRAIN.SHARDING == "fsdp":
        if build_dtype(cfg, device, "TRAIN") == torch.float16:
            raise ConfigError("TRAIN.SHARDING fsdp does not scale gradients as fp16 needs; set "
                              "TRAIN.AMP_DTYPE bfloat16 or TRAIN.MIXED_PRECISION False")
        shard(model, device)  # block by block, so that no device holds it whole
        return model.to(device)
    return nn.parallel.DistributedDataParallel(
        model.to(device),
        device_ids=[device.index] if device.type == "cuda" else None,
        static_graph=cfg.MODEL.STATIC_GRAPH,
    )

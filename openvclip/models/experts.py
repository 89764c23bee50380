"""Experts: in chosen blocks of the image tower a mixture of MLPs takes the place of the MLP.

For x = ln_2(tokens) and E experts, index 0 being the block's own MLP:

    g1 = softmax(routing1(x))                      E + 1 weights of each token
    h  = QuickGELU(g1[0] c_fc(x) + sum_e g1[e] experts_head[e](x))
    g2 = softmax(routing2(h))
    y  = g2[0] c_proj(h) + sum_e g2[e] experts_tail[e](h)

Experts start as copies of the MLP, so that the first output is that without experts, whatever the
routers say. Published with Open-VCLIP's code, without a paper.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from openvclip.clip.weights import check_keys
from openvclip.models.backbone import CLIP, Backbone
from openvclip.models.layers import ResidualAttentionBlock, at_least_fp32
from openvclip.utils.errors import CheckpointError, ConfigError
from openvclip.utils.logging import get_logger
from openvclip.utils.registry import not_a_choice

logger = get_logger(__name__)

PATCH, IMAGE = "patch-level", "image-level"
OWN_PARAMETERS = frozenset({"experts_head", "experts_tail", "routing1", "routing2"})
_EXPERT = re.compile(r"(?<=\.)experts_(?:head|tail)\.\d+(?=\.)")


@dataclass(frozen=True)
class Experts:
    """Which blocks have experts.

    Attributes:
        count: E, experts beside the MLP of each block.
        layers: the blocks, counted from 0.
        routing: ``patch-level``, weights for each token, or ``image-level``, those of the class
            token for all tokens of its frame.

    Raises:
        ConfigError: a value is out of range.
    """

    count: int
    layers: tuple[int, ...] = (10, 11)
    routing: str = PATCH

    def __post_init__(self) -> None:
        if self.routing not in (PATCH, IMAGE):
            raise ConfigError(not_a_choice("MODEL.ROUTING_TYPE", self.routing, (PATCH, IMAGE)))
        if self.count < 1 or not self.layers:
            raise ConfigError(f"MODEL.NUM_EXPERTS is {self.count} and MODEL.EXPERT_INSERT_LAYERS "
                              f"{list(self.layers)}; give at least one of each")


class ExpertBlock(ResidualAttentionBlock):
    """The half of a block that experts change; :func:`insert_experts` gives it to blocks.

    Attributes:
        image_level: the class token's weights serve all tokens of the frame.
        record: keep the weights of each forward pass in training.
        routing: g1 and g2 of the last one, (B·T, L or 1, E + 1) each, if they are kept.
    """

    experts_head: nn.ModuleList
    experts_tail: nn.ModuleList
    routing1: nn.Linear
    routing2: nn.Linear
    image_level = False
    record = False
    routing: tuple[Tensor, Tensor] | None = None

    def route(self, router: nn.Linear, x: Tensor) -> Tensor:
        """(B·T, L, channels) -> (B·T, L or 1, E + 1): weights that sum to 1, at least fp32."""
        return torch.softmax(at_least_fp32(router(x[:, :1] if self.image_level else x)), dim=-1)

    @staticmethod
    def mix_layers(x: Tensor, weights: Tensor, layers: Iterable[nn.Module]) -> Tensor:
        """Sum of the layers' outputs for ``x``, each times its entry of the last dimension."""
        total: Any = 0
        for layer, weight in zip(layers, weights.split(1, dim=-1), strict=True):
            y = layer(x)
            total = total + weight.to(y.dtype) * y
        return total

    def mixture(self, x: Tensor) -> Tensor:
        """(B·T, L, D) normalised tokens -> (B·T, L, D): what the MLP and the experts find."""
        mlp: Any = self.mlp
        g1 = self.route(self.routing1, x)
        x = mlp.gelu(self.mix_layers(x, g1, (mlp.c_fc, *self.experts_head)))
        g2 = self.route(self.routing2, x)
        if self.record and self.training:
            self.routing = g1, g2
        return self.mix_layers(x, g2, (mlp.c_proj, *self.experts_tail))

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(x)
        return x + self.mixture(self.ln_2(x))


@cache
def _combine(original: Any) -> Any:
    return type(f"{original.__name__}WithExperts", (ExpertBlock, original),
                {"__module__": original.__module__})


def insert_experts(clip: Backbone, experts: Experts, where: str) -> None:
    """Give blocks of the image tower experts, copies of their MLPs, and new routers, in place.

    Args:
        clip: towers that hold their weights.
        experts: how many, and in which blocks.
        where: what to call the towers in errors.

    Raises:
        ConfigError: the tower lacks a block, or is not built like OpenAI's ViT.
    """
    if not isinstance(clip, CLIP):
        raise ConfigError(f"MODEL.NUM_EXPERTS is {experts.count}, but {where} is not built like "
                          "OpenAI's ViT, whose blocks alone can have experts; set it to 0")
    blocks = list(clip.vision_blocks())
    missing = [layer for layer in experts.layers if not 0 <= layer < len(blocks)]
    if missing:
        raise ConfigError(
            f"MODEL.EXPERT_INSERT_LAYERS is {list(experts.layers)}, but the image tower of {where} "
            f"has {len(blocks)} blocks, 0 to {len(blocks) - 1}; list blocks that it has"
        )
    logger.info("experts: %d beside the MLPs of blocks %s, %s routing", experts.count,
                ", ".join(map(str, experts.layers)), experts.routing)
    for layer in sorted(set(experts.layers)):
        _open(blocks[layer], experts)


def _open(block: Any, experts: Experts) -> None:
    original: Any = type(block)
    block.__class__ = _combine(original)
    block.image_level = experts.routing == IMAGE
    for name, part in (("experts_head", "c_fc"), ("experts_tail", "c_proj")):
        layer = getattr(block.mlp, part)
        block.add_module(name, nn.ModuleList(
            nn.Sequential(OrderedDict({part: deepcopy(layer)})) for _ in range(experts.count)))
    for name, layer in (("routing1", block.mlp.c_fc), ("routing2", block.mlp.c_proj)):
        weight = layer.weight
        block.add_module(name, nn.Linear(
            layer.in_features, experts.count + 1, device=weight.device, dtype=weight.dtype))


def take_expert_weights(clip: Backbone, state: Mapping[str, Tensor], where: str) -> None:
    """Let towers with experts hold those in ``state``, which has nothing else.

    Raises:
        CheckpointError: names or shapes do not fit.
    """
    current = {name: tuple(p.shape) for name, p in clip.named_parameters() if is_expert(name)}
    check_keys(current, {name: tuple(t.shape) for name, t in state.items()}, where)
    clip.load_state_dict(state, strict=False)


def is_expert(name: str) -> bool:
    """Whether a parameter is that of an expert or of a router."""
    return not OWN_PARAMETERS.isdisjoint(name.split("."))


def find_mlp(name: str) -> str | None:
    """Return the name of the MLP's tensor of which an expert's is a copy; None for all others.

    ``...resblocks.1.experts_head.0.c_fc.weight`` belongs to ``...resblocks.1.mlp.c_fc.weight``; no
    tensor of CLIP belongs to a router.
    """
    found, count = _EXPERT.subn("mlp", name)
    return found if count else None


def expert_blocks(model: nn.Module) -> Iterator[tuple[int, ExpertBlock]]:
    """The blocks with experts and their numbers, upwards."""
    for name, block in model.named_modules():
        if isinstance(block, ExpertBlock):
            yield int(name.rpartition(".")[2]), block


def routing_state(model: nn.Module) -> Tensor:
    """Return what the blocks recorded, (2·blocks, L or 1, B·T, E + 1): g1 and g2 of each, upwards.

    Index 0 of the last dimension is the share of CLIP's own MLP.
    """
    return torch.stack([g.transpose(0, 1) for _, block in expert_blocks(model)
                        for g in block.routing or ()])


def refuse_experts(names: Iterable[str], where: str) -> None:
    """Raise a CheckpointError if weights for a model without experts are of one that has some."""
    own = [name for name in names if is_expert(name)]
    if not own:
        return
    found = [re.search(r"\.(\d+)\.experts_head\.(\d+)\.", name) for name in own]
    pairs = {(int(match[1]), int(match[2])) for match in found if match}
    count = max((expert for _, expert in pairs), default=0) + 1
    raise CheckpointError(
        f"{where} has the weights of experts ({len(own)} tensors: {', '.join(own[:3])}"
        f"{', ...' if len(own) > 3 else ''}), but the model has none: its config must say "
        f"MODEL.NUM_EXPERTS {count} and MODEL.EXPERT_INSERT_LAYERS "
        f"{sorted({layer for layer, _ in pairs})}"
    )

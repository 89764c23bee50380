"""The raw model: the original CLIP, frozen, with frames that do not see each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from openvclip.clip.towers import load_tower
from openvclip.interpolation import check_shape, compact
from openvclip.models.backbone import Backbone
from openvclip.models.build import build_clip_source, compile_blocks
from openvclip.models.temporal import build_temporal_clip
from openvclip.models.video_clip import VideoCLIP, share
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)
# What objectives of a model share.
_NAME = "raw_model"
_TENSORS = "raw_tensors"


def build_raw_model(cfg: Any, model: VideoCLIP, *, text: bool = False) -> VideoCLIP:
    """Return the raw model that belongs to ``model``, which is made when first asked for.

    It has the classifier that ``model`` was made with and its own logit scale, and is no part of
    ``model``: neither its weights nor its gradients know of it. It computes in the precision of
    the model's weights.

    Args:
        cfg: the resolved config.
        model: still with the classifier that CLIP's text tower made.
        text: keep the text tower too; without it, no memory is held for one.
    """
    known = share(model, _NAME, lambda: _build_raw(cfg, model, text))
    if text and not has_text(known):
        own = _build_towers(cfg).text_parameters()
        for name, parameter in known.model.text_parameters().items():
            parameter.data = own[name].data
    scale = model.model.logit_scale
    return known.to(scale.device, scale.dtype)


def _build_raw(cfg: Any, model: VideoCLIP, text: bool) -> VideoCLIP:
    towers = _build_towers(cfg)
    raw = VideoCLIP(towers, cfg.DATA.NUM_FRAMES, model.classifier)
    raw.requires_grad_(False).eval()
    if cfg.MODEL.COMPILE:
        compile_blocks(towers)
    if not text:
        for parameter in towers.text_parameters().values():
            parameter.data = parameter.data.new_empty(0)
    logger.info("keeping %s as the raw model: frozen, each frame alone", build_clip_source(cfg))
    return raw


def has_text(raw: VideoCLIP) -> bool:
    """Whether a raw model kept its text tower."""
    return all(p.numel() > 0 for p in raw.model.text_parameters().values())


def _build_towers(cfg: Any) -> Backbone:
    source = build_clip_source(cfg)
    tower, state = load_tower(source)
    return build_temporal_clip(state, num_frames=cfg.DATA.NUM_FRAMES, where=source,
                               backbone=cfg.MODEL.BACKBONE, tower=tower)


def build_raw_tensors(cfg: Any, model: VideoCLIP) -> dict[str, Tensor]:
    """Return the raw model's tensors, as now, of the parameters of ``model`` that train.

    They are made when first asked for, without the raw model around them, and lie beside the
    parameters; in fp16 if that is exact. Parameters that CLIP lacks have none.

    Raises:
        CheckpointError: a shape differs.
    """
    source = build_clip_source(cfg)
    return share(model, _TENSORS, lambda: find_anchors(model, load_tower(source)[1], source))


def find_anchors(
    model: VideoCLIP, clip: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Return CLIP's tensors for the parameters of ``model`` that train and that CLIP has.

    Args:
        model: its parameters have CLIP's names after ``model.``.
        clip: tensors under CLIP's names.
        source: where they are from, for errors.

    Raises:
        CheckpointError: a shape differs.
    """
    anchors = {}
    for name, parameter in model.named_parameters():
        tensor = clip.get(name.removeprefix("model."))
        if tensor is None or not parameter.requires_grad:
            continue
        check_shape(name, parameter, tensor, source)
        anchors[name] = compact(tensor.to(parameter.device, parameter.dtype))
    return anchors


@torch.no_grad()
def move_raw(
    model: VideoCLIP, weights: Mapping[str, Tensor], classifier: Tensor | None = None
) -> None:
    """Let the raw model, and its tensors, be ``weights`` from here on.

    Args:
        model: the model to which they belong.
        weights: tensors under the names of the parameters of ``model``; copied.
        classifier: (classes, D) class embeddings by them; None: those that it has.
    """
    tensors = model.__dict__.get(_TENSORS, {})
    parameters = dict(model.named_parameters())
    for name in tensors.keys() & weights.keys():
        own = parameters[name]
        tensors[name] = weights[name].detach().to(own.device, own.dtype, copy=True)
    raw = model.__dict__.get(_NAME)
    if raw is None:
        return
    for name, parameter in raw.named_parameters():
        if name in weights and parameter.numel():  # the text tower may have been left out
            parameter.copy_(weights[name])
    if classifier is not None:
        raw.set_classifier(classifier)


class RawEnsemble:
    """Mixes the raw model's logits into a model's: ``ratio * raw + (1 - ratio) * logits``.

    Args:
        raw: the raw model, with the model's classes.
        ratio: share of the raw model's logits, 0 to 1.
    """

    def __init__(self, raw: VideoCLIP, ratio: float) -> None:
        self.raw, self.ratio = raw, ratio
        self._video: torch.Tensor | None = None
        self._logits: torch.Tensor | None = None

    def __call__(
        self, model: nn.Module, inputs: tuple[torch.Tensor, ...], logits: torch.Tensor
    ) -> torch.Tensor:
        """A forward hook of the model; it is asked with the same video at each patching ratio."""
        if self._video is not inputs[0] or self._logits is None:
            self._video, self._logits = inputs[0], self.raw(inputs[0])
        return torch.lerp(logits, self._logits, self.ratio)

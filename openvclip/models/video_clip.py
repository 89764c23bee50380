"""A video (B, 3, T, H, W) to logits (B, classes): CLIP on every frame, logits averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from openvclip.models.backbone import Backbone
from openvclip.models.layers import at_least_fp32
from openvclip.utils.errors import DataError


class Captioned(NamedTuple):
    """Embeddings of the n videos of a batch that have a caption.

    Attributes:
        video: (n, D) embeddings of the videos, each of length 1.
        text: (n, D) embeddings of the captions, each of length 1.
        scale: factor of the cosines, ``exp(logit_scale)``.
        bias: what is added to them then, ``logit_bias``; None: nothing.
    """

    video: torch.Tensor
    text: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None = None


class Outputs(NamedTuple):
    """What :class:`VideoCLIP` returns where more than logits is asked for.

    Attributes:
        logits: (B, classes).
        frames: (B·T, D) embeddings of the frames, each of length 1, a clip's adjacent.
        captioned: of the videos that have a caption; None: no captions were given.
    """

    logits: torch.Tensor
    frames: torch.Tensor
    captioned: Captioned | None = None


def _describe_weights(module: Any, state: dict, prefix: str, metadata: object) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}extras.")]:
        del state[name]
    for name, addition in module.additions.items():
        state[prefix + name] = state[prefix + name] + addition()


def _take_weights(module: Any, state: dict, prefix: str, *_: object) -> None:
    for name, addition in module.additions.items():
        if (tensor := state.get(prefix + name)) is not None:
            state[prefix + name] = tensor - addition().to(tensor.device)


def _unit(features: torch.Tensor) -> torch.Tensor:
    """(N, D) features -> the same at length 1, in fp32 at least."""
    with torch.autocast(features.device.type, enabled=False):
        return F.normalize(at_least_fp32(features), dim=-1)


def take_logits(output: torch.Tensor | Outputs) -> torch.Tensor:
    """(B, classes) logits of what :class:`VideoCLIP` returns."""
    return output.logits if isinstance(output, Outputs) else output


def share(model: nn.Module, name: str, make: Callable[[], Any]) -> Any:
    """Return what several objectives of a model use, made when first asked for.

    It is an attribute of the model but no submodule, even if it is a module.
    """
    if name not in model.__dict__:
        model.__dict__[name] = make()
    return model.__dict__[name]


class VideoCLIP(nn.Module):
    """CLIP as a classifier of video clips (Open-VCLIP, arXiv 2302.00624).

    The state dict has CLIP's names after ``model.`` (and ``head`` with ``tune_head``); neither the
    classifier nor ``extras`` is part of it. Its weights are those that the model computes with,
    ``additions`` included.

    Args:
        clip: towers whose image tower was built for ``num_frames`` frames.
        num_frames: T, frames in a clip.
        classifier: (classes, embed_dim) embeddings of the classes, each of length 1.
        tune_head: train a copy of ``classifier``.
        train_text: let the text tower train, of one with prompts what trains beside them; it needs
            captions, or class embeddings that are made at each step, to do so.
        train_bias: let ``logit_bias`` train, if the CLIP has one; only a sigmoid loss depends on
            it.

    Attributes:
        extras: modules that objectives of training add, by the objective's name.
        additions: by the name of a parameter, what returns the tensor that the model adds to it
            where it computes (LoRA).
        keep_frames: in training, return :class:`Outputs`, with the embeddings of the frames.
        embeds_classes: whether an objective makes class embeddings at each step.
        live_classifier: class embeddings with a gradient, which an objective sets for the length of
            a step in place of ``classifier``.
    """

    def __init__(
        self,
        clip: Backbone,
        num_frames: int,
        classifier: torch.Tensor,
        tune_head: bool = False,
        train_text: bool = False,
        train_bias: bool = False,
    ) -> None:
        super().__init__()
        self.model = clip
        prompted = None if clip.prompts is None else clip.prompted_parameters()
        for name, parameter in self.model.text_parameters().items():
            parameter.requires_grad_(train_text and (prompted is None or name in prompted))
        if self.logit_bias is not None:
            self.logit_bias.requires_grad_(train_bias)
        self.train_text = train_text
        self.num_frames = num_frames
        self.classifier: torch.Tensor
        self.register_buffer("classifier", torch.empty(0), persistent=False)
        self.set_classifier(classifier)
        self.head = nn.Parameter(self.classifier.clone()) if tune_head else None
        # What objectives train beside the model; it is part of their states, not of its weights.
        self.extras = nn.ModuleDict()
        self.additions: dict[str, Callable[[], torch.Tensor]] = {}
        self.register_state_dict_post_hook(_describe_weights)
        self.register_load_state_dict_pre_hook(_take_weights)
        self.keep_frames = self.embeds_classes = False
        self.live_classifier: torch.Tensor | None = None

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """What is added to the scaled cosines; None in a CLIP that compares texts by softmax."""
        return getattr(self.model, "logit_bias", None)

    def set_classifier(self, embeddings: torch.Tensor) -> None:
        """Classify among other classes: ``embeddings`` (classes, embed_dim), each of length 1.

        A tuned head, if there is one, is not changed and is still used.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.model.embed_dim:
            raise DataError(
                f"class embeddings of shape {tuple(embeddings.shape)} do not fit this CLIP; "
                f"expected (classes, {self.model.embed_dim})"
            )
        scale = self.model.logit_scale
        self.classifier = embeddings.detach().to(scale.device, scale.dtype)

    def class_weights(self) -> torch.Tensor:
        """(classes, D) unit embeddings that logits are computed with; a tuned head comes first."""
        if self.head is not None:
            return F.normalize(self.head, dim=-1)
        return self.classifier if self.live_classifier is None else self.live_classifier

    def check_video(self, video: torch.Tensor) -> None:
        """Raise a DataError unless ``video`` is (B, 3, num_frames, image_size, image_size)."""
        size = self.model.image_size
        if video.ndim != 5 or video.shape[1] != 3:
            raise DataError(f"expected a batch (B, 3, T, H, W), got {tuple(video.shape)}")
        if video.shape[2] != self.num_frames:
            raise DataError(
                f"the batch has {video.shape[2]} frames per clip, but the model was built for "
                f"{self.num_frames}; set DATA.NUM_FRAMES to the number that the loader gives"
            )
        if video.shape[3] != size or video.shape[4] != size:
            raise DataError(
                f"the batch has frames of {video.shape[3]}x{video.shape[4]} pixels, this CLIP "
                f"takes {size}x{size}; set DATA.TRAIN_CROP_SIZE and DATA.TEST_CROP_SIZE to {size}"
            )

    def forward(
        self,
        video: torch.Tensor,
        tokens: torch.Tensor | None = None,
        captioned: torch.Tensor | None = None,
    ) -> torch.Tensor | Outputs:
        """(B, 3, T, H, W) normalised video -> (B, classes) logits, fp32 unless weights are wider.

        Args:
            video: the videos.
            tokens: (n, columns) token ids of captions; with them the embeddings are returned too.
            captioned: (n,) the video of the batch to which each caption belongs.

        Returns:
            The logits; :class:`Outputs` with captions, or in training if ``keep_frames`` is on.

        Raises:
            DataError: the frame count or size is not the model's.
        """
        frames = self.embed_frames(video)
        with torch.autocast(frames.device.type, enabled=False):
            pooled = frames.unflatten(0, (-1, self.num_frames)).mean(dim=1)
        logits = self.classify(pooled)
        if tokens is None:
            return Outputs(logits, frames) if self.keep_frames and self.training else logits
        with torch.autocast(pooled.device.type, enabled=False):
            embedded = F.normalize(pooled[captioned], dim=-1)
        scale = self.model.logit_scale.exp()
        return Outputs(logits, frames, Captioned(
            embedded, self.encode_text(tokens), scale, self.logit_bias))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, columns) token ids -> (n, D) embeddings of length 1; n may be 0.

        All parameters of the text tower take part even then, as DistributedDataParallel demands.
        """
        # A text of nothing replaces a missing one.
        stand_in = tokens.new_zeros(1, tokens.shape[1]) if len(tokens) == 0 else tokens
        return _unit(self.model.encode_text(stand_in))[:len(tokens)]

    def encode_classes(self, tokens: torch.Tensor) -> torch.Tensor:
        """As :meth:`encode_text` for sentences of classes, with prompts if there are any."""
        return _unit(self.model.encode_classes(tokens))

    def pool_frames(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) normalised video -> (B, D), the mean of its frames' unit embeddings.

        It is shorter than 1, the more the frames differ; normalise it to compare
        videos with each other or with sentences.

        Raises:
            DataError: as :meth:`forward`.
        """
        frames = self.embed_frames(video)
        with torch.autocast(frames.device.type, enabled=False):
            return frames.unflatten(0, (-1, self.num_frames)).mean(dim=1)

    def embed_frames(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) normalised video -> (B·T, D) unit embeddings, a clip's adjacent.

        Raises:
            DataError: as :meth:`forward`.
        """
        self.check_video(video)
        # (B·T, 3, H, W), a clip's frames adjacent.
        frames = video.transpose(1, 2).flatten(0, 1).to(self.model.logit_scale.dtype)
        features = self.model.encode_image(frames)  # (B·T, D)
        return _unit(features)

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        """(B, D) of :meth:`pool_frames` -> (B, classes) logits.

        The mean of the frames' logits is the logit of their mean: averaging first is cheaper.
        """
        with torch.autocast(pooled.device.type, enabled=False):
            weight = self.class_weights()
            logits = self.model.logit_scale.exp() * pooled @ weight.T
            return logits if self.logit_bias is None else logits + self.logit_bias

"""The straightforward ways to compute, for comparison with the library.

They follow the equations one operation after the other, as research code does: attention by two
batched products and a softmax over concatenated keys, weights mixed as whole state dicts, texts at
their full length, all checkpoints loaded together. The parameters are the library's own.

Under autocast the products (linear layers, the convolution, attention's two) are in the lower
precision; the LayerNorms are in fp32 as in OpenAI's code; the softmax is in fp32 on a GPU, by
autocast's rule, and in the lower precision on a CPU, where autocast has no such rule.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvclip.clip.tokenizer import tokenize
from openvclip.interpolation import draw_ratio
from openvclip.models.backbone import CLIP
from openvclip.models.layers import Attention, ResidualAttentionBlock
from openvclip.training.objectives.losses import Loss


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x), literally."""
    return x * torch.sigmoid(1.702 * x)


def run_mlp(mlp: nn.Sequential, x: Tensor) -> Tensor:
    """The block's two linear layers with the activation between them."""
    return mlp.c_proj(quick_gelu(mlp.c_fc(x)))


class ManualViewBlock(ResidualAttentionBlock):
    """Expanded temporal view: concatenated keys and values, attention written out."""

    def __init__(self, width: int, num_frames: int) -> None:
        super().__init__(width)
        self.num_frames = num_frames

    def expand(self, x: Tensor) -> Tensor:
        """(B·T, heads, L, d) -> (B·T, heads, 3·L, d): the frames t+1 and t-1, zeros, and t."""
        clips = x.unflatten(0, (-1, self.num_frames))
        zeros = torch.zeros_like(clips[:, :1])
        after = torch.cat([clips[:, 1:], zeros], dim=1)
        before = torch.cat([zeros, clips[:, :-1]], dim=1)
        return torch.cat([after, before, clips], dim=3).flatten(0, 1)

    def mix(self, x: Tensor) -> Tensor:
        attn = self.attn
        qkv = F.linear(self.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                   for part in qkv.chunk(3, dim=-1))  # (B·T, heads, L, d)
        k, v = self.expand(k), self.expand(v)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B·T, heads, L, 3·L)
        mixed = torch.softmax(scores, dim=-1) @ v
        return x + attn.out_proj(mixed.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(x)
        return x + run_mlp(self.mlp, self.ln_2(x))


class StateDictStep:
    """Interpolated training by whole state dicts.

    Copies the state dict, loads its mixture with CLIP's, runs forward and backward, keeps copies
    of the gradients, loads the copied state dict again, runs forward and backward, and adds the
    kept gradients.

    Args:
        model: maps videos to logits.
        loss: maps logits and labels to a scalar.
        clip: the original CLIP's state dict under the model's names.
        low, high, loss_ratio, seed: as for the library's ``InterpolatedStep``.
        autocast: makes the context of the forward passes.
        scaler: of the gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        clip: Mapping[str, Tensor],
        *,
        low: float,
        high: float,
        loss_ratio: float,
        seed: int,
        autocast: Callable,
        scaler: torch.amp.GradScaler,
    ) -> None:
        self.model, self.loss, self.clip = model, loss, clip
        self.low, self.high, self.loss_ratio, self.seed = low, high, loss_ratio, seed
        self.autocast, self.scaler = autocast, scaler

    def __call__(self, video: Tensor, label: Tensor, step: int) -> None:
        ratio = draw_ratio(self.low, self.high, seed=self.seed, step=step)
        current = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(
            {name: ratio * self.clip[name] + (1 - ratio) * tensor
             for name, tensor in current.items()}
        )
        self._backward(video, label, self.loss_ratio)
        trained = [p for p in self.model.parameters() if p.grad is not None]
        kept = [p.grad.clone() for p in trained]
        self.model.zero_grad()
        self.model.load_state_dict(current)
        self._backward(video, label, 1.0)
        for parameter, gradient in zip(trained, kept, strict=True):
            parameter.grad += gradient

    def _backward(self, video: Tensor, label: Tensor, weight: float) -> None:
        with self.autocast():
            loss = self.loss(self.model(video), label) * weight
        self.scaler.scale(loss).backward()


def attend_masked(attn: Attention, x: Tensor, mask: Tensor) -> Tensor:
    """Torch's own multi-head attention of (L, N, D) under a mask added to the logits."""
    return F.multi_head_attention_forward(
        x, x, x, x.shape[2], attn.heads, attn.in_proj_weight, attn.in_proj_bias, None, None, False,
        0.0, attn.out_proj.weight, attn.out_proj.bias, training=False, need_weights=False,
        attn_mask=mask,
    )[0]


def encode_text(clip: CLIP, tokens: Tensor) -> Tensor:
    """(N, context length) token ids -> (N, embed_dim), every position computed."""
    length = clip.context_length
    mask = torch.full((length, length), float("-inf"), device=tokens.device).triu(1)
    x = (clip.token_embedding(tokens) + clip.positional_embedding).transpose(0, 1)
    for block in clip.transformer.resblocks:
        x = x + attend_masked(block.attn, block.ln_1(x), mask.to(x.dtype))
        x = x + run_mlp(block.mlp, block.ln_2(x))
    x = clip.ln_final(x).transpose(0, 1)
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ clip.text_projection


@torch.no_grad()
def classify_text(clip: CLIP, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return the (classes, embed_dim) text classifier, computed class by class in their order."""
    device = clip.text_projection.device
    rows = []
    for name in names:
        tokens = tokenize([template.format(name) for template in templates], clip.context_length)
        features = F.normalize(encode_text(clip, tokens.to(device)).float(), dim=-1)
        rows.append(F.normalize(features.mean(dim=0), dim=-1))
    return torch.stack(rows).cpu()


def average_by_stacking(paths: Sequence[str | Path], output: str | Path) -> None:
    """Load all checkpoints, stack each tensor of theirs, and write the means."""
    states = [torch.load(path, map_location="cpu", weights_only=True)["model_state"]
              for path in paths]
    mean = {name: torch.stack([state[name].float() for state in states]).mean(dim=0)
            for name in states[0]}
    torch.save({"model_state": mean}, output)

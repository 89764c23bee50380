"""cross_frame_attend: frames exchange a message token each before they attend (X-CLIP)."""

from __future__ import annotations

import torch
from torch import nn

from openvclip.models.layers import Attention, LayerNorm
from openvclip.models.temporal.block import TemporalBlock


class CrossFrameAttention(TemporalBlock):
    """Frames exchange a message token each before they attend (X-CLIP, arXiv 2208.02816)."""

    own_parameters = ("message_fc", "message_ln", "message_attn")

    def __init__(self, width: int, num_frames: int) -> None:
        super().__init__(width, num_frames)
        self.message_fc = nn.Linear(width, width, device="cpu")
        self.message_ln = LayerNorm(width, device="cpu")
        self.message_attn = Attention(width, device="cpu")

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        message = self.message_fc(self.summarise(x))
        message = message.unflatten(0, (-1, self.num_frames))  # (B, T, D)
        message = message + self.message_attn(self.message_ln(message))
        x = torch.cat([x, message.reshape(-1, 1, x.shape[2]).to(x.dtype)], dim=1)
        return super().mix(x)[:, :-1]

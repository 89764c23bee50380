"""stadapt_zeroinit: an adapter with a convolution over time that starts at zero (ST-Adapter)."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from openvclip.models.temporal.block import TemporalBlock


class STAdapter(TemporalBlock):
    """A bottleneck with a convolution over time on the patch tokens, before the attention.

    ST-Adapter (arXiv 2206.13559) without activation; its last layer starts at zero. The weights
    are shaped like those of 3-D convolutions; as these see only one position, a linear map and
    three shifted sums do the same faster.
    """

    own_parameters = ("stadapt_down_1", "stadapt_conv3d_1", "stadapt_up_1")
    has_edges = True

    def __init__(self, width: int, num_frames: int) -> None:
        super().__init__(width, num_frames)
        half = width // 2
        conv = partial(nn.Conv3d, device="cpu")
        self.stadapt_down_1 = conv(width, half, kernel_size=1)
        self.stadapt_up_1 = conv(half, width, kernel_size=1)
        self.stadapt_conv3d_1 = conv(half, half, (3, 1, 1), padding="same", groups=half)
        for parameter in self.stadapt_up_1.parameters():
            nn.init.zeros_(parameter)

    def adapt(self, x: torch.Tensor) -> torch.Tensor:
        """(B·T, patches, D) -> (B·T, patches, D): what is added to the patch tokens."""
        x = F.linear(x, self.stadapt_down_1.weight.flatten(1), self.stadapt_down_1.bias)
        clips = x.unflatten(0, (-1, self.num_frames))
        if self.edges == "clamp":
            clips = torch.cat([clips[:, :1], clips, clips[:, -1:]], dim=1)
        else:
            clips = F.pad(clips, (0, 0, 0, 0, 1, 1))
        before, at, after = self.stadapt_conv3d_1.weight.flatten(1).unbind(1)  # (D / 2,) each
        x = clips[:, :-2] * before + clips[:, 1:-1] * at + clips[:, 2:] * after
        assert self.stadapt_conv3d_1.bias is not None  # as conv makes it
        x = (x + self.stadapt_conv3d_1.bias).flatten(0, 1)
        return F.linear(x, self.stadapt_up_1.weight.flatten(1), self.stadapt_up_1.bias)

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        prefix, patches = x[:, :self.prefix], x[:, self.prefix:]
        return super().mix(torch.cat([prefix, patches + self.adapt(patches).to(x.dtype)], dim=1))

"""What openvclip can be extended by: one registry per door, one line per entry.

Here, and not next to the entries, so that a config is checked without importing torch. An entry
outside the package registers itself, see docs/extending.md.
"""

from __future__ import annotations

from openvclip.utils.registry import Registry

TEMPORAL = Registry("MODEL.TEMPORAL_MODELING_TYPE", {
    None: "openvclip.models.layers:ResidualAttentionBlock",
    "expand_temporal_view": "openvclip.models.temporal.expanded_view:ExpandedView",
    "expand_temporal_view_step2": "openvclip.models.temporal.expanded_view:ExpandedViewStep2",
    "expand_temporal_view_step3": "openvclip.models.temporal.expanded_view:ExpandedViewStep3",
    "channel_shift": "openvclip.models.temporal.channel_shift:ChannelShift",
    "channel_shift_published": "openvclip.models.temporal.channel_shift:PublishedChannelShift",
    "cross_frame_attend": "openvclip.models.temporal.cross_frame_attend:CrossFrameAttention",
    "stadapt_zeroinit": "openvclip.models.temporal.stadapt_zeroinit:STAdapter",
})

TASKS = Registry("TEST.TASK", {
    "classification": "openvclip.evaluation.tasks.classification:Classification",
    "retrieval": "openvclip.evaluation.tasks.retrieval:Retrieval",
})

# Modules that declare the keys of entries; they import no torch.
KEYS = ("openvclip.training.objectives.keys", "openvclip.evaluation.tasks.keys")

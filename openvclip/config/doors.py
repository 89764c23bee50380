"""What openvclip can be extended by: one registry per door, one line per entry.

Here, and not next to the entries, so that a config is checked without importing torch. An entry
outside the package registers itself, see docs/extending.md.
"""

from __future__ import annotations

from openvclip.utils.registry import Registry

BACKBONES = Registry("MODEL.BACKBONE", {
    "auto": "openvclip.models.backbone.backbone:Backbone",  # the one that MODEL.CLIP_PATH needs
    "clip": "openvclip.models.backbone.clip:CLIP",
    "open_clip": "openvclip.models.backbone.open_clip:OpenCLIP",
})

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

OBJECTIVES = Registry("TRAIN.OBJECTIVES", {
    "connect": "openvclip.training.objectives.connect:Connect",
    "caption": "openvclip.training.objectives.caption:CaptionContrast",
    "lora": "openvclip.training.objectives.lora:LoRA",
    "lp_ft": "openvclip.training.objectives.lp_ft:ProbeFirst",
    "distill": "openvclip.training.objectives.distill:RawDistillation",
    "routing": "openvclip.training.objectives.routing:Routing",
    "class_texts": "openvclip.training.objectives.class_texts:ClassTextTraining",
    "ema": "openvclip.training.objectives.ema:WeightAverage",
    "ewc": "openvclip.training.objectives.ewc:EWC",
    "l2sp": "openvclip.training.objectives.l2sp:L2SP",
    "pull": "openvclip.training.objectives.pull:Pull",
    "text_prompt": "openvclip.training.objectives.class_texts:ClassTextTraining",
    "lipsum": "openvclip.training.objectives.lipsum:EnergyGap",
    "froster": "openvclip.training.objectives.froster:Froster",
})
# Objectives that train the text tower without captions.
TEXT_TRAINERS: set[str] = set()

MERGES = Registry("--method", {
    "mean": "openvclip.interpolation.merging.mean:PlainMean",
})

PREPARERS = Registry("command", {
    "kinetics400": "openvclip.data.prepare.kinetics_lists:Kinetics400",
    "kinetics600": "openvclip.data.prepare.kinetics_lists:Kinetics600",
    "ucf101": "openvclip.data.prepare.ucf101:UCF101",
    "hmdb51": "openvclip.data.prepare.hmdb51:HMDB51",
    "ssv2": "openvclip.data.prepare.ssv2:SSV2",
    "folders": "openvclip.data.prepare.folders:Folders",
    "few-shot": "openvclip.data.prepare.subsets:FewShot",
    "base-to-novel": "openvclip.data.prepare.subsets:BaseToNovel",
})

TASKS = Registry("TEST.TASK", {
    "classification": "openvclip.evaluation.tasks.classification:Classification",
    "retrieval": "openvclip.evaluation.tasks.retrieval:Retrieval",
})

# Modules that declare the keys of entries; they import no torch.
KEYS = (
    "openvclip.training.objectives.keys.connect",
    "openvclip.training.objectives.keys.caption",
    "openvclip.training.objectives.keys.lora",
    "openvclip.training.objectives.keys.lp_ft",
    "openvclip.training.objectives.keys.raw",
    "openvclip.training.objectives.keys.experts",
    "openvclip.training.objectives.keys.texts",
    "openvclip.training.objectives.keys.ema",
    "openvclip.training.objectives.keys.anchor",
    "openvclip.training.objectives.keys.lipsum",
    "openvclip.training.objectives.keys.froster",
    "openvclip.evaluation.tasks.keys",
)

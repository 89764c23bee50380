"""From a config to a model: which CLIP, which temporal variant, which classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from openvclip.clip.towers import load_tower
from openvclip.clip.weights import ARCH_FILES, check_keys, default_clip_path
from openvclip.config.doors import TEXT_TRAINERS
from openvclip.config.validate import CHOICES
from openvclip.models.backbone import CLIP, Backbone
from openvclip.models.experts import Experts, find_mlp, is_expert, refuse_experts
from openvclip.models.temporal import build_temporal_clip, is_temporal
from openvclip.models.text import class_embeddings
from openvclip.models.text_choices import build_text_choice
from openvclip.models.video_clip import VideoCLIP
from openvclip.utils.errors import CheckpointError, ConfigError, first_line
from openvclip.utils.logging import get_logger
from openvclip.utils.registry import list_choices
from openvclip.utils.shards import shard_like

logger = get_logger(__name__)

# ARCH: patch size, width of the image tower, image size. The others fit any CLIP.
ARCH_SIZES = {
    "vitb32": (32, 768, 224), "vitb16": (16, 768, 224),
    "vitl14": (14, 1024, 224), "vitl14_336": (14, 1024, 336),
}
ANY_ARCH = ("", "auto")
PROMPTS = "model.prompt_embed"


def build_clip_source(cfg: Any) -> str:
    """Return the path or open_clip name of the original CLIP that ``cfg`` asks for.

    The first of MODEL.CLIP_PATH, TRAIN.CLIP_ORI_PATH, TEST.CLIP_ORI_PATH that is set, else the
    file of MODEL.ARCH in ``~/.cache/clip``.

    Raises:
        ConfigError: none is set and MODEL.ARCH has no default file.
    """
    for path in (cfg.MODEL.CLIP_PATH, cfg.TRAIN.CLIP_ORI_PATH, cfg.TEST.CLIP_ORI_PATH):
        if path:
            return str(path)
    if cfg.MODEL.ARCH not in ARCH_FILES:
        raise ConfigError(
            f"MODEL.CLIP_PATH is empty and MODEL.ARCH {cfg.MODEL.ARCH!r} has no default CLIP file; "
            f"set MODEL.CLIP_PATH, or MODEL.ARCH to one of {', '.join(ARCH_FILES)}"
        )
    path = default_clip_path(cfg.MODEL.ARCH)
    if not path.is_file():
        raise CheckpointError(
            f"no CLIP weights: MODEL.CLIP_PATH is empty and {path}, the file of MODEL.ARCH "
            f"{cfg.MODEL.ARCH}, does not exist; put OpenAI's archive there or set MODEL.CLIP_PATH "
            "to a file or to a name of open_clip such as ViT-B-16"
        )
    return str(path)


def check_arch(arch: str, clip: Backbone, where: str) -> None:
    """Raise unless a loaded CLIP has the sizes of MODEL.ARCH ("" and "auto" fit any)."""
    if arch in ANY_ARCH or not isinstance(clip, CLIP):  # the sizes are of OpenAI's family
        return
    if arch not in ARCH_SIZES:
        raise ConfigError(f"MODEL.ARCH {arch!r} is unknown; use auto or one of "
                          f"{', '.join(ARCH_SIZES)}")
    config = clip.config
    sizes = (config.patch_size, config.vision_width, config.image_size)
    if sizes != ARCH_SIZES[arch]:
        raise CheckpointError(
            f"MODEL.ARCH {arch} has patch size, width and image size {ARCH_SIZES[arch]}, but "
            f"{where} has {sizes}; change MODEL.ARCH (auto accepts any) or MODEL.CLIP_PATH"
        )


def build_crops(cfg: Any) -> dict[str, int]:
    """Return the crops of a run in pixels, by key: of training and of a test that follows it."""
    crops = {}
    if cfg.TRAIN.ENABLE or cfg.VAL_MODE:
        crops["DATA.TRAIN_CROP_SIZE"] = cfg.DATA.TRAIN_CROP_SIZE
    if cfg.TEST.ENABLE and not cfg.VAL_MODE:
        crops["DATA.TEST_CROP_SIZE"] = cfg.DATA.TEST_CROP_SIZE
    return crops


def check_crops(crops: Mapping[str, int], size: int, where: str) -> None:
    """Raise a ConfigError unless all ``crops`` give the CLIP frames of ``size`` pixels."""
    wrong = {key: crop for key, crop in crops.items() if crop != size}
    if wrong:
        raise ConfigError(
            f"{where} takes frames of {size}x{size} pixels, but "
            f"{' and '.join(f'{key} is {crop}' for key, crop in wrong.items())}; set "
            f"{' and '.join(wrong)} to {size}"
        )


def build_temporal_type(cfg: Any) -> str | None:
    """Return how frames see each other: as the config says, or not at all in BasicClipVideo."""
    model, kind = cfg.MODEL.MODEL_NAME, cfg.MODEL.TEMPORAL_MODELING_TYPE
    if model not in CHOICES["MODEL.MODEL_NAME"]:
        raise ConfigError(f"MODEL.MODEL_NAME {model!r} is unknown; use "
                          f"{list_choices(model, CHOICES['MODEL.MODEL_NAME'])}")
    if model == "BasicClipVideo" and kind is not None:
        raise ConfigError(
            "MODEL.MODEL_NAME BasicClipVideo has no temporal modelling, but "
            f"MODEL.TEMPORAL_MODELING_TYPE is {kind!r}; set it to None or MODEL.MODEL_NAME to "
            "TemporalClipVideo"
        )
    return kind


def build_experts(cfg: Any) -> Experts | None:
    """Return which blocks have experts; None: none has."""
    model = cfg.MODEL
    if not model.NUM_EXPERTS:
        return None
    return Experts(model.NUM_EXPERTS, tuple(model.EXPERT_INSERT_LAYERS), model.ROUTING_TYPE)


def _build_device_type(cfg: Any) -> str:
    """Return ``cuda`` if the run has a GPU, else ``cpu``."""
    return "cuda" if cfg.NUM_GPUS > 0 and torch.cuda.is_available() else "cpu"


def build_model(cfg: Any, label_names: Sequence[str] | None) -> VideoCLIP:
    """Build the model that ``cfg`` describes, in fp32 on the CPU.

    Its weights and its classifier come from the original CLIP; a checkpoint is loaded afterwards
    with :func:`load_model_weights`, which leaves the classifier alone, as published.

    Args:
        cfg: the config tree.
        label_names: class names, in the order of the labels; None: a model without classes, if
            only embeddings are needed. It leaves out a checkpoint's tuned head, if there is one.

    Raises:
        ConfigError: keys that contradict each other, the number of classes or the CLIP's size.
        CheckpointError: no CLIP, or one that does not fit.
        DataError: a class name that is too long.
    """
    temporal_type = build_temporal_type(cfg)
    if label_names is not None and len(label_names) != cfg.MODEL.NUM_CLASSES:
        raise ConfigError(
            f"MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}, but the label map has "
            f"{len(label_names)} names; set MODEL.NUM_CLASSES to {len(label_names)} or check "
            "DATA.INDEX_LABEL_MAPPING_FILE"
        )
    if cfg.MODEL.COMPILE:
        check_compiler(_build_device_type(cfg))
    where = build_clip_source(cfg)
    logger.info("reading CLIP from %s", where)
    tower, state = load_tower(where)
    clip = build_temporal_clip(
        state,
        temporal_type=temporal_type,
        num_frames=cfg.DATA.NUM_FRAMES,
        use_checkpoint=cfg.MODEL.USE_CHECKPOINT,
        where=where,
        backbone=cfg.MODEL.BACKBONE,
        tower=tower,
        edges=cfg.MODEL.TEMPORAL_EDGES,
        experts=build_experts(cfg),
    )
    check_arch(cfg.MODEL.ARCH, clip, where)
    check_crops(build_crops(cfg), clip.image_size, where)
    check_context(cfg.MODEL.CONTEXT_LENGTH, clip, where)
    check_sigmoid(build_sigmoid_keys(cfg), clip, where)
    logger.info("CLIP from %s: %s; temporal type %s", where, clip.describe(), temporal_type)
    classifier = torch.empty(0, clip.embed_dim)
    if label_names is not None:
        classifier = build_classifier(cfg, clip, label_names)
    if cfg.MODEL.TEXT_PROMPT:  # not before: the untouched CLIP classifies by its templates
        clip.add_prompts(cfg.MODEL.PROMPT_NUM, cfg.RNG_SEED)
    if cfg.MODEL.COMPILE:
        compile_blocks(clip)
    tune_head = cfg.TUNE_HEAD and label_names is not None
    return VideoCLIP(clip, cfg.DATA.NUM_FRAMES, classifier, tune_head=tune_head,
                     train_text=build_train_text(cfg), train_bias=bool(build_sigmoid_keys(cfg)))


def build_train_text(cfg: Any) -> bool:
    """Return whether a training changes the text tower."""
    caption = cfg.TRAIN.CAPTION
    by_captions = caption.ENABLE and caption.TEXT_TOWER == "trainable"
    by_classes = cfg.MODEL.TEXT_TOWER == "trainable" or cfg.MODEL.TEXT_PROMPT
    return bool(by_captions or by_classes or not TEXT_TRAINERS.isdisjoint(cfg.TRAIN.OBJECTIVES))


def build_sigmoid_keys(cfg: Any) -> list[str]:
    """Return the keys by which a training asks for a sigmoid loss."""
    if not (cfg.TRAIN.ENABLE or cfg.VAL_MODE):
        return []
    caption = cfg.TRAIN.CAPTION
    keys = ["MODEL.LOSS_FUNC"] if cfg.MODEL.LOSS_FUNC == "sigmoid" else []
    return keys + (["TRAIN.CAPTION.LOSS"] if caption.ENABLE and caption.LOSS == "sigmoid" else [])


def check_context(length: int, clip: Backbone, where: str) -> None:
    """Raise a ConfigError if texts of ``length`` tokens are not what a text tower reads."""
    if not getattr(clip, "ends_early", True) and length != clip.context_length:
        raise ConfigError(
            f"MODEL.CONTEXT_LENGTH is {length}, but the text tower of {where} reads exactly "
            f"{clip.context_length} tokens, padding included; set it to auto"
        )


def check_sigmoid(keys: Sequence[str], clip: Backbone, where: str) -> None:
    """Raise a ConfigError if ``keys`` ask for a sigmoid loss of a CLIP without ``logit_bias``."""
    if keys and getattr(clip, "logit_bias", None) is None:
        raise ConfigError(
            f"{' and '.join(keys)} {'is' if len(keys) == 1 else 'are'} sigmoid, but {where} has no "
            "logit_bias: it was trained with a softmax; use MODEL.LOSS_FUNC cross_entropy and "
            "TRAIN.CAPTION.LOSS contrastive, or a CLIP such as SigLIP"
        )


def build_classifier(
    cfg: Any, clip: Backbone, label_names: Sequence[str], *, cache: bool = True
) -> torch.Tensor:
    """Return the (classes, embed_dim) classifier of ``label_names`` made by ``clip``'s text tower.

    Its texts are those of MODEL.TEXT_TEMPLATES or MODEL.CLASS_DESCRIPTIONS, or have the CLIP's
    prompts. A GPU is used if the run has one. Results are kept in MODEL.TEXT_CACHE_DIR unless
    ``cache`` is False, as for a text tower that trains.
    """
    choice = build_text_choice(cfg, label_names, clip.prompts is not None)
    logger.info("class texts: %s (%d sentences)", choice.file or choice.name,
                choice.facts()["count"])
    device = _build_device_type(cfg)
    cache_dir = cfg.MODEL.TEXT_CACHE_DIR or Path(cfg.OUTPUT_DIR) / "text_cache" if cache else None
    home = clip.logit_scale.device
    try:
        return class_embeddings(
            clip.to(device), label_names, choice.templates,
            context_length=cfg.MODEL.CONTEXT_LENGTH, cache_dir=cache_dir,
            descriptions=choice.descriptions,
        )
    finally:
        clip.to(home)


def compile_blocks(clip: Backbone) -> None:
    """Compile the image tower's blocks, once since they share their code, when first run."""
    for block in clip.vision_blocks():
        block.compile()


def check_compiler(device: str) -> None:
    """Raise a ConfigError if torch.compile does not work on this machine's ``device``."""
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device=device))
    except RuntimeError as error:
        needs = "GPU, where it needs Triton" if device == "cuda" else "CPU, where it needs g++"
        raise ConfigError(
            f"MODEL.COMPILE is True, but torch.compile does not work on this machine's {needs} "
            f"({first_line(error)}); set MODEL.COMPILE False"
        ) from error


def load_model_weights(
    model: VideoCLIP, state: Mapping[str, torch.Tensor], where: str
) -> None:
    """Copy a checkpoint's weights into ``model``; every name and shape must match.

    The temporal variant's own parameters, which an original CLIP lacks, keep their values if the
    checkpoint has none of them; so do the tuned head and prompts. Without any of experts, these
    become copies of its MLPs. The classifier is not touched. A model without classes has no use for
    a tuned head and takes none.

    Args:
        model: from :func:`build_model`, not wrapped for distributed training.
        state: names without prefix, as from ``load_state_dict_file``, or with ``model.``.
        where: what to call the checkpoint in errors.

    Raises:
        CheckpointError: names or shapes do not fit; they are counted and named.
    """
    state = {name if name == "head" else f"model.{name.removeprefix('model.')}": tensor
             for name, tensor in state.items() if name != "head" or len(model.classifier)}
    current = model.state_dict()
    if PROMPTS in state and PROMPTS not in current:
        raise CheckpointError(f"{where} has {len(state[PROMPTS])} trained prompts; set "
                              f"MODEL.TEXT_PROMPT True and PROMPT_NUM {len(state[PROMPTS])}")
    if not any(is_expert(name) for name in current):
        refuse_experts(state, where)
    lacks = [kind for kind in (is_temporal, is_expert) if not any(map(kind, state))]
    if is_expert in lacks:
        state.update({name: state[mlp] for name in current if (mlp := find_mlp(name)) in state})
    check_keys(
        {name: tuple(tensor.shape) for name, tensor in current.items()},
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        where,
        allow_missing=lambda name: name in ("head", PROMPTS) or any(kind(name) for kind in lacks),
    )
    # Into the model's own, which carry the versions of its layers.
    current.update({name: shard_like(tensor, current[name]) for name, tensor in state.items()})
    model.load_state_dict(current, strict=False)  # names were checked; extras are not weights

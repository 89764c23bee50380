"""Writing a model for other programs: OpenAI's names, open_clip, and the text classifier.

All three see frames one at a time: neither layout knows about the temporal view, which has no
weights. A checkpoint with temporal weights of its own, or a tuned head, cannot be exported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from openvclip import __version__
from openvclip.checkpoints.files import read_content
from openvclip.checkpoints.held import CURRENT, check_which, name_weights
from openvclip.checkpoints.loading import check_finite, load_patched, name_dtype, read_weights
from openvclip.checkpoints.training_config import find_training_config
from openvclip.clip.open_clip_names import find_name
from openvclip.clip.towers import TOWER, TowerSpec, describe_tower
from openvclip.interpolation import StateDict
from openvclip.models.backbone import CLIP, Backbone
from openvclip.models.build import ARCH_SIZES
from openvclip.models.temporal import is_adapter, is_temporal
from openvclip.models.text import TEMPLATES, class_embeddings
from openvclip.utils.errors import CheckpointError, ConfigError, first_line
from openvclip.utils.files import compute_file_hash, replacing_file
from openvclip.utils.json_text import parse_json
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
# What a training checkpoint's config says about the clips for which its weights were made.
TEMPORAL_KEYS = ("MODEL.TEMPORAL_MODELING_TYPE", "DATA.NUM_FRAMES", "DATA.SAMPLING_RATE",
                 "DATA.MEAN", "DATA.STD")


@dataclass
class Export:
    """What to write.

    Attributes:
        model: the CLIP, patched, its image tower without temporal modelling.
        facts: where it came from, by name; values are texts.
        labels: class names, in the order of the labels.
        classifier: (classes, embed_dim) embeddings of ``labels``, each of length 1, or None.
    """

    model: Backbone
    facts: dict[str, str]
    labels: tuple[str, ...] = ()
    classifier: torch.Tensor | None = None


def export_model(
    clip: str | Path, output: str | Path, *, checkpoint: str | Path | None = None,
    patching_ratio: float | None = None, labels: Sequence[str] = (), name: str = "openvclip",
    layout: str = "both", dtype: str = "fp32", overwrite: bool = False, which: str = CURRENT,
) -> list[Path]:
    """Write a model for other programs: all of the files, or none.

    Args:
        clip, checkpoint, patching_ratio, labels, which: see :func:`load_export`.
        output: folder to write to.
        name: beginning of the file names.
        layout: ``openai`` writes ``NAME.safetensors``, ``open_clip`` writes ``NAME-open_clip.pt``
            and the model's config ``NAME-open_clip.json``, ``both`` all three, or for towers that
            OpenAI's names do not fit, open_clip's two. With ``labels``
            there is also ``NAME-classifier.safetensors``.
        dtype: ``fp32``, or ``fp16`` as OpenAI's archives are (LayerNorm stays in fp32).
        overwrite: replace existing files.

    Returns:
        The files.

    Raises:
        ConfigError: a file exists, ``name`` is a path, or as :func:`load_export`.
        CheckpointError: weights do not fit into fp16, a file cannot be written, or as
            :func:`load_export`.
        DataError: as :func:`load_export`.
    """
    if not name or Path(name).name != name:
        raise ConfigError(f"--name is {name!r}; give the beginning of a file name, and the folder "
                          "by --output")
    layout = choose_layout(layout, describe_tower(clip))
    paths = plan_files(Path(output), name, layout, classifier=bool(labels))
    existing = [path for path in paths.values() if path.exists()]
    if existing and not overwrite:
        raise ConfigError(
            f"{', '.join(map(str, existing))} {'exists' if len(existing) == 1 else 'exist'}; give "
            "another --output or --name, or --overwrite"
        )
    export = load_export(
        clip, checkpoint=checkpoint, patching_ratio=patching_ratio, labels=labels, which=which)
    write_export(export, paths, dtype)
    for path in paths.values():
        logger.info("wrote %s (%d bytes)", path, path.stat().st_size)
    return list(paths.values())


def load_export(
    clip: str | Path, *, checkpoint: str | Path | None = None,
    patching_ratio: float | None = None, labels: Sequence[str] = (), which: str = CURRENT,
) -> Export:
    """Load the weights that a test would use: the CLIP, or a checkpoint, patched.

    As in testing, the classifier is made by the exported text tower.

    Args:
        clip: file, or open_clip name, of the original CLIP.
        checkpoint: a training checkpoint or averaged file; None takes ``clip`` itself.
        patching_ratio: share of ``clip`` in the weights, 0 to 1; None: the unpatched checkpoint.
        labels: class names of the classifier; without them there is no classifier.
        which: of which weights of the checkpoint, see
            :func:`openvclip.checkpoints.held.choose_weights`.

    Raises:
        ConfigError: a ratio without a checkpoint or outside 0 .. 1.
        CheckpointError: a file is missing, damaged, contains NaN or does not fit.
        DataError: a class name is too long.
    """
    if patching_ratio is not None and checkpoint is None:
        raise ConfigError("--patching-ratio mixes a checkpoint with the original CLIP; name one "
                          "by --checkpoint, or drop the ratio")
    if patching_ratio is not None and not 0 <= patching_ratio <= 1:
        raise ConfigError(f"--patching-ratio is {patching_ratio:g}; give the share of the original "
                          "CLIP, from 0 to 1")
    check_which(which, given=checkpoint is not None)
    if checkpoint is not None:
        check_exportable(checkpoint)
    model = load_patched(clip, checkpoint, patching_ratio, which=which).model.requires_grad_(False)
    facts = {"openvclip": __version__, "arch": name_arch(model)}
    for name, path in (("clip", clip), ("checkpoint", checkpoint)):
        if path is not None:
            digest = compute_file_hash(path)
            facts |= {name: str(path), **({f"{name}_sha256": digest} if digest else {})}
    if checkpoint is not None:
        facts.update(read_temporal_settings(checkpoint))
        facts["patching_ratio"] = f"{patching_ratio or 0.0:g}"
        facts["weights"] = name_weights(read_content(checkpoint), which)
    export = Export(model, facts, tuple(labels))
    if labels:
        export.classifier = class_embeddings(model, labels, context_length=model.context_length)
    return export


def choose_layout(layout: str, tower: TowerSpec) -> str:
    """Return the layout in which a tower can be written.

    Raises:
        ConfigError: OpenAI's is asked for, whose names do not say how other towers compute.
    """
    if tower.family == "clip":
        return layout
    if layout == "openai":
        raise ConfigError(f"--format is openai, but {tower.label} is not built like OpenAI's ViT, "
                          "which that format stands for; give --format open_clip")
    return "open_clip"


def name_arch(model: Backbone) -> str:
    """Return the MODEL.ARCH of these sizes, or ``auto``."""
    if not isinstance(model, CLIP):
        return "auto"
    config = model.config
    sizes = (config.patch_size, config.vision_width, config.image_size)
    return next((name for name, known in ARCH_SIZES.items() if known == sizes), "auto")


def check_exportable(path: str | Path) -> None:
    """Raise a CheckpointError if a checkpoint has weights that no CLIP has."""
    own = [name for name in read_weights(path)
           if is_adapter(name) or name in ("head", "prompt_embed")]
    if own:
        what = ("a tuned head" if own == ["head"]
                else "trained prompts" if own == ["prompt_embed"]
                else "weights of a temporal variant" if any(map(is_temporal, own))
                else "weights of experts")
        raise CheckpointError(
            f"{path} has {what} ({len(own)} tensors: {', '.join(own[:3])}"
            f"{', ...' if len(own) > 3 else ''}), which neither OpenAI's layout nor open_clip can "
            "hold; only models whose weights are CLIP's can be exported"
        )


def read_temporal_settings(path: str | Path) -> dict[str, str]:
    """Return TEMPORAL_KEYS of the training run that a checkpoint is from; {} if that is unknown."""
    try:
        config = find_training_config(path)
    except CheckpointError:
        return {}
    if config is None:
        return {}
    backbone = config.section("MODEL").get("BACKBONE", "clip")
    if backbone not in ("auto", "clip", "open_clip"):
        raise CheckpointError(f"{path} is of the MODEL.BACKBONE {backbone!r}, which neither "
                              "OpenAI's layout nor open_clip can hold; only CLIPs can be exported")
    found = {f"{section}.{name}": str(value) for section in ("MODEL", "DATA")
             for name, value in config.section(section).items()}
    known = found.keys() >= set(TEMPORAL_KEYS)
    return {key: found[key] for key in TEMPORAL_KEYS} if known else {}


def plan_files(output: Path, name: str, layout: str, classifier: bool) -> dict[str, Path]:
    """Return the files to write, by kind."""
    kinds = {"openai": [("openai", ".safetensors")],
             "open_clip": [("open_clip", "-open_clip.pt"), ("config", "-open_clip.json")]}
    kinds["both"] = kinds["openai"] + kinds["open_clip"]
    own = [("classifier", "-classifier.safetensors")] if classifier else []
    return {kind: output / f"{name}{ending}" for kind, ending in kinds[layout] + own}


def write_export(export: Export, paths: Mapping[str, Path], dtype: str = "fp32") -> None:
    """Write the files of :func:`plan_files`; they get their names when all are complete."""
    state = cast_weights(export.model, DTYPES[dtype])
    facts = {**export.facts, "dtype": dtype}
    writers = {
        "openai": lambda file: save_tensors(state, file, facts),
        "open_clip": lambda file: save_archive(
            {"state_dict": state, "openvclip": facts, **describe_others(export.model)}, file),
        "config": lambda file: file.write_text(
            json.dumps(dict(export.model.tower.config), indent=2) + "\n", encoding="utf-8"),
        "classifier": lambda file: save_classifier(export, file),
    }
    try:
        with ExitStack() as stack:
            for kind, path in paths.items():
                writers[kind](stack.enter_context(replacing_file(path)))
    except (OSError, RuntimeError, SafetensorError) as error:
        folders = ", ".join(sorted({str(path.parent) for path in paths.values()}))
        raise CheckpointError(f"cannot write to {folders}: {first_line(error)}; free space or "
                              "give another --output") from error


def save_archive(content: Mapping[str, object], output: Path) -> None:
    """Write a file for ``torch.load``; the same content gives the same bytes."""
    # To an open file: given a name, torch.save puts that into the content.
    with open(output, "wb") as file:
        torch.save(content, file)


def describe_others(model: Backbone) -> dict[str, object]:
    """Return what is written beside weights that do not tell how their tower computes."""
    return {} if isinstance(model, CLIP) else {TOWER: model.tower.to_dict()}


def cast_weights(model: Backbone, dtype: torch.dtype) -> StateDict:
    """Return the weights, norms and the logits' scale and bias in fp32, the others in ``dtype``."""
    kept = {f"{path}.{name}" for path, module in model.named_modules()
            if "norm" in type(module).__name__.lower() for name, _ in module.named_parameters()}
    kept |= {"logit_scale", "logit_bias"}
    state = {name: (tensor if name in kept else tensor.to(dtype)).contiguous()
             for name, tensor in model.state_dict().items()}
    check_finite(state, f"the model in {name_dtype(dtype)}", "give --dtype fp32")
    return state


def save_tensors(tensors: StateDict, path: Path, facts: dict[str, str]) -> None:
    """Write a ``.safetensors`` file with the umask's permissions, like other files."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, {"format": "pt", **facts})
    path.chmod(mode)


def save_classifier(export: Export, path: Path) -> None:
    """Write the embeddings; class names and sentences are JSON lists in the metadata."""
    facts = {name: text for name, text in export.facts.items() if not name.startswith("checkpoint")}
    facts["classes"] = json.dumps(export.labels, ensure_ascii=False)
    facts["prompts"] = json.dumps(TEMPLATES)
    assert export.classifier is not None  # the caller plans the file where there are labels
    scale = export.model.logit_scale.detach().clone()
    save_tensors({"embeddings": export.classifier, "logit_scale": scale}, path, facts)


def describe_loading(paths: Sequence[Path]) -> str:
    """Return the lines of Python that load the open_clip files there."""
    config = next(path for path in paths if path.suffix == ".json")
    known = find_name(parse_json(config.read_text(encoding="utf-8")))
    create = (f'open_clip.create_model("{known or config.stem}", '
              f'pretrained="{config.with_suffix(".pt")}")')
    return create if known else f'open_clip.add_model_config("{config}")\n{create}'

"""Reading weights: OpenAI archive, state dict, PySlowFast .pyth, .safetensors, open_clip name.

Whatever the container, the result has OpenAI's names without a prefix. No code is ever unpickled.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from openvclip.clip import open_clip_names
from openvclip.clip.archive import read_archive
from openvclip.clip.open_clip_towers import describe_open_clip
from openvclip.clip.open_clip_weights import load_open_clip
from openvclip.clip.tower_spec import TOWER, TowerSpec
from openvclip.utils.archives import SPARE_BYTES, check_safetensors, check_weights
from openvclip.utils.errors import CheckpointError, first_line
from openvclip.utils.files import open_regular
from openvclip.utils.logging import get_logger
from openvclip.utils.paths import local_weights
from openvclip.utils.pickles import BombError
from openvclip.utils.torch_files import load_torch

logger = get_logger(__name__)

# Numbers that OpenAI's archives contain in addition to the weights.
NOT_WEIGHTS = frozenset({"input_resolution", "context_length", "vocab_size"})
# Counters of layers, as whole numbers; nothing here reads them.
COUNTERS = (".num_batches_tracked", ".position_ids", ".token_type_ids")
PREFIXES = ("module.", "model.")
# Names of what published checkpoints hold beside the model, by their beginnings.
BESIDE = {
    ("raw_model.",): "its copy of the original CLIP",
    ("projector_v.", "projector_t."): "what FROSTER's training added",
}
CONTAINERS = ("model_state", "state_dict")
# Computation with weights is in fp32; nothing else is a weight.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Tied weights are counted twice; more sharing is not a model.
MOST_SHARING = 4
SUFFIXES = frozenset({".pt", ".pth", ".pyth", ".bin", ".ckpt", ".safetensors"})
# A CLIP with a ViT has at least these; its sizes are read from them.
SIZE_KEYS = (
    "visual.conv1.weight", "visual.class_embedding", "visual.positional_embedding", "visual.proj",
    "positional_embedding", "token_embedding.weight", "text_projection", "logit_scale",
)
RANKS = {"visual.conv1.weight": 4, "visual.class_embedding": 1, "logit_scale": 0}
ARCH_FILES = {
    "vitb32": "ViT-B-32.pt", "vitb16": "ViT-B-16.pt",
    "vitl14": "ViT-L-14.pt", "vitl14_336": "ViT-L-14-336px.pt",
}


def default_clip_path(arch: str) -> Path:
    """Return where OpenAI's package puts the archive of ``arch``: ``~/.cache/clip/ViT-B-16.pt``.

    Raises:
        CheckpointError: ``arch`` is not one of vitb32, vitb16, vitl14, vitl14_336.
    """
    if arch not in ARCH_FILES:
        raise CheckpointError(
            f"MODEL.ARCH {arch!r} has no default CLIP file; set MODEL.CLIP_PATH, or MODEL.ARCH to "
            f"one of {', '.join(ARCH_FILES)}"
        )
    return Path.home() / ".cache" / "clip" / ARCH_FILES[arch]


def is_named(source: str | Path) -> bool:
    """Whether a source is a name of open_clip, the hub's or a folder, and so is not a file."""
    text = str(source)
    if text.startswith((open_clip_names.HUB, open_clip_names.LOCAL)):
        return True
    path = local_weights(source)
    return path.is_dir() or (not path.exists() and path.suffix not in SUFFIXES
            and not text.startswith(("/", ".", "~")))


def load_clip(path_or_name: str | Path) -> dict[str, torch.Tensor]:
    """Load an original CLIP from a file, or from what open_clip knows.

    Args:
        path_or_name: a file in any format of :func:`load_state_dict_file`; a name such as
            ``ViT-B-16`` (OpenAI's weights) or ``ViT-B-16-SigLIP2/webli``; ``hf-hub:owner/name``;
            or a folder as open_clip saves it.

    Returns:
        fp32 tensors on the CPU, without prefix: OpenAI's names, or those of open_clip's model.

    Raises:
        CheckpointError: the file is missing, damaged, not a CLIP with a ViT, or contains NaN or
            infinity; or the name is unknown, or its weights cannot be had.
    """
    if is_named(path_or_name):
        return load_named(describe_open_clip(str(path_or_name)))
    return find_clip(read_file(path_or_name), path_or_name)


def load_named(spec: TowerSpec) -> dict[str, torch.Tensor]:
    """Load the weights of towers that are not from a file, as :func:`load_clip` does."""
    state = clean_names(load_open_clip(spec, load_state_dict_file))
    require_finite_weights(state, spec.source)
    return state


def find_clip(content: object, source: str | Path) -> dict[str, torch.Tensor]:
    """Extract the weights of :func:`load_clip` from the content of a file."""
    state = _find_weights(content, local_weights(source))
    if not (isinstance(content, Mapping) and TOWER in content):
        require_keys(state, str(source))
    require_finite_weights(state, str(source))
    return {name: tensor.to(torch.float32, copy=True) for name, tensor in state.items()}


def load_state_dict_file(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a file's tensors, names without prefix, dtypes as stored.

    Reads OpenAI's TorchScript archives, plain state dicts, checkpoints with ``model_state`` or
    ``state_dict``, and ``.safetensors``. Files in torch's zip format are mapped into memory, not
    read whole.

    Raises:
        CheckpointError: the file is missing, a folder, empty or damaged, or contains Python
            objects, no tensors, or tensors that are not weights (integer, complex, sparse,
            quantised). NaN and infinity are reported in the log, by name.
    """
    return find_state_dict(read_file(path), local_weights(path))


def read_file(path: str | Path) -> object:
    """Return the content of a file of weights: a state dict, or what contains one.

    Raises:
        CheckpointError: as :func:`load_state_dict_file`.
    """
    path = local_weights(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the checkpoint file in it")
    if path.exists() and not path.is_file():
        raise CheckpointError(f"checkpoint {path} is a pipe or a device; copy it to a file")
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist; check the path")
    if path.stat().st_size == 0:
        raise CheckpointError(
            f"checkpoint {path} is empty (0 bytes), as if writing it had been cut off; "
            "copy or download it again"
        )
    try:
        return _read(path)
    except Exception as error:  # damaged bytes make the readers raise nearly any exception
        raise _reading_error(path, error) from error


def find_state_dict(content: object, path: str | Path) -> dict[str, torch.Tensor]:
    """Extract the weights, names without prefix, from the content of a file at ``path``.

    NaN and infinity are reported in the log, by name.

    Raises:
        CheckpointError: there are none, or tensors that are not weights.
    """
    state = _find_weights(content, path)
    broken = find_not_finite(state)
    if broken:
        logger.warning(
            "checkpoint %s holds NaN or infinity in %d tensors: %s", path, len(broken),
            _some(broken),
        )
    return state


def _find_weights(content: object, path: str | Path) -> dict[str, torch.Tensor]:
    state = clean_names(drop_raw_model(_find_tensors(content, path), f"checkpoint {path}"))
    check_tensors(state, f"checkpoint {path}")
    return state


def check_tensors(state: Mapping[str, torch.Tensor], where: str) -> None:
    """Raise a CheckpointError, by name, unless all are plain floating-point tensors in memory."""
    wrong = []
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            wrong.append(f"{_show(name)} is a {type(tensor).__name__}")
        elif tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            kind = "quantised" if tensor.is_quantized else str(tensor.layout).split(".")[-1]
            wrong.append(f"{_show(name)} is {kind}")
        elif tensor.dtype not in DTYPES:
            wrong.append(f"{_show(name)} is {str(tensor.dtype).removeprefix('torch.')}")
        elif tensor.device.type != "cpu" or (
            tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()
        ):
            wrong.append(f"{_show(name)} has less data than its shape {tuple(tensor.shape)} says")
    if wrong:
        raise CheckpointError(
            f"{where} has {len(wrong)} entries that are not weights: {'; '.join(wrong[:5])}"
            f"{'; ...' if len(wrong) > 5 else ''}. Save it again with floating-point tensors only"
        )
    _check_sharing(state, where)


def _check_sharing(state: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse many tensors that share memory: as copies they may not fit in it."""
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in state.values()}
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if total > MOST_SHARING * sum(held.values()) + SPARE_BYTES:
        raise CheckpointError(
            f"{where} contains {len(state)} tensors of {total:,} bytes that share "
            f"{sum(held.values()):,} bytes; save it again with tensors of their own"
        )


def require_finite_weights(state: Mapping[str, torch.Tensor], where: str) -> None:
    """Raise a CheckpointError, by name, if weights hold NaN or infinity."""
    broken = find_not_finite(state)
    if broken:
        raise CheckpointError(
            f"{where} holds NaN or infinity in {len(broken)} tensors ({_some(broken)}); it is no "
            "usable CLIP: copy or download it again"
        )


def find_not_finite(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of the tensors that contain NaN or infinity."""
    # A sum is not finite if a term is not; only then is each one inspected. In fp32, which is
    # three times as fast as fp64: a sum that overflows is inspected, too.
    return [name for name, tensor in state.items()
            if not tensor.sum(dtype=torch.float32).isfinite() and not tensor.isfinite().all()]


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        with open_regular(path) as file:
            check_safetensors(file)
        return load_file(path)
    with open_regular(path) as file:
        zipped = check_weights(file)
    scripted = read_archive(path) if zipped else None
    return load_torch(path) if scripted is None else scripted


def _reading_error(path: Path, error: Exception) -> CheckpointError:
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) and "Unsupported global" in text:
        named = re.search(r"GLOBAL (\S+)", text)
        return CheckpointError(
            f"checkpoint {path} holds Python objects{f' ({named[1]})' if named else ''}, which are "
            "never unpickled because they can run code; save it again with tensors only: "
            "torch.save({'model_state': model.state_dict()}, path)"
        )
    if isinstance(error, BombError):
        return CheckpointError(f"checkpoint {path} is not read: {first_line(error)}")
    return CheckpointError(
        f"checkpoint {path} ({path.stat().st_size} bytes) cannot be read: it is damaged, cut off "
        f"or of another format; copy or download it again ({type(error).__name__}: "
        f"{first_line(error)})"
    )


def _find_tensors(content: Any, path: str | Path) -> dict[str, torch.Tensor]:
    if isinstance(content, Mapping):
        for key in CONTAINERS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
                _report_others(content, f"checkpoint {path}, {key}")
                break
        tensors = {k: v for k, v in content.items()
                   if isinstance(k, str) and isinstance(v, torch.Tensor)}
        if tensors:
            return tensors
    keys = ", ".join(map(repr, list(content)[:5])) if isinstance(content, Mapping) else ""
    raise CheckpointError(
        f"checkpoint {path} holds no tensors by name, nor any under {' or '.join(CONTAINERS)} "
        f"(found {type(content).__name__}{f' with {keys}' if keys else ''}); give a model's weights"
    )


def _report_others(content: Mapping, where: str) -> None:
    others = [str(name) for name, value in content.items()
              if not isinstance(name, str) or not isinstance(value, torch.Tensor)]
    if others:
        logger.warning("%s: %d entries are not tensors and are left out: %s", where, len(others),
                       _some(others))


def drop_raw_model(state: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """Leave out what published checkpoints may contain beside the model, and say so.

    It is a copy of the original CLIP, and FROSTER's projectors, which take part in no prediction.

    Raises:
        CheckpointError: there is nothing else.
    """
    for prefixes, what in BESIDE.items():
        kept = {name: tensor for name, tensor in state.items()
                if not str(name).removeprefix("module.").startswith(prefixes)}
        names = " and ".join(f"{prefix}*" for prefix in prefixes)
        if state and not kept:
            raise CheckpointError(f"{where} has only tensors named {names}, {what}, and not the "
                                  "model itself; give the whole checkpoint")
        if len(kept) < len(state):
            logger.info("%s: %s, %d tensors named %s, is not used", where, what,
                        len(state) - len(kept), names)
        state = kept
    return dict(state)


def clean_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Strip ``module.`` (DDP) and ``model.`` (VideoCLIP) from names; drop what is no weight.

    Raises:
        CheckpointError: two names become the same.
    """
    result: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        short = name
        for prefix in PREFIXES:
            short = short.removeprefix(prefix)
        if short in result:
            raise CheckpointError(
                f"the checkpoint has {_show(short)} twice, with and without a prefix"
            )
        if short not in NOT_WEIGHTS and not short.endswith(COUNTERS):
            result[short] = tensor
    return result


def count_layers(state: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Return one more than the largest block number that follows ``prefix`` in the names."""
    numbers = [name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)]
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def require_keys(state: Mapping[str, torch.Tensor], where: str) -> None:
    """Raise a CheckpointError unless ``state`` has the tensors that make it a CLIP with a ViT."""
    if "visual.layer1.0.conv1.weight" in state:
        raise CheckpointError(
            f"{where}: this CLIP's image tower is a ResNet; only ViT towers are supported"
        )
    missing = [name for name in SIZE_KEYS if name not in state]
    if missing:
        raise CheckpointError(
            f"{where} is not a CLIP with OpenAI's names: {len(missing)} of the {len(SIZE_KEYS)} "
            f"tensors that show its sizes are missing ({_some(missing)}); it has {len(state)} "
            f"tensors ({_some(list(state)) or 'none'})"
        )
    wrong = [f"{name} {tuple(state[name].shape)}" for name in SIZE_KEYS
             if state[name].ndim != RANKS.get(name, 2)]
    if wrong:
        raise CheckpointError(f"{where}: {len(wrong)} tensors have impossible shapes: "
                              f"{_some(wrong)}")


def check_keys(
    expected: Mapping[str, tuple[int, ...]],
    given: Mapping[str, tuple[int, ...]],
    where: str,
    allow_missing: Callable[[str], bool] | None = None,
) -> None:
    """Compare names and shapes of a checkpoint with those of a model.

    Args:
        expected: the model's names and shapes.
        given: the checkpoint's.
        where: what to call the checkpoint in the message.
        allow_missing: whether the checkpoint may lack an expected name.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape; counted, the first
            five of each kind named.
    """
    missing = [n for n in expected
               if n not in given and not (allow_missing and allow_missing(n))]
    unexpected = [n for n in given if n not in expected]
    shapes = [f"{n} {tuple(given[n])} instead of {tuple(expected[n])}" for n in expected
              if n in given and tuple(given[n]) != tuple(expected[n])]
    problems = [f"{len(names)} {kind}: {_some(names)}" for kind, names in
                (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
                if names]
    if problems:
        raise CheckpointError(
            f"{where} does not fit the model ({len(expected)} tensors): {'; '.join(problems)}. "
            "Check that MODEL.CLIP_PATH, MODEL.TEMPORAL_MODELING_TYPE and TUNE_HEAD are those that "
            "the checkpoint was made with"
        )


def _show(name: str) -> str:
    """Return a name fit for a log line, whatever a file calls its tensors."""
    return name if name.isprintable() and len(name) <= 120 else f"{name[:100]!r}..."


def _some(names: list[str], count: int = 5) -> str:
    return ", ".join(map(_show, names[:count])) + (", ..." if len(names) > count else "")

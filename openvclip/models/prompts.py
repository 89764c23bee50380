"""Class names to classifier: CLIP's text tower on 28 sentences a class, averaged and cached."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from openvclip.clip.model import CLIP
from openvclip.clip.tokenizer import tokenize
from openvclip.utils.errors import DataError
from openvclip.utils.logging import Progress, get_logger

logger = get_logger(__name__)

# The published sentences and their order; "a example" is as published.
TEMPLATES: tuple[str, ...] = tuple(
    f"a {medium} of {action}{{}}."
    for medium in ("photo", "video", "example", "demonstration")
    for action in ("", "a person ", *(f"a person {verb} " for verb in
                   ("using", "doing", "during", "performing", "practicing")))
)
CACHE_VERSION = 1  # Raise it when the same inputs give other embeddings.


def class_embeddings(
    clip: CLIP,
    names: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    context_length: int = 77,
    batch_size: int = 256,
    cache_dir: str | Path | None = None,
) -> torch.Tensor:
    """Encode each class in every template; normalise, average over templates, normalise.

    Args:
        clip: its text tower is used, on its device.
        names: class names, put into the templates as they are.
        templates: sentences with one ``{}``.
        context_length: most tokens of a sentence.
        batch_size: sentences encoded at once.
        cache_dir: folder in which results are kept, named by a digest of all that they depend on.

    Returns:
        fp32 (len(names), embed_dim) on the CPU, each of length 1.

    Raises:
        DataError: no names, or a sentence that is too long.
    """
    if not names or not templates:
        raise DataError(f"{len(names)} class names and {len(templates)} templates make no "
                        "classifier; check the file of class names")
    if cache_dir is None:
        return _compute(clip, names, templates, context_length, batch_size)
    key = cache_key(clip, names, templates, context_length)
    path = Path(cache_dir).expanduser() / f"classes_{key[:32]}.pt"
    cached = _load(path, (len(names), clip.embed_dim))
    if cached is not None:
        logger.info("read embeddings of %d classes from %s", len(names), path)
        return cached
    result = _compute(clip, names, templates, context_length, batch_size)
    _save(path, result)
    return result


def cache_key(
    clip: CLIP, names: Sequence[str], templates: Sequence[str], context_length: int
) -> str:
    """Return the sha256, in hex, of the text tower's weights and of everything else that counts."""
    digest = hashlib.sha256()
    for name, tensor in sorted(clip.text_parameters().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.numpy()).cast("B"))
    rest = [CACHE_VERSION, list(names), list(templates), context_length]
    digest.update(json.dumps(rest).encode())
    return digest.hexdigest()


@torch.no_grad()
def _compute(
    clip: CLIP, names: Sequence[str], templates: Sequence[str], context_length: int, batch_size: int
) -> torch.Tensor:
    sentences = [template.format(name) for name in names for template in templates]
    tokens = tokenize(sentences, context_length)
    # Sentences of similar length together, so that short ones need not run over many columns.
    order = tokens.argmax(dim=-1).argsort(stable=True)
    features = torch.empty(len(sentences), clip.embed_dim)
    device = clip.text_projection.device
    progress = Progress(len(sentences), "text classifier", "sentences")
    for rows in order.split(batch_size):
        encoded = clip.encode_text(tokens[rows].to(device))
        features[rows] = F.normalize(encoded.float(), dim=-1).cpu()
        progress.update(len(rows))
    features = features.view(len(names), len(templates), -1)  # (classes, templates, D)
    return F.normalize(features.mean(dim=1), dim=-1)


def _load(path: Path, shape: tuple[int, int]) -> torch.Tensor | None:
    if not path.is_file():
        return None
    try:
        result = torch.load(path, map_location="cpu", weights_only=True)["embeddings"]
        fits = tuple(result.shape) == shape and result.dtype == torch.float32
        if fits and result.isfinite().all():
            return result
        reason = f"{result.dtype} {tuple(result.shape)} instead of {shape}, or not finite"
    except Exception as error:  # damaged bytes surface as nearly any exception of the reader
        reason = type(error).__name__
    logger.warning("the cache file %s is damaged (%s); computing it again", path, reason)
    return None


def _save(path: Path, embeddings: torch.Tensor) -> None:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own for each process, since several may write the same file at once.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = file.name
            torch.save({"embeddings": embeddings}, file)
        os.replace(temporary, path)
    except OSError as error:
        logger.warning("class embeddings were not cached in %s: %s", path.parent, error)
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)

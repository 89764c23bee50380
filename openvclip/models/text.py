"""From class names to classifier: CLIP's text tower on several texts per class, cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from openvclip.models.backbone import CLIP, Backbone
from openvclip.utils.errors import DataError, first_line
from openvclip.utils.files import replacing_file
from openvclip.utils.finite import require_finite
from openvclip.utils.logging import Progress, get_logger
from openvclip.utils.torch_files import load_torch

logger = get_logger(__name__)

# The published sentences and their order; "a example" is as published.
TEMPLATES: tuple[str, ...] = tuple(
    f"a {medium} of {action}{{}}."
    for medium in ("photo", "video", "example", "demonstration")
    for action in ("", "a person ", *(f"a person {verb} " for verb in
                   ("using", "doing", "during", "performing", "practicing")))
)
PROMPT = "X"  # The word in whose place a prompt is.
# FROSTER's (arXiv 2402.03241, as in its code): a name may be a description, "Name: sentence", of
# which {short} is the part before the colon.
FROSTER_TEMPLATES = (*(f"{template.replace('{}', '{short}')} {{}}" for template in TEMPLATES), "{}")
CACHE_VERSION = 1  # Raise it when the same inputs give different embeddings.


def class_texts(
    names: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    descriptions: Mapping[str, Sequence[str]] | None = None,
) -> list[list[str]]:
    """Return the texts of each class: its name in every template, or its descriptions unchanged.

    Raises:
        DataError: no names, or a class without a text.
    """
    if not names or (descriptions is None and not templates):
        raise DataError(f"{len(names)} class names and {len(templates)} templates make no "
                        "classifier; check the file of class names")
    if descriptions is None:
        return [[template.format(name, short=name.partition(":")[0]) for template in templates]
                for name in names]
    empty = next((name for name in names if not descriptions.get(name)), None)
    if empty is not None:
        raise DataError(f"the class {empty!r} has no description; every class needs one")
    return [list(descriptions[name]) for name in names]


def prompt_templates(count: int) -> tuple[str]:
    """Return the one template of a CLIP with ``count`` prompts; a word stands for each."""
    return (f"{' '.join([PROMPT] * count)} {{}}.",)


def embed_texts(
    clip: Backbone,
    texts: Sequence[str],
    context_length: int = 77,
    batch_size: int = 256,
    *,
    truncate: bool = False,
    classes: bool = False,
    what: str = "texts",
) -> torch.Tensor:
    """Encode texts with CLIP's text tower, on its device.

    Args:
        clip: the CLIP.
        texts: N texts.
        context_length: most tokens of a text.
        batch_size: texts per batch.
        truncate: cut longer texts off, as OpenAI's CLIP can, and log how many.
        classes: they are sentences of classes, in which a CLIP may have prompts.
        what: name of the work in the progress line.

    Returns:
        fp32 (N, embed_dim) on the CPU, each of length 1.

    Raises:
        DataError: a text is too long, and ``truncate`` is off.
        CheckpointError: an embedding is not finite.
    """
    tokens = clip.tokenize(texts, context_length, truncate=truncate)
    cut = 0
    if truncate:
        cut = sum(clip.tokenizer.count(text) > context_length for text in texts)
    if cut:
        logger.warning("%d of %d texts have more than %d tokens and were cut off there", cut,
                       len(texts), context_length)
    features = torch.empty(len(texts), clip.embed_dim)
    rows, encoded = embed_tokens(clip, tokens, batch_size, classes=classes, what=what)
    features[rows] = encoded
    return features


def class_embeddings(
    clip: Backbone,
    names: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    context_length: int = 77,
    batch_size: int = 256,
    cache_dir: str | Path | None = None,
    *,
    descriptions: Mapping[str, Sequence[str]] | None = None,
) -> torch.Tensor:
    """Encode each class in every template; normalise, average over templates, normalise.

    Args:
        clip: its text tower is used, on its device. If it has prompts, they take the place of
            templates and descriptions.
        names: class names, put into the templates unchanged.
        templates: sentences with one ``{}``; ``{short}`` is the name up to a colon.
        context_length: most tokens of a sentence.
        batch_size: sentences per batch.
        cache_dir: folder for caching results, named by a digest of everything they depend on.
        descriptions: class name -> its texts, which are used instead of the templates and cut off
            if they are too long.

    Returns:
        fp32 (len(names), embed_dim) on the CPU, each of length 1.

    Raises:
        DataError: no names, a class without a text, or a sentence that is too long.
        CheckpointError: an embedding is not finite; nothing is cached then.
    """
    if clip.prompts is not None:
        templates, descriptions = prompt_templates(len(clip.prompts)), None
    texts = class_texts(names, templates, descriptions)
    truncate = descriptions is not None
    if cache_dir is None:
        return _compute(clip, texts, context_length, batch_size, truncate)
    key = cache_key(clip, names, templates, context_length, descriptions)
    path = Path(cache_dir).expanduser() / f"classes_{key[:32]}.pt"
    cached = _load(path, (len(names), clip.embed_dim))
    if cached is not None:
        logger.info("read embeddings of %d classes from %s", len(names), path)
        return cached
    logger.info("encoding %d texts of %d classes; cached in %s for the next run",
                sum(map(len, texts)), len(names), path.parent)
    result = _compute(clip, texts, context_length, batch_size, truncate)
    _save(path, result)
    return result


def cache_key(
    clip: Backbone, names: Sequence[str], templates: Sequence[str], context_length: int,
    descriptions: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return the SHA-256, in hex, of the text tower's weights and everything else that matters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(clip.text_parameters().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(memoryview(values.numpy()).cast("B"))
    rest: list = [CACHE_VERSION, list(names), list(templates), context_length]
    if descriptions is not None:
        rest[2] = {"descriptions": class_texts(names, descriptions=descriptions)}
    if type(clip) is not CLIP:  # other towers may have the same weights
        rest.append(f"{type(clip).__module__}:{type(clip).__qualname__}")
        tower = getattr(clip, "tower", None)
        rest += [] if tower is None else [tower.digest()]
    digest.update(json.dumps(rest).encode())
    return digest.hexdigest()


@torch.no_grad()
def embed_tokens(
    clip: Backbone,
    tokens: torch.Tensor,
    batch_size: int = 256,
    *,
    share: tuple[int, int] = (0, 1),
    classes: bool = False,
    what: str = "texts",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode token ids, or a process's share of them, with CLIP's text tower on its device.

    They are cut into the same batches, and so give the same floats, for any number of processes.

    Args:
        clip: the CLIP.
        tokens: (N, columns) from ``tokenize``.
        batch_size: texts per batch.
        share: number of this process, and how many share the texts.
        classes: as for :func:`embed_texts`.
        what: name of the work in the progress line.

    Returns:
        The rows of ``tokens`` that were encoded, int64 (M,), and their embeddings, fp32
        (M, embed_dim) on the CPU, each of length 1. M is N without others to share with.

    Raises:
        CheckpointError: an embedding is not finite.
    """
    # Texts of similar length together, so that short ones do not take many columns.
    batches = clip.count_columns(tokens).argsort(stable=True).split(batch_size)[share[0]::share[1]]
    device, encode = clip.logit_scale.device, clip.encode_classes if classes else clip.encode_text
    progress = Progress(sum(map(len, batches)), what, "sentences")
    parts = [torch.empty(0, clip.embed_dim)]
    for rows in batches:
        encoded = encode(tokens[rows].to(device))
        features = F.normalize(encoded.float(), dim=-1).cpu()
        parts.append(require_finite(features, f"{what}: the embedding of a sentence is"))
        progress.update(len(rows))
    return torch.cat([torch.empty(0, dtype=torch.int64), *batches]), torch.cat(parts)


def _compute(
    clip: Backbone, texts: list[list[str]], context_length: int, batch_size: int, truncate: bool
) -> torch.Tensor:
    features = embed_texts(
        clip, [text for own in texts for text in own], context_length, batch_size,
        truncate=truncate, classes=True, what="text classifier",
    )
    counts = [len(own) for own in texts]
    if len(set(counts)) == 1:
        means = features.view(len(texts), counts[0], -1).mean(dim=1)
    else:
        means = torch.stack([part.mean(dim=0) for part in features.split(counts)])
    return F.normalize(means, dim=-1)


def _load(path: Path, shape: tuple[int, int]) -> torch.Tensor | None:
    if not path.is_file():
        return None
    try:
        result = load_torch(path, mmap=False)["embeddings"]
        fits = tuple(result.shape) == shape and result.dtype == torch.float32
        if fits and result.isfinite().all():
            return result
        reason = f"{result.dtype} {tuple(result.shape)} instead of {shape}, or not finite"
    except Exception as error:  # damaged bytes make the reader raise nearly any exception
        reason = type(error).__name__
    logger.warning("the cache file %s is damaged (%s); computing it again", path, reason)
    return None


def _save(path: Path, embeddings: torch.Tensor) -> None:
    try:
        # A name of its own for each process, since several may write the same file at once.
        with replacing_file(path) as temporary, open(temporary, "wb") as file:
            torch.save({"embeddings": embeddings}, file)
    except (OSError, RuntimeError) as error:  # torch's writer has errors of its own
        logger.warning("class embeddings were not cached in %s: %s", path.parent,
                       first_line(error))

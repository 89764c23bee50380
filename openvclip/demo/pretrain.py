"""Pretraining the demo's small CLIP on captioned stills, with CLIP's contrastive loss.

The loss and the optimizer are those of Radford et al. (arXiv 2103.00020, section 2 and figure 3):
symmetric cross entropy over the batch's pairs, AdamW, cosine decay, a logit scale of at most 100.
Step k draws its stills from a generator seeded with (seed, k), so a resumed run continues exactly
like one that was never cut off.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from openvclip.checkpoints.files import load_file, save_file
from openvclip.clip.tokenizer import tokenize
from openvclip.demo import world as synthetic
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.training.objectives.contrastive import contrastive_loss
from openvclip.utils.errors import CheckpointError, DataError
from openvclip.utils.logging import Progress, get_logger

logger = get_logger(__name__)

# Channel statistics of OpenAI's preprocessing, which configs/Synthetic uses for the clips too.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
MAX_LOGIT_SCALE = math.log(100)
SMALL_CLIP = CLIPConfig(
    embed_dim=64, image_size=synthetic.FRAME_SIZE, patch_size=8, vision_width=128, vision_layers=4,
    text_width=64, text_layers=2,
)


@dataclass(frozen=True)
class PretrainOptions:
    """How the small CLIP is trained.

    Attributes:
        steps: optimizer steps.
        batch_size: pairs of a still and its caption in a step.
        learning_rate: the peak, after ``warmup`` steps; then it falls to 0 as a cosine.
        weight_decay: for tensors with two or more dimensions.
        warmup: steps over which the learning rate rises from 0.
        save_every: steps between two checkpoints.
    """

    steps: int = 2400
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warmup: int = 100
    save_every: int = 200


def image_text_loss(
    image_features: torch.Tensor, text_features: torch.Tensor, logit_scale: torch.Tensor
) -> torch.Tensor:
    """CLIP's loss of features (N, D), not normalised; ``logit_scale`` is a logarithm."""
    images, texts = F.normalize(image_features, dim=-1), F.normalize(text_features, dim=-1)
    return contrastive_loss(images, texts, logit_scale.exp())


def learning_rate_at(step: int, options: PretrainOptions) -> float:
    """Linear warm-up times a cosine from 1 at step 0 to 0 at the end."""
    cosine = 0.5 + 0.5 * math.cos(math.pi * step / options.steps)
    return options.learning_rate * cosine * min(1.0, (step + 1) / max(options.warmup, 1))


def still_batch(seed: int, step: int, count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the pairs of a step: normalised stills (N, 3, size, size), token ids (N, 77)."""
    images, captions = synthetic.captioned_stills(count, np.random.default_rng((seed, step)), size)
    pixels = torch.from_numpy(images).float() / 255
    pixels = (pixels - torch.tensor(MEAN)) / torch.tensor(STD)
    return pixels.permute(0, 3, 1, 2).contiguous(), tokenize(captions)


def pretrain(
    output: str | Path,
    seed: int = 0,
    config: CLIPConfig = SMALL_CLIP,
    options: PretrainOptions | None = None,
) -> bool:
    """Train a small CLIP and write its weights as a plain state dict with OpenAI's names.

    Next to ``output`` there is, during training, ``<name>.partial`` to resume from and, afterwards,
    ``<name>.run`` with the parameters that it was made with.

    Returns:
        Whether anything had to be trained.

    Raises:
        CheckpointError: ``output`` or its checkpoint was made with other parameters.
        DataError: ``options`` do not allow training.
    """
    output, options = Path(output), options or PretrainOptions()
    if min(options.steps, options.batch_size - 1, options.save_every) < 1:
        raise DataError(f"cannot pretrain with {options}: steps and save_every must be at least 1, "
                        "the batch at least 2 pairs")
    run = {"seed": seed, "world": synthetic.WORLD, "model": asdict(config),
           "options": asdict(options)}
    partial, made = (output.with_name(output.name + end) for end in (".partial", ".run"))
    if output.exists():
        _check_same(load_file(made), run, output)
        logger.info("pretraining: %s is complete, nothing to do", output)
        return False
    torch.manual_seed(seed)
    model = CLIP(config)
    optimizer = _build_optimizer(model, options)
    done = 0
    if partial.exists():
        state = load_file(partial)
        _check_same(state, run, partial)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
        logger.info("pretraining: resuming from step %d of %d", done, options.steps)
    progress = Progress(options.steps - done, "pretraining CLIP", "steps")
    for step in range(done, options.steps):
        loss = _train_step(model, optimizer, seed, step, options)
        progress.update(note=f"loss {loss:.3f}")
        if (step + 1) % options.save_every == 0 and step + 1 < options.steps:
            save_file(partial, {"run": run, "step": step + 1, "model": model.state_dict(),
                                "optimizer": optimizer.state_dict()})
    save_file(made, {"run": run})
    save_file(output, {k: v.detach().clone() for k, v in model.state_dict().items()})
    partial.unlink(missing_ok=True)
    return True


def _build_optimizer(model: CLIP, options: PretrainOptions) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": options.weight_decay},
              {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), eps=1e-6,
                             fused=True)  # the token table is what makes the step slow


def _train_step(
    model: CLIP, optimizer: torch.optim.Optimizer, seed: int, step: int, options: PretrainOptions
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, options)
    images, tokens = still_batch(seed, step, options.batch_size, model.image_size)
    loss = image_text_loss(model.encode_image(images), model.encode_text(tokens), model.logit_scale)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
    return loss.item()


def _check_same(state: dict, run: dict, path: Path) -> None:
    """Refuse weights that were made with other parameters."""
    made_with = state.get("run")
    if made_with != run:
        raise CheckpointError(f"{path} was made with other parameters ({made_with}) than wanted "
                              f"({run}); delete it or give another file")

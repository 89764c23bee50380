"""The published test protocol, written once more, straightforwardly and without the library.

One clip after another, whole videos decoded, fp32, attention written out: slow and easy to check.
What :mod:`tools/run_net.py` computes in another way is compared with it.
"""

from __future__ import annotations

import math
from pathlib import Path

import av
import torch
import torch.nn.functional as F

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1, 1)
FRAMES, RATE, TARGET = 8, 16, 30  # of the published recipe


def read_video(path: Path) -> tuple[list, list[int], float, int, int | None]:
    """Return all frames (RGB) and their times in ticks, as decoded, then rate, count, duration."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = [(frame.pts, frame.to_ndarray(format="rgb24"))
                   for frame in container.decode(stream)]
        return ([image for _, image in decoded], [pts for pts, _ in decoded],
                float(stream.average_rate), stream.frames, stream.duration)


def clip_index(
    pts: list[int], fps: float, count: int, duration: int | None, view: int, views: int,
    frames: int = FRAMES, rate: int = RATE,
) -> list[int]:
    """Return the numbers of the frames, as decoded, that a test clip takes."""
    length = max(1.0, rate * frames / TARGET * fps)
    if duration is None:  # all frames are one window; offset sampling spreads the views in it
        space = max(len(pts) - length, 0)
        start = math.floor(space / 2) if views == 1 else view * math.floor(space / (views - 1))
        places = torch.linspace(start, start + length - 1, frames)
        order = sorted(range(len(pts)), key=pts.__getitem__)
        return [order[place] for place in places.clamp(0, len(pts) - 1).long().tolist()]
    window = max(1, math.ceil(rate * (frames - 1) / TARGET * fps))
    first = max(count - window, 0) * view / views
    tick = duration / count
    begin, end = int(first * tick), int((first + window - 1) * tick)
    kept = []
    for number, time in enumerate(pts):
        if time >= begin:
            kept.append(number)
            if time > end:  # the first that is decoded, which need not be the next to be shown
                break
    kept.sort(key=pts.__getitem__)
    places = torch.linspace(0, length - 1, frames).clamp(0, len(kept) - 1).long()
    return [kept[place] for place in places.tolist()]


def to_pixels(images: list, short: int, crop: int) -> torch.Tensor:
    """Return (3, T, crop, crop): normalise, bilinear to the short side, centre crop."""
    video = torch.stack([torch.from_numpy(image) for image in images]).permute(3, 0, 1, 2)
    video = (video.float() / 255.0 - MEAN) / STD
    height, width = video.shape[-2:]
    if min(height, width) != short:
        if width < height:
            size = (math.floor(height / width * short), short)
        else:
            size = (short, math.floor(width / height * short))
        video = F.interpolate(video, size=size, mode="bilinear", align_corners=False)
    height, width = video.shape[-2:]
    y, x = math.ceil((height - crop) / 2), math.ceil((width - crop) / 2)
    return video[..., y:y + crop, x:x + crop]


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """Softmax attention of queries (L, C) to keys and values (M, C), head by head."""
    size = q.shape[1] // heads
    parts = []
    for head in range(heads):
        columns = slice(head * size, (head + 1) * size)
        weights = (q[:, columns] @ k[:, columns].T / math.sqrt(size)).softmax(dim=1)
        parts.append(weights @ v[:, columns])
    return torch.cat(parts, dim=1)


def encode_frames(state: dict, video: torch.Tensor, temporal: bool) -> torch.Tensor:
    """Return the features (T, D) of a clip (3, T, S, S); ``temporal`` attends to neighbours."""
    weight = {name.removeprefix("visual."): t for name, t in state.items()
              if name.startswith("visual.")}
    patch = weight["conv1.weight"].shape[-1]
    width = weight["conv1.weight"].shape[0]
    heads, count = width // 64, video.shape[1]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (width,), weight[f"{name}.weight"], weight[f"{name}.bias"], 1e-5)

    tokens = F.conv2d(video.transpose(0, 1), weight["conv1.weight"], stride=patch)
    tokens = tokens.flatten(2).transpose(1, 2)  # (T, patches, C)
    first = weight["class_embedding"].expand(count, 1, width)
    x = norm(torch.cat([first, tokens], dim=1) + weight["positional_embedding"], "ln_pre")
    blocks = 1 + max(int(name.split(".")[2]) for name in weight if name.startswith("transformer."))
    for number in range(blocks):
        at = f"transformer.resblocks.{number}"
        qkv = F.linear(norm(x, f"{at}.ln_1"), weight[f"{at}.attn.in_proj_weight"],
                       weight[f"{at}.attn.in_proj_bias"])
        q, k, v = qkv.split(width, dim=2)
        none = torch.zeros_like(k[0])  # beyond the clip's ends: zeros that take part
        mixed = []
        for t in range(count):
            keys, values = [k[t]], [v[t]]
            if temporal:
                keys = [k[t + 1] if t + 1 < count else none, k[t - 1] if t else none, k[t]]
                values = [v[t + 1] if t + 1 < count else none, v[t - 1] if t else none, v[t]]
            mixed.append(attend(q[t], torch.cat(keys), torch.cat(values), heads))
        x = x + F.linear(torch.stack(mixed), weight[f"{at}.attn.out_proj.weight"],
                         weight[f"{at}.attn.out_proj.bias"])
        hidden = F.linear(norm(x, f"{at}.ln_2"), weight[f"{at}.mlp.c_fc.weight"],
                          weight[f"{at}.mlp.c_fc.bias"])
        x = x + F.linear(hidden * torch.sigmoid(1.702 * hidden),
                         weight[f"{at}.mlp.c_proj.weight"], weight[f"{at}.mlp.c_proj.bias"])
    return norm(x[:, 0], "ln_post") @ weight["proj"]


@torch.no_grad()
def classify(
    state: dict, classifier: torch.Tensor, video: torch.Tensor, temporal: bool
) -> torch.Tensor:
    """Return the logits (classes,) of a clip: those of its frames, averaged."""
    features = encode_frames(state, video, temporal)
    features = features / features.norm(dim=1, keepdim=True)
    return (state["logit_scale"].exp() * features @ classifier.T).mean(dim=0)


def patch(clip: dict, tuned: dict, ratio: float) -> dict:
    """Return ``ratio * clip + (1 - ratio) * tuned``."""
    return {name: ratio * clip[name] + (1 - ratio) * tuned[name] for name in clip}


def predict(
    states: dict[str, tuple[dict, bool]], classifier: torch.Tensor, paths: list[Path], size: int,
    views: int = 3, frames: int = FRAMES, rate: int = RATE,
) -> dict[str, torch.Tensor]:
    """Return (videos, classes) of each of several weights: the sum of the views' logits.

    Args:
        states: name -> (weights by OpenAI's names, whether frames attend to neighbours).
        classifier: (classes, D), rows of length 1.
        paths: the videos.
        size: short side and crop.
    """
    rows: dict[str, list] = {name: [] for name in states}
    for path in paths:
        images, pts, fps, count, duration = read_video(path)
        total = dict.fromkeys(states, 0.0)
        for view in range(views):
            index = clip_index(pts, fps, count, duration, view, views, frames, rate)
            video = to_pixels([images[number] for number in index], size, size)
            for name, (state, temporal) in states.items():
                total[name] = total[name] + classify(state, classifier, video, temporal)
        for name, scores in total.items():
            rows[name].append(scores)
    return {name: torch.stack(scores) for name, scores in rows.items()}

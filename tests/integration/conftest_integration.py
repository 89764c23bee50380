"""A tiny dataset of real mp4 files and a tiny CLIP, for driving the tools as a user does."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np

CLASSES = ("red moving", "green resting", "blue blinking")
COLOURS = np.array([[230, 30, 30], [30, 200, 40], [40, 60, 230]], np.uint8)


def write_clip(
    path: Path, colour: np.ndarray, seed: int, frames: int = 20, size: int = 40,
    codec: str = "libx264",
) -> None:
    """Write a short clip of a coloured square on noise, H.264 by default."""
    import av

    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(10))
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for t in range(frames):
            image = rng.integers(0, 60, (size, size, 3), np.uint8)
            left = 4 + (seed + t) % (size // 2)
            image[10:28, left:left + 14] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_tiny_clip(path: Path) -> None:
    """Write a CLIP of random weights, small enough for a test."""
    import torch

    from openvclip.models.backbone import CLIP, CLIPConfig

    torch.manual_seed(0)
    clip = CLIP(
        CLIPConfig(
            embed_dim=32, image_size=32, patch_size=16, vision_width=64, vision_layers=2,
            text_width=64, text_layers=1, context_length=77, vocab_size=49408,
        )
    )
    torch.save(clip.state_dict(), path)


def make_dataset(root: Path) -> Path:
    """Write videos, lists, a label map and a tiny CLIP below ``root``."""
    lists = {"train": 4, "val": 2, "test": 3}
    seed = 0
    for split, count in lists.items():
        rows = []
        for label, name in enumerate(CLASSES):
            for i in range(count):
                seed += 1
                relative = f"{split}/{name}/{i}.mp4"
                write_clip(root / "videos" / relative, COLOURS[label], seed)
                rows.append(f"{relative},{label}")
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")
    names = {str(i): name for i, name in enumerate(CLASSES)}
    (root / "tiny-index2cls.json").write_text(json.dumps(names))
    write_tiny_clip(root / "clip.pt")
    return root


def hold_at(monkeypatch, video: Path) -> None:
    """Let every process that is started from now on wait for ever when it comes to a video."""
    folder = Path(__file__).with_name("held")
    monkeypatch.setenv("HELD_VIDEO", str(video))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


def options(root: Path, output: Path, **changes) -> list[str]:
    """``KEY VALUE`` pairs of a short CPU run on the tiny dataset; ``A__B=x`` sets A.B."""
    values = {
        "DATA.PATH_TO_DATA_DIR": root,
        "DATA.PATH_PREFIX": root / "videos",
        "DATA.PATH_LABEL_SEPARATOR": ",",
        "DATA.INDEX_LABEL_MAPPING_FILE": root / "tiny-index2cls.json",
        "DATA.DECODING_BACKEND": "pyav",
        "DATA.NUM_FRAMES": 4,
        "DATA.SAMPLING_RATE": 4,
        "DATA.TRAIN_JITTER_SCALES": "[32,36]",
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TEST_CROP_SIZE": 32,
        "MODEL.ARCH": "auto",
        "MODEL.CLIP_PATH": root / "clip.pt",
        "MODEL.NUM_CLASSES": len(CLASSES),
        "MODEL.TEMPORAL_MODELING_TYPE": "expand_temporal_view",
        "MODEL.TEXT_CACHE_DIR": root / "text_cache",
        "TRAIN.BATCH_SIZE": 4,
        "TRAIN.EVAL_PERIOD": 1,
        "TRAIN.CHECKPOINT_PERIOD": 1,
        "TEST.NUM_ENSEMBLE_VIEWS": 2,
        "TEST.NUM_SPATIAL_CROPS": 1,
        "SOLVER.OPTIMIZING_METHOD": "adamw",
        "SOLVER.BASE_LR": 1e-3,
        "SOLVER.COSINE_END_LR": 1e-5,
        "SOLVER.WARMUP_START_LR": 1e-5,
        "SOLVER.MAX_EPOCH": 2,
        "SOLVER.CLIP_GRAD_L2NORM": 1.0,
        "SOLVER.ZERO_WD_1D_PARAM": True,
        "DATA_LOADER.NUM_WORKERS": 0,
        "NUM_GPUS": 0,
        "LOG_PERIOD": 1,
        "OUTPUT_DIR": output,
    }
    values.update({key.replace("__", "."): value for key, value in changes.items()})
    return [str(x) for pair in values.items() for x in pair]


INTERPOLATED = {
    "TRAIN__LINEAR_CONNECT_CLIMB": True,
    "TRAIN__LINEAR_CONNECT_LOSS_RATIO": 0.5,
    "TRAIN__LINEAR_CONNECT_SAMPLE_L": 0.0,
    "TRAIN__LINEAR_CONNECT_SAMPLE_R": 0.6,
}

"""Make the files of this folder's archive with the version that is imported.

    PYTHONPATH=OLD python tests/compat/make_files.py OLD OUTPUT.tar.xz

OLD is a checkout of a2cd9b4, the last commit before modules moved, which wrote those that are here.

The archive holds what a run of that version left: training checkpoints, their average, a config, a
test with predictions, the resume log of a test that was cut off, captions and an export. All paths
in it are relative to the folder that it is unpacked in.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import tarfile
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from old_files import CLASSES, COMMON, TESTED

VIDEOS = {"train": 2, "val": 1, "test": 3}  # per class
KEPT = [
    "clip.pt", "videos", "train.csv", "val.csv", "test.csv", "names-index2cls.json",
    "captions.sqlite",
    "run/config.yaml", "run/checkpoints/checkpoint_epoch_00002.pyth", "run/swa_1_2.pth",
    "test/config.yaml", "test/results.json", "test/per_class.csv", "test/predictions_ratio0.00.pkl",
    "test/predictions_ratio0.50.pkl", "half/resume", "export",
]


def pattern(shape: tuple[int, ...], step: int, scale: float) -> torch.Tensor:
    """Numbers in steps of 1/128 of ``scale`` that repeat, so that files of them compress well."""
    numbers = torch.arange(math.prod(shape)) * step % 251 - 125
    return (numbers.float() * scale / 128).reshape(shape)


def write_clip(path: str | Path) -> None:
    """Write a CLIP whose MLPs and queries are zero and stay so in training, to be small."""
    width, zero = 64, torch.zeros
    visual, text = "visual.transformer.resblocks.0.", "transformer.resblocks.0."
    state = {
        "visual.conv1.weight": pattern((width, 3, 4, 4), 7, 0.1),
        "visual.class_embedding": pattern((width,), 11, 0.1),
        "visual.positional_embedding": pattern((17, width), 13, 0.1),
        "visual.proj": pattern((width, 16), 17, 0.2),
        "positional_embedding": pattern((77, width), 19, 0.05),
        "token_embedding.weight": pattern((49408, width), 23, 0.05),
        "text_projection": pattern((width, 16), 29, 0.2),
        "logit_scale": torch.tensor(3.0),
    }
    for name in ("visual.ln_pre", "visual.ln_post", "ln_final", f"{visual}ln_1", f"{visual}ln_2",
                 f"{text}ln_1", f"{text}ln_2"):
        state |= {f"{name}.weight": torch.ones(width), f"{name}.bias": zero(width)}
    for block, step in ((visual, 31), (text, 37)):
        values = pattern((width, width), step, 0.1)
        state |= {
            f"{block}attn.in_proj_weight": torch.cat([zero(2 * width, width), values]),
            f"{block}attn.in_proj_bias": zero(3 * width),
            f"{block}attn.out_proj.weight": pattern((width, width), step + 10, 0.1),
            f"{block}attn.out_proj.bias": zero(width),
            f"{block}mlp.c_fc.weight": zero(4 * width, width),
            f"{block}mlp.c_fc.bias": zero(4 * width),
            f"{block}mlp.c_proj.weight": zero(width, 4 * width),
            f"{block}mlp.c_proj.bias": zero(width),
        }
    torch.save(state, path)


def write_video(path: Path, colour: list[int], seed: int) -> None:
    """Write 8 frames of a coloured square that moves over a dark ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10))
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for t in range(8):
            image = np.full((32, 32, 3), 20 + seed, np.uint8)
            left = (3 * seed + 2 * t) % 20
            image[8:22, left:left + 12] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_dataset() -> None:
    colours = [[230, 30, 30], [30, 200, 40], [40, 60, 230]]
    seed = 0
    for split, count in VIDEOS.items():
        rows = []
        for label in range(len(CLASSES)):
            for number in range(count):
                seed += 1
                name = f"{split}/{label}_{number}.mp4"
                write_video(Path("videos", name), colours[label], seed)
                rows.append(f"{name},{label}")
        Path(f"{split}.csv").write_text("\n".join(rows) + "\n")
    Path("names-index2cls.json").write_text(json.dumps(dict(enumerate(CLASSES))))


def main(clone: str, output: str) -> None:
    output = os.path.abspath(output)
    sys.path.insert(0, f"{clone}/tools")
    tools = {name: importlib.import_module(name)
             for name in ("run_net", "weight_average", "export", "prepare_captions")}
    journal = importlib.import_module("openvclip.engine.journal").Journal

    def call(name: str, *arguments: object, code: int = 0) -> None:
        assert tools[name].main([str(argument) for argument in arguments]) == code, name

    os.chdir(tempfile.mkdtemp())
    write_dataset()
    write_clip("clip.pt")
    empty = Path("empty.yaml")
    empty.write_text("NUM_GPUS: 0\n")
    call("run_net", "--cfg", empty, "--opts", *COMMON, "TEST.ENABLE", False, "OUTPUT_DIR", "run")
    call("weight_average", "--source", "run", "--start", 1, "--end", 2,
         "--output", "run/swa_1_2.pth")
    call("run_net", "--cfg", empty, "--opts", *COMMON, *TESTED, "OUTPUT_DIR", "test")

    append = journal.append

    def append_four(self, record) -> None:
        append(self, record)
        if len(journal.appended) == 3:
            raise KeyboardInterrupt
        journal.appended.append(record)

    journal.append, journal.appended = append_four, []
    call("run_net", "--cfg", empty, "--opts", *COMMON, *TESTED, "OUTPUT_DIR", "half", code=130)
    Path("captions.jsonl").write_text("".join(
        json.dumps({"video": f"{name}.mp4", "caption": f"the clip {name}"}) + "\n"
        for name in ("0_0", "0_1", "1_0")))
    call("prepare_captions", "--captions", "captions.jsonl", "--output", "captions.sqlite")
    call("export", "--clip", "clip.pt", "--checkpoint", "run/swa_1_2.pth", "--patching-ratio", 0.5,
         "--output", "export", "--format", "openai", "--dtype", "fp16", "--labels", *CLASSES)
    with tarfile.open(output, "w:xz") as archive:
        for name in KEPT:
            archive.add(name)


if __name__ == "__main__":
    main(*sys.argv[1:])

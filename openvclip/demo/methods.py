"""The methods that the demo compares, and the settings and seeds of the comparison.

What a method sets is in its file of ``configs/Synthetic/methods``, which tools/run_net.py takes
like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openvclip.checkpoints.held import CURRENT
from openvclip.demo.dataset import DatasetSize
from openvclip.utils.errors import ConfigError


@dataclass(frozen=True)
class Method:
    """A method of the comparison.

    Attributes:
        title: its name in table and picture.
        cost: about how long a step takes, in plain steps: the longest runs are started first.
        weights: which of a checkpoint's weights are averaged: current, or ema.
        test: KEY VALUE ... of its tests. CLIP is then tested in the same way, at ratio 1.
    """

    title: str
    cost: float = 1.0
    weights: str = CURRENT
    test: tuple[str, ...] = ()


# In the order of the table; the name is that of the config file.
METHODS = {
    "plain": Method("fine-tuned"),
    "interpolated": Method("interpolated", 2.0),
    "ewc": Method("EWC", 1.2),  # with the Fisher information
    "l2sp": Method("L2-SP"),
    "distill": Method("distillation", 1.3),
    "froster": Method("FROSTER-like", 1.7, test=("MODEL.TEXT_TEMPLATES", "froster29")),
    "ema": Method("EMA", weights="ema"),
    "lora": Method("LoRA", 0.8),
}
PLAIN = "plain"
# The demo's world with fewer videos: so many runs, each tested at so many ratios, in half an hour.
SIZE = DatasetSize(train=20, val=4, test=4, unseen=2, knew=4, val_knew=4)
# 0 is left out: its world was used to choose the methods' settings.
SEEDS = (2, 3, 4)
# Shares of CLIP in the tested weights; 1, CLIP itself, is tested once for all.
RATIOS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8)
# How many of the last epochs are averaged.
AVERAGED = 3


@dataclass(frozen=True)
class Bench:
    """A comparison: which methods, over which seeds, where.

    Attributes:
        root: folder of everything; ``root/data`` has the world, ``root/clip.pt`` the CLIP.
        configs: folder of the methods' config files, and of ``test.yaml``.
        methods: names from :data:`METHODS`, in the table's order.
        seeds: of training; data and CLIP are the same for all.
        ratios: shares of CLIP in the tested weights, from 0 to below 1.
        averaged: number of last epochs that are averaged.
        opts: KEY VALUE ... of all runs of training.
    """

    root: Path
    configs: Path
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: tuple[int, ...] = SEEDS
    ratios: tuple[float, ...] = RATIOS
    averaged: int = AVERAGED
    opts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            raise ConfigError(f"there is no method {unknown[0]!r} in the demo; there are "
                              f"{', '.join(METHODS)}")
        if PLAIN not in self.methods:
            raise ConfigError(f"the methods are {', '.join(self.methods) or 'none'}; add {PLAIN}, "
                              "with which the others are compared")
        for what, given in (("seeds", self.seeds), ("methods", self.methods)):
            if not given or len(set(given)) < len(given):
                raise ConfigError(f"the {what} are {given}; give at least one, each once")
        if not self.ratios or min(self.ratios) < 0 or max(self.ratios) >= 1:
            raise ConfigError(f"the patching ratios are {self.ratios}; give some from 0 to below "
                              "1, which is CLIP and is tested anyhow")

"""How a model expects its videos, and the source of that: a checkpoint, a config, the defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from openvclip.checkpoints.training_config import TrainingConfig, find_training_config
from openvclip.clip.towers import TowerSpec, describe_tower
from openvclip.config import get_cfg, load_cfg
from openvclip.config.auto import find_auto
from openvclip.config.parser import merge
from openvclip.data.dataset import Pixels
from openvclip.data.video.crops import BILINEAR, SHORTEST
from openvclip.data.video.sampling import PUBLISHED, Sampling
from openvclip.models.experts import PATCH, Experts
from openvclip.models.resolve import build_resolved, find_filter
from openvclip.utils.errors import CheckpointError, ConfigError
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

# A field and the key that sets it. The rest of a training checkpoint's config, which may be another
# program's, is ignored.
KEYS = {
    "backbone": "MODEL.BACKBONE",
    "temporal_type": "MODEL.TEMPORAL_MODELING_TYPE",
    "num_frames": "DATA.NUM_FRAMES",
    "sampling_rate": "DATA.SAMPLING_RATE",
    "target_fps": "DATA.TARGET_FPS",
    "use_offset": "DATA.USE_OFFSET_SAMPLING",
    "compat": "DATA.SAMPLING_COMPAT",
    "mean": "DATA.MEAN",
    "std": "DATA.STD",
    "reverse_channels": "DATA.REVERSE_INPUT_CHANNEL",
    "mode": "DATA.RESIZE_MODE",
    "filter": "DATA.INTERPOLATION",
    "fill": "DATA.FILL_COLOR",
    "loss": "MODEL.LOSS_FUNC",
    "edges": "MODEL.TEMPORAL_EDGES",
    "num_experts": "MODEL.NUM_EXPERTS",
    "expert_layers": "MODEL.EXPERT_INSERT_LAYERS",
    "routing": "MODEL.ROUTING_TYPE",
}
WITHOUT_RAW_MODEL = ("%s mixes the raw model's logits into those of tests (MODEL.ENSEMBLE_PRED); "
                     "predictions are the model's own")


@dataclass(frozen=True)
class InputSpec:
    """How frames become a model's clip; the defaults are those of the shipped Kinetics configs.

    Attributes:
        temporal_type: how frames see each other.
        num_frames, sampling_rate, target_fps, use_offset, compat: see
            :class:`openvclip.data.video.sampling.Sampling`.
        mean, std, reverse_channels, mode, filter, fill: see
            :class:`openvclip.data.dataset.Pixels`.
        backbone: the family of towers.
        edges: what lies past the ends of a clip.
        loss: what a classifier was trained with; "": nothing says so.
        num_experts, expert_layers, routing: see :class:`openvclip.models.experts.Experts`.
    """

    temporal_type: str | None = "expand_temporal_view"
    num_frames: int = 8
    sampling_rate: float = 16
    target_fps: float = 30.0
    use_offset: bool = True
    compat: str = PUBLISHED
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    reverse_channels: bool = False
    backbone: str = "auto"
    mode: str = SHORTEST
    filter: str = BILINEAR
    fill: int = 0
    loss: str = ""
    edges: str = "zeros"
    num_experts: int = 0
    expert_layers: tuple[int, ...] = (10, 11)
    routing: str = PATCH

    def __post_init__(self) -> None:
        if not 1 <= self.num_frames <= 1024:
            raise ConfigError(f"the number of frames is {self.num_frames}; give 1 to 1024")
        if not all(math.isfinite(x) for x in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise ConfigError(f"the mean is {list(self.mean)} and the standard deviation "
                              f"{list(self.std)}; give finite numbers, and the latter above 0")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ConfigError(f"the mean has {len(self.mean)} and the standard deviation "
                              f"{len(self.std)} numbers; give 3, of red, green and blue")
        if not (self.sampling_rate > 0 and self.target_fps > 0):
            raise ConfigError(f"the sampling rate is {self.sampling_rate:g} at "
                              f"{self.target_fps:g} frames per second; both must be above 0")

    @property
    def seconds(self) -> float:
        """What a clip covers of a video."""
        return self.num_frames * self.sampling_rate / self.target_fps

    @property
    def experts(self) -> Experts | None:
        """Which blocks have experts; None: none has."""
        if not self.num_experts:
            return None
        return Experts(self.num_experts, self.expert_layers, self.routing)

    def sampling(self) -> Sampling:
        """Return which frames make a clip."""
        return Sampling(self.num_frames, self.sampling_rate, self.target_fps, self.use_offset,
                        self.compat)

    def pixels(self, size: int) -> Pixels:
        """Return how they become a clip: a square, ``size`` pixels wide, normalised."""
        return Pixels(scales=(size, size), size=size, mean=self.mean, std=self.std,
                      reverse_channels=self.reverse_channels, mode=self.mode,
                      filter=self.filter, fill=self.fill)


def build_input_spec(cfg: Any) -> InputSpec:
    """Take the model's input settings from a config."""
    values: dict[str, Any] = {name: attrgetter(key)(cfg) for name, key in KEYS.items()}
    values.update(mean=tuple(cfg.DATA.MEAN), std=tuple(cfg.DATA.STD),
                  expert_layers=tuple(cfg.MODEL.EXPERT_INSERT_LAYERS))
    if cfg.MODEL.MODEL_NAME == "BasicClipVideo":
        values["temporal_type"] = None
    return InputSpec(**values)


def change_input(spec: InputSpec, **changes: Any) -> InputSpec:
    """Return the input with the changes that are given; the text none stands for None."""
    given: dict[str, Any] = {name: None if value == "none" else value
                             for name, value in changes.items() if value is not None}
    return replace(spec, **given)


def follow_tower(spec: InputSpec, tower: TowerSpec | None) -> InputSpec:
    """Return the towers' own preprocessing if nothing says how a model was trained, else ``spec``.

    Frames for OpenAI's architecture are resized as in the published tests, without antialiasing.
    ``tower`` is None for an extension's, which may say nothing of it.
    """
    if spec.loss or tower is None:
        return spec
    own = tower.preprocess
    return replace(
        spec, mean=own.mean, std=own.std, mode=own.resize_mode, fill=own.fill_color,
        filter=BILINEAR if tower.family == "clip" else find_filter(own, tower.label),
    )


def find_input_spec(
    checkpoint: str | Path | None, config: str | Path | None = None, clip: str | Path = "",
) -> InputSpec:
    """Return the input of ``config``, or find what the checkpoint was trained with.

    ``clip`` is asked for what a config leaves to it (``auto``).

    See :func:`openvclip.checkpoints.training_config.find_training_config`; if that finds nothing,
    as for other people's weights, the defaults are used. In the original CLIP, without checkpoint
    and config, frames do not see each other.

    Raises:
        ConfigError: the config file cannot be used.
        CheckpointError: the config that was found cannot be used.
    """
    if config is not None:
        cfg = load_cfg(config)
        if cfg.MODEL.ENSEMBLE_PRED:
            logger.warning(WITHOUT_RAW_MODEL, config)
        return build_input_spec(build_resolved(cfg, describe_tower(clip)) if clip and find_auto(cfg)
                                else build_resolved(cfg))
    if checkpoint is None:
        return InputSpec(temporal_type=None)
    trained = find_training_config(checkpoint)
    if trained is None:
        spec = InputSpec()
        logger.warning(
            "%s contains no config (published weights have none), nor is a training's config.yaml "
            "next to it: %s, %d frames, sampling rate %g are assumed", checkpoint,
            spec.temporal_type, spec.num_frames, spec.sampling_rate,
        )
        return spec
    spec = parse_input_spec(trained)
    if trained.section("MODEL").get("ENSEMBLE_PRED"):
        logger.warning(WITHOUT_RAW_MODEL, trained.where)
    logger.info("%s, %d frames, sampling rate %g at %g frames per second, according to %s",
                spec.temporal_type, spec.num_frames, spec.sampling_rate,
                spec.target_fps, trained.where)
    return spec


def parse_input_spec(config: TrainingConfig) -> InputSpec:
    """Take the input from the config of a training run.

    Raises:
        CheckpointError: a value in it cannot be used.
    """
    settings = {}
    for key in ("MODEL.MODEL_NAME", *KEYS.values()):
        section, name = key.split(".")
        if name in config.section(section):
            settings[key] = config.section(section)[name]
    cfg = get_cfg()
    problems = merge(cfg, settings, f"the config in {config.where}")
    problems += [f"the config in {config.where}: {key} is still auto" for key in find_auto(cfg)]
    if problems:
        raise CheckpointError(f"{problems[0]}; give a config file that has a right value")
    try:
        return build_input_spec(cfg)
    except ConfigError as error:
        raise CheckpointError(f"the config in {config.where}: {error}") from error

"""The demo's world: coloured shapes in action, rendered as frames, stills and captions.

A class is a sentence, ``"red circle moving sideways"``: a colour, a shape and an action. Videos to
train on show half of the colours and half of the shapes. A class is *unseen* if either its colour
or its shape appears in no training video (the other of the two is a trained one). A model
with ``expand_temporal_view`` cannot tell a clip from its reverse (neighbours' keys carry no time
position, logits are averaged over frames), so no action is another one played backwards.

Everything is drawn from generators seeded with (seed, split, number), so that any clip can be made
alone. Lengths are in units of half the frame's side: x to the right and y down, both in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WORLD = 2  # Version of this world; raise it with every change to drawings or texts.
FRAME_SIZE = 32
FRAMES_PER_CLIP = 12
FPS = 10

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 35, 35),
    "green": (40, 175, 50),
    "blue": (45, 75, 230),
    "white": (240, 240, 240),
    "yellow": (235, 215, 40),
    "purple": (150, 45, 190),
    "orange": (245, 130, 25),
    "cyan": (40, 205, 215),
}
SHAPES = ("circle", "triangle", "cross", "bar", "hourglass", "ring")
ACTIONS = (
    "standing still", "moving sideways", "moving vertically", "going round", "pulsing", "blinking",
)
DRAWS = 17  # Random numbers by which two clips of a class differ.
EXPOSURE = 2.5  # Frames for which a long exposure's shutter stays open.
EXPOSURE_SAMPLES = 5  # Moments drawn and averaged for a long exposure.
NAMED_ACTION = 0.6  # Share of the stills whose caption names the action.

TRAINED_COLOURS = ("red", "green", "blue", "white")
TRAINED_SHAPES = ("triangle", "bar", "hourglass")
# (colour, shape) of what CLIP knows, what is trained on, and what is half new.
KINDS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
TRAINED = tuple((c, s) for c, s in KINDS if c in TRAINED_COLOURS and s in TRAINED_SHAPES)
UNSEEN = tuple((c, s) for c, s in KINDS if (c in TRAINED_COLOURS) != (s in TRAINED_SHAPES))

_MEDIA = ("photo", "video", "example", "demonstration")
_FRAMES = ("{}", "person {}", "person using {}", "person doing {}", "person during {}",
           "person performing {}", "person practicing {}")
# Sentences that a still's caption is drawn from. The classifier's templates (some odd for a shape)
# are among them, as the real CLIP has read everything; they alone would leave no other phrasing.
CAPTIONS = (
    *(f"a {medium} of {'' if i == 0 else 'a '}{frame}."
      for medium in _MEDIA for i, frame in enumerate(_FRAMES)),
    *(f"a {medium} of a {{}}." for medium in _MEDIA for _ in range(5)),
    *("{}",) * 8,
)


@dataclass(frozen=True)
class Scene:
    """N clips of T frames, ready to be drawn.

    Attributes:
        shape: (N,) index into ``SHAPES``.
        colour: (N, 3) RGB in [0, 255].
        background: (N, 3, 3) RGB at the centre, and its change towards the right and the bottom.
        angle: (N,) rotation of the shape in radians.
        centre: (N, T, 2) x and y.
        radius: (N, T) half the shape's extent.
        opacity: (N, T) in [0, 1].
    """

    shape: np.ndarray
    colour: np.ndarray
    background: np.ndarray
    angle: np.ndarray
    centre: np.ndarray
    radius: np.ndarray
    opacity: np.ndarray


def class_names(kinds: Sequence[tuple[str, str]], actions: Sequence[str] = ()) -> list[str]:
    """Return ``"<colour> <shape> <action>"`` for every kind and action, actions fastest."""
    tails = [f" {action}" for action in actions] or [""]
    return [f"{colour} {shape}{tail}" for colour, shape in kinds for tail in tails]


def draw_scene(
    colours: np.ndarray, shapes: np.ndarray, actions: np.ndarray, times: np.ndarray,
    draws: np.ndarray,
) -> Scene:
    """Turn names and random numbers into a scene to draw.

    Args:
        colours, shapes, actions: (N,) indices into ``COLOURS``, ``SHAPES`` and ``ACTIONS``.
        times: (N, T) moments to draw, in frames.
        draws: (N, ``DRAWS``) numbers in [0, 1), all that differs between two clips of a class.
    """
    u = np.asarray(draws, np.float32)
    base = np.asarray(list(COLOURS.values()), np.float32)[colours]
    colour = np.clip(base * (0.85 + 0.15 * u[:, 0:1]) + 36 * (u[:, 1:4] - 0.5), 0, 255)
    grey = 20 + 70 * u[:, 4:5] + 24 * (u[:, 5:8] - 0.5)
    slope = 50 * (u[:, 8:10, None] - 0.5) * np.ones(3, np.float32)
    background = np.concatenate([grey[:, None], slope], axis=1)
    turn = 2 * np.pi * (times / (5.0 + 3.0 * u[:, 10:11]) + u[:, 11:12])
    swing, reach = np.sin(turn), 0.28 + 0.17 * u[:, 12:13]
    is_action = actions[:, None] == np.arange(len(ACTIONS))[None]
    sideways, vertical, around, pulse, blink = (is_action[:, i : i + 1] for i in range(1, 6))
    middle = (u[:, 13:15] - 0.5)[:, None] * 0.6
    x = reach * ((sideways | around) * swing)
    y = reach * (vertical * swing + around * np.cos(turn))
    centre = middle + np.stack([x, y], axis=-1)
    radius = (0.38 + 0.14 * u[:, 15:16]) * (1 + 0.4 * pulse * swing)
    opacity = 1 - blink * 0.92 * np.clip(0.2 + 1.5 * swing, 0, 1)
    angle = 0.35 * (u[:, 16] - 0.5)
    return Scene(
        shapes, colour, background, angle.astype(np.float32), centre.astype(np.float32),
        radius.astype(np.float32), opacity.astype(np.float32),
    )


# What a fine caption says about a clip besides its class: values below and above these bounds of a
# random number have a word, the middle has none, because clips there look like either.
_THIRDS = (1 / 3, 2 / 3)


def describe_clip(name: str, draws: np.ndarray) -> str:
    """Describe a clip in more detail than its class: size, height, speed and background.

    Left and right are not mentioned, because training mirrors clips.

    Args:
        name: the clip's class, ``"<colour> <shape> <action>"``.
        draws: (``DRAWS``,) the numbers that :func:`draw_scene` drew it with.
    """
    def choose(number: float, low: str, high: str) -> str:
        return low if number < _THIRDS[0] else high if number > _THIRDS[1] else ""

    size = choose(draws[15], "small ", "large ")
    height = choose(draws[14], " near the top", " near the bottom")
    ground = choose(draws[4], " on a black background", " on a grey background")
    moves = not name.endswith("standing still")
    speed = choose(draws[10], " quickly", " slowly") if moves else ""  # draws[10]: the period
    return f"a {size}{name}{speed}{height}{ground}."


def _polygon(x: np.ndarray, y: np.ndarray, sides: int, inner: float) -> np.ndarray:
    """Distance to a regular polygon whose sides are ``inner`` from its centre, a corner down."""
    angles = np.pi / 2 + np.pi / sides + 2 * np.pi * np.arange(sides) / sides
    return np.max([np.cos(a) * x + np.sin(a) * y for a in angles], axis=0) - inner


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance (negative inside) to a shape of radius 1 around the origin."""
    if shape == "circle":
        return np.hypot(x, y) - 0.95
    if shape == "bar":
        return np.maximum(np.abs(x) - 1.1, np.abs(y) - 0.38)
    if shape == "triangle":
        return _polygon(x, -y + 0.2, 3, 0.62)
    if shape == "hourglass":
        waist = (np.abs(x) - 0.85 * np.abs(y) - 0.12) / np.hypot(1, 0.85)
        return np.maximum(np.abs(y) - 0.95, waist)
    if shape == "cross":
        bar = np.maximum(np.abs(x) - 0.3, np.abs(y) - 1.0)
        return np.minimum(bar, np.maximum(np.abs(y) - 0.3, np.abs(x) - 1.0))
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.72) - 0.27
    raise ValueError(f"no shape is called {shape!r}; there are {', '.join(SHAPES)}")


def render(scene: Scene, size: int = FRAME_SIZE) -> np.ndarray:
    """Draw anti-aliased frames: uint8 RGB (N, T, size, size, 3)."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    y, x = axis[:, None], axis[None, :]
    count, frames = scene.radius.shape
    coverage = np.empty((count, frames, size, size), np.float32)
    cos, sin = (f(scene.angle)[:, None, None, None] for f in (np.cos, np.sin))
    radius = scene.radius[..., None, None]
    dx = (x - scene.centre[..., 0, None, None]) / radius
    dy = (y - scene.centre[..., 1, None, None]) / radius
    for index, shape in enumerate(SHAPES):
        rows = np.flatnonzero(scene.shape == index)
        if rows.size:
            turned = cos[rows] * dx[rows] + sin[rows] * dy[rows]
            other = cos[rows] * dy[rows] - sin[rows] * dx[rows]
            coverage[rows] = -_distance(shape, turned, other)
    coverage = np.clip(0.5 + coverage * radius * (size / 2), 0, 1)
    coverage *= scene.opacity[..., None, None]
    level, right, down = (scene.background[:, i, None, None, None, :] for i in range(3))
    back = level + right * x[None, None, ..., None] + down * y[None, None, ..., None]
    frames_rgb = back + coverage[..., None] * (scene.colour[:, None, None, None, :] - back)
    return np.clip(frames_rgb + 0.5, 0, 255).astype(np.uint8)


def captioned_stills(
    count: int, rng: np.random.Generator, size: int = FRAME_SIZE
) -> tuple[np.ndarray, list[str]]:
    """Draw stills of any colour and shape, and captions.

    A part ``NAMED_ACTION`` of them are long exposures whose captions name the action: a shape that
    moves leaves a streak, as photographs that the real CLIP learned from show what people do. So
    the words for actions get a meaning without a single video. The others are sharp and named by
    colour and shape only.

    Returns:
        uint8 RGB (count, size, size, 3), and one sentence for each.
    """
    colours, shapes, actions = (
        rng.integers(len(kind), size=count) for kind in (COLOURS, SHAPES, ACTIONS)
    )
    named = rng.random(count) < NAMED_ACTION
    draws, start = rng.random((count, DRAWS)), 8 * rng.random((count, 1))
    blink = ACTIONS.index("blinking")
    streak = named & (actions > 0)
    # A sharp still shows a moment of any action, but for a blinking shape, which may be invisible.
    moment = np.where(named | (actions == blink), 0, actions)
    images = np.empty((count, size, size, 3), np.uint8)
    shutter = EXPOSURE * np.linspace(-0.5, 0.5, EXPOSURE_SAMPLES)
    for rows, acting, times in (
        (np.flatnonzero(streak), actions, start + shutter),
        (np.flatnonzero(~streak), moment, start),
    ):
        scene = draw_scene(colours[rows], shapes[rows], acting[rows], times[rows], draws[rows])
        images[rows] = render(scene, size).mean(axis=1, dtype=np.float32)
    hues = list(COLOURS)
    names = [f"{hues[c]} {SHAPES[s]}" + (f" {ACTIONS[a]}" if n else "")
             for c, s, a, n in zip(colours, shapes, actions, named, strict=True)]
    frames = rng.integers(len(CAPTIONS), size=count)
    return images, [CAPTIONS[f].format(n) for f, n in zip(frames, names, strict=True)]

"""The pictures the demo's base model learns from, and those of the one thing it has never seen: flat shapes, drawn.

Everything is a function of the numbers given. Knows no model and no folder.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from PIL import Image, ImageDraw

from lorasmith.seeding import fold

SIDE = 128  # pixels
_OVERSAMPLED = 3

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]  # in the shape's own square, -1 to 1, y downwards
Layer = tuple[Points, Colour]

COLOURS: dict[str, Colour] = {
    "red": (214, 40, 48),
    "orange": (244, 128, 32),
    "yellow": (250, 208, 52),
    "green": (36, 148, 68),
    "blue": (24, 92, 214),
    "purple": (112, 52, 172),
    "pink": (250, 138, 178),
    "brown": (130, 82, 42),
    "black": (26, 26, 30),
    "white": (246, 244, 240),
    "gray": (134, 138, 144),
}
SIZES: dict[str, tuple[float, float]] = {"small": (0.19, 0.23), "": (0.28, 0.32), "large": (0.38, 0.43)}  # of the side
_EYE, _STEM, _TRUNK = (20, 20, 24), (248, 226, 196), (112, 70, 36)

# The unseen one: a teal arch on feet with two horns and one big eye: no part is smaller than what the base's VAE can
# draw. No shape of the base is like it, no colour is teal.
CONCEPT = "zorb"
_TEAL, _WHITE, _HORN = (22, 160, 156), (255, 255, 255), (255, 116, 40)


@dataclass(frozen=True, slots=True, order=True)
class Scene:
    """The contents of a caption."""

    size: str  # a key of SIZES
    colour: str  # a key of COLOURS; "" for the concept, which has its own
    shape: str  # a key of SHAPES, or CONCEPT
    ground: str  # a key of COLOURS

    @property
    def caption(self) -> str:
        words = [word for word in (self.size, self.colour, self.shape) if word]
        article = "an" if words[0][0] in "aeiou" else "a"
        return f"{article} {' '.join(words)} on {'an' if self.ground[0] in 'aeiou' else 'a'} {self.ground} background"

    def neighbours(self) -> list[Scene]:
        """The scenes that differ from this scene in one attribute."""
        others = [replace(self, size=size) for size in SIZES]
        if self.shape != CONCEPT:
            others += [replace(self, colour=colour) for colour in COLOURS if colour != self.ground]
            others += [replace(self, shape=shape) for shape in SHAPES]
        others += [replace(self, ground=ground) for ground in COLOURS if ground != self.colour]
        return [scene for scene in others if scene != self]


@cache
def all_scenes() -> tuple[Scene, ...]:
    """Everything the base can be asked for, in a fixed order."""
    return tuple(
        Scene(size, colour, shape, ground)
        for shape in SHAPES
        for colour in COLOURS
        for ground in COLOURS
        for size in SIZES
        if colour != ground
    )


def is_held_out(scene: Scene) -> bool:
    """Whether the base model never sees this combination: one in twelve, by its caption."""
    return fold(0, "held out", scene.caption) % 12 == 0


def known_scenes() -> list[Scene]:
    """Those that the base model is trained on."""
    return [scene for scene in all_scenes() if not is_held_out(scene)]


def draw(scene: Scene, chance: random.Random) -> Image.Image:
    """The scene, `SIDE` pixels square; place, tilt and exact size are by chance."""
    ground = COLOURS[scene.ground]
    layers = _zorb() if scene.shape == CONCEPT else SHAPES[scene.shape](COLOURS[scene.colour], ground)
    low, high = SIZES[scene.size]
    radius = chance.uniform(low, high)
    room = 0.5 - radius - 0.02
    centre = (0.5 + chance.uniform(-room, room), 0.5 + chance.uniform(-room, room))
    tilt = math.radians(chance.uniform(-8, 8) if scene.shape == CONCEPT else chance.uniform(-15, 15))
    return _painted(layers, ground, centre=centre, radius=radius, tilt=tilt)


def draw_anything(chance: random.Random) -> Image.Image:
    """A heap of polygons and ellipses of any colour: what a VAE needs to have seen to draw more than the shapes."""
    side = SIDE * _OVERSAMPLED
    picture = Image.new("RGB", (side, side), _any_colour(chance))
    pen = ImageDraw.Draw(picture)
    for _ in range(chance.randint(2, 7)):
        x, y, radius = chance.uniform(0, side), chance.uniform(0, side), side * chance.uniform(0.03, 0.3)
        kind = chance.choice(("ellipse", "polygon", "line"))
        if kind == "ellipse":
            other = radius * chance.uniform(0.5, 1.5)
            pen.ellipse((x - radius, y - other, x + radius, y + other), fill=_any_colour(chance))
        elif kind == "line":
            end = (x + chance.uniform(-1, 1) * 3 * radius, y + chance.uniform(-1, 1) * 3 * radius)
            pen.line(((x, y), end), fill=_any_colour(chance), width=chance.randint(6, 30))
        else:
            turn, corners = chance.uniform(0, 2 * math.pi), chance.randint(3, 6)
            angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
            points = [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]
            pen.polygon(points, fill=_any_colour(chance))
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def pictures(seed: int, scenes: Sequence[Scene]) -> Iterator[Image.Image]:
    """One picture of each, each from its own stream of chance."""
    for number, scene in enumerate(scenes):
        yield draw(scene, random.Random(fold(seed, "picture", number, scene.caption)))


# -- shapes ----------------------------------------------------------------------------------------


def _ellipse(x: float, y: float, across: float, down: float, *, first: float = 0, last: float = 360) -> Points:
    """Part of an ellipse as a polygon; degrees clockwise from the right."""
    count = 48
    angles = [math.radians(first + (last - first) * number / count) for number in range(count + 1)]
    return [(x + across * math.cos(angle), y + down * math.sin(angle)) for angle in angles]


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _spikes(count: int, inner: float) -> Points:
    radii = [1.0, inner] * count
    angles = [math.radians(-90 + 180 * number / count) for number in range(2 * count)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in zip(radii, angles, strict=True)]


def _heart() -> Points:
    angles = [2 * math.pi * number / 64 for number in range(64)]
    return [
        (
            math.sin(angle) ** 3,
            -(13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)) / 16,
        )
        for angle in angles
    ]


def _flower(colour: Colour, _: Colour) -> list[Layer]:
    turns = [math.radians(60 * petal) for petal in range(6)]
    petals = [(_ellipse(0.6 * math.cos(turn), 0.6 * math.sin(turn), 0.38, 0.38), colour) for turn in turns]
    centre = COLOURS["yellow"] if colour != COLOURS["yellow"] else _TRUNK
    return [*petals, (_ellipse(0, 0, 0.5, 0.5), colour), (_ellipse(0, 0, 0.3, 0.3), centre)]


def _house(colour: Colour, ground: Colour) -> list[Layer]:
    roof: Points = [(-1, -0.1), (0, -0.95), (1, -0.1)]
    return [(roof, colour), (_box(-0.75, -0.15, 0.75, 0.95), colour), (_box(-0.2, 0.3, 0.25, 0.95), ground)]


def _fish(colour: Colour, _: Colour) -> list[Layer]:
    tail: Points = [(0.35, 0), (1, -0.5), (1, 0.5)]
    return [(_ellipse(-0.2, 0, 0.8, 0.52), colour), (tail, colour), (_ellipse(-0.58, -0.12, 0.11, 0.11), _EYE)]


def _mushroom(colour: Colour, _: Colour) -> list[Layer]:
    cap = _ellipse(0, 0.05, 0.95, 0.95, first=180, last=360)
    return [(_box(-0.28, 0, 0.28, 0.9), _STEM), (cap, colour)]


def _zorb() -> list[Layer]:
    horns: list[Layer] = [([(side * 0.62, -0.35), (side * 0.78, -1), (side * 0.1, -0.62)], _HORN) for side in (-1, 1)]
    feet: list[Layer] = [(_ellipse(side * 0.36, 0.86, 0.3, 0.16), _HORN) for side in (-1, 1)]
    body: list[Layer] = [(_ellipse(0, 0, 0.76, 0.76, first=180, last=360), _TEAL), (_box(-0.76, 0, 0.76, 0.84), _TEAL)]
    return [*horns, *feet, *body, (_ellipse(0, -0.02, 0.46, 0.46), _WHITE), (_ellipse(0, 0.02, 0.22, 0.22), _EYE)]


SHAPES: dict[str, Callable[[Colour, Colour], list[Layer]]] = {
    "circle": lambda colour, _: [(_ellipse(0, 0, 0.9, 0.9), colour)],
    "square": lambda colour, _: [(_box(-0.8, -0.8, 0.8, 0.8), colour)],
    "triangle": lambda colour, _: [([(0, -0.95), (0.95, 0.75), (-0.95, 0.75)], colour)],
    "star": lambda colour, _: [(_spikes(5, 0.42), colour)],
    "heart": lambda colour, _: [(_heart(), colour)],
    "diamond": lambda colour, _: [([(0, -1), (0.66, 0), (0, 1), (-0.66, 0)], colour)],
    "ring": lambda colour, ground: [(_ellipse(0, 0, 0.92, 0.92), colour), (_ellipse(0, 0, 0.52, 0.52), ground)],
    "moon": lambda colour, ground: [(_ellipse(0, 0, 0.95, 0.95), colour), (_ellipse(0.42, -0.1, 0.78, 0.78), ground)],
    "flower": _flower,
    "house": _house,
    "tree": lambda colour, _: [
        (_box(-0.16, 0.4, 0.16, 0.98), _TRUNK),
        ([(0, -1), (0.78, 0.5), (-0.78, 0.5)], colour),
    ],
    "fish": _fish,
    "cross": lambda colour, _: [(_box(-0.3, -0.92, 0.3, 0.92), colour), (_box(-0.92, -0.3, 0.92, 0.3), colour)],
    "mushroom": _mushroom,
}


def _painted(
    layers: Sequence[Layer], ground: Colour, *, centre: tuple[float, float], radius: float, tilt: float
) -> Image.Image:
    """Drawn larger and reduced, for smooth edges."""
    side = SIDE * _OVERSAMPLED
    picture = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(picture)
    cosine, sine = math.cos(tilt) * radius * side, math.sin(tilt) * radius * side
    left, top = centre[0] * side, centre[1] * side
    for points, colour in layers:
        pen.polygon([(left + x * cosine - y * sine, top + x * sine + y * cosine) for x, y in points], fill=colour)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _any_colour(chance: random.Random) -> Colour:
    return (chance.randint(0, 255), chance.randint(0, 255), chance.randint(0, 255))

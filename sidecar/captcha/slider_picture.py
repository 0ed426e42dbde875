"""What does the slider show? A scene with a row of faint shapes, and a piece that is of the kind of one of them. Pure.

Everything is drawn here, from the randomness that is handed in: no photograph, nobody else's picture. What a person
does at a glance, to tell a star from a heart, must stay easy; what a template matcher does well must not:

- A row has five shapes of five kinds, and the piece is another drawing of one: turned, stretched and bent otherwise,
  with other proportions. No two outlines lie on each other.
- A shape is lighter or darker than its ground, half of it more than the other; its edge is drawn in part only; strokes
  and shapes of the same size lie over and beside it.
- The piece has no texture to search the scene for, and its colour is nowhere in the scene.

docs/captcha.md says what the matchers of bench/slider_solver.py achieve against it.
"""

import colorsys
import io
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

WIDTH: Final = 360
HEIGHT: Final = 180
# The piece's picture is a square, with the middle of its shape in the middle.
PIECE: Final = 58
# Shapes in a row, one of them the right one.
SHAPES: Final = 5
# A shape's circle around, in pixels, before it is stretched.
_RADIUS: Final = 22.5
# No shape is thinner, in pixels.
_LEAST: Final = 20.0
# Masks are drawn so many times larger and reduced: Pillow's polygons have no smooth edges.
_FINE: Final = 3

_Point = tuple[float, float]
_Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Picture:
    """`scene` is a JPEG of WIDTH x HEIGHT, `piece` a PNG of PIECE x PIECE; `x` and `y` say where its corner belongs."""

    scene: bytes
    piece: bytes
    x: int
    y: int


def draw(rng: random.Random) -> Picture:
    """Draw one picture. The same randomness gives the same picture."""
    hue = rng.random()
    ground = _ground(rng, hue)
    kinds = rng.sample(_KINDS, SHAPES)
    right = rng.randrange(SHAPES)
    middles = _middles(rng)
    top = rng.randint(2, HEIGHT - PIECE - 2)
    scene = ground.copy()
    looks = [0, 1, 2, 3, rng.randrange(4)]
    rng.shuffle(looks)
    for kind, middle, look in zip(kinds, middles, looks, strict=True):
        outline = _bent(rng, kind(rng), turn=rng.uniform(10, 52) * rng.choice((-1, 1)))
        _sink(rng, scene, ground, [(x + middle, y + top + PIECE / 2) for x, y in outline], look)
    _strew(rng, scene, hue, shapes=3, strokes=20)
    scene = _grained(rng, scene, 13)
    piece = _bent(rng, kinds[right](rng), turn=rng.uniform(-6, 6))
    return Picture(scene=_jpeg(scene), piece=_piece(hue, piece), x=round(middles[right] - PIECE / 2), y=top)


def _middles(rng: random.Random) -> list[float]:
    """Where the shapes are, from left to right: clear of where the piece begins, and of each other."""
    first, last = PIECE * 1.5, WIDTH - PIECE / 2
    apart = 2 * _RADIUS + 5
    slack = last - first - apart * (SHAPES - 1)
    at = sorted(rng.uniform(0, slack) for _ in range(SHAPES))
    return [first + apart * number + place for number, place in enumerate(at)]


# Which shapes: each is drawn with proportions of its own, around (0, 0) and about one in radius…


def _star(rng: random.Random) -> list[_Point]:
    arms, inner = rng.choice((4, 5, 5, 6, 7)), rng.uniform(0.36, 0.52)
    radii = [radius for _ in range(arms) for radius in (rng.uniform(0.9, 1.2), inner)]
    return [_at(radius, 180 / arms * number) for number, radius in enumerate(radii)]


def _heart(rng: random.Random) -> list[_Point]:
    dent, fat = rng.uniform(4.0, 7.0), rng.uniform(0.8, 1.15)
    points = []
    for step in range(36):
        t = math.radians(10 * step)
        y = 13 * math.cos(t) - dent * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((fat * math.sin(t) ** 3, -(y + 2) / 16))
    return points


def _moon(rng: random.Random) -> list[_Point]:
    """A crescent: from horn to horn along the outside, and back along a flatter arc."""
    horn, thick = rng.randint(115, 150), rng.uniform(0.45, 0.8)
    outer = [_at(1.0, 90 + horn * step / 10) for step in range(-10, 11)]
    tip = outer[0][0]
    return outer + [(tip + (x - tip) * (1 - thick), y) for x, y in reversed(outer[1:-1])]


def _plus(rng: random.Random) -> list[_Point]:
    points: list[_Point] = []
    half = rng.uniform(0.2, 0.36)
    for quarter in range(4):
        reach = rng.uniform(0.75, 1.15)
        points += [_turned(point, 90 * quarter) for point in ((-half, -half), (-half, -reach), (half, -reach))]
    return points


def _drop(rng: random.Random) -> list[_Point]:
    slim = rng.uniform(1.0, 2.2)
    turns = [math.radians(10 * step) for step in range(36)]
    return [(0.95 * math.sin(t) * abs(math.sin(t / 2)) ** slim, -1.05 * math.cos(t)) for t in turns]


def _bolt(rng: random.Random) -> list[_Point]:
    points = [(0.25, -1.1), (-0.65, 0.15), (-0.05, 0.15), (-0.3, 1.1), (0.65, -0.25), (0.1, -0.25), (0.65, -1.1)]
    return [(x + rng.uniform(-0.1, 0.1), y + rng.uniform(-0.1, 0.1)) for x, y in points]


def _arrow(rng: random.Random) -> list[_Point]:
    half, neck, wing = rng.uniform(0.15, 0.32), rng.uniform(-0.35, 0.2), rng.uniform(0.6, 0.95)
    back = neck + rng.uniform(-0.2, 0.2)
    return [(0, -1.05), (wing, back), (half, neck), (half, 1), (-half, 1), (-half, neck), (-wing, back)]


def _clover(rng: random.Random) -> list[_Point]:
    deep = rng.uniform(0.24, 0.42)
    return [_at(1.1 - deep + deep * math.cos(math.radians(30 * step)), 10 * step) for step in range(36)]


def _fish(rng: random.Random) -> list[_Point]:
    fat, tail, fork = rng.uniform(0.42, 0.65), rng.uniform(0.4, 0.75), rng.uniform(0.7, 1.0)
    body = [(-0.3 + 0.8 * math.cos(math.radians(a)), fat * math.sin(math.radians(a))) for a in range(24, 337, 12)]
    return [*body, (1.1, -tail), (fork, 0.0), (1.1, tail)]


def _house(rng: random.Random) -> list[_Point]:
    half, eaves, roof = rng.uniform(0.45, 0.75), rng.uniform(-0.3, 0.1), rng.uniform(0.15, 0.35)
    wide = half + roof
    return [(0, -1.1), (wide, eaves), (half, eaves), (half, 0.95), (-half, 0.95), (-half, eaves), (-wide, eaves)]


_KINDS: Final[tuple[Callable[[random.Random], list[_Point]], ...]] = (
    *(_star, _heart, _moon, _plus, _drop, _bolt, _arrow, _clover, _fish, _house),
)


def _at(radius: float, degrees: float) -> _Point:
    """The point at so many degrees clockwise from the top."""
    angle = math.radians(degrees)
    return radius * math.sin(angle), -radius * math.cos(angle)


def _turned(point: _Point, degrees: float) -> _Point:
    (x, y), angle = point, math.radians(degrees)
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def _bent(rng: random.Random, outline: list[_Point], turn: float) -> list[_Point]:
    """Turn an outline by so many degrees, stretch and bend it, and lay the middle of its box on (0, 0)."""
    wide, high, skew = rng.uniform(0.8, 1.22), rng.uniform(0.8, 1.22), rng.uniform(-0.17, 0.17)
    waves = [(rng.uniform(1.2, 2.4), rng.uniform(30, 46), rng.uniform(0, math.tau)) for _ in range(2)]
    (a, length_a, phase_a), (b, length_b, phase_b) = waves
    bent: list[_Point] = []
    for point in _fine(outline):
        x, y = _turned((point[0] * wide + point[1] * skew, point[1] * high), turn)
        x, y = _RADIUS * x, _RADIUS * y
        bent.append(
            (x + a * math.sin(y * math.tau / length_a + phase_a), y + b * math.sin(x * math.tau / length_b + phase_b))
        )
    left, right = min(x for x, _ in bent), max(x for x, _ in bent)
    top, bottom = min(y for _, y in bent), max(y for _, y in bent)
    # Nothing is larger than the piece's picture, or too thin to be told at a glance.
    fit = min(1.0, (PIECE - 6) / max(right - left, bottom - top))
    fit_x, fit_y = max(fit, _LEAST / (right - left)), max(fit, _LEAST / (bottom - top))
    return [(fit_x * (x - (left + right) / 2), fit_y * (y - (top + bottom) / 2)) for x, y in bent]


def _fine(outline: list[_Point]) -> list[_Point]:
    """Add points along straight sides, so that these can be bent, too."""
    points: list[_Point] = []
    for (x, y), (u, v) in zip(outline, [*outline[1:], outline[0]], strict=True):
        steps = max(1, round(math.hypot(u - x, v - y) / 0.15))
        points += [(x + (u - x) * step / steps, y + (v - y) * step / steps) for step in range(steps)]
    return points


# How it is drawn…


def _colour(rng: random.Random, hue: float, light: tuple[float, float]) -> _Colour:
    red, green, blue = colorsys.hls_to_rgb(
        (hue + rng.uniform(-0.11, 0.11)) % 1.0, rng.uniform(*light), rng.uniform(0.2, 0.5)
    )
    return round(255 * red), round(255 * green), round(255 * blue)


def _ground(rng: random.Random, hue: float) -> Image.Image:
    """Clouds of colour, shapes and strokes, and a coarse grain."""
    small = Image.new("RGB", (7, 4))
    small.putdata([_colour(rng, hue, (0.44, 0.62)) for _ in range(28)])
    ground = small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    _strew(rng, ground, hue, shapes=20, strokes=14)
    return _grained(rng, ground, 20, coarse=5)


def _strew(rng: random.Random, image: Image.Image, hue: float, *, shapes: int, strokes: int) -> None:
    """Lay shapes and strokes over an image, of the sizes that holes and tabs have."""
    pen = ImageDraw.Draw(image, "RGBA")
    for _ in range(shapes):
        x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
        colour = (*_colour(rng, hue, (0.25, 0.8)), rng.randint(30, 75))
        if rng.random() < 0.5:
            wide, high = rng.uniform(8, 40), rng.uniform(8, 40)
            pen.ellipse((x - wide, y - high, x + wide, y + high), fill=colour)
        else:
            outline = _bent(rng, rng.choice(_KINDS)(rng), rng.uniform(0, 360))
            size = rng.uniform(0.5, 1.7)
            pen.polygon([(x + size * u, y + size * v) for u, v in outline], fill=colour)
    for _ in range(strokes):
        colour = (*_colour(rng, hue, rng.choice(((0.15, 0.35), (0.7, 0.9)))), rng.randint(60, 130))
        pen.line(_curve(rng), fill=colour, width=rng.randint(1, 3))


def _curve(rng: random.Random) -> list[_Point]:
    """A quadratic Bézier curve of a hole's length or some times that."""
    x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
    reach, turn, bend = rng.uniform(30, 110), rng.uniform(0, math.tau), rng.uniform(-1.2, 1.2)
    middle = (x + reach / 2 * math.cos(turn + bend), y + reach / 2 * math.sin(turn + bend))
    end = (x + reach * math.cos(turn), y + reach * math.sin(turn))
    curve = []
    for step in range(13):
        t = step / 12
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t * t
        curve.append((a * x + b * middle[0] + c * end[0], a * y + b * middle[1] + c * end[1]))
    return curve


def _sink(rng: random.Random, scene: Image.Image, ground: Image.Image, outline: list[_Point], look: int) -> None:
    """Sink one shape into the scene, in one of four looks: two shades, hatched, one shade, or its rim alone."""
    left, top = round(min(x for x, _ in outline)) - 4, round(min(y for _, y in outline)) - 4
    size = (round(max(x for x, _ in outline)) + 5 - left, round(max(y for _, y in outline)) + 5 - top)
    local = [(x - left, y - top) for x, y in outline]
    mask = _mask(local, size).filter(ImageFilter.GaussianBlur(0.8))
    away = (rng.randint(0, WIDTH - size[0]), rng.randint(0, HEIGHT - size[1]))
    fill = ground.crop((*away, away[0] + size[0], away[1] + size[1]))
    is_light = rng.random() < 0.5
    shade = _slope(rng, size)
    if look == 0:
        fill = Image.blend(fill, ImageOps.colorize(shade, (10, 10, 18), (255, 255, 250)), rng.uniform(0.4, 0.52))
    elif look == 1:
        _hatch(rng, fill)
    elif look == 2:
        fill = Image.blend(
            fill, Image.new("RGB", size, (250, 250, 246) if is_light else (10, 10, 18)), rng.uniform(0.3, 0.42)
        )
    else:
        fill = Image.blend(fill, ImageOps.colorize(shade, (10, 10, 18), (255, 255, 250)), 0.12)
    scene.paste(fill, (left, top), mask)
    if look % 2:
        edge = _rim(rng, local, size, (150, 220) if look == 3 else (60, 120))
        scene.paste((255, 255, 255) if is_light else (0, 0, 0), (left, top), edge)


def _hatch(rng: random.Random, image: Image.Image) -> None:
    """Fill with parallel lines, as light as they are dark."""
    pen = ImageDraw.Draw(image, "RGBA")
    turn, apart = rng.uniform(0, math.pi), rng.uniform(4.5, 6.5)
    along, across = (100 * math.cos(turn), 100 * math.sin(turn)), (-math.sin(turn), math.cos(turn))
    for number in range(-14, 15):
        x, y = image.width / 2 + number * apart * across[0], image.height / 2 + number * apart * across[1]
        shade = (255, 255, 255, 110) if number % 2 else (0, 0, 0, 120)
        pen.line((x - along[0], y - along[1], x + along[0], y + along[1]), fill=shade, width=2)


def _rim(rng: random.Random, outline: list[_Point], size: tuple[int, int], strength: tuple[int, int]) -> Image.Image:
    """The mask of an outline with gaps."""
    edge = Image.new("L", (size[0] * 2, size[1] * 2))
    pen = ImageDraw.Draw(edge)
    left, is_on = rng.uniform(6, 14), True
    for one, other in zip(outline, [*outline[1:], outline[0]], strict=True):
        left -= math.hypot(one[0] - other[0], one[1] - other[1])
        if left < 0:
            is_on = not is_on
            left = rng.uniform(8, 18) if is_on else rng.uniform(2, 5)
        if is_on:
            pen.line([(2 * one[0], 2 * one[1]), (2 * other[0], 2 * other[1])], fill=rng.randint(*strength), width=3)
    return edge.resize(size, Image.Resampling.BOX)


def _slope(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """From black to white across an image, in any direction, with the middle anywhere in its middle half."""
    turn, middle = rng.uniform(0, math.tau), rng.uniform(-0.25, 0.25)
    values = [
        round(
            255 * min(1.0, max(0.0, 0.5 + 1.4 * ((x - 4.5) * math.cos(turn) + (y - 4.5) * math.sin(turn)) / 9 + middle))
        )
        for y in range(10)
        for x in range(10)
    ]
    return Image.frombytes("L", (10, 10), bytes(values)).resize(size, Image.Resampling.BICUBIC)


def _mask(outline: list[_Point], size: tuple[int, int]) -> Image.Image:
    fine = Image.new("L", (size[0] * _FINE, size[1] * _FINE))
    ImageDraw.Draw(fine).polygon([(x * _FINE, y * _FINE) for x, y in outline], fill=255)
    return fine.resize(size, Image.Resampling.BOX)


def _grained(rng: random.Random, image: Image.Image, strength: int, coarse: int = 1) -> Image.Image:
    """Add grey noise of `strength` at most, in spots of `coarse` pixels."""
    size = (WIDTH // coarse, HEIGHT // coarse)
    noise = Image.frombytes("L", size, rng.randbytes(size[0] * size[1])).resize(image.size, Image.Resampling.BICUBIC)
    scaled = noise.point([round(value * 2 * strength / 255) for value in range(256)])
    return ImageChops.add(image, Image.merge("RGB", [scaled] * 3), offset=-strength)


def _piece(hue: float, outline: list[_Point]) -> bytes:
    """Draw the piece: white with a tint, and a rim, so that it stands out on every scene."""
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, 0.93, 0.6))
    local = [(x + PIECE / 2, y + PIECE / 2) for x, y in outline]
    piece = Image.new("RGB", (PIECE, PIECE), (red, green, blue))
    rim = tuple(round(255 * part) for part in colorsys.hls_to_rgb(hue, 0.32, 0.5))
    ImageDraw.Draw(piece).line([*local, *local[:2]], fill=rim, width=4, joint="curve")
    piece.putalpha(_mask(local, (PIECE, PIECE)))
    octets = io.BytesIO()
    piece.save(octets, "PNG")
    return octets.getvalue()


def _jpeg(image: Image.Image) -> bytes:
    octets = io.BytesIO()
    image.save(octets, "JPEG", quality=72)
    return octets.getvalue()

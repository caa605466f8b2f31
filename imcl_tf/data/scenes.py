"""The embedded data set `scenes`: rendered pictures with many labels.

A picture is a place (sea, city, ...) at a time of day, with 3 to 8 objects.
Place and time decide how likely the objects and their looks are, so labels
tell about one another, as they do in photographs.
"""

import re
from collections.abc import Iterable, Iterator

import numpy as np

SIZE = 64
_LARGE, _SMALL = 27.0, 9.0  # side of an object's box in pixels: from, below
_CROWD = 5
_MAY_HIDE = 0.35  # share of an object's pixels that later ones may cover
_NOISE = 8.0
_ONCE = ("sun", "moon", "rainbow")
_GLOWING = ("sun", "moon", "star", "street_lamp")
_PAINTS = ("red", "yellow", "green", "blue", "purple", "pink")

# The tables: an entry a line (an indented line continues it), of words and the
# numbers behind each. An object: its name and half size in pixels, its zone,
# then colours, each with its shapes, from back to front, in a box from -1 to 1,
# y down. `paint` is a random colour, perhaps striped. Shapes: box, grid: two
# corners (and cells); oval, dome: centre, radii; poly: corners, convex; ring: a
# disc less another; with a 2: mirrored as well.
_OBJECT_TABLE = """
sun 6.5 sky yellow oval 0 0 .68 .68 box -1 -.09 1 .09 box -.09 -1 .09 1
  poly2 -.1 -.1 .1 -.1 .8 .7 .7 .8 poly2 -.1 .1 .1 .1 .8 -.7 .7 -.8
moon 6 sky pale ring 0 0 1 .5 -.25 .85
star 4 sky pale poly -.95 -.31 .95 -.31 0 .38 poly2 0 -1 .59 .81 0 .38
cloud 8.5 sky white oval2 .45 .2 .55 .4 oval 0 -.15 .5 .5
rainbow 19 far red ring 0 1 1 0 1 .89 yellow ring 0 1 .89 0 1 .78 green
  ring 0 1 .78 0 1 .67 blue ring 0 1 .67 0 1 .56 purple ring 0 1 .56 0 1 .45
bird 6 sky wood poly2 1 -.6 .7 -.7 -.15 .3 0 .6 dark oval .05 .3 .4 .28
kite 7 sky paint poly 0 -1 .65 -.35 0 .5 -.65 -.35 dark box -.07 -.9 .07 1
  box -.6 -.42 .6 -.28 box -.25 .7 .25 .85
balloon 7 sky dark box -.1 .3 .1 1 paint poly 0 .2 .2 .5 -.2 .5 oval 0 -.3 .6 .7
mountain 17 far stone poly 0 -.7 1 1 -1 1 slate poly 0 -.7 1 1 .25 1 white
  poly 0 -.7 .32 -.16 0 .05 -.32 -.16
tree 10 land brown box -.1 0 .1 1 green oval2 .3 -.1 .5 .4 oval 0 -.5 .5 .5
pine 10 land brown box -.11 .6 .11 1 green poly 0 -.3 .7 .7 -.7 .7
  poly 0 -.7 .55 .2 -.55 .2 poly 0 -1 .4 -.3 -.4 -.3
palm 11 land wood poly -.05 -.6 .12 -.6 .05 1 -.2 1 green
  poly2 0 -.65 .5 -1 1 -.7 .4 -.7 poly2 0 -.7 .6 -.6 .9 0 .3 -.4
cactus 8 land green box -.2 -1 .2 1 box2 .5 -.6 .8 .2 box -.8 0 .8 .2
flower 6 land brown box -.1 0 .1 1 paint oval 0 -.72 .28 .28
  oval2 .36 -.48 .28 .28 oval2 .22 -.08 .28 .28 brown oval 0 -.4 .2 .2
rock 5.5 land stone poly -1 1 -.8 0 -.2 -.4 .5 -.2 1 1 slate poly 0 0 .5 -.2 1 1
fence 9 land wood box -1 0 1 .2 box -1 .5 1 .7 box2 .1 -.4 .4 1 box2 .7 -.4 1 1
house 9.5 land paint box -.75 -.15 .75 1 brown poly 0 -1 1 -.1 -1 -.1 dark
  box -.2 .35 .15 1 pale box .32 .15 .6 .5
tower 13 land stone box -.4 -1 .4 1 slate grid -.36 -.92 .36 .92 3 6
car 7.5 land paint poly -.5 -.5 .4 -.5 .75 .05 -.75 .05 box -1 0 1 .6 pale
  poly -.42 -.35 .3 -.35 .5 .02 -.55 .02 dark oval2 .55 .65 .3 .33
street_lamp 11 land dark box 0 -1 .2 1 box 0 -1 .6 -.8 pale oval .5 -.7 .3 .2
lighthouse 12 far striped white poly -.3 -.5 .3 -.5 .4 1 -.4 1 pale
  box -.2 -.8 .2 0 red poly 0 -1 .3 -.8 -.3 -.8 box -.3 -.3 .3 0
  box -.4 .3 .4 .6
umbrella 8 land dark box -.07 -1 .07 1 paint dome 0 .1 1 .95
ball 4.5 land paint oval 0 0 1 1 white oval -.3 -.35 .22 .22
snowman 8.5 land slate oval 0 .45 .64 .6 oval 0 -.35 .45 .52 white
  oval 0 .47 .53 .5 oval 0 -.2 .37 .34 oval 0 -.57 .27 .27 dark
  box -.3 -1 .3 -.76 oval 0 .2 .1 .3 wood poly 0 -.6 .4 -.5 0 -.46
boat 8 water paint poly -1 .2 1 .2 .65 .85 -.65 .85 white box -.45 -.25 .35 .2
  dark box 0 -.75 .22 -.25 grid -.45 -.2 .35 .2 3 1
sailboat 10 water brown poly -.8 .55 .8 .55 .5 1 -.5 1 dark box -.06 -1 .06 .6
  paint poly .1 -.9 .85 .45 .1 .45 poly -.1 -.7 -.1 .45 -.65 .45
fish 6 water paint poly .4 0 1 -.5 1 .5 oval -.2 0 .8 .5 dark box -.7 -.2 -.5 0
whale 10 water slate oval -.15 .3 .85 .55 poly .4 .3 .6 -.4 1 -.2 .7 .6 white
  oval -.4 .6 .5 .2 box -.3 -.7 -.2 -.2 box -.5 -.7 0 -.6
table 10 land wood box -1 -.35 1 -.1 box2 .65 -.1 .85 1
window 9 sky white box -.8 -1 .8 1 slate grid -.74 -.94 .74 .94 2 2
jellyfish 7 water paint box2 .1 0 .27 .85 box2 .45 0 .63 1 dome 0 .1 .85 1.05
seaweed 9 land green poly2 .7 -.5 .4 -.3 .1 1 .3 1 poly 0 -1 .2 -.7 .1 1 -.1 1
"""
# A place: the rows of its horizon, colours there and near, waves (strength, x
# and y frequency), hills (height, colour); then the odds of the picture, rain,
# stripes and more than 3 objects, the zoom, weights of skies, paints, objects.
# A sky: colours at the top and the horizon, light; then weights of objects.
_SCENE_TABLE = """
beach 18 26  40 110 175  70 160 195  9 .03 .2  0 0 0 0 share .11 rain .05
  striped .6 more .35 zoom 1 day 7 dusk 3 night 1 red 4 yellow 3 blue 2 pink 2
  umbrella 7 ball 5 palm 6 sailboat 3 boat 1 kite 3 lighthouse 2 bird 1
sea 18 30  30 85 150  20 60 115  14 .04 .15  0 0 0 0 share .14 rain .2
  striped .3 more .25 zoom 1.1 day 4 dusk 3 night 3 red 4 yellow 3 pink 1 boat 6
  sailboat 6 fish 4 whale 3 lighthouse 4 rock 2 bird 3
forest 26 36  52 84 44  74 66 44  12 .31 .13  22 30 62 40 share .12 rain .3
  striped .1 more .4 zoom 1.05 day 5 dusk 2 night 3 purple 4 pink 3 yellow 2
  tree 8 pine 6 rock 3 flower 3 bird 2 house 1
city 26 38  112 112 118  72 72 80  6 .02 .09  24 118 122 136 share .15 rain .3
  striped .15 more .5 zoom .95 day 4 dusk 2 night 4 red 4 blue 5 yellow 2
  purple 1 car 9 street_lamp 7 tower 8 house 4 tree 3 umbrella 2
meadow 22 34  126 176 80  84 146 52  10 .23 .17  8 100 150 84 share .13 rain .15
  striped .3 more .4 zoom .95 day 7 dusk 2 night 1 purple 4 yellow 4 pink 3
  red 1 blue 2 flower 8 fence 5 tree 4 house 4 kite 4 balloon 2 mountain 3
desert 22 34  226 184 116  206 150 84  10 .05 .11  9 214 166 100 share .09
  striped .1 more .2 zoom 1.15 day 6 dusk 2 night 3 yellow 1 blue 2 red 2
  cactus 10 rock 6 mountain 4 palm 1 car 1 balloon 1
snow 24 36  206 216 234  178 192 218  7 .07 .05  9 186 198 220 share .12
  striped .1 more .3 zoom 1.05 day 4 dusk 2 night 4 red 3 blue 4 pine 9
  snowman 9 mountain 5 house 4 fence 2 rock 1 street_lamp 2
indoors 38 46  112 72 44  94 58 36  12 .16 .01  0 0 0 0 share .1 striped .5
  more .35 zoom 1.05 wall 1 purple 3 green 4 pink 2 red 2 table 7 window 7
  ball 5 balloon 5 flower 3 umbrella 2
underwater 48 56  176 186 138  190 184 136  9 .07 .19  0 0 0 0 share .09
  striped .5 more .5 zoom 1 deep 1 yellow 4 pink 3 purple 3 red 1 fish 10
  jellyfish 7 seaweed 8 rock 4 whale 2
day 88 152 226  190 216 240  1 sun 8 cloud 8 bird 2
dusk 92 70 130  244 160 100  .8 sun 6 cloud 3 bird 4
night 10 14 40  40 48 88  .62 moon 11 star 10 cloud 1
wall 214 196 166  226 210 184  1
deep 60 160 186  14 66 106  .9
rain 128 134 144  128 134 144  1 sun 0 moon 0 star 0 cloud 8
"""
_COLOUR_TABLE = """
red 208 42 42 yellow 242 208 48 green 52 150 58 blue 45 90 215 purple 150 60 180
  pink 246 150 196 white 246 246 248 pale 242 224 172 dark 38 36 44
  brown 110 68 42 wood 162 122 72 stone 148 144 142 slate 84 94 112
"""


def _entries(table: str) -> Iterator[list[tuple[str, np.ndarray]]]:
    for line in table.strip().replace("\n ", " ").splitlines():
        words = re.findall(r"([a-z]\w*)([-. \d]*)", line)
        yield [(word, np.array(n.split(), np.float32)) for word, n in words]


_SCENES = {
    name: (numbers, {word: float(n[0]) for word, n in odds})
    for (name, numbers), *odds in _entries(_SCENE_TABLE)
}
_SHARES = {n: o["share"] for n, (_, o) in _SCENES.items() if "share" in o}
_COLOURS: dict[str, np.ndarray] = dict(*_entries(_COLOUR_TABLE))
_OBJECTS = {
    name: (float(size[0]), zone, [(word, n.tolist()) for word, n in steps])
    for (name, size), (zone, _), *steps in _entries(_OBJECT_TABLE)
}
_SKIES = ("day", "dusk", "night", "wall", "deep")
_SETTINGS = (*_SKIES[:3], *_SHARES, "rain")
_ATTRIBUTES = (*_PAINTS, "striped", "large", "small", "crowded", "pair")
LABELS: tuple[str, ...] = (*_SETTINGS, *_OBJECTS, *_ATTRIBUTES)

_x = np.arange(SIZE, dtype=np.float32)[None, :]
_y = _x.T


# Pictures are to be the same on every machine: below are only + - * / and
# comparisons, and no libm, whose last bit differs between platforms.
def _wave(t: np.ndarray) -> np.ndarray:
    """A bump in [-1, 1] of period 1."""
    t = t - np.floor(t)
    return 8 * t * (1 - t) - 1


def _mask(form: str, n: list, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where the shape with the numbers `n` covers the points (u, v)."""
    if form[-1] == "2":
        form, u = form[:-1], abs(u)
    if form == "poly":  # inside: on the same side of all edges
        left: np.ndarray = np.zeros((), int)
        x, y = n[::2], n[1::2]
        for i in range(len(x)):
            a, b = x[i] - x[i - 1], y[i] - y[i - 1]
            left = left + (a * (v - y[i]) > b * (u - x[i]))
        return (left == 0) | (left == len(x))
    x, y = u - n[0], v - n[1]
    if form in ("box", "grid"):
        x, y = x / (n[2] - n[0]), y / (n[3] - n[1])
        mask = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
        if form == "grid":
            mask &= abs(x * n[4] % 1 - 0.5) < 0.33
            mask &= abs(y * n[5] % 1 - 0.5) < 0.33
        return mask
    if form == "ring":
        a, b = u - n[3], v - n[4]
        return (x * x + y * y < n[2] * n[2]) & (a * a + b * b >= n[5] * n[5])
    x, y = x / n[2], y / n[3]
    return (x * x + y * y < 1) & ((y <= 0) | (form == "oval"))


class _Scene:
    """A picture in the making, and the labels that are true of it."""

    def __init__(self, seed: int, index: int) -> None:
        rng = np.random.default_rng((seed, index))
        self.random, self.integers = rng.random, rng.integers
        place = self.pick(_SHARES, _SHARES)
        look, odds = _SCENES[place]
        time = self.pick(odds, _SKIES)
        sky, above = _SCENES[time]
        rain = self.random() < odds.get("rain", 0)
        self.truth = {place, time, *(["rain"] if rain else [])}
        self.odds, self.light = odds, float(sky[6])
        self.weights = {n: odds.get(n, 0) + above.get(n, 0) for n in _OBJECTS}
        if rain:
            grey, above = _SCENES["rain"]
            sky = (sky + 2 * self.light * grey) / 3
            self.weights |= above | {"rainbow": 9 * (time == "day")}
        self.paint(place, look, sky)
        self.owner = np.zeros((SIZE, SIZE), np.int64)  # object number, from 1
        self.spare = np.zeros(9)  # pixels that each object may still lose
        self.objects: list[str] = []
        self.add_objects()

    def between(self, low: float, high: float) -> float:
        return float(low) + (float(high) - float(low)) * self.random()

    def pick(self, odds: dict[str, float], names: Iterable[str]) -> str:
        """One of the names, by its weight in `odds`."""
        ends = np.cumsum([odds.get(name, 0) for name in names])
        at = np.searchsorted(ends, self.random() * ends[-1], "right")
        return [*names][int(at)]

    def tint(self) -> np.ndarray:
        return 28 * self.random(3, np.float32) - 14

    def paint(self, place: str, look: np.ndarray, sky: np.ndarray) -> None:
        """Paint the background; set the rows where objects stand."""
        horizon = shore = int(self.between(look[0], look[1] + 1))
        depth = ((_y - horizon) / (SIZE - horizon))[:, :, None]
        ground = look[2:5] + (look[5:8] - look[2:5]) * depth + self.tint()
        height = (_y / horizon)[:, :, None]
        above = sky[:3] + (sky[3:6] - sky[:3]) * height + self.tint()
        pixels = np.where(depth < 0, above, ground * self.light)
        self.pixels = pixels = pixels.repeat(SIZE, 1)
        if place == "beach":
            self.truth.add("sea")
            shore += int(self.integers(10, 17))
            edge = shore + 2 * _wave(_x * 0.04 + self.random())
            pixels[_y >= edge] = (_COLOURS["pale"] + self.tint()) * self.light
        ridge = look[11] * (0.7 + 0.3 * _wave(_x * 0.06 + self.random()))
        if place == "city":
            ridge = self.integers(4, look[11], 13).repeat(5)[None, :SIZE]
        hills = (_y < horizon) & (_y >= horizon - ridge)
        pixels[hills] = (look[12:] + self.tint()) * self.light
        bend = _wave(_x * 0.03 + self.random())
        ripples = look[8] * _wave(_x * look[9] + _y * look[10] + 0.4 * bend)
        ripples *= self.light * self.between(0.5, 1.3) * (_y >= horizon)
        slope = _x * self.between(-0.04, 0.04) + _y * 0.03 + self.random()
        pixels += (ripples + 6 * _wave(slope))[:, :, None]
        surface = 10 if place == "underwater" else horizon + 6
        self.zones = {  # rows for the feet of objects, far zones first
            "sky": (14, horizon + 2),
            "far": (horizon, horizon + 4),
            "water": (surface, shore + 3 if shore > horizon else SIZE - 3),
            "land": (shore + 3, SIZE - 1),
        }

    def add_objects(self) -> None:
        """Draw 3 to 8 objects, from back to front."""
        plan = []
        for _ in range(3 + int((self.random(5) < self.odds["more"]).sum())):
            name = self.pick(self.weights, self.weights)
            self.weights[name] *= 0 if name in _ONCE else 0.25
            size, zone, _ = _OBJECTS[name]
            s = size * self.odds["zoom"] * self.between(0.7, 1.4)
            base = max(self.between(*self.zones[zone]), 1.9 * s)
            layer = min([*self.zones].index(zone), 2)
            plan.append((layer, base, max(s, 3.5), name))
        for _, base, s, name in sorted(plan):
            self.add_object(name, base, s)
        if len(self.objects) >= _CROWD:
            self.truth.add("crowded")
        if len(set(self.objects)) < len(self.objects):
            self.truth.add("pair")

    def add_object(self, name: str, base: float, s: float) -> None:
        """Draw one with its foot on row `base`, `s` pixels to each side."""
        steps = _OBJECTS[name][2]
        traits = {word for word, _ in steps} & {*_ATTRIBUTES, "paint"}
        paint = self.pick(self.odds, _PAINTS)
        colours = _COLOURS | {"paint": _COLOURS[paint]}
        if "paint" in traits:
            traits.add(paint)
            if s >= 5 and self.random() < self.odds["striped"]:
                traits.add("striped")
        light = max(self.light, 0.95) if name in _GLOWING else self.light
        for _ in range(12):  # elsewhere and smaller, if it hides another
            x, y = self.between(0.8 * s, SIZE - 0.8 * s), base - s
            rows = slice(max(int(y - s), 0), int(base) + 2)
            columns = slice(max(int(x - s), 0), int(x + s) + 2)
            window, v = (rows, columns), (_y[rows] - y) / s
            u = (_x[:, columns] - x) / s * (1 - 2 * int(self.integers(2)))
            u = u + self.between(-0.12, 0.12) * v
            slope = u * min(s / 5, 1.8) + self.between(-0.8, 0.8) * v
            bands, tint = _wave(slope) > 0.4, self.tint()
            pixels = self.pixels[window].copy()
            covered = np.zeros(u.shape, bool)
            for word, numbers in steps:
                if not numbers:
                    colour = word
                    continue
                mask = _mask(word, numbers, u, v)
                covered |= mask
                pixels[mask] = (colours[colour] + tint) * light
                if colour == "paint" and "striped" in traits:
                    pixels[mask & bands] = _COLOURS["white"] * light
            lost = np.bincount(self.owner[window][covered], minlength=9)
            if (lost > self.spare)[1:].any():
                s = max(s * 0.93, 3.5)
                continue
            self.objects.append(name)
            self.pixels[window] = pixels
            self.owner[window][covered] = len(self.objects)
            self.spare -= lost
            self.spare[len(self.objects)] = _MAY_HIDE * covered.sum()
            if not _SMALL <= 2 * s < _LARGE:
                traits.add("small" if 2 * s < _SMALL else "large")
            self.truth |= traits | {name}
            return


def render(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture: a pure function of `seed` and `index`, both >= 0.

    Returns the image, uint8 [64, 64, 3] (RGB), and its labels, int8
    [len(LABELS)]: +1 if the picture shows the label, else -1.
    """
    scene = _Scene(seed, index)
    if "rain" in scene.truth:
        (y, x), fall = scene.integers(0, SIZE, (2, 45, 1)), np.arange(7)
        scene.pixels[(y + fall) % SIZE, (x - fall // 3) % SIZE] += 45
    # A sum of four uniform bytes is near enough to normal, and exact.
    noise = scene.integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    scene.pixels += (noise.sum(0, np.int16) - 510) * np.float32(_NOISE / 147.8)
    image = np.rint(np.clip(scene.pixels, 0, 255)).astype(np.uint8)
    labels = [1 if label in scene.truth else -1 for label in LABELS]
    return image, np.array(labels, np.int8)

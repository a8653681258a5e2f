"""Draws scenes at random: what is in a picture or a clip, as facts to ask about, together with the recipe that shows it.

A scene is a dict: "facts", what the questions (questions.py) need to know, and "recipe", what draw.py and clips.py need.
"""
import colorsys
import functools
import glob
import math

import draw
import sounds
from words import ANIMALS, COLOURS, DIRECTIONS, GREY, PLACES, THINGS, pairs

FONTS = [f"dejavu/DejaVu{name}.ttf" for name in ("Sans", "Sans-Bold", "SansMono", "SansMono-Bold", "Serif", "Serif-Bold")] + ["liberation/*.ttf"]
UNSEEN_FONTS = ["freefont/*.ttf"]
GLYPHS = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # no I and O, which many fonts draw like 1 and 0
DARK, LIGHT = (20, 20, 20), (245, 245, 245)


def rgb_in(rng, ranges):
    (h0, h1), (s0, s1), (v0, v1) = ranges
    r = colorsys.hsv_to_rgb(rng.uniform(h0, h1) / 360 % 1.0, rng.uniform(s0, s1), rng.uniform(v0, v1))
    return [round(255 * c) for c in r]


def colour_rgb(rng, name):
    return rgb_in(rng, GREY if name == "grey" else COLOURS[name])


def far(one, other):
    """Two colours that nobody would confuse."""
    return math.dist(one, other) > 130


def ground_of(rng, avoid):
    """A background that the colours (RGB) to avoid stand out from: its name, or None when it has no plain name; and its recipe."""
    for _ in range(1000):
        kind = rng.choice(["plain"] * 5 + ["pastel", "gradient"])
        if kind == "plain":
            name = rng.choice(["white"] * 6 + ["black"] * 4 + ["grey"] * 3 + list(COLOURS))
            ground = {"rgb": colour_rgb(rng, name)}
        else:
            name, tint = None, ((0, 360), (0.05, 0.3), (0.85, 1.0)) if rng.random() < 0.7 else ((0, 360), (0.2, 0.6), (0.15, 0.3))
            ground = {"rgb": rgb_in(rng, tint)}
            if kind == "gradient":
                ground.update(to=rgb_in(rng, tint), across=rng.random() < 0.5)
        if all(far(c, ground[g]) for c in avoid for g in ("rgb", "to") if g in ground):
            return name, ground
    raise ValueError(f"no background stands out from {avoid}")


def finish(rng, scene, ground, items, size=None):
    """The recipe of a picture: its ground and items, and what a camera adds."""
    for item in items:
        if item.get("shape") == "ring":
            item["hole"] = ground["rgb"]
    recipe = {"kind": "picture", "size": size or rng.choice([64, 80, 96, 96, 112, 128]), "ground": ground, "items": items,
              "noise": rng.choice([0, 0, 0, round(rng.uniform(2, 7), 2)]), "blur": rng.choice([0, 0, 0, round(rng.uniform(0.3, 0.7), 2)]),
              "seed": rng.getrandbits(32), "quality": rng.randint(80, 95)}
    ending = rng.choice(["png"] * 6 + ["jpg"] * 3 + ["webp"])
    if ending != "jpg" and ending != "webp":
        del recipe["quality"]
    return {**scene, "recipe": recipe, "ending": ending}


def item_of(rng, colour, shape, x, y, r):
    item = {"shape": shape, "colour": colour, "rgb": colour_rgb(rng, colour), "x": round(x, 3), "y": round(y, 3), "r": round(r, 3),
            "form": round(rng.random(), 2), "turn": round(rng.uniform(-12, 12), 1)}
    if shape in ("heart", "triangle") and rng.random() < 0.5:
        item["turn"] = 0
    if shape not in ("ring",) and rng.random() < 0.15:
        item["edge"] = DARK if sum(item["rgb"]) > 380 else LIGHT
    return item


def gradients_off(ground, items):
    """Rings show the ground through their hole, which a gradient would betray."""
    if any(i.get("shape") == "ring" for i in items):
        return {"rgb": ground["rgb"]}
    return ground


def compose(rng, scene, items, size=None):
    name, ground = ground_of(rng, [i["rgb"] for i in items if "rgb" in i])
    ground = gradients_off(ground, items)
    scene["facts"]["ground"] = name
    return finish(rng, scene, ground, items, size)


def near_place(rng, place):
    x, y = PLACES[place]
    return x + rng.uniform(-0.05, 0.05), y + rng.uniform(-0.05, 0.05)


def one_shape(rng, held_out=False):
    """One shape: anywhere in a named place, or big, in the middle."""
    colour, shape = rng.choice(pairs(held_out))
    size, place = rng.choice(["big", "small", None, None]), rng.choice(list(PLACES))
    if size == "big":
        place = None
        x, y, r = 0.5 + rng.uniform(-0.04, 0.04), 0.5 + rng.uniform(-0.04, 0.04), rng.uniform(0.36, 0.44)
    else:
        (x, y), r = near_place(rng, place), rng.uniform(0.155, 0.18) if size == "small" else rng.uniform(0.2, 0.27)
        x, y = (min(max(z, r + 0.02), 0.98 - r) for z in (x, y))
    facts = {"scene": "one", "items": [{"colour": colour, "shape": shape, "place": place, "size": size}]}
    return compose(rng, {"facts": facts}, [item_of(rng, colour, shape, x, y, r)])


def two_shapes(rng, held_out=False):
    """Two shapes of different colour and kind, side by side or one above the other."""
    first = rng.choice(pairs(held_out))
    second = rng.choice([p for p in pairs(False) if p[0] != first[0] and p[1] != first[1]])
    across = rng.random() < 0.5
    names = ["left of", "right of"] if across else ["above", "below"]
    r = [rng.uniform(0.17, 0.22) for _ in range(2)]
    near, wide = [rng.uniform(0.24, 0.28), rng.uniform(0.72, 0.76)], [rng.uniform(0.35, 0.65) for _ in range(2)]
    spots = list(zip(near, wide)) if across else list(zip(wide, near))
    if held_out and rng.random() < 0.5:
        first, second = second, first
    items = [item_of(rng, *pair, *spot, radius) for pair, spot, radius in zip((first, second), spots, r)]
    for _ in range(200):
        if far(items[0]["rgb"], items[1]["rgb"]):
            break
        items[1]["rgb"] = colour_rgb(rng, second[0])
    facts = {"scene": "two", "items": [{"colour": c, "shape": s} for c, s in (first, second)], "relation": names}
    return compose(rng, {"facts": facts}, items)


def group(rng, held_out=False):
    """Two to five equal shapes, apart from one another."""
    colour, shape = rng.choice(pairs(held_out))
    count = rng.randint(1, 5)
    cells = rng.sample([(x, y) for x in (0.2, 0.5, 0.8) for y in (0.2, 0.5, 0.8)], count)
    r, pattern = rng.uniform(0.125, 0.138), item_of(rng, colour, shape, 0, 0, 0)
    items = [{**pattern, "x": round(x + rng.uniform(-0.012, 0.012), 3), "y": round(y + rng.uniform(-0.012, 0.012), 3), "r": round(r, 3)} for x, y in cells]
    return compose(rng, {"facts": {"scene": "group", "count": count, "colour": colour, "shape": shape}}, items)


@functools.lru_cache(maxsize=2)
def fonts(unseen):
    return sorted(path for pattern in (UNSEEN_FONTS if unseen else FONTS) for path in glob.glob("/usr/share/fonts/truetype/" + pattern))


def glyph(rng, unseen=False):
    character, colour = rng.choice(GLYPHS), rng.choice(list(COLOURS))
    item = {"glyph": character, "font": rng.choice(fonts(unseen)), "rgb": colour_rgb(rng, colour), "turn": round(rng.uniform(-8, 8), 1),
            "x": round(0.5 + rng.uniform(-0.08, 0.08), 3), "y": round(0.5 + rng.uniform(-0.08, 0.08), 3), "r": round(rng.uniform(0.28, 0.4), 3)}
    return compose(rng, {"facts": {"scene": "glyph", "glyph": character, "colour": colour}}, [item])


def pictogram(rng, names=None):
    name = rng.choice(names or list(THINGS))
    item = {"emoji": rng.choice(THINGS[name]), "turn": round(rng.uniform(-10, 10), 1), "x": round(0.5 + rng.uniform(-0.05, 0.05), 3),
            "y": round(0.5 + rng.uniform(-0.05, 0.05), 3), "r": round(rng.uniform(0.35, 0.45), 3)}
    ground = rng.choice([("white", LIGHT), ("white", [255, 255, 255]), (None, rgb_in(rng, ((0, 360), (0.03, 0.2), (0.9, 1.0)))), ("grey", [200, 200, 200])])
    ground = (None, ground[1]) if ground[0] == "grey" else ground
    facts = {"scene": "thing", "thing": name, "animal": name in ANIMALS, "ground": ground[0]}
    return finish(rng, {"facts": facts}, {"rgb": list(ground[1])}, [item])


def empty(rng):
    return compose(rng, {"facts": {"scene": "empty"}}, [])


def digit(rng, index):
    """A handwritten digit of scikit-learn's set, dark on light or light on dark."""
    dark = rng.random() < 0.5
    item = {"digit": index, "rgb": list(DARK if dark else LIGHT), "x": 0.5, "y": 0.5, "r": round(rng.uniform(0.33, 0.45), 3)}
    facts = {"scene": "glyph", "glyph": str(draw.handwritten()[0][index]), "ground": None}
    return finish(rng, {"facts": facts}, {"rgb": list(LIGHT if dark else DARK)}, [item])


PICTURES = {"one": one_shape, "two": two_shapes, "group": group, "glyph": glyph, "thing": pictogram, "empty": empty}
PICTURE_WEIGHTS = {"one": 38, "two": 22, "group": 16, "glyph": 13, "thing": 12, "empty": 1}


# --- clips ---

def clip(rng, held_out=False, event=None, tone=None):
    """One shape that does something, or two of which one does. tone: "a rising tone" or "a falling tone", the track of a shape that moves
    up or down."""
    colour, shape = rng.choice(pairs(held_out))
    event = event or rng.choice(["moves"] * 5 + ["rests", "changes colour", "changes size", "blinks"])
    facts = {"scene": "clip", "colour": colour, "shape": shape, "event": event}
    item = {**item_of(rng, colour, shape, rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65), rng.uniform(0.19, 0.24)), "event": event}
    if event == "moves":
        direction = rng.choice(["up", "down"]) if tone else rng.choice(list(DIRECTIONS))
        moves(rng, item, facts, direction)
    elif event == "changes colour":
        others = [c for c, s in pairs(held_out and rng.random() < 0.5) if s == shape and c != colour]
        facts["second"] = rng.choice(others or [c for c, s in pairs(False) if s == shape and c != colour])
        item["second"], item["second_colour"] = apart(rng, item, facts["second"]), facts["second"]
    elif event == "changes size":
        item.update(r=round(rng.uniform(0.12, 0.15), 3), grows=round(rng.uniform(2.2, 2.9), 2))
        item.update(event="changes size", x=0.5, y=0.5)
        if rng.random() < 0.5:
            item.update(r=round(item["r"] * item["grows"], 3), grows=round(1 / item["grows"], 3))
    name, ground = ground_of(rng, [item["rgb"]] + ([item["second"]] if "second" in item else []))
    item["hole"], facts["ground"] = ground["rgb"], name
    recipe = {"kind": "clip", "size": rng.choice([64, 80, 96]), "frames": rng.choice([8, 10, 12, 16]), "fps": 8, "ground": {"rgb": ground["rgb"]},
              "items": [item], "noise": rng.choice([0, 0, round(rng.uniform(2, 5), 2)]), "seed": rng.getrandbits(32)}
    if tone:
        facts["tone"] = tone
        recipe["track"] = {**sounds.recipe_of(rng, tone)}
    return {"facts": facts, "recipe": recipe, "ending": rng.choice(["mp4", "mp4", "webm"])}


def moves(rng, item, facts, direction):
    """From one side of the frame to the other; the trail behind it tells the direction in every frame."""
    dx, dy = DIRECTIONS[direction]
    far_side, drift = rng.uniform(0.22, 0.28), rng.uniform(-0.2, 0.2)
    x, y = 0.5 + drift * abs(dy), 0.5 + drift * abs(dx)
    item.update(x=round(x - dx * far_side, 3), y=round(y - dy * far_side, 3), to=[round(x + dx * far_side, 3), round(y + dy * far_side, 3)],
                trail=[dx * 1.1, dy * 1.1])
    facts["direction"] = direction


def apart(rng, item, name):
    for _ in range(200):
        rgb = colour_rgb(rng, name)
        if far(rgb, item["rgb"]):
            break
    return rgb


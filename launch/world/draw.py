"""Draws pictures from recipes: shapes, glyphs of fonts, pictograms and handwritten digits on a background."""
import functools
import gzip
import math

import numpy
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SCALE = 4  # drawn larger, then reduced: smooth edges
EMOJI = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
EMOJI_SIZE = 109  # the only size that its bitmaps have
DIGITS = "/usr/lib/python3/dist-packages/sklearn/datasets/data/digits.csv.gz"


def polygon(n, inner=1.0, turn=0.0):
    """Corners of a regular polygon or star around 0 with radius 1, the first at the top."""
    angles = [math.pi * (2 * i / n) for i in range(n)] if inner == 1.0 else [math.pi * i / n for i in range(2 * n)]
    radii = [1.0 if inner == 1.0 or i % 2 == 0 else inner for i in range(len(angles))]
    return [(r * math.sin(t + turn), -r * math.cos(t + turn)) for t, r in zip(angles, radii)]


def heart():
    points = []
    for i in range(48):
        t = 2 * math.pi * i / 48
        points.append((math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17 - 0.1))
    return points


def cross(w):
    return [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w)]


def outline(shape, form):
    """Corners of the shape with radius about 1; form, 0..1, chooses among variants of one shape."""
    if shape in ("circle", "ring"):
        return polygon(60)
    if shape == "square":
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if shape == "triangle":
        return [(x * (0.85 + 0.3 * form), y) for x, y in polygon(3)]
    if shape == "star":
        return polygon(5, 0.36 + 0.1 * form)
    if shape == "heart":
        return heart()
    if shape == "cross":
        return cross(0.25 + 0.12 * form)
    return [(0, -1), (0.55 + 0.2 * form, 0), (0, 1), (-0.55 - 0.2 * form, 0)]  # diamond


def place(points, item, side):
    """Corners in pixels of a canvas of that side, turned, scaled and moved as the item says."""
    c, s = math.cos(math.radians(item.get("turn", 0))), math.sin(math.radians(item.get("turn", 0)))
    return [((item["x"] + item["r"] * (x * c - y * s)) * side, (item["y"] + item["r"] * (x * s + y * c)) * side) for x, y in points]


def draw_shape(image, item):
    side, pen = image.width, ImageDraw.Draw(image)
    corners = place(outline(item["shape"], item.get("form", 0.5)), item, side)
    pen.polygon(corners, fill=tuple(item["rgb"]))
    if item["shape"] == "ring":
        hole = place(outline("circle", 0), {**item, "r": item["r"] * (0.45 + 0.2 * item.get("form", 0.5))}, side)
        pen.polygon(hole, fill=tuple(item["hole"]))
    if "edge" in item:
        pen.line(corners + corners[:2], fill=tuple(item["edge"]), width=max(2, round(0.012 * side)), joint="curve")


def paste(image, stamp, item):
    """Puts a picture with an alpha channel at the item's place, 2 r wide."""
    side = image.width
    width = max(1, round(2 * item["r"] * side))
    stamp = stamp.resize((width, max(1, round(width * stamp.height / stamp.width))), Image.LANCZOS)
    if item.get("turn"):
        stamp = stamp.rotate(-item["turn"], Image.BICUBIC, expand=True)
    image.paste(stamp, (round(item["x"] * side - stamp.width / 2), round(item["y"] * side - stamp.height / 2)), stamp)


@functools.lru_cache(maxsize=64)
def font_of(path, size):
    return ImageFont.truetype(path, size)


@functools.lru_cache(maxsize=64)
def pictogram(character):
    image = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((12, 12), character, font=font_of(EMOJI, EMOJI_SIZE), embedded_color=True)
    return image.crop(image.getbbox())


def draw_glyph(image, item):
    font = font_of(item["font"], 200)
    left, top, right, bottom = font.getbbox(item["glyph"])
    mask = Image.new("L", (right - left + 8, bottom - top + 8), 0)
    ImageDraw.Draw(mask).text((4 - left, 4 - top), item["glyph"], fill=255, font=font)
    stamp = Image.new("RGBA", mask.size, tuple(item["rgb"]) + (0,))
    stamp.putalpha(mask)
    # r is half the height, so that an I is as high as a W
    paste(image, stamp, {**item, "r": item["r"] * mask.width / mask.height})


@functools.lru_cache(maxsize=1)
def handwritten():
    """Labels [n] and pictures [n, 8, 8] of 0..16 of scikit-learn's digits (UCI, Alpaydin and Kaynak)."""
    with gzip.open(DIGITS, "rt") as file:
        rows = numpy.loadtxt(file, delimiter=",").astype(int)
    return rows[:, 64], rows[:, :64].reshape(-1, 8, 8)


def draw_handwritten(image, item):
    ink = handwritten()[1][item["digit"]] * 255 // 16
    mask = Image.fromarray(ink.astype(numpy.uint8)).resize((256, 256), Image.BICUBIC)
    stamp = Image.new("RGBA", mask.size, tuple(item["rgb"]) + (0,))
    stamp.putalpha(mask)
    paste(image, stamp, item)


def background(recipe, side):
    ground = recipe["ground"]
    image = Image.new("RGB", (side, side), tuple(ground["rgb"]))
    if "to" in ground:  # a gradient, from the top to the bottom or from left to right
        ramp = Image.linear_gradient("L").resize((side, side))
        if ground["across"]:
            ramp = ramp.transpose(Image.ROTATE_90)
        image.paste(Image.new("RGB", (side, side), tuple(ground["to"])), (0, 0), ramp)
    return image


def trail(image, item):
    """Fading copies behind a thing that moves: direction shows in every single frame."""
    dx, dy = item["trail"]
    for i in range(3, 0, -1):
        ghost = image.copy()
        draw_item(ghost, {**{k: v for k, v in item.items() if k not in ("trail", "edge")},
                          "x": item["x"] - dx * i * 0.45 * item["r"], "y": item["y"] - dy * i * 0.45 * item["r"]})
        image.paste(Image.blend(image, ghost, 0.62 - 0.16 * i))


def draw_item(image, item):
    if "trail" in item:
        trail(image, item)
    if "shape" in item:
        draw_shape(image, item)
    elif "glyph" in item:
        draw_glyph(image, item)
    elif "emoji" in item:
        paste(image, pictogram(item["emoji"]), item)
    else:
        draw_handwritten(image, item)


def picture(recipe):
    """The image of a recipe: size, ground, items, and optionally noise, blur and a seed for them."""
    side = recipe["size"]
    image = background(recipe, side * SCALE)
    for item in recipe["items"]:
        draw_item(image, item)
    image = image.resize((side, side), Image.BOX)
    if recipe.get("blur"):
        image = image.filter(ImageFilter.GaussianBlur(recipe["blur"]))
    if recipe.get("noise"):
        rough = numpy.random.default_rng(recipe["seed"]).normal(0, recipe["noise"], (side, side, 3))
        image = Image.fromarray(numpy.clip(numpy.asarray(image) + rough, 0, 255).astype(numpy.uint8))
    return image


def save(image, path, ending, quality):
    if ending == "png":
        image.save(path, "PNG", compress_level=6)
    elif ending == "jpg":
        image.save(path, "JPEG", quality=quality)
    else:
        image.save(path, "WEBP", quality=quality, method=2)


def render(recipe, path, ending):
    save(picture(recipe), path, ending, recipe.get("quality", 90))

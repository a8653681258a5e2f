#!/usr/bin/env python3
"""Makes the JPEGs of this folder and expected.safetensors: what Pillow decodes from them, and pixel tensors of made-up images
after the reference's steps (resize, centre crop, rescale, normalise; transformers 4.31 does them as written here).

Needs Pillow 10.0.0, numpy, safetensors. Newer Pillow resizes tall images column-wise first, which moves single grey levels.
usage: make.py          writes into its own folder
"""
import io
import math
import pathlib

import numpy as np
import PIL
from PIL import Image
from safetensors.numpy import save_file

MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
HERE = pathlib.Path(__file__).resolve().parent

# width, height, S, shorter side, resize, pad
CASES = [
    (5, 7, 8, 8, 1, 0), (300, 9, 8, 8, 1, 0), (9, 300, 8, 8, 1, 0), (1, 1, 6, 6, 1, 0), (1, 2000, 6, 6, 1, 0),
    (2000, 1, 6, 6, 1, 0), (64, 48, 16, 16, 1, 0), (65, 47, 15, 17, 1, 0), (64, 48, 17, 11, 1, 0), (47, 65, 12, 7, 1, 0),
    (13, 31, 9, 9, 0, 0), (7, 31, 10, 10, 0, 0), (31, 7, 9, 9, 0, 0), (30, 17, 8, 8, 1, 1), (17, 30, 8, 8, 1, 1),
    (40, 3, 12, 12, 1, 1), (3, 40, 12, 12, 1, 1), (21, 21, 8, 8, 1, 1), (16, 16, 16, 16, 1, 0),
]


def made_up(w, h):
    """test_preprocess.c makes the same image: a hash, and a hard edge at which resizing overshoots."""
    i = np.arange(w * h * 3, dtype=np.uint32)
    v = (i * np.uint32(2654435761)) >> np.uint32(24)
    v = np.where((i // 3) % np.uint32(w) < w // 2, v | 224, v & 31)
    return v.astype(np.uint8).reshape(h, w, 3)


def padded(im):
    if im.width == im.height:
        return im
    side = max(im.size)
    out = Image.new("RGB", (side, side), tuple(int(m * 255) for m in MEAN))
    out.paste(im, ((side - im.width) // 2, (side - im.height) // 2))
    return out


def cropped(x, side):
    h, w = x.shape[:2]
    high, wide = max(side, h), max(side, w)
    top, left = math.ceil((high - h) / 2), math.ceil((wide - w) / 2)
    room = np.zeros((high, wide, 3), np.uint8)
    room[top:top + h, left:left + w] = x
    top += (h - side) // 2
    left += (w - side) // 2
    return room[top:top + side, left:left + side]


def pixels(w, h, side, short, resize, pad):
    im = Image.fromarray(made_up(w, h))
    im = padded(im) if pad else im
    if resize:
        lo, hi = sorted(im.size)
        longer = int(short * hi / lo)
        im = im.resize((short, longer) if im.width <= im.height else (longer, short), Image.BICUBIC)
    x = (cropped(np.asarray(im), side) * (1 / 255)).astype(np.float32)
    x = (x - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(x.transpose(2, 0, 1))


def main():
    assert PIL.__version__ == "10.0.0", PIL.__version__
    rng = np.random.default_rng(3)
    smooth = Image.fromarray(rng.integers(0, 256, (4, 5, 4), dtype=np.uint8), "CMYK").resize((29, 19), Image.BICUBIC)
    rgb = smooth.convert("RGB")
    out = {}
    for name, im, options in [
        ("gray.jpg", rgb.convert("L"), {}),
        ("cmyk.jpg", smooth, {}),
        ("progressive.jpg", rgb, {"progressive": True, "quality": 85}),
        ("wide-chroma.jpg", rgb, {"subsampling": 2, "quality": 60}),
        ("full-chroma.jpg", rgb, {"subsampling": 0, "quality": 70}),
    ]:
        data = io.BytesIO()
        im.save(data, "JPEG", **options)
        (HERE / name).write_bytes(data.getvalue())
        out["rgb." + name] = np.asarray(Image.open(io.BytesIO(data.getvalue())).convert("RGB"))
    for case in CASES:
        out["pixels." + ".".join(map(str, case))] = pixels(*case)
    save_file(out, HERE / "expected.safetensors")


if __name__ == "__main__":
    main()

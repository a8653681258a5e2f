#!/usr/bin/env python3
"""Makes the small files of formats/ and formats/expected.txt: for each file its size and the SHA-256 of the RGB bytes that Pillow
gives, Image.open(f).convert("RGB"), or "refused" where Pillow raises.

Every file is lossless or of one colour, so that any version of a decoding library gives the same bytes.
Needs Pillow 10.1.0, numpy, and for AVIF pillow-avif-plugin and the programs avifenc and webpmux.
usage: make_formats.py          writes into its own folder
"""
import hashlib
import io
import pathlib
import struct
import subprocess
import zlib

import numpy as np
import PIL
from PIL import Image
import pillow_avif  # noqa: F401, registers the format

OUT = pathlib.Path(__file__).resolve().parent / "formats"
W, H = 13, 9
rng = np.random.default_rng(7)


def random(*shape, top=256, kind=np.uint8):
    return rng.integers(0, top, shape).astype(kind)


RGBA = Image.fromarray(random(4, 5, 4), "RGBA").resize((W, H), Image.BICUBIC)
RGB = RGBA.convert("RGB")
GRAY, CMYK, PALETTE = RGB.convert("L"), RGB.convert("CMYK"), RGB.quantize(16)
BITS = GRAY.convert("1")
GRAY16 = Image.fromarray(random(H, W, top=400, kind=np.uint16))
COLOURS = random(16, 3).tobytes()


def put(name, data):
    (OUT / name).write_bytes(data)


def save(name, image, fmt=None, **options):
    image.save(OUT / name, fmt, **options)


# ---- GIF, written here: what Pillow does not write ----

def lzw(indices, bits=7):
    """LZW data of codes that are never shorter than a pixel: a clear code comes before the code would grow."""
    out, acc, n = bytearray(), 0, 0
    codes = []
    for i, index in enumerate(indices):
        if i % ((1 << bits) - 2) == 0:
            codes.append(1 << bits)
        codes.append(index)
    for code in codes + [(1 << bits) + 1]:
        acc |= code << n
        n += bits + 1
        while n >= 8:
            out.append(acc & 255)
            acc >>= 8
            n -= 8
    out.append(acc & 255)
    blocks = [bytes(out[i:i + 255]) for i in range(0, len(out), 255)]
    return bytes([bits]) + b"".join(bytes([len(b)]) + b for b in blocks) + b"\0"


def table_flags(table):
    return 0x80 | ((len(table) // 3 - 1).bit_length() - 1) if table else 0


def gif(screen, at, size, indices, table=COLOURS, local=b"", clear=None, interlaced=False, junk=b""):
    out = b"GIF89a" + struct.pack("<HHBBB", *screen, table_flags(table), 3 if table else 0, 0) + table
    if clear is not None:
        out += b"!\xf9\4" + bytes([1, 0, 0, clear]) + b"\0"
    out += junk + b"," + struct.pack("<HHHHB", *at, *size, table_flags(local) | 0x40 * interlaced) + local
    return out + lzw(indices) + b";"


def gifs():
    dots, few = random(H * W, top=16).tobytes(), random(H * W, top=8).tobytes()
    save("palette.gif", PALETTE)
    save("animated.gif", PALETTE, save_all=True, append_images=[RGB.rotate(90).quantize(8)], duration=50)
    put("offset.gif", gif((20, 15), (3, 4), (W, H), dots))
    put("offset-clear.gif", gif((20, 15), (3, 4), (W, H), dots, clear=7))
    put("beyond-screen.gif", gif((8, 8), (3, 2), (W, H), dots))
    put("no-screen.gif", gif((0, 0), (0, 0), (W, H), dots))
    put("interlaced.gif", gif((W, H), (0, 0), (W, H), dots, interlaced=True))
    put("local-colours.gif", gif((W, H), (0, 0), (W, H), few, local=COLOURS[:24], clear=2))
    put("only-local.gif", gif((W, H), (0, 0), (W, H), few, table=b"", local=COLOURS[24:]))
    put("no-colours.gif", gif((15, H), (0, 0), (W, H), dots, table=b"", clear=9))
    put("past-colours.gif", gif((W, H), (0, 0), (W, H), dots, table=COLOURS[:24]))
    put("junk-between.gif", gif((W, H), (0, 0), (W, H), dots, junk=b"\0\0\7"))
    whole = gif((W, H), (0, 0), (W, H), dots)
    put("no-trailer.gif", whole[:-1])
    put("no-terminator.gif", whole[:-2])
    put("cut.gif", whole[:-30])
    put("short.gif", gif((W, H), (0, 0), (W, H), dots[:50]))


# ---- BMP ----

def bmp(bits, rows, height=H, kind=0, colours=b"", head=40, masks=b"", between=b""):
    data = b"".join(r + b"\0" * (-len(r) % 4) for r in rows) if isinstance(rows, list) else rows
    if head == 12:
        dib = struct.pack("<IHHHH", 12, W, height, 1, bits)
    else:
        dib = struct.pack("<IiiHHIIiiII", head, W, height, 1, bits, kind, len(data), 0, 0, len(colours) // 4 % 256, 0)
        dib += (masks + b"\0" * head)[:head - 40]
    start = 14 + len(dib) + len(between) + len(colours)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + dib + between + colours + data


def four(colours):
    return b"".join(colours[i:i + 3] + b"\0" for i in range(0, len(colours), 3))


def bmps():
    nibbles = random(H, W + 1, top=16)
    nibbles[:, W] = 0
    packed4 = [bytes(r[0::2] << 4 | r[1::2]) for r in nibbles]
    packed1 = [np.packbits(r).tobytes() for r in random(H, W, top=2)]
    bytes8, colour24 = [r.tobytes() for r in random(H, W, top=16)], [r.tobytes() for r in random(H, W, 3)]
    words, longs = [r.tobytes() for r in random(H, W * 2)], [r.tobytes() for r in random(H, W * 4)]
    run8 = b"".join(b"".join(bytes([1, v]) for v in r) + b"\0\0" for r in bytes8) + b"\0\1"
    plain8 = b"".join(bytes([0, W]) + r + b"\0\0\0" for r in bytes8) + b"\0\1"
    run4 = b"".join(bytes([10, r[0], 3, r[1]]) + b"\0\0" for r in packed4) + b"\0\1"
    fields = {565: (0xf800, 0x7e0, 0x1f), 555: (0x7c00, 0x3e0, 0x1f), 888: (0xff0000, 0xff00, 0xff)}
    masks = {k: struct.pack("<III", *v) for k, v in fields.items()}
    put("1.bmp", bmp(1, packed1, colours=four(COLOURS[:6])))
    put("4.bmp", bmp(4, packed4, colours=four(COLOURS)))
    put("8.bmp", bmp(8, bytes8, colours=four(COLOURS)))
    put("8-past.bmp", bmp(8, bytes8, colours=four(COLOURS[:24])))
    put("16.bmp", bmp(16, words))
    put("16-565.bmp", bmp(16, words, kind=3, between=masks[565]))
    put("16-555.bmp", bmp(16, words, kind=3, between=masks[555]))
    put("24.bmp", bmp(24, colour24))
    put("24-v5.bmp", bmp(24, colour24, head=124))
    put("32.bmp", bmp(32, longs))
    put("32-fields.bmp", bmp(32, longs, kind=3, between=masks[888]))
    put("32-v4.bmp", bmp(32, longs, kind=3, head=108, masks=masks[888] + struct.pack("<I", 0xff000000)))
    put("top-down.bmp", bmp(24, colour24, height=-H))
    put("rle8.bmp", bmp(8, run8, kind=1, colours=four(COLOURS)))
    put("rle8-plain.bmp", bmp(8, plain8, kind=1, colours=four(COLOURS)))
    put("rle4.bmp", bmp(4, run4, kind=2, colours=four(COLOURS)))
    put("os2-8.bmp", bmp(8, bytes8, head=12, colours=COLOURS + b"\0" * 720))
    put("os2-24.bmp", bmp(24, colour24, head=12))
    put("no-padding.bmp", bmp(24, colour24)[:-1])
    put("wrong-size.bmp", (lambda b: b[:2] + struct.pack("<I", 60) + b[6:])(bmp(24, colour24)))
    put("cut.bmp", bmp(24, colour24)[:-50])


# ---- TIFF ----

def tiff(name, samples, bits, photometric, big=False, **tags):
    """One strip, uncompressed. tags: t338=[...] and so on, all of type SHORT."""
    data = samples if isinstance(samples, bytes) else samples.tobytes()
    order, count = (">" if big else "<"), len(bits)
    entries = {256: [W], 257: [H], 258: bits, 259: [1], 262: [photometric], 277: [count], 278: [H]}
    entries.update({int(k[1:]): v for k, v in tags.items()})
    entries.update({273: [0], 279: [len(data)]})
    base, extra, out = 10 + 12 * len(entries) + 4, b"", b""
    for tag, values in sorted(entries.items()):
        value = struct.pack(order + "H" * len(values), *values) if tag not in (273, 279) else b""
        if tag in (273, 279):
            value, kind = struct.pack(order + "I", values[0]), 4
        else:
            kind = 3
        if len(value) > 4:
            extra, value = extra + value, struct.pack(order + "I", base + len(extra))
        out += struct.pack(order + "HHI", tag, kind, len(values)) + value.ljust(4, b"\0")
        if tag == 273:
            strip = len(out) - 4
    out = out[:strip] + struct.pack(order + "I", base + len(extra)) + out[strip + 4:]
    head = (b"MM\0*" if big else b"II*\0") + struct.pack(order + "IH", 8, len(entries))
    put(name, head + out + b"\0\0\0\0" + extra + data)


def packed(values, bits):
    rows = ("".join(format(int(v), f"0{bits}b") for v in row) for row in values)
    return b"".join(int(r.ljust(-(-len(r) // 8) * 8, "0"), 2).to_bytes(-(-len(r) // 8), "big") for r in rows)


def tiffs():
    for kind in ("tiff_lzw", "tiff_deflate", "packbits"):
        save(f"{kind}.tif", RGB, compression=kind)
    save("rgba.tif", RGBA)
    save("palette.tif", PALETTE, compression="tiff_lzw")
    save("cmyk.tif", CMYK, compression="tiff_lzw")
    save("group3.tif", BITS, compression="group3")
    save("group4.tif", BITS, compression="group4")
    save("pages.tif", GRAY, save_all=True, append_images=[RGB])
    save("jpeg.tif", Image.new("RGB", (16, 16), (120, 120, 120)), compression="jpeg", quality=90)
    save("real.tif", Image.fromarray(random(H, W, top=400).astype(np.float32) * 1.5 - 60), compression="tiff_lzw")
    for turned in range(1, 9):
        save(f"orientation-{turned}.tif", RGB, tiffinfo={274: turned}, compression="tiff_lzw")
    save("plain.tif", RGB)
    for name, words in {"tiles": "-t -w 16 -l 16", "planes": "-p separate", "planes-lzw-tiles": "-p separate -c lzw -t -w 16 -l 16",
                        "big-endian": "-B", "bigtiff": "-8", "strips": "-r 2 -c zip:2"}.items():
        subprocess.run(["tiffcp", *words.split(), OUT / "plain.tif", OUT / f"{name}.tif"], check=True)
    tiff("associated.tif", random(H, W, 4), [8] * 4, 2, t338=[1])
    tiff("unassociated.tif", random(H, W, 4), [8] * 4, 2, t338=[2])
    tiff("five.tif", random(H, W, 5), [8] * 5, 2, t338=[1, 0])
    tiff("white8.tif", random(H, W), [8], 0)
    tiff("white1.tif", packed(random(H, W, top=2), 1), [1], 0)
    tiff("gray2.tif", packed(random(H, W, top=4), 2), [2], 1)
    tiff("gray4.tif", packed(random(H, W, top=16), 4), [4], 0)
    tiff("gray16.tif", random(H, W, top=400, kind="<u2"), [16], 1)
    tiff("gray16-big.tif", random(H, W, top=400, kind=">u2"), [16], 1, big=True)
    tiff("signed16.tif", random(H, W, top=65536, kind="<u2"), [16], 1, t339=[2])
    tiff("rgb16.tif", random(H, W, 6), [16] * 3, 2)
    tiff("rgb16-big.tif", random(H, W, 6), [16] * 3, 2, big=True)
    tiff("rgba16-associated.tif", random(H, W, 8), [16] * 4, 2, t338=[1])
    tiff("cmyk16.tif", random(H, W, 8), [16] * 4, 5)
    tiff("palette4.tif", packed(random(H, W, top=16), 4), [4], 3, t320=[int(x) for x in rng.integers(0, 65536, 48)])
    whole = (OUT / "tiff_lzw.tif").read_bytes()
    put("cut.tif", whole[:len(whole) // 2])


# ---- PNG ----

def chunk(kind, data, crc=None):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)


def pngs():
    rows = b"".join(b"\0" + r.tobytes() for r in random(H, W, 3))
    z = zlib.compress(rows)
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 8, 2, 0, 0, 0))
    end = chunk(b"IEND", b"")
    text = b"Title\0square"
    put("idat-checksum.png", head + chunk(b"IDAT", z, 5) + end)
    put("iend-checksum.png", head + chunk(b"IDAT", z) + chunk(b"IEND", b"", 4))
    put("text-checksum-behind.png", head + chunk(b"IDAT", z) + chunk(b"tEXt", text, 3) + end)
    put("text-checksum-before.png", head + chunk(b"tEXt", text, 3) + chunk(b"IDAT", z) + end)
    put("text-cut.png", head + chunk(b"IDAT", z) + chunk(b"tEXt", text)[:-8])
    put("adler.png", head + chunk(b"IDAT", z[:-1] + bytes([z[-1] ^ 1])) + end)
    put("no-adler.png", head + chunk(b"IDAT", z[:-4]) + end)
    put("adler-apart.png", head + chunk(b"IDAT", z[:-4]) + chunk(b"IDAT", b"abcd") + end)
    put("no-end.png", head + chunk(b"IDAT", z))
    put("no-checksum-no-end.png", head + chunk(b"IDAT", z)[:-4])
    put("cut-in-adler.png", head + chunk(b"IDAT", z)[:-6])
    put("pixels-missing.png", head + chunk(b"IDAT", z[:-40]) + end)
    put("garbage-behind.png", head + chunk(b"IDAT", z) + b"garbage garbage garbage")
    put("too-much.png", head + chunk(b"IDAT", zlib.compress(rows + b"more" * 50)) + end)
    put("pieces.png", head + b"".join(chunk(b"IDAT", z[i:i + 7]) for i in range(0, len(z), 7)) + end)
    far = b"".join(b"\0" + r.tobytes() for r in np.tile(random(3, 200, 3), (3, 1, 1)))  # looks back 1,803 bytes
    z = zlib.compress(far)
    wide = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 200, 9, 8, 2, 0, 0, 0))
    put("window.png", wide + chunk(b"IDAT", b"\x08\x1d" + z[2:]) + end)  # claims a window of 256 bytes
    save("frames.apng", RGB, "PNG", save_all=True, append_images=[RGB.rotate(180)], duration=100)
    save("default-image.apng", RGB, "PNG", save_all=True, default_image=True, append_images=[RGB.rotate(180)])
    one = chunk(b"acTL", struct.pack(">II", 1, 0)) + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, W, H, 0, 0, 1, 10, 0, 0))
    put("one-frame.apng", head + one + chunk(b"IDAT", zlib.compress(rows)) + end)


# ---- the others ----

def others():
    save("lossless.webp", RGBA, lossless=True, exact=True)
    save("animated.webp", RGBA, save_all=True, append_images=[RGBA.rotate(90)], lossless=True, exact=True)
    subprocess.run(["webpmux", "-frame", OUT / "lossless.webp", "+100+10+6+0+b", "-bgcolor", "255,200,100,50", "-o",
                    OUT / "offset.webp"], check=True, capture_output=True)
    for kind, image in {"rgb": RGB, "gray": GRAY, "palette": PALETTE, "rgba": RGBA}.items():
        save(f"{kind}.tga", image, compression="tga_rle")
    save("top-down.tga", RGB, orientation=1)
    save("rgb.ppm", RGB)
    save("gray.pgm", GRAY)
    save("bits.pbm", BITS)
    put("plain.ppm", b"P3\n# a comment\n2 1 255\n0 1 2 30 40 255\n")
    put("gray16.pgm", b"P5 13 9 65535\n" + random(H, W, top=400, kind=">u2").tobytes())
    put("rgb16.ppm", b"P6 13 9 65535\n" + random(H, W * 6).tobytes())
    save("rgb.pcx", RGB)
    save("palette.pcx", PALETTE)
    save("bits.pcx", BITS)
    save("rgb.sgi", RGB, "SGI")
    subprocess.run(["ffmpeg", "-v", "0", "-y", "-i", OUT / "rgb.ppm", OUT / "rgb.qoi"], check=True)
    save("rgb.jp2", RGB)
    save("rgba.j2k", RGBA)
    save("png.ico", RGBA, sizes=[(W, H)])
    save("bmp.ico", RGBA.resize((16, 16)), sizes=[(8, 8), (16, 16)], bitmap_format="bmp")
    save("source.png", RGBA)
    for name, words in {"rgba": "-l", "turned": "-l --irot 3", "ten": "-l -d 10"}.items():
        subprocess.run(["avifenc", *words.split(), OUT / "source.png", OUT / f"{name}.avif"], check=True, capture_output=True)
    (OUT / "source.png").unlink()
    (OUT / "ten.avif").unlink()
    exif = Image.Exif()
    exif[274] = 6
    save("turned.png", RGB, exif=exif)
    save("turned.webp", RGB, lossless=True, exif=exif)
    save("upright.png", RGB.transpose(Image.Transpose.ROTATE_270))


def expected(path):
    try:
        image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        return f"{image.width}x{image.height} {hashlib.sha256(image.tobytes()).hexdigest()}"
    except Exception:  # whatever Pillow raises
        return "refused"


def main():
    assert PIL.__version__ == "10.1.0", PIL.__version__
    OUT.mkdir(exist_ok=True)
    for make in (gifs, bmps, tiffs, pngs, others):
        make()
    (OUT / "expected.txt").unlink(missing_ok=True)
    lines = [f"{p.name} {expected(p)}\n" for p in sorted(OUT.iterdir())]
    (OUT / "expected.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Makes the sounds, videos and images of this folder, and webp.safetensors: what Pillow decodes from the WebP files.

sound: 0.25 s at 22050 Hz, left 440 Hz, right 660 Hz, half of full scale; silence.flac: 1 h of nothing.
videos: 30 frames of 32 x 24 at 10 a second; frame k is all (8k, 255 - 8k, 37k mod 256). turned.mp4: white above, black below, and
a header that asks for a quarter turn. av.mp4: a sound track beside the frames.

Made with ffmpeg 5.1.9 and Pillow 13.0.0; needs numpy and safetensors too.     usage: make_media.py     writes into its own folder
"""
import io
import pathlib
import subprocess

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent
SOUND = ["-f", "lavfi", "-i", "aevalsrc='0.5*sin(2*PI*440*t)|0.5*sin(2*PI*660*t)':s=22050:d=0.25"]
FRAMES = ["-f", "lavfi", "-i", "color=c=black:s=32x24:r=10:d=3,format=gbrp,geq=r='8*N':g='255-8*N':b='mod(N*37,256)'"]
HALVES = ["-f", "lavfi", "-i", "color=c=black:s=32x24:r=10:d=1,format=gray,geq=lum='255*lt(Y,12)'"]


def ffmpeg(name, *words):
    subprocess.run(["ffmpeg", "-v", "error", "-y", *words, "-fflags", "+bitexact", "-flags", "+bitexact", HERE / name], check=True)


def sounds():
    for name, codec in [("tones.mp3", "libmp3lame"), ("tones.ogg", "libvorbis"), ("tones.opus", "libopus"), ("tones.m4a", "aac"),
                        ("tones.aac", "aac"), ("tones.webm", "libopus")]:
        ffmpeg(name, *SOUND, "-c:a", codec)
    ffmpeg("tones.flac", *SOUND, "-c:a", "flac", "-sample_fmt", "s16")
    ffmpeg("tones24.flac", *SOUND, "-c:a", "flac", "-sample_fmt", "s32")
    ffmpeg("alac.m4a", *SOUND, "-c:a", "alac", "-sample_fmt", "s16p")
    ffmpeg("silence.flac", "-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono", "-t", "3600", "-c:a", "flac", "-frame_size", "65535")
    ffmpeg("cover.m4a", *SOUND, *HALVES, "-map", "0", "-map", "1", "-c:a", "aac", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p",
           "-frames:v", "1", "-disposition:v", "attached_pic")


def videos():
    x264 = ["-c:v", "libx264rgb", "-crf", "0", "-bf", "3", "-g", "12"]
    vp9 = ["-c:v", "libvpx-vp9", "-lossless", "1", "-pix_fmt", "gbrp"]
    ffmpeg("count.mkv", *FRAMES, "-c:v", "ffv1")
    ffmpeg("count.mov", *FRAMES, "-c:v", "png")
    ffmpeg("count.avi", *FRAMES, "-c:v", "ffv1")
    ffmpeg("count.mp4", *FRAMES, *x264)
    ffmpeg("count.webm", *FRAMES, *vp9)
    ffmpeg("count.gif", *FRAMES[:3], FRAMES[3] + ",split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none")
    ffmpeg("count.apng", *FRAMES, "-f", "apng")
    ffmpeg("live.webm", *FRAMES, *vp9, "-live", "1")
    ffmpeg("three.mkv", *FRAMES, "-frames:v", "3", "-c:v", "ffv1")
    ffmpeg("one.gif", *FRAMES, "-frames:v", "1")
    ffmpeg("av.mp4", *FRAMES, *SOUND, *x264, "-c:a", "aac")
    ffmpeg("upright.mp4", *HALVES, *x264)
    ffmpeg("turned.mp4", "-i", HERE / "upright.mp4", "-c", "copy", "-metadata:s:v", "rotate=90")
    (HERE / "upright.mp4").unlink()


def images():
    y, x = np.mgrid[0:23, 0:37]
    rgba = np.stack([x * 6, y * 10, (x * y) % 256, 255 - x * 6], axis=2).astype(np.uint8)
    wanted = {}
    for name, image, options in [("lossless.webp", Image.fromarray(rgba[..., :3]), {"lossless": True}),
                                 ("lossy.webp", Image.fromarray(rgba[..., :3]), {"quality": 70}),
                                 ("alpha.webp", Image.fromarray(rgba), {"lossless": True, "exact": True}),
                                 ("lossy-alpha.webp", Image.fromarray(rgba), {"quality": 80, "exact": True})]:
        data = io.BytesIO()
        image.save(data, "WEBP", **options)
        (HERE / name).write_bytes(data.getvalue())
        wanted["rgb." + name] = np.ascontiguousarray(np.array(Image.open(data).convert("RGB")))
    frames = [Image.fromarray(np.roll(rgba[..., :3], 3 * i, axis=1)) for i in range(3)]
    frames[0].save(HERE / "animated.webp", save_all=True, append_images=frames[1:], duration=100)
    save_file(wanted, HERE / "webp.safetensors")
    (HERE / "webp.safetensors").chmod(0o644)


if __name__ == "__main__":
    sounds()
    videos()
    images()

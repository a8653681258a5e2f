#!/usr/bin/env python3
"""Makes the files of video/ (but for mkv-starts-at-5s, gif-held-last-frame and mp4-matrix-hflip, which came from elsewhere).

Frames as in make_media.py: frame k, 32 x 24, is all (8k, 255 - 8k, 37k mod 256), ten a second unless the name says otherwise; test_videos.c
says which frames each file must give. late-*: the first frame comes at 5 s. sound-first: sound from 0 s, frames from 2 s. held-*: the last
of ten frames is shown for 3 s (mp4: the ninth). pipe-*: written to a pipe. corners.mp4: red, green, blue and white quarters.

Made with ffmpeg 5.1.9.     usage: make_video.py     writes into video/
"""
import pathlib
import struct
import subprocess

from make_media import FRAMES

HERE = pathlib.Path(__file__).resolve().parent / "video"
EXACT = ["-fflags", "+bitexact", "-flags", "+bitexact"]
X264 = ["-c:v", "libx264rgb", "-crf", "0", "-bf", "3", "-g", "12"]
FFV1 = ["-c:v", "ffv1"]
VP9 = ["-c:v", "libvpx-vp9", "-lossless", "1", "-pix_fmt", "gbrp"]
TEN = [*FRAMES, "-frames:v", "10"]
PALETTE = [*FRAMES[:3], FRAMES[3] + ",split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none"]


def ffmpeg(name, *words):
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, words), *EXACT, HERE / name], check=True)


def piped(name, kind, *words):
    out = subprocess.run(["ffmpeg", "-v", "error", *words, *EXACT, "-f", kind, "-"], check=True, capture_output=True)
    (HERE / name).write_bytes(out.stdout)


def hold_last(name):
    """The delay of the last frame of a GIF: 3 s. It follows the marker of the graphic control extension."""
    data = bytearray((HERE / name).read_bytes())
    at = data.rindex(b"\x21\xf9\x04") + 4
    data[at:at + 2] = (300).to_bytes(2, "little")
    (HERE / name).write_bytes(data)


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    late = ["-copyts", "-itsoffset", "5", *FRAMES]
    ffmpeg("late-mkv.mkv", *late, *FFV1)
    ffmpeg("late-webm.webm", *late, *VP9)
    ffmpeg("late-mp4.mp4", *late, *X264)
    ffmpeg("late-ts.ts", *late, *X264)
    ffmpeg("sound-first.mp4", "-itsoffset", "2", *FRAMES, "-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono", "-t", "5", "-fps_mode", "passthrough", *X264, "-c:a", "aac", "-b:a", "8k")
    ffmpeg("sound-first.mkv", "-itsoffset", "2", *FRAMES, "-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono", "-t", "5", *FFV1, "-c:a", "flac")
    ffmpeg("held-gif.gif", *PALETTE, "-frames:v", "10")
    hold_last("held-gif.gif")
    ffmpeg("held-mkv.mkv", *TEN, *FFV1)
    mkv = bytearray((HERE / "held-mkv.mkv").read_bytes())
    at = mkv.index(b"\x44\x89\x88") + 3  # Duration, eight bytes, in ms
    mkv[at:at + 8] = struct.pack(">d", 3900)
    (HERE / "held-mkv.mkv").write_bytes(mkv)
    ffmpeg("held-mp4.mp4", *TEN[:3], TEN[3] + ",setpts='if(eq(N,9),39,N)/(10*TB)'", *TEN[4:], "-fps_mode", "vfr", *X264)
    ffmpeg("two.gif", *PALETTE, "-frames:v", "2")
    ffmpeg("fast24.gif", *PALETTE[:3], PALETTE[3].replace("r=10", "r=24"), "-frames:v", "24")
    ffmpeg("one.mkv", *FRAMES, "-frames:v", "1", *FFV1)
    ffmpeg("one.mp4", *FRAMES, "-frames:v", "1", *X264)
    ffmpeg("two.mp4", *FRAMES, "-frames:v", "2", *X264)
    piped("pipe-avi.avi", "avi", *FRAMES, *FFV1)
    piped("pipe-mkv.mkv", "matroska", *FRAMES, *FFV1)
    piped("pipe-mp4.mp4", "mp4", *FRAMES, *X264, "-movflags", "frag_keyframe+empty_moov")
    ffmpeg("mpegts.ts", *FRAMES, *X264)
    ffmpeg("flash.flv", *FRAMES, "-c:v", "flv1", "-q:v", "2")
    ffmpeg("open-gop.mp4", *FRAMES, *X264, "-x264-params", "open-gop=1:keyint=6")
    ffmpeg("edited.mp4", "-ss", "1.05", "-i", HERE.parent / "count.mp4", "-c", "copy")
    ffmpeg("corners.mp4", "-f", "lavfi", "-i",
           "color=s=32x24:r=10:d=0.1,format=gbrp,geq=r='255*(1-mod(gte(X,16)+gte(Y,12),2))':g='255*gte(X,16)':b='255*gte(Y,12)'", *X264)

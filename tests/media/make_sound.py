#!/usr/bin/env python3
"""Makes the files of sound/ (but for five that came from elsewhere), and sound/expected.tsv: what each file of the folder must decode to.

The sound: 0.2 s of two tones, one rising, so that a shift by one sample is seen. Each row of the table: file, judge, tolerance, number
of samples at 16 kHz, root mean square, eight samples spread over the file. Judges:
  soundfile   libsndfile, the original's loader: each channel, their mean, soxr HQ
  ffmpeg      the ffmpeg program (Opus by libopus), for what soundfile does not read
  cut N       ffmpeg, of which the first N samples at the file's rate are kept: what the encoder was given, before its padding
  links       soundfile, stream by stream of an Ogg chain

Made with ffmpeg 5.1.9, sox 14.4.2, lame 3.100, opus-tools 0.2, speex 1.2.1, flac 1.4.2, soundfile 0.14.0 (libsndfile 1.2.2); needs numpy and
soxr too.     usage: make_sound.py [--table-only]     writes into sound/
"""
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np
import soundfile
import soxr

HERE = pathlib.Path(__file__).resolve().parent / "sound"


def tones(rate, channels=1, seconds=0.2):
    t = np.arange(round(rate * seconds)) / rate
    left = 0.4 * np.sin(2 * np.pi * 440 * t) + 0.2 * np.sin(2 * np.pi * (300 + 4000 * t) * t)
    return left if channels == 1 else np.stack([left, 0.3 * np.sin(2 * np.pi * 660 * t)] + [left * 0.1 * c for c in range(2, channels)], 1)


def run(*words):
    subprocess.run([str(w) for w in words], check=True, stderr=subprocess.DEVNULL)


def by_soundfile():
    def put(name, rate, subtype, kind=None, endian="FILE", channels=1):
        soundfile.write(HERE / name, tones(rate, channels), rate, subtype=subtype, format=kind, endian=endian)
    put("rifx24.wav", 8000, "PCM_24", "WAV", "BIG", 2)
    put("rifx-float.wav", 8000, "FLOAT", "WAV", "BIG")
    put("gsm.wav", 8000, "GSM610")
    put("gsm.aiff", 8000, "GSM610")
    put("g721.wav", 8000, "G721_32")
    put("g723-24.au", 8000, "G723_24")
    put("g723-40.au", 8000, "G723_40")
    put("ima.wav", 8000, "IMA_ADPCM")
    put("ms.wav", 8000, "MS_ADPCM")
    put("ima.aiff", 8000, "IMA_ADPCM", "AIFF")
    put("alaw.wav", 8000, "ALAW")
    put("ulaw.wav", 44056, "ULAW")
    put("u8.wav", 11025, "PCM_U8")
    put("s24.aiff", 8000, "PCM_24", "AIFF")
    put("sowt.aiff", 8000, "PCM_16", "AIFF", "LITTLE")
    put("alac.caf", 8000, "ALAC_16", "CAF", channels=2)
    put("little.caf", 8000, "PCM_16", "CAF", "LITTLE")
    put("wide.rf64", 8000, "PCM_16", "RF64")
    put("wide.w64", 8000, "FLOAT", "W64")
    put("little.au", 8000, "PCM_16", "AU", "LITTLE")
    put("double.au", 8000, "DOUBLE", "AU")
    put("alaw.nist", 8000, "ALAW", "NIST")
    put("s24.nist", 8000, "PCM_24", "NIST")
    put("old.voc", 8000, "PCM_16", "VOC")
    put("old.sf", 8000, "PCM_16", "IRCAM")
    put("old.svx", 8000, "PCM_16", "SVX")
    put("s8.flac", 8000, "PCM_S8", "FLAC")
    put("six.wav", 8000, "PCM_16", "WAVEX", channels=6)
    put("voice16k.opus", 16000, "OPUS", "OGG")
    put("voice8k.opus", 8000, "OPUS", "OGG")
    put("brief.ogg", 16000, "VORBIS", "OGG")
    put("one.wav", 16000, "PCM_16")
    soundfile.write(HERE / "one.wav", tones(16000)[50:51], 16000, subtype="PCM_16")


def wav_chunks():
    data = (tones(8000) * 32767).astype("<i2").tobytes()
    fmt = (b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16))

    def extensible(width, valid):
        guid = b"\x01\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
        return (b"fmt ", struct.pack("<HHIIHHHHI", 0xfffe, 1, 8000, 8000 * width, width, 8 * width, 22, valid, 4) + guid)

    def put(name, *chunks, size=None):
        body = b"WAVE"
        for name4, content in chunks:
            count = len(content) if name4 != b"data" or size is None else size
            body += name4 + struct.pack("<I", count) + content + b"\0" * (len(content) % 2)
        (HERE / name).write_bytes(b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body)
    put("list-first.wav", (b"LIST", b"INFOISFT\x05\0\0\0Lavf\0\0"), fmt, (b"data", data))
    put("odd-chunks.wav", (b"JUNK", bytes(27)), fmt, (b"LIST", b"INFOI"), (b"data", data), (b"id3 ", bytes(31)))
    put("odd-data.wav", fmt, (b"data", data[:-1]))
    put("pipe-0.wav", fmt, (b"data", data), size=0)
    put("pipe-max.wav", fmt, (b"data", data), size=0xffffffff)
    put("a-little-short.wav", fmt, (b"data", data), size=len(data) + 300)
    put("12in16.wav", extensible(2, 12), (b"data", data))
    put("20in24.wav", extensible(3, 20), (b"data", data[:len(data) // 3 * 3]))


def by_programs(tmp):
    wav, wav16 = tmp / "in.wav", tmp / "in16.wav"
    soundfile.write(wav, tones(44100, 2), 44100, subtype="PCM_16")
    soundfile.write(wav16, tones(16000), 16000, subtype="PCM_16")
    exact = ["-fflags", "+bitexact", "-flags", "+bitexact"]
    for name, *words in [("padded.m4a", "-c:a", "aac"), ("padded-opus.mp4", "-c:a", "libopus"), ("low.webm", "-c:a", "libopus", "-b:a", "16k"),
                         ("low.mka", "-c:a", "libopus", "-b:a", "32k"), ("vorbis.mka", "-c:a", "libvorbis"), ("voice.wma", "-c:a", "wmav2"),
                         ("voice.ac3", "-c:a", "ac3", "-b:a", "64k"), ("g722.wav", "-ar", "16000", "-ac", "1", "-c:a", "g722"), ("voice.flv", "-c:a", "aac")]:
        run("ffmpeg", "-v", "error", "-y", "-i", wav, *words, *exact, HERE / name)
    for name, codec in [("late.webm", "libopus"), ("late.mka", "libvorbis"), ("late.opus", "libopus"), ("late.ogg", "libvorbis")]:
        run("ffmpeg", "-v", "error", "-y", "-copyts", "-itsoffset", "5", "-i", wav, "-c:a", codec, *exact, HERE / name)
    run("lame", "--quiet", "-V", "4", wav, HERE / "vbr.mp3")
    run("lame", "--quiet", "--freeformat", "-b", "64", "-m", "m", wav16, HERE / "free.mp3")
    mp3 = (HERE / "vbr.mp3").read_bytes()
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0) + bytes(8)
    (HERE / "tagged.mp3").write_bytes(b"ID3\x04\0\0\0\0\x02\x00" + bytes(256) + mp3 + ape + b"TAG" + bytes(125))
    (HERE / "zeros.mp3").write_bytes(bytes(500) + mp3)
    run("sox", wav16, "-e", "mu-law", HERE / "ulaw.sph")
    run("speexenc", wav16, HERE / "voice.spx")
    run("flac", "-s", "-f", wav16, "-o", tmp / "a.flac")
    flac = (tmp / "a.flac").read_bytes()
    (HERE / "id3-both.flac").write_bytes(b"ID3\x04\0\0\0\0\x02\x00" + bytes(256) + flac + b"TAG" + b"a" * 125)
    run("flac", "-s", "-f", "--ogg", "--serial-number", "7", wav16, "-o", HERE / "flac.oga")
    run("opusenc", "--quiet", "--bitrate", "12", "--serial", "7", wav16, HERE / "12kbit.opus")
    for name, one in [("chain.opus", "12kbit.opus"), ("chain.ogg", "brief.ogg")]:
        (HERE / name).write_bytes((HERE / one).read_bytes() * 2)


def bad():
    head = b"NIST_1A\n   1024\nsample_count -i 1600\nsample_n_bytes -i 2\nchannel_count -i 1\nsample_byte_format -s2 01\nsample_rate -i 8000\n"
    (HERE / "bad-shorten.sph").write_bytes((head + b"sample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n").ljust(1024, b"\n") + b"ajkg\2" + bytes(100))
    (HERE / "bad-cut.aiff").write_bytes((HERE / "s24.aiff").read_bytes()[:3000])
    (HERE / "bad-cut.au").write_bytes((HERE / "double.au").read_bytes()[:6000])
    (HERE / "bad-cut.w64").write_bytes((HERE / "wide.w64").read_bytes()[:4000])
    (HERE / "bad-cut.caf").write_bytes((HERE / "little.caf").read_bytes()[:6000])
    rifx = bytearray((HERE / "rifx24.wav").read_bytes())
    rifx[20:22] = b"\x7f\x7f"
    (HERE / "bad-codec.rifx").write_bytes(bytes(rifx)[:600])


def resampled(x, rate):
    n = -(-len(x) * 16000 // rate)
    y = soxr.resample(x, rate, 16000, quality="HQ") if rate != 16000 else x
    return np.pad(y[:n], (0, max(0, n - len(y))))


def by_ffmpeg(path):
    ask = ["ffprobe", "-v", "error", "-select_streams", "a:0", "-show_entries", "stream=codec_name,sample_rate,channels", "-of", "csv=p=0", str(path)]
    codec, rate, channels = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.split()[0].split(",")[:3]
    decoder = ["-c:a", "libopus"] if codec == "opus" else []
    out = subprocess.run(["ffmpeg", "-v", "error", *decoder, "-i", str(path), "-map", "a:0", "-f", "f32le", "-"], check=True, capture_output=True)
    return np.frombuffer(out.stdout, np.float32).reshape(-1, int(channels)), int(rate)


JUDGES = {"padded.m4a": f"cut {44100 // 5}", "padded-opus.mp4": f"cut {48000 // 5}", "chain.ogg": "links", "chain.opus": "links",
          "pipe-0.wav": "ffmpeg", "late.opus": "ffmpeg", "flac.oga": "ffmpeg"}
FFMPEG = {".webm", ".mka", ".wma", ".ac3", ".flv", ".spx"}


def expected(path):
    judge = JUDGES.get(path.name, "ffmpeg" if path.suffix in FFMPEG or path.name == "g722.wav" else "soundfile")
    if judge == "soundfile":
        x, rate = soundfile.read(path, dtype="float32", always_2d=True)
    elif judge == "links":
        x, rate = soundfile.read(HERE / {"chain.ogg": "brief.ogg", "chain.opus": "12kbit.opus"}[path.name], dtype="float32", always_2d=True)
        x = np.concatenate([x, x])
    else:
        x, rate = by_ffmpeg(path)
        x = x[:int(judge.split()[1])] if judge.startswith("cut") else x
    w = resampled(np.mean(x.T, axis=0), rate).astype(np.float32)
    tolerance = "2e-5" if judge != "soundfile" and judge != "links" else "2e-6"
    at = [k * len(w) // 8 for k in range(8)]
    return "\t".join([path.name, judge, tolerance, str(len(w)), f"{np.sqrt(np.mean(w.astype(np.float64) ** 2)):.7f}", *(f"{w[i]:.8f}" for i in at)])


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    if "--table-only" not in sys.argv:
        by_soundfile()
        wav_chunks()
        with tempfile.TemporaryDirectory() as folder:
            by_programs(pathlib.Path(folder))
        bad()
    files = sorted(p for p in HERE.iterdir() if not p.name.startswith(("bad-", "expected")))
    (HERE / "expected.tsv").write_text("\n".join(expected(p) for p in files) + "\n")

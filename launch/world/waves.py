"""Waves as numpy arrays: reading and writing files, and what microphones and rooms do to a sound."""
import subprocess
import wave

import numpy


class ToolFailed(Exception):
    """A program failed; the text names it and has its own words."""


def run(command, **how):
    how = how or {"stdin": subprocess.DEVNULL}
    done = subprocess.run([str(c) for c in command], capture_output=True, check=False, **how)
    if done.returncode != 0:
        raise ToolFailed(f"{' '.join(map(str, command))[:300]}: exit {done.returncode}: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return done.stdout


def read(path):
    """Samples of a 16-bit WAV file, the mean of its channels, in -1..1; and its rate."""
    with wave.open(str(path)) as file:
        data = numpy.frombuffer(file.readframes(file.getnframes()), "<i2").astype(numpy.float64) / 32768
        return data.reshape(-1, file.getnchannels()).mean(axis=1), file.getframerate()


def resample(x, n):
    """x with n samples in the same time: cut or padded in the frequency domain."""
    if n == len(x) or len(x) == 0:
        return x
    pad = 512  # silence around it, since the transform sees x as a circle
    scale = n / len(x)
    total, edge = round((len(x) + 2 * pad) * scale), round(pad * scale)
    bins = numpy.fft.rfft(numpy.pad(x, pad))
    keep = numpy.zeros(total // 2 + 1, complex)
    m = min(len(bins), len(keep))
    keep[:m] = bins[:m]
    return numpy.fft.irfft(keep, total)[edge:edge + n] * (total / (len(x) + 2 * pad))


def trim(x, rate, floor=0.01):
    """x without what is quieter than that part of its peak at both ends, but for 20 ms."""
    if len(x) == 0:
        return x
    loud = numpy.flatnonzero(numpy.abs(x) > floor * (numpy.abs(x).max() + 1e-9))
    if len(loud) == 0:
        return x
    margin = rate // 50
    return x[max(0, loud[0] - margin):loud[-1] + margin]


def fade(x, rate, seconds=0.01):
    n = min(len(x) // 2, int(rate * seconds))
    x = x.copy()
    if n > 0:
        ramp = numpy.arange(n) / n
        x[:n] *= ramp
        x[-n:] *= ramp[::-1]
    return x


def low_pass(x, rate, hz):
    bins = numpy.fft.rfft(x)
    f = numpy.fft.rfftfreq(len(x), 1 / rate)
    return numpy.fft.irfft(bins / (1 + (f / hz) ** 4), len(x))


def noise(rng, n, colour):
    """White, pink or brown noise with peak about 1."""
    bins = numpy.fft.rfft(rng.standard_normal(max(n, 2)))
    f = numpy.maximum(numpy.arange(len(bins)), 8)
    x = numpy.fft.irfft(bins / f ** {"white": 0.0, "pink": 0.5, "brown": 1.0}[colour], max(n, 2))[:n]
    return x / (3 * x.std() + 1e-12)


def recorded(x, rate, how):
    """What a recording makes of x: how = {seconds at most, lead and tail of silence, gain, hiss (both parts of full scale), low (Hz), seed}."""
    x = fade(x, rate)
    peak = numpy.abs(x).max() if len(x) else 0
    if peak > 0:
        x = x / peak * how["gain"]
    x = numpy.concatenate([numpy.zeros(int(how["lead"] * rate)), x, numpy.zeros(int(how["tail"] * rate))])
    x = x[:int(how["seconds"] * rate)]
    if how.get("low"):
        x = low_pass(x, rate, how["low"])
    if how.get("hiss"):
        x = x + how["hiss"] * noise(numpy.random.default_rng(how["seed"]), len(x), how.get("hiss_colour", "white"))
    return x


def write(x, rate, path, ending):
    """A 16-bit mono file: WAV, FLAC by sox, or Ogg Vorbis by ffmpeg, told to leave out what differs from run to run."""
    data = (numpy.clip(x, -1, 0.9999) * 32768).astype("<i2").tobytes()
    if ending == "wav":
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(data)
    elif ending == "flac":
        run(["sox", "-t", "raw", "-r", rate, "-e", "signed", "-b", 16, "-c", 1, "-", "-t", "flac", path], input=data)
    else:
        run(["ffmpeg", "-v", "error", "-y", "-f", "s16le", "-ar", rate, "-ac", 1, "-i", "pipe:0", "-c:a", "libvorbis", "-q:a", 5, "-threads", 1,
             "-map_metadata", -1, "-fflags", "+bitexact", "-flags:a", "+bitexact", "-f", "ogg", path], input=data)

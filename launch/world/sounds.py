"""Sounds from recipes: sox and numpy synthesise, fluidsynth plays instruments of a soundfont, and a few packages hold recordings."""
import pathlib
import struct

import numpy

import waves
from words import INSTRUMENTS

RATE = 16000
SECONDS = 2.5
SOUNDFONT = "/usr/share/sounds/sf2/TimGM6mb.sf2"
FREEPATS = "/usr/share/midi/freepats"
PERCUSSION = 9  # General MIDI's channel for it, from 0


def recording_of(rng, **fixed):
    return {"seconds": SECONDS, "lead": round(rng.uniform(0, 0.15), 3), "tail": round(rng.uniform(0, 0.15), 3),
            "gain": round(rng.uniform(0.2, 0.95), 3), "hiss": rng.choice([0, 0, round(rng.uniform(0.0003, 0.003), 4)]),
            "low": rng.choice([0, 0, 0, rng.randint(3500, 7000)]), "seed": rng.getrandbits(32), **fixed}


# --- one tone ---

def tone_by_numpy(form, low, high, seconds):
    t = numpy.arange(int(seconds * RATE)) / RATE
    phase = low * t + (high - low) * t * t / (2 * seconds)
    turn = phase % 1.0
    if form == "square":
        return numpy.where(turn < 0.5, 1.0, -1.0)
    if form == "sawtooth":
        return 2 * turn - 1
    if form == "triangle":
        return 4 * numpy.abs(turn - 0.5) - 1
    return numpy.sin(2 * numpy.pi * phase)


def string_by_numpy(hz, seconds, seed):
    """A plucked string after Karplus and Strong: noise in a loop that averages neighbours."""
    period = int(RATE / hz)
    loop = numpy.random.default_rng(seed).uniform(-1, 1, period)
    rounds = []
    for _ in range(int(seconds * RATE) // period + 1):
        rounds.append(loop)
        loop = 0.4985 * (loop + numpy.roll(loop, 1))
    return numpy.concatenate(rounds)[:int(seconds * RATE)]


def tone(recipe, low, high, seconds, scratch):
    """A tone of the recipe's form that glides from low to high (Hz), by the recipe's program."""
    form = recipe["form"]
    if recipe["by"] == "numpy":
        return string_by_numpy(low, seconds, recipe["seed"]) if form == "pluck" else tone_by_numpy(form, low, high, seconds)
    path = pathlib.Path(scratch, "tone.wav")
    pitch = f"{low:g}" if low == high else f"{low:g}:{high:g}"  # a colon: as many Hz each second
    waves.run(["sox", "-R", "-n", "-r", RATE, "-c", 1, "-b", 16, path, "synth", f"{seconds:.4f}", form, pitch, "gain", -1])
    return waves.read(path)[0]


def silence(seconds):
    return numpy.zeros(int(seconds * RATE))


# --- kinds of sounds: each has a function of (recipe, scratch) ---

def siren(recipe, scratch):
    up = tone(recipe, recipe["low"], recipe["high"], recipe["step"], scratch)
    down = tone(recipe, recipe["high"], recipe["low"], recipe["step"], scratch)
    return numpy.tile(numpy.concatenate([waves.fade(up, RATE, 0.004), waves.fade(down, RATE, 0.004)]), 8)[:int(recipe["seconds"] * RATE)]


def alarm(recipe, scratch):
    tones = [waves.fade(tone(recipe, hz, hz, recipe["step"], scratch), RATE, 0.006) for hz in (recipe["low"], recipe["high"])]
    return numpy.tile(numpy.concatenate(tones), 12)[:int(recipe["seconds"] * RATE)]


def glide(recipe, scratch):
    return tone(recipe, recipe["low"], recipe["high"], recipe["seconds"], scratch)


def noise(recipe, scratch):
    if recipe["by"] == "numpy":
        return waves.noise(numpy.random.default_rng(recipe["seed"]), int(recipe["seconds"] * RATE), recipe["colour"])
    path = pathlib.Path(scratch, "noise.wav")
    start = recipe["seed"] % 5000 / 1000  # sox begins the same noise every time
    waves.run(["sox", "-R", "-n", "-r", RATE, "-c", 1, "-b", 16, path, "synth", f"{start + recipe['seconds']:.3f}", recipe["colour"] + "noise", "trim",
               f"{start:.3f}"])
    return waves.read(path)[0]


def beeps(recipe, scratch):
    one = waves.fade(tone(recipe, recipe["low"], recipe["low"], recipe["on"], scratch), RATE, 0.008)
    gap = silence(recipe["gap"])
    return numpy.concatenate([one, gap] * (recipe["count"] - 1) + [one])


def clicks(recipe, scratch):
    del scratch
    rng = numpy.random.default_rng(recipe["seed"])
    n = int(RATE * recipe["on"])
    one = rng.uniform(-1, 1, n) * numpy.exp(-5 * numpy.arange(n) / n)
    x, every = silence(recipe["seconds"]), int(RATE / recipe["per_second"])
    for start in range(0, len(x) - n, every):
        x[start:start + n] += one
    return x


def nothing(recipe, scratch):
    del scratch
    return silence(recipe["seconds"])


# --- instruments ---

def midi(program, channel, notes):
    """The bytes of a MIDI file: notes = (start and length in seconds, key, velocity)."""
    ticks = 960  # a second, at 480 a beat and 120 beats a minute
    events = [(0, bytes([0xC0 | channel, program]))]
    for start, length, key, velocity in notes:
        events.append((round(start * ticks), bytes([0x90 | channel, key, velocity])))
        events.append((round((start + length) * ticks), bytes([0x80 | channel, key, 0])))
    events.sort(key=lambda e: e[0])
    body, now = b"", 0
    for at, event in [*events, (round(SECONDS * ticks), b"\xff\x2f\x00")]:
        wait, now = at - now, at
        body += bytes([0x80 | wait >> 7, wait & 0x7F] if wait >= 0x80 else [wait]) + event
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 480) + b"MTrk" + struct.pack(">I", len(body)) + body


def instrument(recipe, scratch):
    """Notes one after another; a percussion key in place of a program when the instrument is a drum."""
    source, out = pathlib.Path(scratch, "notes.mid"), pathlib.Path(scratch, "notes.wav")
    drum = recipe["instrument"] == "drum"
    notes = [(0.05 + i * recipe["step"], recipe["step"] * 0.95, recipe["program"] if drum else key, recipe["velocity"])
             for i, key in enumerate(recipe["keys"])]
    source.write_bytes(midi(0 if drum else recipe["program"], PERCUSSION if drum else 0, notes))
    waves.run(["fluidsynth", "-ni", "-q", "-R", "0", "-C", "0", "-g", "0.8", "-r", RATE, "-T", "wav", "-F", out, SOUNDFONT, source])
    return waves.trim(waves.read(out)[0], RATE)


def patch(recipe, scratch):
    """A note of a recorded instrument of FreePats: the first sample of a Gravis patch file that lies near the pitch."""
    del scratch
    x, rate, root, loop = read_patch(recipe["file"])[recipe["sample"]]
    need = int(recipe["seconds"] * rate * recipe["hz"] / root)
    if loop and len(x) < need:
        start, end = loop
        x = numpy.concatenate([x[:end], *[x[start:end]] * (need // max(1, end - start) + 1)])
    x = x[:need]
    return waves.fade(waves.resample(x, max(1, int(len(x) / rate / recipe["hz"] * root * RATE))), RATE, 0.03)


def read_patch(path):
    """The samples of a Gravis patch: waves, their rates, root pitches in Hz, and loops in samples."""
    data, samples, at = pathlib.Path(path).read_bytes(), [], 129 + 63 + 47
    for _ in range(data[129 + 63 + 6]):
        size, start, end = struct.unpack_from("<III", data, at + 8)
        rate, = struct.unpack_from("<H", data, at + 20)
        root, = struct.unpack_from("<I", data, at + 30)
        modes = data[at + 55]
        wide, unsigned = modes & 1, modes & 2
        raw = numpy.frombuffer(data[at + 96:at + 96 + size], ("<u2" if unsigned else "<i2") if wide else ("u1" if unsigned else "i1"))
        half = 32768.0 if wide else 128.0
        width = 2 if wide else 1
        loop = (start // width, end // width) if modes & 4 and end - start > 64 else None
        samples.append(((raw - half if unsigned else raw) / half, rate, root / 1000, loop))
        at += 96 + size
    return samples


def file(recipe, scratch):
    """A recording as a package has it, at our rate."""
    path = pathlib.Path(scratch, "file.wav")
    waves.run(["sox", "-R", recipe["file"], "-r", RATE, "-c", 1, "-b", 16, path])
    return waves.read(path)[0]


MAKERS = {"siren": siren, "alarm": alarm, "glide": glide, "noise": noise, "beeps": beeps, "clicks": clicks, "nothing": nothing,
          "instrument": instrument, "patch": patch, "file": file}


def wave_of(recipe, scratch):
    return waves.recorded(MAKERS[recipe["maker"]](recipe, scratch), RATE, recipe["how"])


def render(recipe, path, ending, scratch):
    waves.write(wave_of(recipe, scratch), RATE, path, ending)


# --- drawing recipes ---

def recipe_of(rng, name, count=None, direction=None):
    """A recipe for a sound by its name (words.py), drawn at random; count and direction where the kind has them, else drawn too.
    Returns the recipe; what was drawn is in it: count, direction ("up", "down"), tempo ("fast", "slow")."""
    by = rng.choice(["sox", "numpy"])
    base = {"kind": "sound", "name": name, "by": by, "seed": rng.getrandbits(32), "how": recording_of(rng)}
    low = rng.randint(400, 900)
    if name in INSTRUMENTS:
        return instrument_recipe(rng, base, name, count, direction)
    if name == "a siren":
        return {**base, "maker": "siren", "form": rng.choice(["sine", "triangle"]), "low": low, "high": round(low * rng.uniform(1.6, 2.4)),
                "step": round(rng.uniform(0.25, 0.5), 3), "seconds": round(rng.uniform(1.6, 2.2), 3)}
    if name == "an alarm":
        return {**base, "maker": "alarm", "form": rng.choice(["square", "triangle", "sine"]), "low": low, "high": round(low * rng.uniform(1.25, 1.7)),
                "step": round(rng.uniform(0.1, 0.3), 3), "seconds": round(rng.uniform(1.4, 2.2), 3)}
    if name == "a buzz":
        hz = rng.randint(60, 130)
        return {**base, "maker": "glide", "form": rng.choice(["sawtooth", "square"]), "low": hz, "high": hz, "seconds": round(rng.uniform(0.7, 1.8), 3)}
    if name == "noise":
        return {**base, "maker": "noise", "colour": rng.choice(["white", "pink", "brown"]), "seconds": round(rng.uniform(0.7, 2.0), 3)}
    if name in ("a rising tone", "a falling tone"):
        ends = sorted([low // 2, round(low * rng.uniform(1.3, 2.2))], reverse=name == "a falling tone")
        return {**base, "maker": "glide", "form": rng.choice(["sine", "triangle", "square"]), "low": ends[0], "high": ends[1],
                "seconds": round(rng.uniform(0.7, 1.7), 3)}
    if name == "a plucked string":
        return {**base, "maker": "glide", "form": "pluck", "low": low // 2, "high": low // 2, "seconds": round(rng.uniform(0.8, 1.6), 3)}
    if name == "beeps":
        return {**base, "maker": "beeps", "form": rng.choice(["sine", "square", "triangle"]), "low": rng.randint(500, 1800), "count": count or rng.randint(1, 4),
                "on": round(rng.uniform(0.09, 0.18), 3), "gap": round(rng.uniform(0.16, 0.3), 3)}
    if name == "clicks":
        fast = rng.random() < 0.5
        return {**base, "maker": "clicks", "on": round(rng.uniform(0.006, 0.02), 4), "tempo": "fast" if fast else "slow",
                "per_second": round(rng.uniform(7, 10) if fast else rng.uniform(1.8, 2.8), 2), "seconds": round(rng.uniform(1.7, 2.1), 3)}
    base["how"]["hiss"] = base["how"]["hiss"] or 0.0005  # two silences of one length would be the same file
    return {**base, "maker": "nothing", "seconds": round(rng.uniform(0.8, 2.0), 3)}  # "silence"


def instrument_recipe(rng, base, name, count, direction):
    """Equal notes, or, when a direction is given, three or four that climb or descend."""
    count = count or rng.randint(1, 4)
    first, climb = rng.randint(55, 72), 0
    if direction:
        count, climb = rng.randint(3, 4), rng.randint(2, 4) * (1 if direction == "up" else -1)
        first += 0 if direction == "up" else 10
    return {**base, "maker": "instrument", "instrument": name, "program": rng.choice(INSTRUMENTS[name]), "velocity": rng.randint(70, 120),
            "keys": [first + climb * i for i in range(count)], "count": count, "step": round(rng.uniform(0.4, 0.55), 3),
            **({"direction": direction} if direction else {})}

"""Speech from recipes: espeak-ng and flite read a text aloud, then it is recorded (waves.py). Voices that training never hears."""
import functools
import pathlib

import waves

SECONDS = 2.9  # the longest; a longer sentence is spoken faster

ACCENTS = ["en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029"]
VARIANTS = ["", "+f1", "+f2", "+f3", "+f5", "+m1", "+m2", "+m3", "+m5", "+m7", "+klatt", "+klatt2"]
TRAINED = [("espeak-ng", accent + variant) for accent in ACCENTS for variant in VARIANTS] + [("flite", name) for name in ("kal16", "awb", "slt")]
# Held out wholly: no voice of training has one of these accents, variants or flite voices.
UNHEARD = [("espeak-ng", "en-us+f4"), ("espeak-ng", "en-us+m4"), ("espeak-ng", "en-gb+m6"), ("espeak-ng", "en-gb-x-gbclan"),
           ("espeak-ng", "en-gb-x-gbclan+f4"), ("espeak-ng", "en-us+klatt3"), ("flite", "rms")]


def voice_of(rng, unheard):
    """Program and name of a voice. flite's few voices are as likely as a quarter of espeak-ng's many."""
    if unheard:
        return rng.choice(UNHEARD)
    return rng.choice([v for v in TRAINED if (v[0] == "flite") == (rng.random() < 0.3)])


def recipe_of(rng, text, unheard=False):
    """How a text is spoken and recorded, drawn at random."""
    program, name = voice_of(rng, unheard)
    return {"kind": "speech", "text": text, "program": program, "voice": name, "speed": round(rng.uniform(0.8, 1.2), 3),
            "pitch": rng.randint(25, 75), "shift": round(rng.uniform(0.95, 1.05), 3), "rate": rng.choice([16000] * 7 + [22050, 24000, 44100]),
            "how": {"seconds": SECONDS, "lead": round(rng.uniform(0.02, 0.2), 3), "tail": round(rng.uniform(0.02, 0.15), 3),
                    "gain": round(rng.uniform(0.25, 0.95), 3), "hiss": rng.choice([0, 0, round(rng.uniform(0.0005, 0.006), 4)]),
                    "hiss_colour": rng.choice(["white", "pink", "brown"]), "low": rng.choice([0, 0, 0, rng.randint(3600, 6500)]),
                    "seed": rng.getrandbits(32)}}


def by_flite(recipe, scratch):
    path = pathlib.Path(scratch, "speech.wav")
    waves.run(["flite", "-voice", recipe["voice"], "--setf", f"duration_stretch={1 / recipe['speed']:.3f}", "-t", recipe["text"], "-o", path])
    return waves.read(path)


@functools.lru_cache(maxsize=1)
def steady():
    """The option of espeak-ng that makes the breath of its voices the same every time, for versions that have one; older ones need none."""
    return ["-D"] if b"deterministic" in waves.run(["espeak-ng", "--help"]) else []


def by_espeak(recipe, scratch):
    path = pathlib.Path(scratch, "speech.wav")
    waves.run(["espeak-ng", *steady(), "-v", recipe["voice"], "-s", round(155 * recipe["speed"]), "-p", recipe["pitch"], "-w", path, recipe["text"]])
    return waves.read(path)


PROGRAMS = {"flite": by_flite, "espeak-ng": by_espeak}  # each: the wave of a text as the program says it, and its rate


def wave_of(recipe, scratch):
    x, rate = PROGRAMS[recipe["program"]](recipe, scratch)
    x = waves.trim(x, rate)
    room = recipe["how"]["seconds"] - recipe["how"]["lead"] - recipe["how"]["tail"]
    length = min(len(x) / rate / recipe["shift"], room)
    return waves.recorded(waves.resample(x, int(length * recipe["rate"])), recipe["rate"], recipe["how"])


def render(recipe, path, ending, scratch):
    waves.write(wave_of(recipe, scratch), recipe["rate"], path, ending)

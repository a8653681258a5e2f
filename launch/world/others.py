"""The same world by other programs: shapes drawn by GraphicsMagick, voices of Festival, sounds computed by ffmpeg. Only tests use them: they show
whether a model knows a thing or the handwriting of the programs that it was trained with."""
import pathlib

import numpy

import scenes
import sounds
import speak
import waves

FESTIVAL = {"ked": "/usr/share/festival/voices/english/ked_diphone", "slt-hts": "/usr/share/festival/voices/us/cmu_us_slt_arctic_hts"}
CALLS = {"ked": "(voice_ked_diphone)", "slt-hts": "(voice_cmu_us_slt_arctic_hts)"}
GRAPHICS = pathlib.Path("/usr/bin/gm")


def lacking():
    """Packages without which a part is left out."""
    return (["graphicsmagick"] if not GRAPHICS.exists() else []) + (["festival", "festvox-kdlpc16k"] if not voices() else [])


# --- pictures ---

def drawing(rng, make):
    """A scene of scenes.py, in the plain colours that programs have by name, on white, black or grey."""
    scene = make(rng)
    recipe, facts = scene["recipe"], scene["facts"]
    colours = {item["colour"] for item in recipe["items"]}
    ground = rng.choice([c for c in ("white", "black", "grey") if c not in colours and not (c == "black" and "purple" in colours)] or ["grey"])
    facts["ground"] = ground
    items = [{k: item[k] for k in ("shape", "colour", "x", "y", "r")} for item in recipe["items"]]
    return {"facts": facts, "recipe": {"kind": "drawn", "size": rng.choice([72, 100, 120]), "ground": ground, "items": items}, "ending": "png"}


def command_of(item, side):
    """GraphicsMagick's drawing command for an item."""
    x, y, r = item["x"] * side, item["y"] * side, item["r"] * side

    def points(*corners):
        return "polygon " + " ".join(f"{x + r * px:.2f},{y + r * py:.2f}" for px, py in corners)
    shape = item["shape"]
    if shape == "circle":
        return f"fill {item['colour']} circle {x:.2f},{y:.2f} {x + r:.2f},{y:.2f}"
    if shape == "ring":
        return f"fill none stroke {item['colour']} stroke-width {0.42 * r:.2f} circle {x:.2f},{y:.2f} {x + 0.79 * r:.2f},{y:.2f}"
    if shape == "square":
        return f"fill {item['colour']} rectangle {x - 0.85 * r:.2f},{y - 0.85 * r:.2f} {x + 0.85 * r:.2f},{y + 0.85 * r:.2f}"
    if shape == "heart":
        at = [f"{x + r * px:.2f},{y + r * py:.2f}" for px, py in
              ((0, 0.95), (-1.6, -0.1), (-0.75, -1.5), (0, -0.45), (0.75, -1.5), (1.6, -0.1), (0, 0.95))]
        return f"fill {item['colour']} path 'M {at[0]} C {at[1]} {at[2]} {at[3]} C {at[4]} {at[5]} {at[6]} Z'"
    corners = {
        "triangle": [(0, -1), (0.9, 0.75), (-0.9, 0.75)], "diamond": [(0, -1), (0.62, 0), (0, 1), (-0.62, 0)],
        "cross": [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3)],
        "star": [(0, -1), (0.22, -0.31), (0.95, -0.31), (0.36, 0.12), (0.59, 0.81), (0, 0.38), (-0.59, 0.81), (-0.36, 0.12), (-0.95, -0.31), (-0.22, -0.31)],
    }[shape]
    return f"fill {item['colour']} {points(*corners)}"


def render(recipe, path, ending, scratch):
    del scratch
    draws = [word for item in recipe["items"] for word in ("-draw", command_of(item, recipe["size"]))]
    waves.run([GRAPHICS, "convert", "-size", f"{recipe['size']}x{recipe['size']}", f"xc:{recipe['ground']}", *draws, "+profile", "*", f"{ending}:{path}"])


# --- speech ---

def festival(recipe, scratch):
    """The wave of a text as Festival says it, and its rate."""
    text, path = pathlib.Path(scratch, "said.txt"), pathlib.Path(scratch, "said.wav")
    text.write_text(recipe["text"] + "\n", encoding="utf-8")
    waves.run(["text2wave", "-eval", CALLS[recipe["voice"]], "-eval", f"(Parameter.set 'Duration_Stretch {1 / recipe['speed']:.3f})", "-o", path, text])
    return waves.read(path)


def voices():
    return [name for name, folder in FESTIVAL.items() if pathlib.Path(folder).exists()]


def speech_recipe(rng, text, unheard):
    del unheard  # all of them are
    return {**speak.recipe_of(rng, text), "program": "festival", "voice": rng.choice(voices()), "shift": 1.0, "speed": round(rng.uniform(0.9, 1.1), 3)}


# --- sounds ---

def expression(recipe):
    """A source of ffmpeg's for the sound."""
    f, g, s = recipe["low"], recipe["high"], recipe["step"]
    d = recipe["seconds"]
    form = {
        "a siren": f"0.6*sin(2*PI*{(f + g) / 2}*t+{(g - f) / 2}/{1 / (2 * s):.3f}*sin(2*PI*{1 / (2 * s):.3f}*t))",
        "an alarm": f"0.5*sin(2*PI*t*if(lt(mod(t\\,{2 * s})\\,{s})\\,{f}\\,{g}))",
        "a buzz": f"0.5*sgn(sin(2*PI*{f / 8:.1f}*t))",
        "a rising tone": f"0.6*sin(2*PI*({f / 2}*t+{g - f / 2}*t*t/{2 * d}))",
        "a falling tone": f"0.6*sin(2*PI*({g}*t-{g - f / 2}*t*t/{2 * d}))",
        "beeps": f"0.6*sin(2*PI*{g}*t)*lt(mod(t\\,0.4)\\,0.14)*lt(t\\,{0.4 * recipe['count'] - 0.2:.2f})",
    }
    if recipe["name"] == "noise":
        return f"anoisesrc=c={recipe['colour']}:d={d}:r={sounds.RATE}:a=0.5:s={recipe['seed'] % 100000}"
    return f"aevalsrc='{form[recipe['name']]}':d={0.4 * recipe['count'] if recipe['name'] == 'beeps' else d}:s={sounds.RATE}"


COMPUTED = ["a siren", "an alarm", "a buzz", "noise", "a rising tone", "a falling tone", "beeps"]


def sound_recipe(rng):
    low = rng.randint(400, 900)
    return {"kind": "sound", "maker": "lavfi", "name": rng.choice(COMPUTED), "seed": rng.getrandbits(32), "low": low, "high": round(low * rng.uniform(1.5, 2.2)),
            "step": round(rng.uniform(0.25, 0.45), 3), "seconds": round(rng.uniform(1.2, 2.0), 2), "count": rng.randint(1, 4),
            "colour": rng.choice(["white", "pink", "brown"]), "how": sounds.recording_of(rng)}


def computed(recipe, scratch):
    del scratch
    raw = waves.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", expression(recipe), "-f", "s16le", "-ac", 1, "-fflags", "+bitexact", "pipe:1"])
    return numpy.frombuffer(raw, "<i2") / 32768


def scene(rng):
    return drawing(rng, rng.choice([scenes.one_shape, scenes.one_shape, scenes.two_shapes, scenes.group]))

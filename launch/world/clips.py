"""Clips from recipes: a few frames in which shapes move, change or rest, as a film by ffmpeg with or without a sound track, or one by one.

The model reads a video as the mean of its frames' rows (spec 2.2), so nothing that only their order tells can be asked: what moves draws a
trail, and a change is named without saying which state came first.
"""
import pathlib

import draw
import sounds
import waves


def item_at(item, part):
    """The item in the frame at that part, 0..1, of the clip; None while it is hidden."""
    event = item["event"]
    now = {k: v for k, v in item.items() if k not in ("event", "to", "second", "second_colour", "grows")}
    if event == "moves":
        now["x"] += (item["to"][0] - item["x"]) * part
        now["y"] += (item["to"][1] - item["y"]) * part
    elif event == "changes colour" and part >= 0.5:
        now["rgb"] = item["second"]
    elif event == "changes size":
        now["r"] *= 1 + (item["grows"] - 1) * part
    elif event == "blinks" and int(part * 7.999) % 2 == 1:
        return None
    return now


def frame(recipe, i):
    part = i / (recipe["frames"] - 1)
    items = [item for item in (item_at(item, part) for item in recipe["items"]) if item]
    return draw.picture({**{k: recipe[k] for k in ("size", "ground", "noise", "seed")}, "items": items})


def encode(films, scratch):
    """Encodes films = (recipe, path, ending), all by one ffmpeg, whose start takes longer than a film. Codecs run on one thread and leave out
    what differs from run to run, so a film's bytes do not depend on the others."""
    inputs, outputs, n = [], [], 0
    for i, (recipe, path, ending) in enumerate(films):
        frames = pathlib.Path(scratch, f"frames{i}")
        frames.write_bytes(b"".join(frame(recipe, k).tobytes() for k in range(recipe["frames"])))
        inputs += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{recipe['size']}x{recipe['size']}", "-r", recipe["fps"], "-i", frames]
        outputs += ["-map", f"{n}:v"]
        n += 1
        if recipe.get("track"):
            track = pathlib.Path(scratch, f"track{i}.wav")
            sounds.render(recipe["track"], track, "wav", scratch)
            inputs += ["-i", track]
            outputs += ["-map", f"{n}:a", "-c:a", "aac" if ending == "mp4" else "libvorbis", "-flags:a", "+bitexact"]
            n += 1
        video = ["libx264", "-preset", "veryfast", "-crf", 16] if ending == "mp4" else ["libvpx", "-crf", 8, "-b:v", "2M", "-cpu-used", 5]
        outputs += ["-c:v", *video, "-pix_fmt", "yuv420p", "-threads", 1, "-map_metadata", -1, "-fflags", "+bitexact", "-flags:v", "+bitexact",
                    "-f", ending, path]
    waves.run(["ffmpeg", "-v", "error", "-y", *inputs, *outputs])


def render(recipe, path, ending, scratch):
    """One frame as a picture."""
    del scratch
    draw.save(frame(recipe["clip"], recipe["index"]), path, ending, 90)

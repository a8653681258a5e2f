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


def encode(recipe, path, ending, scratch):
    """A film of all frames; codecs run on one thread and leave out what differs from run to run."""
    frames = b"".join(frame(recipe, i).tobytes() for i in range(recipe["frames"]))
    command = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{recipe['size']}x{recipe['size']}", "-r", recipe["fps"],
               "-i", "pipe:0"]
    if recipe.get("track"):
        track = pathlib.Path(scratch, "track.wav")
        sounds.render(recipe["track"], track, "wav", scratch)
        command += ["-i", track, "-c:a", "aac" if ending == "mp4" else "libvorbis", "-flags:a", "+bitexact"]
    video = ["libx264", "-preset", "veryfast", "-crf", 16] if ending == "mp4" else ["libvpx", "-crf", 8, "-b:v", "2M", "-cpu-used", 5]
    command += ["-c:v", *video, "-pix_fmt", "yuv420p", "-threads", 1, "-map_metadata", -1, "-fflags", "+bitexact", "-flags:v", "+bitexact",
                "-f", ending, path]
    waves.run(command, input=frames)


def render(recipe, path, ending, scratch):
    if recipe["kind"] == "frame":
        draw.save(frame(recipe["clip"], recipe["index"]), path, ending, 90)
    else:
        encode(recipe, path, ending, scratch)

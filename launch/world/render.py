"""Makes the media files of a world from their recipes, on all cores. A file is written beside its place and renamed, so what exists is whole."""
import concurrent.futures
import ctypes
import os
import pathlib
import signal
import sys
import tempfile
import time

import clips
import draw
import others
import sounds
import speak
import waves

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
KINDS = {"picture": lambda recipe, path, ending, _scratch: draw.render(recipe, path, ending),
         "speech": speak.render, "sound": sounds.render, "frame": clips.render, "drawn": others.render}
sounds.MAKERS["lavfi"] = others.computed
speak.PROGRAMS["festival"] = others.festival


def beside(target):
    return target.with_name(f".{target.name}.{os.getpid()}")


def attempt(targets, make):
    """Calls make(paths, scratch folder) for files beside the targets, then renames them; a message when that fails, else None."""
    parts = [beside(target) for target in targets]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            make(parts, scratch)
            for part, target in zip(parts, targets):
                part.replace(target)
        except (waves.ToolFailed, OSError, ValueError) as e:
            for part in parts:
                part.unlink(missing_ok=True)
            return f"{targets[0]}: {e}"
    return None


def some(jobs):
    """Makes the files of jobs = (path, recipe), films together; the messages of those that failed."""
    jobs = [(pathlib.Path(path), recipe) for path, recipe in jobs]
    films = [job for job in jobs if job[1]["kind"] == "clip"]
    messages = []
    if films:
        messages.append(attempt([target for target, _ in films], lambda parts, scratch: clips.encode(
            [(recipe, part, target.suffix[1:]) for part, (target, recipe) in zip(parts, films)], scratch)))
    for target, recipe in jobs:
        if recipe["kind"] != "clip":
            messages.append(attempt([target], lambda parts, scratch, t=target, r=recipe: KINDS[r["kind"]](r, parts[0], t.suffix[1:], scratch)))
    return [message for message in messages if message]


def follow_parent():
    """In a worker: the parent decides when to stop; a parent that is killed takes its workers along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def progress(done, count, started, last):
    """Says how far it is, at most every 5 seconds; returns when it last did."""
    now = time.monotonic()
    if now - last < 5 and done < count:
        return last
    left = (now - started) / max(done, 1) * (count - done)
    print(f"  {done} of {count} files, about {left:.0f} s left" if done < count else f"  {count} files in {now - started:.0f} s", file=sys.stderr)
    return now


def everything(folder, recipes, cores):
    """Makes the files that do not exist yet. Returns the messages of those that failed."""
    root = pathlib.Path(folder)
    for parent in {(root / path).parent for path in recipes}:
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(".*"):  # of a run that was interrupted
            left.unlink()
    jobs = [(str(root / path), recipe) for path, recipe in sorted(recipes.items()) if not (root / path).exists()]
    if len(jobs) < len(recipes):
        print(f"  {len(recipes) - len(jobs)} files exist already", file=sys.stderr)
    failed, started, last, done = [], time.monotonic(), time.monotonic(), 0
    with concurrent.futures.ProcessPoolExecutor(cores, initializer=follow_parent) as pool:
        tasks = [pool.submit(some, jobs[i:i + 16]) for i in range(0, len(jobs), 16)]
        try:
            for task in concurrent.futures.as_completed(tasks):
                failed += task.result()
                done = min(done + 16, len(jobs))
                last = progress(done, len(jobs), started, last)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return failed

#!/usr/bin/env python3
"""unimoe train under mpirun: a run that is asked to stop, and one that is killed, go on with the bits of the unbroken run; what
is written at the end.

usage: test_resume.py BUILD SOURCE      exit 0: passed, 77: no mpirun
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile

from train_run import Runs

STEPS = 30


def stopped_and_killed(runs):
    def interrupted(sig, after, *more):
        job = runs.start("run", *more)
        runs.wait_for_step("run", job, after)
        job.send_signal(sig)
        return job.wait(), job.stderr.read()

    runs.run("whole", "--experts", "1", "--quiet")
    code, said = interrupted(signal.SIGTERM, 4, "--experts", "2")
    assert code == 75, (code, said)
    assert "--resume auto goes on" in said, said
    figure = runs.out("run") / "training.svg"
    assert f"step {runs.steps_logged('run')[-1]} of {STEPS}; loss" in figure.read_text()
    code, said = interrupted(signal.SIGKILL, 12, "--experts", "3", "--resume", "auto")
    assert code == -signal.SIGKILL, (code, said)
    assert "--resume auto" in runs.run("run", code=2)
    runs.run("run", "--routers", "2", "--experts", "2", "--resume", "auto", "--quiet")
    runs.same("whole", "run")
    assert runs.steps_logged("run") == list(range(1, STEPS + 1)), runs.steps_logged("run")
    assert f"step {STEPS} of {STEPS}; loss" in figure.read_text()


def what_is_left(runs):
    """An adapter that convert merges gives the model that is written with the adapter merged; and that is a model to train further: of its
    folder only the model's own files go along."""
    left = runs.out("run")
    model = (left / "model.safetensors").read_bytes()
    assert model == (runs.out("whole") / "model.safetensors").read_bytes()
    assert os.path.exists(left / "vision_tower/model.safetensors")

    runs.run("part", "--save", "adapter", "--quiet")
    convert = ["convert", "--base", runs.source / "tests/golden/models/s4", "--tuned", runs.out("part") / "adapter", "--out", runs.out("merged")]
    subprocess.run([runs.build / "unimoe", *convert], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert model == (runs.out("merged") / "model.safetensors").read_bytes()

    runs.run("further", "--quiet", "--steps", "2", model=left)
    assert runs.steps_logged("further") == [1, 2], runs.steps_logged("further")
    made = {p.name for p in runs.out("further").iterdir()}
    assert made == {p.name for p in left.iterdir() if not p.name.startswith("checkpoint-")} | {"checkpoint-2"}, made
    said = runs.run("run", "--resume", "auto")
    assert f"{STEPS} steps; the model is in" in said, said


def main():
    if shutil.which("mpirun") is None:
        return 77
    with tempfile.TemporaryDirectory() as tmp:
        runs = Runs(sys.argv[1], sys.argv[2], tmp, STEPS, ["--save-every", "5"])
        stopped_and_killed(runs)
        what_is_left(runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""unimoe train under mpirun: a run that is asked to stop, and one that is killed, go on with the bits of the unbroken run; what
is written at the end.

usage: test_train.py BUILD SOURCE      exit 0: passed, 77: no mpirun
"""
import glob
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

STEPS = 30


def tensors(folder):
    """Every tensor of a checkpoint, whichever file has it."""
    found = {}
    for path in glob.glob(f"{folder}/*.safetensors"):
        data = pathlib.Path(path).read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        for name, t in json.loads(data[8 : 8 + size]).items():
            if name != "__metadata__":
                begin, end = t["data_offsets"]
                found[name] = data[8 + size + begin : 8 + size + end]
    return found


def samples(source, to):
    folder = source / "tests/golden/training/s4"
    whole = json.loads((folder / "training.json").read_text())
    to.write_text(json.dumps(whole["samples"]))
    return folder


def main():
    build, source = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
    if shutil.which("mpirun") is None:
        return 77
    with tempfile.TemporaryDirectory() as tmp:
        data = pathlib.Path(tmp) / "data.json"
        media = samples(source, data)

        def command(out, *more, model=source / "tests/golden/models/s4", steps=STEPS):
            return [
                str(build / "unimoe"), "train", str(model), "--data", str(data),
                "--media-folder", str(media), "--stage", "3", "--batch", "3", "--lr", "1e-3", "--warmup", "0",
                "--steps", str(steps), "--save-every", "5", "--out", f"{tmp}/{out}", *more,
            ]

        def step_of(out):
            log = pathlib.Path(tmp) / out / "trainer_log.jsonl"
            return log.read_text().count("\n") if log.exists() else 0

        def interrupted(out, sig, after, *more):
            job = subprocess.Popen(command(out, *more), stderr=subprocess.PIPE, text=True)
            while job.poll() is None and step_of(out) < after:
                time.sleep(0.02)
            job.send_signal(sig)
            return job.wait(), job.stderr.read()

        subprocess.run(command("whole", "--experts", "1", "--quiet"), check=True)
        code, said = interrupted("run", signal.SIGTERM, 4, "--experts", "2")
        assert code == 75, (code, said)
        assert "--resume auto goes on" in said, said
        assert f"step {step_of('run')} of {STEPS}; loss" in pathlib.Path(f"{tmp}/run/training.svg").read_text()
        code, said = interrupted("run", signal.SIGKILL, 12, "--experts", "3", "--resume", "auto")
        assert code == -signal.SIGKILL, (code, said)
        again = subprocess.run(command("run"), stderr=subprocess.PIPE, text=True)
        assert again.returncode == 2 and "--resume auto" in again.stderr, again
        subprocess.run(command("run", "--routers", "2", "--experts", "2", "--resume", "auto", "--quiet"), check=True)
        want, got = tensors(f"{tmp}/whole/checkpoint-{STEPS}"), tensors(f"{tmp}/run/checkpoint-{STEPS}")
        assert len(want) > 100 and want == got, "the weights differ"
        assert step_of("run") == STEPS, step_of("run")
        assert f"step {STEPS} of {STEPS}; loss" in pathlib.Path(f"{tmp}/run/training.svg").read_text()
        model = pathlib.Path(f"{tmp}/run/model.safetensors").read_bytes()
        assert model == pathlib.Path(f"{tmp}/whole/model.safetensors").read_bytes()
        assert os.path.exists(f"{tmp}/run/vision_tower/model.safetensors")

        # an adapter that convert merges gives the model that is written with the adapter merged
        subprocess.run(command("part", "--save", "adapter", "--quiet"), check=True)
        convert = [str(build / "unimoe"), "convert", "--base", str(source / "tests/golden/models/s4"), "--tuned", f"{tmp}/part/adapter", "--out", f"{tmp}/merged"]
        subprocess.run(convert, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert model == pathlib.Path(f"{tmp}/merged/model.safetensors").read_bytes()

        # what a run leaves is a model to train further: of its folder only the model's own files go along
        subprocess.run(command("further", "--quiet", model=f"{tmp}/run", steps=2), check=True)
        assert step_of("further") == 2, step_of("further")
        made = {p.name for p in pathlib.Path(f"{tmp}/further").iterdir()}
        assert made == {p.name for p in pathlib.Path(f"{tmp}/run").iterdir() if not p.name.startswith("checkpoint-")} | {"checkpoint-2"}, made
        again = subprocess.run(command("run", "--resume", "auto"), stderr=subprocess.PIPE, text=True)
        assert again.returncode == 0 and f"{STEPS} steps; the model is in" in again.stderr, again
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The scripts of launch/slurm as Slurm runs them, without Slurm: its variables, the signal to the batch shell alone, and scontrol in the path.

usage: test_slurm.py BUILD SOURCE      exit 0: passed, 77: no mpirun
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).resolve().parent / "training"))
from train_run import Runs  # noqa: E402

STEPS = 6


class Slurm:
    def __init__(self, runs):
        self.runs = runs
        self.script = runs.source / "launch/slurm/train.sbatch"
        self.calls = runs.tmp / "calls"
        bin_ = runs.tmp / "bin"
        bin_.mkdir()
        (bin_ / "scontrol").write_text(f'#!/bin/sh\necho "$@" >>{self.calls}\n')
        (bin_ / "scontrol").chmod(0o755)
        self.env = {**os.environ, "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": "/", "PROGRAM": str(runs.build / "unimoe"),
                    "PATH": f"{bin_}:{os.environ['PATH']}"}

    def start(self, name, *more, **env):
        words = self.runs.command(name, *more)  # unimoe train MODEL FLAG...; the script gives --out itself
        flags = words[3:]
        at = flags.index("--out")
        del flags[at:at + 2]
        return subprocess.Popen(["bash", self.script, words[2], self.runs.out(name), *flags], stderr=subprocess.PIPE, text=True, env={**self.env, **env})

    def generate(self, requests, *more, **env):
        words = ["bash", self.script.with_name("generate.sbatch"), self.runs.source / "tests/golden/models/s4", requests, *more]
        return subprocess.run(words, capture_output=True, text=True, env={**self.env, **env}, check=False)

    def requeued(self):
        return self.calls.read_text().splitlines() if self.calls.exists() else []


def main():
    if shutil.which("mpirun") is None:
        return 77
    with tempfile.TemporaryDirectory() as tmp:
        runs = Runs(sys.argv[1], sys.argv[2], tmp, STEPS)
        slurm = Slurm(runs)
        constant = ("--schedule", "constant", "--save-every", "1", "--keep", "10000")

        # Its time is up: a checkpoint, and it queues again.
        job = slurm.start("run", *constant, "--steps", "10000")
        runs.wait_for_step("run", job, 2)
        job.send_signal(signal.SIGTERM)
        said = job.stderr.read()
        assert job.wait() == 75, said
        assert slurm.requeued() == ["requeue 7"], slurm.requeued()
        saved = runs.checkpoints("run")[-1]
        assert saved == runs.steps_logged("run")[-1] >= 2

        # The next life, on another number of tasks, goes on from there to the end, and queues no more.
        job = slurm.start("run", *constant, "--steps", str(saved + 2), SLURM_NTASKS="5", ROUTERS="2")
        said = job.stderr.read()
        assert job.wait() == 0, said
        assert f"going on from {runs.out('run')}/checkpoint-{saved}" in said, said
        assert slurm.requeued() == ["requeue 7"]
        runs.run("straight", *constant, "--steps", str(saved + 2), "--quiet")
        assert runs.checkpoints("straight")[-1] == saved + 2
        runs.same("straight", "run", saved + 2)

        # A failure does not queue again; too few tasks are a usage error.
        job = slurm.start("other", "--data", str(runs.tmp / "nowhere.json"))
        said = job.stderr.read()
        assert job.wait() == 2, (job.returncode, said)
        assert slurm.requeued() == ["requeue 7"]
        job = slurm.start("other", SLURM_NTASKS="2")
        assert "usage: sbatch --ntasks N (at least 3)" in job.stderr.read()
        assert job.wait() == 2

        # Requests have their script, too.
        requests = runs.tmp / "requests.jsonl"
        requests.write_text('{"id": "a", "prompt": "hi"}\n')
        done = slurm.generate(requests, "--max-new-tokens", "2")
        assert done.returncode == 0, done.stderr
        assert [line["kind"] for line in map(json.loads, done.stdout.splitlines())] == ["result", "summary"], done.stdout
        done = slurm.generate(requests, SLURM_NTASKS="2")
        assert done.returncode == 2 and "usage: sbatch --ntasks N (at least 3)" in done.stderr, done.stderr
    return 0


if __name__ == "__main__":
    sys.exit(main())

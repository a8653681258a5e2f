#!/usr/bin/env python3
"""unimoe train, killed with -9 at random moments and resumed on other numbers of ranks: the last checkpoint has the bits of the
unbroken run, weights, moments, counts of steps and the state of the run alike.

Every second kill waits until a checkpoint is being written. `--whole-job` kills the launcher, mpirun and all ranks at once, as the power
does; otherwise the launcher or one of the ranks, by turns.

usage: test_kills.py BUILD SOURCE [--kills N] [--seed N] [--steps N]      exit 0: passed, 77: no mpirun
"""
import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from train_run import Runs, name_of, processes_below

RANKS = [(1, 1, 1), (2, 3, 1), (1, 4, 2), (3, 2, 1), (4, 1, 2), (2, 2, 3)]  # routers, experts, encoders


def kill_some(job, kind):
    """kind 0: the launcher alone; 1: router 0; 2: any other rank; 3: everything at once."""
    below = processes_below(job.pid)
    ranks = [p for p in below if name_of(p) in ("unimoe-router", "unimoe-expert", "unimoe-encoder")]
    routers = [p for p in ranks if name_of(p) == "unimoe-router"]
    victims = [below[:1], routers[:1], ranks[-1:], below][kind] or below
    for p in victims:
        try:
            os.kill(p, signal.SIGKILL)
        except ProcessLookupError:
            pass


def interrupted(runs, rng, i, usual):
    """One life of the run, which a kill ends. Returns whether a checkpoint was being written then; None: it came to its end first."""
    routers, experts, encoders = RANKS[rng.randrange(len(RANKS))]
    job = subprocess.Popen(
        runs.command("run", "--resume", "auto", "--quiet", "--routers", str(routers), "--experts", str(experts), "--encoders", str(encoders)),
        stderr=subprocess.DEVNULL,
    )
    at = time.monotonic() + rng.uniform(0.1, usual)
    while time.monotonic() < at and job.poll() is None:
        time.sleep(0.005)
    while i % 2 == 0 and job.poll() is None and not runs.saving("run"):
        time.sleep(0.0003)
    if i % 2 == 0:
        time.sleep(rng.uniform(0, 0.004))
    saving = runs.saving("run")
    if job.poll() is not None:
        assert job.returncode == 0, job.returncode
        return None
    kill_some(job, i % 4)
    job.wait()
    return saving


def main():
    args = argparse.ArgumentParser()
    args.add_argument("build")
    args.add_argument("source")
    args.add_argument("--kills", type=int, default=5)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--steps", type=int, default=16)
    args = args.parse_args()
    if shutil.which("mpirun") is None:
        return 77
    rng = random.Random(args.seed)
    kills = saving = rounds = 0
    with tempfile.TemporaryDirectory() as tmp:
        runs = Runs(args.build, args.source, tmp, args.steps, ["--save-every", "2", "--clip", "1"])
        begin = time.monotonic()
        runs.run("whole", "--quiet")
        usual = time.monotonic() - begin
        while kills < args.kills:
            assert rounds < 4 * args.kills + 8, "hardly a kill came in time"
            hit = interrupted(runs, rng, rounds, usual)
            rounds += 1
            if hit is None:  # it is through: the next run is a new one
                runs.same("whole", "run")
                shutil.rmtree(runs.out("run"))
            else:
                kills += 1
                saving += hit
        runs.run("run", "--resume", "auto", "--quiet", "--routers", "2", "--experts", "2")
        runs.same("whole", "run")
        assert runs.steps_logged("run") == list(range(1, args.steps + 1)), runs.steps_logged("run")
        model = (runs.out("run") / "model.safetensors").read_bytes()
        assert model == (runs.out("whole") / "model.safetensors").read_bytes()
        left = [p.name for p in runs.out("run").iterdir() if p.name.startswith((".tmp", "set-aside"))]
        print(f"{kills} kills, {saving} while a checkpoint was being written; beside the model: {left or 'nothing half done'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

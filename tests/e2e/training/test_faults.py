#!/usr/bin/env python3
"""unimoe train when its folder fails it: a full disk, a limit of file sizes, a folder that is a file or that is deleted, damaged
checkpoints, two jobs in one folder; and resumes with another model, other data, other options, more or fewer steps.

usage: test_faults.py BUILD SOURCE      exit 0: passed, 77: no mpirun
"""
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from train_run import Runs, end, name_of, processes_below

STEPS = 8


def full_disk(runs):
    """A file system with room for one checkpoint and a half: the second save fails, says what was missing and keeps the first; when there
    is room, later ones work."""
    disk = runs.out("disk")
    disk.mkdir()
    whole = sum(f.stat().st_size for f in (runs.out("whole") / "checkpoint-2").iterdir())
    script = f"""
mount -t tmpfs -o size=16m none {disk} && mkdir {disk}/run || exit 9
head -c {(16 << 20) - whole * 3 // 2} /dev/zero >{disk}/fill
"$@" &
job=$!
while ! grep -q 'No space left' {runs.tmp}/said && kill -0 $job; do sleep 0.02; done
ls {disk}/run >{runs.tmp}/kept
rm {disk}/fill
wait $job; first=$?
[ $first = 0 ] || {{ [ $first = 1 ] && "$@" --resume auto; }} || exit 8
cp -r {disk}/run {runs.out("full")}
"""
    here = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-rm"]
    if subprocess.run([*here, "mount", "-t", "tmpfs", "none", str(disk)], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        print("full disk: left out, no file system can be mounted here")
        return
    with open(runs.tmp / "said", "wb") as said:
        command = runs.command("disk/run", "--save-every", "2", "--keep", "1", "--quiet")
        done = subprocess.run([*here, "sh", "-c", script, "sh", *command], stderr=said, check=False)
    said = (runs.tmp / "said").read_text()
    assert done.returncode == 0, (done.returncode, said)
    assert re.search(r"step 4: the checkpoint cannot be written: \S+/\.tmp-checkpoint-4/\S+: No space left on device: \d+ more bytes", said), said
    assert "training goes on, and tries again" in said, said
    assert "checkpoint-2" in (runs.tmp / "kept").read_text().split(), "the earlier checkpoint is kept"
    runs.same("whole", "full")


def limited_files(runs):
    """An expert rank may not write files (ulimit -f) from some step on: the run goes on, and says at its end that it is not saved."""
    job = runs.start("limited", "--save-every", "2", "--experts", "2", "--steps", "8")
    runs.wait_for_step("limited", job, 2)
    rank = [p for p in processes_below(job.pid) if name_of(p) == "unimoe-expert"][-1]
    resource.prlimit(rank, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    said = job.stderr.read()
    assert job.wait() == 1, said
    assert re.search(r"expert-\d.safetensors.tmp.\d+: File too large: \d+ more bytes were to be written", said), said
    assert "the checkpoints in" in said and "are as they were" in said, said
    kept = runs.checkpoints("limited")
    assert kept and kept[-1] < STEPS and not runs.saving("limited"), kept
    assert runs.steps_logged("limited")[-1] >= STEPS - 1
    runs.run("limited", "--resume", "auto", "--quiet")
    runs.same("whole", "limited")


def folder_in_the_way(runs):
    runs.out("file").write_text("x")
    said = runs.run("file", code=2)
    assert "file: a file, not a folder" in said, said


def folder_deleted(runs):
    """The folder of a run disappears under it: what is saved afterwards is whole."""
    job = runs.start("gone", "--save-every", "4", "--steps", "8")
    runs.wait_for_step("gone", job, 2)
    shutil.rmtree(runs.out("gone"), ignore_errors=True)
    code = job.wait()
    said = job.stderr.read()
    assert code == 0, (code, said)
    runs.same("whole", "gone")


def damaged(runs):
    """The newest checkpoint is damaged: the one before it is taken, and the run has its bits; all are: refused."""
    for name in ("cut", "flipped", "missing"):
        shutil.copytree(runs.out("whole"), runs.out(name))
        newest = runs.out(name) / f"checkpoint-{STEPS}"
        victim = newest / "expert-0.safetensors"
        data = victim.read_bytes()
        if name == "cut":
            victim.write_bytes(data[: len(data) // 2])
        elif name == "flipped":
            victim.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
        else:
            victim.unlink()
        if name == "flipped":
            continue
        said = runs.run(name, "--resume", "auto", "--experts", "2", "--quiet")
        assert f"checkpoint-{STEPS}: expert-0.safetensors" in said and "the one before it is tried" in said, said
        assert f"going on from {runs.out(name)}/checkpoint-{STEPS - 2}" in said, said
        runs.same("whole", name)
        assert (runs.out(name) / f"set-aside-checkpoint-{STEPS}").exists()
        assert runs.steps_logged(name) == list(range(1, STEPS + 1))
    for step in runs.checkpoints("flipped"):
        (runs.out("flipped") / f"checkpoint-{step}" / "router.safetensors").unlink()
    said = runs.run("flipped", "--resume", "auto", code=4)
    assert "router.safetensors: No such file" in said and "none of the checkpoints is whole" in said, said
    assert runs.steps_logged("flipped") == list(range(1, STEPS + 1)), "the log of the run is as it was"
    said = runs.run("flipped", "--resume", str(runs.out("flipped") / f"checkpoint-{STEPS}"), code=4)
    assert "router.safetensors: No such file" in said, said


def others(runs):
    """A checkpoint of another model, of other data, and of other options is refused by name; what may change is taken."""
    at = str(runs.out("whole") / f"checkpoint-{STEPS - 2}")
    other = runs.tmp / "model"
    shutil.copytree(runs.source / "tests/golden/models/s4", other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    for i in range(len(weights) // 2, len(weights), 2):  # of bf16 or f32 values alike: other ones
        weights[i] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    said = runs.run("other", "--resume", at, model=other, code=2)
    assert f"the weights of {other} are not those that the run was started with" in said, said
    said = runs.run("other", "--resume", at, "--freeze", "*gate*", code=2)
    assert 'was started with --freeze "", not "*gate*"' in said, said
    said = runs.run("other", "--resume", at, "--seed", "5", code=2)
    assert 'was started with --seed "0", not "5"' in said, said
    said = runs.run("other", "--resume", at, "--steps", str(STEPS - 4), code=2)
    assert f"the run is at step {STEPS - 2}, beyond the {STEPS - 4} steps" in said, said
    runs.write_data(runs.samples[1:])
    said = runs.run("other", "--resume", at, code=2)
    assert "the files of --data, or their weights, are not those" in said, said
    runs.write_data(runs.samples)
    assert runs.checkpoints("whole") == list(range(2, STEPS + 1, 2))
    (runs.tmp / "empty").mkdir()
    said = runs.run("other", "--resume", str(runs.tmp / "empty"), code=4)
    assert "manifest.json is missing" in said, said
    (runs.tmp / "empty/manifest.json").write_text('{"format":"other"}')
    said = runs.run("other", "--resume", str(runs.tmp / "empty"), code=4)
    assert "not that of a training's checkpoint" in said, said


def lost_samples(runs):
    """A sample whose picture is none, and one whose picture is missing: named, counted, and the run goes on."""
    runs.write_data([{**runs.samples[0], "image": str(runs.source / "README.md")}, *runs.samples, {**runs.samples[1], "image": "nowhere.png"}])
    said = runs.run("lost")
    assert "data.json[0] is left out" in said and "not an image" in said, said
    assert "data.json[7] is left out" in said and "nowhere.png: No such file" in said, said
    left_out = sum(r["lost"] for r in runs.records("lost"))
    assert left_out >= 2 and f"samples left out: {left_out}; the model is in" in said, (left_out, said)
    runs.write_data(runs.samples)


def back_and_on(runs):
    """From an older checkpoint through a link to the folder; then more steps than before, and the same again when it is through."""
    os.symlink(runs.out("whole"), runs.out("link"))
    said = runs.run("link", "--resume", str(runs.out("link") / "checkpoint-2"), "--quiet")
    assert "checkpoint-8, which is later, is now" in said.replace(f"checkpoint-{STEPS}", "checkpoint-8"), said
    model = (runs.out("whole") / "model.safetensors").read_bytes()
    runs.run("link", "--resume", "auto", "--quiet")
    assert model == (runs.out("whole") / "model.safetensors").read_bytes()
    more = str(STEPS + 4)
    runs.run("link", "--resume", "auto", "--quiet", "--steps", more, "--schedule", "constant", "--routers", "2")
    records = runs.records("whole")
    assert [r["step"] for r in records] == list(range(1, STEPS + 5))
    assert records[-1]["lr"] == 1e-3 and runs.checkpoints("whole")[-1] == STEPS + 4


def signals(runs):
    """SIGUSR1 in the middle of saves, again and again; then SIGTERM, once and twice: the bits are those of a run without signals.

    The run has more steps than any machine makes before the signals are through, and a rate that does not depend on their number.
    """
    on = ("--schedule", "constant", "--save-every", "1", "--keep", "10000")
    many = ("--steps", "10000", *on)
    job = runs.start("signals", *many)
    runs.wait_for_step("signals", job, 1)
    for _ in range(20):
        job.send_signal(signal.SIGUSR1)
        time.sleep(0.01)
    code, said = end(job, signal.SIGTERM)
    assert code == 75, (code, said)
    job = runs.start("signals", "--resume", "auto", *many)
    runs.wait_for_step("signals", job, len(runs.steps_logged("signals")) + 1)
    job.send_signal(signal.SIGTERM)
    time.sleep(0.02)
    code, said = end(job, signal.SIGTERM)
    assert code in (75, 143), (code, said)
    steps = runs.checkpoints("signals")[-1] + 1
    for name in ("unsignalled", "signals"):
        runs.run(name, "--resume", "auto", "--steps", str(steps), *on, "--quiet")
    runs.same("unsignalled", "signals", steps)


def two_jobs(runs):
    """A second job waits for the first, and then takes nothing from it."""
    first = runs.start("two", "--save-every", "2")
    runs.wait_for_step("two", first, 1)
    said = runs.run("two", "--resume", "auto")
    assert first.wait() == 0, first.stderr.read()
    assert f"{STEPS} steps" in said, said
    runs.same("whole", "two")


def main():
    if shutil.which("mpirun") is None:
        return 77
    cases = [full_disk, limited_files, folder_in_the_way, folder_deleted, damaged, others, signals, two_jobs, lost_samples, back_and_on]
    with tempfile.TemporaryDirectory() as tmp:
        runs = Runs(sys.argv[1], sys.argv[2], tmp, STEPS)
        runs.run("whole", "--save-every", "2", "--keep", "100", "--quiet")
        for case in cases:
            if len(sys.argv) > 3 and case.__name__ not in sys.argv[3:]:
                continue
            begin = time.monotonic()
            case(runs)
            print(f"{case.__name__}: {time.monotonic() - begin:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

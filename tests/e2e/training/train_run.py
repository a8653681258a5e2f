"""What the tests of whole training runs share: the command, its data, and the bits of what it leaves.

The runs are short and small: the golden model of four experts on the six samples of its golden training case, with adapters.
"""
import glob
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
from common import again_in, tensors  # noqa: E402, F401

MEDIA = "tests/golden/training/s4"


def tensors_in(folder):
    """Every tensor of a folder's safetensors, whichever file has it: name -> (type, shape, bytes)."""
    return {name: t for path in glob.glob(f"{folder}/*.safetensors") for name, t in tensors(path)[0].items()}


class Runs:
    """Training runs of one test, all in folders of `tmp` and on the same data."""

    def __init__(self, build, source, tmp, steps, more=()):
        self.build, self.source, self.tmp = pathlib.Path(build), pathlib.Path(source).resolve(), pathlib.Path(tmp)
        self.steps, self.more = steps, list(more)
        self.data = self.tmp / "data.json"
        self.samples = json.loads((self.source / MEDIA / "training.json").read_text())["samples"]
        self.write_data(self.samples)

    def write_data(self, samples):
        self.data.write_text(json.dumps(samples))

    def out(self, name):
        return self.tmp / name

    def command(self, name, *more, model=None):
        model = model or self.source / "tests/golden/models/s4"
        return [
            str(self.build / "unimoe"), "train", str(model), "--data", str(self.data), "--media-folder", str(self.source / MEDIA),
            "--stage", "3", "--batch", "3", "--lr", "1e-3", "--warmup", "0", "--steps", str(self.steps), "--out", str(self.out(name)),
            *self.more, *more,
        ]  # fmt: skip

    def start(self, name, *more, **kw):
        return subprocess.Popen(self.command(name, *more, **kw), stderr=subprocess.PIPE, text=True)

    def run(self, name, *more, code=0, prefix=(), **kw):
        """Runs to the end and returns what it said on standard error."""
        done = subprocess.run([*prefix, *self.command(name, *more, **kw)], stderr=subprocess.PIPE, text=True)
        assert done.returncode == code, (done.returncode, code, done.stderr)
        return done.stderr

    def steps_logged(self, name):
        log = self.out(name) / "trainer_log.jsonl"
        return [json.loads(line)["step"] for line in log.read_text().splitlines()] if log.exists() else []

    def records(self, name):
        return [json.loads(line) for line in (self.out(name) / "trainer_log.jsonl").read_text().splitlines()]

    def checkpoints(self, name):
        return sorted(int(p.name.split("-")[1]) for p in self.out(name).glob("checkpoint-*"))

    def saving(self, name):
        """A checkpoint is being written."""
        try:
            return any(e.startswith(".tmp-checkpoint") for e in os.listdir(self.out(name)))
        except FileNotFoundError:
            return False

    def wait_for_step(self, name, job, step):
        while job.poll() is None and len(self.steps_logged(name)) < step:
            time.sleep(0.02)

    def same(self, a, b, step=None):
        """The checkpoints of two runs have the same weights, moments, counts and state."""
        step = step or self.steps
        folders = [self.out(name) / f"checkpoint-{step}" for name in (a, b)]
        want, got = (tensors_in(f) for f in folders)
        assert len(want) > 100
        assert want.keys() == got.keys(), want.keys() ^ got.keys()
        for name in want:
            assert want[name] == got[name], f"{name} differs between {a} and {b}"
        want, got = (json.loads((f / "trainer_state.json").read_text()) for f in folders)
        assert want == got, (want, got)


def processes_below(pid):
    """pid and all that it has started, itself first."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="ascii") as f:
                    children.setdefault(int(f.read().rsplit(")", 1)[1].split()[1]), []).append(int(entry))
            except (OSError, ValueError):
                pass
    found = [pid]
    for p in found:
        found += children.get(p, [])
    return found


def name_of(pid):
    """The program's name as it was started; "" when it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return os.path.basename(f.read().split(b"\0")[0].decode())
    except OSError:
        return ""


def end(job, sig=signal.SIGKILL):
    job.send_signal(sig)
    code = job.wait()
    return code, job.stderr.read()

#!/usr/bin/env python3
"""The event files of a training under mpirun as TensorBoard reads them: every record of trainer_log.jsonl, also of a run that was stopped
and gone on with from an earlier checkpoint, whose later steps TensorBoard must not show twice. trainer_log.csv says the same.

usage: test_tensorboard.py BUILD SOURCE      exit 77: no mpirun, or tests/requirements.txt is not installed (tests/run does)
"""
import csv
import math
import pathlib
import shutil
import struct
import sys
import tempfile

from train_run import Runs, again_in

BUILD, SOURCE = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError as missing:
    again_in("venv", SOURCE, missing)

STEPS = 7


def near(value):
    """As the f32 that an event holds."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def wanted(records):
    """{tag: {step: value}} of the records, as core/train/log/event_log.h names them."""
    tags = {}

    def put(tag, step, value):
        if value is not None:
            tags.setdefault(tag, {})[step] = near(value)

    names = {"loss": "loss", "cross_entropy": "cross_entropy", "lr": "learning_rate", "norm": "grad_norm", "rows_per_second": "tokens_per_second", "epoch": "epoch"}
    for r in records:
        for key, name in names.items():
            put(f"train/{name}", r["step"], r[key])
        for modality, loss in r["loss_of"].items():
            put(f"train_loss/{modality}", r["step"], loss)
        for term in ("balance", "multimodal", "kl", "z"):
            put(f"train_aux/{term}", r["step"], r[term])
        for layer in r["load"]:
            put(f"expert_max_over_mean/layer_{layer['layer']}", r["step"], layer["max_over_mean"])
            put(f"expert_entropy/layer_{layer['layer']}", r["step"], layer["entropy"])
        put("eval/loss", r["step"], r.get("eval_loss"))
    return tags


def compare(runs):
    out, records = runs.out("run"), runs.records("run")
    assert [r["step"] for r in records] == list(range(1, STEPS + 1)), records
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    want = wanted(records)
    assert set(events.Tags()["scalars"]) == set(want), set(events.Tags()["scalars"]) ^ set(want)
    for tag, values in want.items():
        got = [(e.step, e.value) for e in events.Scalars(tag)]
        assert [s for s, _ in got] == sorted(values), (tag, got, values)
        assert all(math.isclose(v, values[s], rel_tol=1e-5) for s, v in got), (tag, got, values)
    assert len(want) > 15 and "eval/loss" in want, sorted(want)
    with (out / "trainer_log.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1)), rows
    for row, r in zip(rows, records):
        assert float(row["loss"]) == r["loss"] and row["media"] == r["media"], (row, r)
        assert math.isclose(float(row["load_max_over_mean"]), max(x["max_over_mean"] for x in r["load"]), rel_tol=1e-5), (row, r)
        assert (row["eval_loss"] != "") == ("eval_loss" in r), (row, r)


def main():
    if shutil.which("mpirun") is None:
        return 77
    with tempfile.TemporaryDirectory() as tmp:
        runs = Runs(BUILD, SOURCE, tmp, STEPS, ["--save-every", "2", "--keep", "9", "--eval-every", "3", "--experts", "2", "--quiet"])
        runs.more += ["--eval-data", str(runs.data)]
        runs.run("run")
        compare(runs)
        out = runs.out("run")
        runs.run("run", "--resume", str(out / "checkpoint-4"), "--routers", "2")  # what it makes again of steps 5 to 7 counts, in another file
        assert len(list((out / "tensorboard").iterdir())) == 2
        compare(runs)
        # a file that was cut off within a record, as by a crash: the next life says all that is missing
        newest = max((out / "tensorboard").iterdir())
        newest.write_bytes(newest.read_bytes()[:-9])
        runs.run("run", "--resume", str(out / "checkpoint-6"))
        compare(runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The unimoe command as a user sees it: help, mistakes, exit codes, and what it prints before a job starts.

usage: test_cli.py PROGRAM SOURCE_DIR
"""
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import unittest

PROGRAM, SOURCE = (pathlib.Path(a).resolve() for a in sys.argv[1:3])
MODELS = SOURCE / "tests/golden/models"
USAGE, MODEL, DATA = 2, 3, 4


def unimoe(*words, env=(), text=None, cwd=None):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("UNIMOE_")} | dict(env)
    return subprocess.run([PROGRAM, *map(str, words)], input=text or "", capture_output=True, text=True, env=clean, cwd=cwd, timeout=500)


class Cli(unittest.TestCase):
    def refused(self, code, message, *words, **more):
        run = unimoe(*words, **more)
        self.assertEqual((run.returncode, run.stdout), (code, ""), run.stderr)
        self.assertEqual(run.stderr, f"unimoe: {message}\n")

    def test_help_and_version(self):
        self.assertRegex(unimoe("--version").stdout, r"^unimoe \d+\.\d+\.\d+\n$")
        for words in (["help"], ["--help"], ["-h"]):
            run = unimoe(*words)
            self.assertEqual(run.returncode, 0)
            self.assertIn("generate", run.stdout)
        for command in ("generate", "trace", "inspect", "doctor", "init"):
            run = unimoe(command, "--help")
            self.assertEqual(run.returncode, 0, run.stderr)
            self.assertTrue(run.stdout.startswith(f"usage: unimoe {command} "), run.stdout)
            self.assertEqual(unimoe("help", command).stdout, run.stdout)
            self.assertIn(f"\nexamples\n  unimoe {command}", run.stdout)
        run = unimoe()
        self.assertEqual((run.returncode, run.stdout), (USAGE, ""))
        self.assertIn("usage: unimoe COMMAND", run.stderr)

    def test_unknown_words(self):
        self.refused(USAGE, "unknown command genrate, did you mean generate?", "genrate")
        self.refused(USAGE, "unknown command xyzzy; unimoe help lists them all", "xyzzy")
        self.refused(USAGE, "unknown flag --promt, did you mean --prompt?", "generate", "--promt", "x")
        self.refused(USAGE, "--image belongs to unimoe generate, not to unimoe trace", "trace", "--image", "x")

    def test_missing_words(self):
        self.refused(USAGE, "--model is missing: the model directory", "generate", "--prompt", "x")
        self.refused(USAGE, "--prompt is missing: the question (or --requests FILE)", "generate", "--model", "m")
        self.refused(USAGE, "--requests excludes --prompt and the media flags", "generate", "--model", "m", "--prompt", "x", "--requests", "-")
        self.refused(USAGE, "the request is missing: unimoe trace REQUEST.json", "trace")
        self.refused(USAGE, "--out is missing: the safetensors file to write", "trace", "r.json")
        self.refused(USAGE, "the model directory is missing: unimoe inspect DIR", "inspect")

    def test_missing_files(self):
        self.refused(MODEL, "model no/such: No such file or directory", "generate", "--model", "no/such", "--prompt", "x")
        self.refused(DATA, "--image no.png: No such file or directory",
                     "generate", "--model", MODELS / "s4", "--prompt", "x", "--image", "no.png")
        self.refused(DATA, "request no.json: No such file or directory", "trace", "no.json", "--out", "x")
        run = unimoe("generate", "--model", SOURCE, "--prompt", "x")
        self.assertEqual(run.returncode, MODEL, run.stderr)
        self.assertIn("config.json", run.stderr)

    def test_bad_requests(self):
        # No request can be answered: their errors come without a job.
        run = unimoe("generate", "--model", MODELS / "s4", "--requests", "-", "--json", text='{"id": "a", "prompt": "\\u0000"}\n3\n')
        self.assertEqual(run.returncode, DATA, run.stderr)
        self.assertEqual([(e["kind"], e["id"], e["line"]) for e in map(json.loads, run.stdout.splitlines())], [("error", "a", 1), ("error", "2", 2)])
        self.assertIn("2 of 2 requests failed", run.stderr)
        run = unimoe("generate", "--model", MODELS / "s4", "--prompt", "<image><image>")
        self.assertEqual((run.returncode, run.stdout), (DATA, ""), run.stderr)
        self.assertIn("unimoe: 2 <image> placeholders, but 0 images given: the numbers must match", run.stderr)
        self.refused(DATA, "requests no.jsonl: No such file or directory", "generate", "--model", MODELS / "s4", "--requests", "no.jsonl")
        self.refused(USAGE, "--prompt and --prompt-file: give one of them", "generate", "--model", "m", "--prompt", "x", "--prompt-file", "f")
        self.refused(DATA, "prompt: no.txt: No such file or directory", "generate", "--model", "m", "--prompt-file", "no.txt")
        self.refused(DATA, "prompt standard input: is empty", "generate", "--model", "m", "--prompt", "-")
        self.refused(DATA, "standard input: no request in it", "generate", "--model", MODELS / "s4", "--requests", "-")
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "r.json").resolve()
            path.write_text('{"sample": {}}')
            self.refused(USAGE, f'{path} names no "model": give --model DIR', "trace", path, "--out", path.with_suffix(".st"))
            path.write_text('{"sample": ')
            self.assertEqual(unimoe("trace", path, "--out", "x.st").returncode, DATA)
            path.write_text('{"model": "m", "sample": {}}')
            self.refused(MODEL, f"model {path.parent}/m: No such file or directory", "trace", path, "--out", "x.st")

    def plan(self, *words, **more):
        """The mpirun line as words, and the rows of the table."""
        run = unimoe(*words, "--dry-run", **more)
        self.assertEqual(run.returncode, 0, run.stderr)
        line, empty, *rows = run.stdout.splitlines()
        self.assertEqual(empty, "")
        return shlex.split(line), [row.split() for row in rows]

    def test_dry_run(self):
        line, rows = self.plan("generate", "--model", MODELS / "s4", "--prompt", "x", "--codec", "zstd")
        here = str(PROGRAM.parent)
        self.assertEqual(line[0], "mpirun")
        self.assertEqual([w for w in line if "/unimoe-" in w], [f"{here}/unimoe-{r}" for r in ("router", "expert", "encoder")])
        self.assertEqual([line[i + 1] for i, w in enumerate(line) if w == "-np"], ["1", "4", "1"])
        self.assertEqual(line.count("zstd"), 3)
        self.assertNotIn("--dry-run", line)
        self.assertNotIn("--prompt", line)
        self.assertEqual([r[1] for r in rows[1:-2]], ["router/0", "expert/0", "expert/1", "expert/2", "expert/3", "encoder/0"])
        self.assertEqual(rows[-1][:4], ["free", "on", "this", "machine:"])
        said = unimoe("generate", "--model", MODELS / "s4", "--prompt", "x", "--dry-run").stderr
        self.assertIn("this line reads requests from standard input: add <FILE", said)

    def test_dry_run_places_experts(self):
        _, rows = self.plan("generate", "--model", MODELS / "s8", "--prompt", "x", "--experts", "3")
        self.assertEqual([r[2] for r in rows if r[1].startswith("expert/")], ["0-1", "2-4", "5-7"])
        line, rows = self.plan("generate", "--model", MODELS / "s4", "--prompt", "x", "--experts", "9", "--encoders", "0")
        self.assertEqual([line[i + 1] for i, w in enumerate(line) if w == "-np"], ["1", "4"])
        # bf16 weights take half of what f32 weights take, and every expert the same.
        _, half = self.plan("generate", "--model", MODELS / "s4", "--prompt", "x", "--weights", "bf16")
        size = lambda row: float(row[3]) * {"KiB": 1, "MiB": 1024}[row[4]]
        whole = [size(r) for r in rows if r[1].startswith("expert/")]
        self.assertEqual(len(set(whole)), 1)
        self.assertAlmostEqual(size([r for r in half if r[1] == "expert/0"][0]) * 2, whole[0], delta=0.3)

    def test_audio_towers(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder, "m").resolve()
            copy.mkdir()
            for name in ("model.safetensors", "vision_tower", "tokenizer.model"):
                (copy / name).symlink_to(MODELS / "s4" / name)
            (copy / "config.json").write_text((MODELS / "s4/config.json").read_text())
            run = unimoe("inspect", copy)
            self.assertEqual(run.returncode, MODEL)
            self.assertIn('mm_audio_tower: "audio_tower", no config.json is there: say where the tower is with --speech-tower DIR', run.stderr)
            tower = str(MODELS / "s4/audio_tower")
            run = unimoe("inspect", copy, "--speech-tower", tower)
            self.assertEqual(run.returncode, 0, run.stderr)
            self.assertIn("0 missing, 0 misshapen, 0 unexpected", run.stdout)
            line, _ = self.plan("generate", "--model", copy, "--prompt", "x", "--speech-tower", os.path.relpath(tower))
            self.assertEqual(line.count(tower), 3)
            run = unimoe("inspect", MODELS / "s4", "--sound-tower", tower)
            self.assertEqual(run.returncode, MODEL)
            self.assertIn("names no sound tower", run.stderr)

    def test_dry_run_trace(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "r.json").resolve()
            path.write_text(f'{{"model": "{os.path.relpath(MODELS / "s4", path.parent)}", "sample": {{}}}}')
            line, _ = self.plan("trace", "r.json", "--out", "x.st", cwd=folder)
            self.assertEqual(line[line.index("--request") + 1], str(path))
            self.assertEqual(line[line.index("--out") + 1], str(path.with_name("x.st")))
            self.assertEqual(line[line.index("--model") + 1], str(MODELS / "s4"))
            line, _ = self.plan("trace", "r.json", "--out", "x.st", "--model", MODELS / "s8", cwd=folder)
            self.assertEqual(line.count(str(MODELS / "s8")), 3)

    def test_sources_of_options(self):
        words = ["generate", "--print-config", "--wire", "bf16"]
        with tempfile.TemporaryDirectory() as folder:
            conf = pathlib.Path(folder, "c.conf")
            conf.write_text("max_batch = 3\nseed = 4\n")
            run = unimoe(*words, "--config-file", conf, env={"UNIMOE_SEED": "5", "UNIMOE_SEAD": "6"})
        self.assertEqual(run.returncode, 0, run.stderr)
        for line in ("wire = bf16    # flag", "max_batch = 3    # file", "seed = 5    # environment", "codec = none    # default"):
            self.assertIn(line + "\n", run.stdout)
        self.assertIn("UNIMOE_SEAD is no option, did you mean UNIMOE_SEED?", run.stderr)

    def test_options_are_documented(self):
        self.assertEqual(unimoe("options").stdout, (SOURCE / "docs/OPTIONS.md").read_text(),
                         "docs/OPTIONS.md is old: unimoe options >docs/OPTIONS.md")

    def test_doctor(self):
        run = unimoe("doctor", "--isa", "generic")
        found = {line.split()[1]: line.split()[0] for line in run.stdout.splitlines() if not line.startswith("      fix: ")}
        self.assertLessEqual({"cpu", "cores", "memory", "/dev/shm", "programs", "mpirun"}, set(found))
        self.assertEqual(run.returncode != 0, "fail" in found.values(), run.stdout)
        ill = [i for i, line in enumerate(run.stdout.splitlines()) if line.startswith(("warn", "fail"))]
        for i in ill:
            self.assertTrue(run.stdout.splitlines()[i + 1].startswith("      fix: "), run.stdout)

    def test_doctor_hosts(self):
        with tempfile.TemporaryDirectory() as folder:
            hosts = pathlib.Path(folder, "hosts")
            hosts.write_text("# two\nlocalhost slots=2\nno-such-host.invalid\n")
            run = unimoe("doctor", "--hostfile", hosts)
        self.assertNotEqual(run.returncode, 0)
        self.assertRegex(run.stdout, r"fail  host +no-such-host\.invalid: ")
        self.assertRegex(run.stdout, r"ok    hostfile +1 names? resolves?")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

#!/usr/bin/env python3
"""The launcher on machines that lack something, with readers that close the output, and stopped by signals. Jobs run under mpirun.

usage: test_launch.py BUILD SOURCE
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

BUILD, SOURCE = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
MODEL = SOURCE / "tests" / "golden" / "models" / "s4"
UNIMOE = str(BUILD / "unimoe")
ROOT = os.geteuid() == 0
LONG = {"prompt": "go on", "max_new_tokens": 3000, "ignore_eos": True, "temperature": 0}
SHORT = {**LONG, "max_new_tokens": 2}


def generate(*words, model=MODEL, program=UNIMOE):
    return [str(w) for w in (program, "generate", "--model", model, *words)]


def run(words, stdout=subprocess.PIPE, **more):
    return subprocess.run(words, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120, **more)


class Launch(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.tmp = pathlib.Path(self.folder.name)
        self.addCleanup(self.folder.cleanup)

    def requests(self, *requests):
        path = self.tmp / "r.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in requests))
        return path

    def start(self, *words, **more):
        job = subprocess.Popen(generate(*words, **more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(job.stdout.close)
        self.addCleanup(job.stderr.close)
        return job

    def test_output_is_full(self):
        """Each command whose output cannot be written says so, with an exit code."""
        one = generate("--prompt", "hi", "--max-new-tokens", "2")
        for words in (one, one + ["--json"], [UNIMOE, "help"], [UNIMOE, "options"], [UNIMOE, "generate", "--help"], [UNIMOE, "--version"],
                      [UNIMOE, "inspect", str(MODEL)], [UNIMOE, "inspect", str(MODEL), "--json"], one + ["--dry-run"], one + ["--print-config"]):
            with open("/dev/full", "w") as full:
                r = run(words, stdout=full)
            self.assertEqual(r.returncode, 1, (words, r.stderr))
            self.assertIn("standard output: No space left on device", r.stderr)
            r = run(["sh", "-c", 'exec "$@" >&-', "sh", *words])
            self.assertEqual(r.returncode, 1, (words, r.stderr))
            self.assertIn("standard output: it is closed", r.stderr)
        self.assertEqual(run(["sh", "-c", 'exec "$@" <&- 2>&-', "sh", *one]).returncode, 0)

    def test_answers_are_counted(self):
        with open("/dev/full", "w") as full:
            r = run(generate("--requests", self.requests(SHORT, LONG, LONG)), stdout=full)
        self.assertEqual(r.returncode, 1)
        self.assertIn("0 of 3 answers were written; the job was stopped", r.stderr)

    def test_reader_goes_away(self):
        """As `| head -1`: the job ends without waiting for another answer."""
        job = self.start("--requests", self.requests(SHORT, LONG, LONG, LONG), "--quiet")
        self.assertTrue(job.stdout.readline().startswith("[1] "))
        job.stdout.close()
        self.assertEqual(job.wait(60), 128 + signal.SIGPIPE)
        self.assertEqual(job.stderr.read(), "")

    def test_devices_stay_devices(self):
        if not ROOT:
            self.skipTest("makes a device")
        null = self.tmp / "null"
        os.mknod(null, 0o20666, os.makedev(1, 3))
        with open(self.tmp / "counters.csv", "w") as f:
            f.write("")
        run(generate("--prompt", "hi", "--max-new-tokens", "2", "--routing", null))
        self.assertTrue(null.is_char_device())
        (self.tmp / "request.json").write_text(json.dumps(SHORT))
        r = run([UNIMOE, "trace", str(self.tmp / "request.json"), "--model", str(MODEL), "--out", str(null)])
        self.assertNotEqual(r.returncode, 0)
        self.assertIn("not a regular file", r.stderr)
        self.assertTrue(null.is_char_device())

    def test_signals(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            job = self.start("--requests", self.requests(SHORT, LONG, LONG), "--quiet")
            first = job.stdout.readline()
            job.send_signal(number)
            _, err = job.communicate(timeout=60)
            self.assertEqual(job.returncode, 128 + number, err)
            self.assertTrue(first.startswith("[1] "))
            self.assertEqual(err, f"unimoe: stopped by {number.name}: 1 of 3 answers were written\n")

    def test_progress(self):
        """On standard error, never between the answers; off with --quiet."""
        path = self.requests(LONG, LONG)
        r = run(generate("--requests", path, "--json"))
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual([json.loads(line)["kind"] for line in r.stdout.splitlines()], ["result", "result", "summary"])
        r = run(generate("--requests", path, "--quiet"))
        self.assertEqual((r.returncode, [line for line in r.stderr.splitlines() if " W " not in line]), (0, []))

    def test_temporary_folder(self):
        one = generate("--prompt", "hi", "--max-new-tokens", "2", "--quiet")
        (self.tmp / "file").write_text("")
        r = run(one, env={**os.environ, "TMPDIR": str(self.tmp / "file")})
        self.assertEqual(r.returncode, 1)
        self.assertRegex(r.stderr, r"^unimoe: TMPDIR: .*/file: Not a directory\. To fix it: export TMPDIR=")
        for good in ("", "some/where", str(self.tmp / ("l" * 200)), str(self.tmp / "a b")):
            r = run(one, env={**os.environ, "TMPDIR": good}, cwd=self.tmp)
            self.assertEqual((r.returncode, r.stderr), (0, ""), good)
        if not ROOT:
            return
        for size, words in (("4m", "has no room: mpirun needs "), ("8200k", "has no room: mpirun needs "), ("16m,ro", "Read-only file system")):
            with self.mounted(self.tmp / "t", size):
                r = run(one, env={**os.environ, "TMPDIR": str(self.tmp / "t")})
            self.assertEqual(r.returncode, 1, size)
            self.assertIn(words, r.stderr)
            self.assertIn("To fix it: ", r.stderr)

    def mounted(self, folder, size):
        folder.mkdir(exist_ok=True)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True).returncode != 0:
            self.skipTest("mounts are not allowed here")

        class Mount:
            def __enter__(self):
                return folder

            def __exit__(self, *_):
                subprocess.run(["umount", "-l", str(folder)], check=True)

        return Mount()

    def test_shared_memory(self):
        if not ROOT or shutil.which("unshare") is None:
            self.skipTest("needs root and unshare")
        one = generate("--prompt", "hi", "--max-new-tokens", "2", "--quiet")
        here = ["unshare", "-m", "sh", "-c"]
        if run([*here, "mount -t tmpfs tmpfs /dev/shm"]).returncode != 0:
            self.skipTest("mounts are not allowed here")
        r = run([*here, 'mount -t tmpfs -o size=4k tmpfs /dev/shm; exec "$@"', "sh", *one])
        self.assertEqual(r.returncode, 1)
        self.assertRegex(r.stderr, r"^unimoe: /dev/shm: 4\.0 KiB free, and 6 ranks exchange rows through .* of it\. To fix it: mount ")
        r = run([*here, 'mount -t tmpfs -o ro tmpfs /dev/shm; exec "$@"', "sh", *one])
        self.assertEqual((r.returncode, r.stderr), (0, ""))

    def test_poor_environments(self):
        one = generate("--prompt", "hi", "--max-new-tokens", "2", "--quiet")
        mpirun = self.tmp / "bin"
        mpirun.mkdir()
        (mpirun / "mpirun").symlink_to(shutil.which("mpirun"))
        for env in ({}, {"PATH": ""}, {"PATH": str(mpirun)}, {"PATH": os.environ["PATH"], "HOME": "/no/such"}):
            r = run(one, env=env)  # without HOME, TERM, ssh
            self.assertEqual((r.returncode, r.stderr), (0, ""), env)
        r = run(one, env={"PATH": "/no/such"})
        self.assertEqual(r.returncode, 1)
        self.assertIn("mpirun is not in PATH (/no/such): apt-get install openmpi-bin", r.stderr)
        other = self.tmp / "other"
        other.mkdir()
        (other / "mpirun").write_text("#!/bin/sh\necho '[mpiexec@vm] match_arg (lib/utils/args.c:166): unrecognized argument oversubscribe' >&2\nexit 255\n")
        (other / "mpirun").chmod(0o755)
        r = run(one, env={**os.environ, "PATH": f"{other}:{os.environ['PATH']}"})
        self.assertEqual(r.returncode, 1)
        self.assertEqual(r.stderr, "unimoe: mpirun failed: the mpirun that PATH finds is MPICH's, and unimoe was built with Open MPI: "
                                   "put Open MPI's first in PATH\n")

    def test_programs(self):
        copy = self.tmp / "a folder"
        copy.mkdir()
        for name in ("unimoe", "unimoe-router", "unimoe-expert", "unimoe-encoder"):
            shutil.copy(BUILD / name, copy)
        one = generate("--prompt", "hi", "--max-new-tokens", "2", "--quiet", program=copy / "unimoe")
        r = run(one)
        self.assertEqual(r.returncode, 1)
        self.assertRegex(r.stderr, r"^unimoe: programs: not in .*/a folder, or not executable: unimoe-decoder\. To fix it: ")
        r = run([str(copy / "unimoe"), "doctor"])
        self.assertEqual(r.returncode, 1)
        self.assertRegex(r.stdout, r"fail  programs +not in .* unimoe-decoder\n      fix: ")
        shutil.copy(BUILD / "unimoe-decoder", copy)
        self.assertEqual(run(one).returncode, 0)
        (copy / "unimoe-expert").write_text("garbage")
        r = run(one)
        self.assertEqual(r.returncode, 1)
        self.assertRegex(r.stderr, r"^unimoe: host \S+ cannot run .*/a folder/unimoe-expert: Exec format error; [^\n]*\n$")

    def test_hosts(self):
        one = generate("--prompt", "hi", "--max-new-tokens", "2", "--quiet")
        hosts = self.tmp / "hosts"
        for text, words in (("this is not, a = hostfile\n", "the hostfile is wrong in line 1"), ("# none\n", "the hostfile names no host"),
                            ("localhost slots=2\n", "the hosts have fewer slots than the job has ranks (6)")):
            hosts.write_text(text)
            r = run(one + ["--hostfile", str(hosts)])
            self.assertEqual(r.returncode, 1, text)
            self.assertEqual(len(r.stderr.splitlines()), 1, r.stderr)
            self.assertTrue(r.stderr.startswith(f"unimoe: {words}"), r.stderr)
        self.assertEqual(run(one + ["--hostfile", "no/such"]).returncode, 2)
        if ROOT and shutil.which("unshare") is not None:
            name = "h" * 60
            r = run(["unshare", "-u", "sh", "-c", f'hostname {name} && exec "$@"', "sh", *one])
            if "4." in run(["mpirun", "--version"]).stdout.splitlines()[0]:
                self.assertEqual(r.returncode, 1)
                self.assertIn("has 60 characters, and mpirun of Open MPI 4 crashes above 56", r.stderr)

    def test_model_changes(self):
        """A model that is truncated while it is read: the message names it."""
        model = self.tmp / "m"
        r = run([UNIMOE, "init", "--preset", "small", "--seed", "1", "--out", str(model)])
        self.assertEqual(r.returncode, 0, r.stderr)
        job = self.start("--requests", self.requests(SHORT, LONG), "--quiet", model=model)
        job.stdout.readline()
        os.truncate(next(model.glob("*.safetensors")), 100000)
        _, err = job.communicate(timeout=100)
        self.assertNotEqual(job.returncode, 0)
        self.assertIn("model.safetensors", err.splitlines()[-1])

    def test_doctor_json(self):
        r = run([UNIMOE, "doctor", "--json"])
        found = json.loads(r.stdout)
        verdicts = {c["check"]: c["verdict"] for c in found["checks"]}
        self.assertLessEqual({"cpu", "TMPDIR", "/dev/shm", "host name", "programs", "mpirun", "start"}, set(verdicts))
        self.assertEqual(found["failed"], sum(c["verdict"] == "fail" for c in found["checks"]))
        self.assertEqual(r.returncode, 1 if found["failed"] else 0)
        for c in found["checks"]:
            self.assertEqual("fix" in c, c["verdict"] != "ok", c)
        self.assertEqual(verdicts["start"], "ok", r.stdout)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

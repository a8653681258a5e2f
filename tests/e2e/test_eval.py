#!/usr/bin/env python3
"""unimoe eval under mpirun: several models and another program's answers side by side; answers that are kept, also by a run that was
killed; what cannot be put to a model; choices by likelihood, with the scores that unimoe generate gives.

usage: test_eval.py BUILD SOURCE      exit 0: passed, 77: no mpirun
"""
import html
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

COLOURS = ["red", "green", "blue", "dark blue", "yellow"]


def lines_of(path):
    return [json.loads(l) for l in path.read_text().splitlines()]


def write_lines(path, lines, end="\n", mark=""):
    path.write_bytes((mark + end.join(json.dumps(l, ensure_ascii=False) for l in lines) + end).encode())


class Bench:
    def __init__(self, build, source, folder):
        self.unimoe, self.source, self.dir = build / "unimoe", source, folder
        self.media = source / "tests/golden/media"

    def model(self, name):
        return str(self.source / "tests/golden/models" / name)

    def command(self, out, *words):
        return [str(self.unimoe), "eval", *words, "-n", "6", "--out", str(self.dir / out)]

    def run(self, out, *words, code=0):
        done = subprocess.run(self.command(out, *words), capture_output=True, text=True)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def report(self, out):
        return json.loads((self.dir / out / "eval.json").read_text())

    def kept(self, out, model, task):
        """What was answered, whatever the order in which it came."""
        lines = lines_of(self.dir / out / "answers" / model / f"{task}.jsonl")[1:]
        return sorted(json.dumps(l, sort_keys=True) for l in lines)

    def tasks(self):
        """Questions of several modalities, and a choice, whose files are as odd as people's are."""
        shutil.copy(self.media / "small.png", self.dir / "a <b>&.png")
        own = [{"id": f"o{i}", "question": f"<image>\nWhat colour is shape {i}?", "image": "a <b>&.png", "answer": f"It is {COLOURS[i % 5]}.",
                "key": COLOURS[i % 5], "task": "colour", "modality": "image", "split": "val"} for i in range(6)]
        own += [{"id": f"v{i}", "question": f"<audio>\nWhat is said, {i}?", "media": {"voice": [str(self.media / "long.flac")]}, "answer": "hello",
                 "key": "hello", "task": "transcribe", "modality": "speech", "speaker": ["rms", "awb"][i % 2]} for i in range(2)]
        write_lines(self.dir / "own.jsonl", own, end="\r\n", mark="\ufeff")
        choice = [{"id": 10, "question": "Which is it?", "image": "a <b>&.png", "options": [" blue ", "dark blue", "é 中", "blue"], "answer": "D"},
                  {"id": 11, "question": "Which number?", "options": ["1", "12", "123"], "answer": 1},
                  {"id": 12, "question": "And this?", "image": "missing.png", "options": ["x", "y"], "answer": "x"}]
        write_lines(self.dir / "choice.jsonl", choice)
        other = [{"id": q["id"], "answer": q["answer"]} for q in own[:-1]] + [{"question_id": 10, "text": "It is D"}, {"question_id": 11, "text": "12"}]
        write_lines(self.dir / "other.jsonl", other)
        return ["--task", str(self.dir / "own.jsonl"), "--task", str(self.dir / "choice.jsonl")]


def measure(report, task, name):
    return next(m for m in report["measures"] if m["task"] == task and m["measure"] == name)


def of(m, model):
    return next(x for x in m["models"] if x["model"] == model)


def side_by_side(b, tasks):
    """Two models and a program, with a file that lacks and a modality that one of them does not read."""
    words = [f"a={b.model('s4')}", f"i={b.model('a4')}", "--answers", f"other={b.dir}/other.jsonl", *tasks]
    words += ["--specialist", "image=other", "--specialist", "speech=a"]
    said = b.run("run", *words, "--experts", "2", code=4)
    assert "2 questions could not be put" in said.stderr and "missing.png" in said.stdout, said
    assert "i, own: 2 questions not asked, for the model does not read their media" in said.stdout, said.stdout
    r = b.report("run")
    own, choice = measure(r, "own", "key"), measure(r, "choice", "choice")
    assert [x["n"] for x in own["models"]] == [8, 6, 8] and of(own, "i")["lacking"] == 2
    assert of(own, "other")["no_answer"] == 1 and of(own, "other")["scores"]["rows"][0]["score"] == 7 / 8
    rows = {(x["by"], x["name"]) for x in of(own, "other")["scores"]["rows"]}
    assert {("modality", "image"), ("group", "colour"), ("split", "val"), ("speaker", "rms")} <= rows, rows
    assert of(choice, "a")["failed"] == 1 and of(choice, "a")["failures"][0]["id"] == "12"
    assert of(choice, "other")["n"] == 3 and abs(of(choice, "other")["scores"]["rows"][0]["score"] - 2 / 3) < 1e-5
    assert {x["model"]: x["n"] for x in measure(r, "choice", "likelihood")["models"]} == {"a": 2, "i": 2, "other": 0}
    pair = next(p for p in own["pairs"] if (p["a"], p["b"]) == ("a", "other"))
    assert pair["n"] == 8 and pair["only_b"] >= 6 and 0 <= pair["mcnemar_p"] < 0.05, pair
    assert all(len(x["sha256"]) == 64 for x in r["models"][:2] + r["tasks"])
    index = {x["model"]: x for x in r["bias"]["models"]}
    rows = {x["name"]: x for x in r["bias"]["rows"]}
    assert rows["image"]["specialist"] == "other" and "specialist" not in rows["text"], rows
    assert index["other"]["n"] == 1 and index["other"]["mean"] == 1 and index["other"]["deviation"] == 0, index
    page = (b.dir / "run/eval.html").read_text()
    assert html.escape("a <b>&.png") in page and "a <b>" not in page
    assert "<script" not in page and "src=" not in page and "http" not in page and "prefers-color-scheme:dark" in page

    # the file is there now: only its requests are made, and the rest is as it was
    before = b.kept("run", "a", "choice")
    shutil.copy(b.media / "tall.png", b.dir / "missing.png")
    said = b.run("run", *words, "--experts", "2")
    assert "a: 10 questions are answered, 3 requests are to be made" in said.stderr, said.stderr
    after = b.kept("run", "a", "choice")
    assert set(before) < set(after) and len(after) == len(before) + 3
    assert b.run("run", *words).stdout == said.stdout
    return words


def likelihood(b):
    """Scores are those of unimoe generate for the same answers, without the options in the question."""
    ask = [{"id": f"{i}", "prompt": "Which number?", "score": s} for i, s in enumerate(["1", "12", "123"])]
    write_lines(b.dir / "ask.jsonl", ask)
    done = subprocess.run([str(b.unimoe), "generate", "-m", b.model("s4"), "--requests", str(b.dir / "ask.jsonl"), "--json", "--experts", "3"],
                          capture_output=True, text=True, check=True)
    want = {int(l["id"]): l["score"] for l in map(json.loads, done.stdout.splitlines()) if l["kind"] == "result"}
    lines = [l for l in lines_of(b.dir / "run/answers/a/choice.jsonl")[1:] if l["id"] == "11" and l["kind"] == "likelihood"]
    got = {l["choice"]: l for l in lines}
    assert {k: l["score"] for k, l in got.items()} == want, (got, want)
    picks = [max(got, key=lambda k: got[k]["score"]), max(got, key=lambda k: got[k]["score"] / got[k]["tokens"])]
    done = b.run("one", f"a={b.model('s4')}", "--task", f"choice={b.dir}/choice.jsonl", "--choices", "likelihood", "--quiet")
    assert "likelihood-mean" in done.stdout and "choice, choice" not in done.stdout
    worst = [measure(b.report("one"), "choice", n)["worst"] for n in ("likelihood", "likelihood-mean")]
    assert [("11" not in w) for w in worst] == [p == 1 for p in picks], (worst, picks)


def killed(b, tasks, words):
    """A run that is killed while it writes goes on; its answers are those of the unbroken one, on other ranks too."""
    job = subprocess.Popen(b.command("part", words[0], *tasks, "--experts", "1", "--routers", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = b.dir / "part/answers/a/own.jsonl"
    while job.poll() is None and (not path.exists() or path.read_text().count("\n") < 3):
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    with path.open("a") as f:
        f.write('{"kind":"result","id":"o1","ans')
    b.run("part", words[0], *tasks, "--experts", "4")
    for task in ("own", "choice"):
        assert b.kept("part", "a", task) == b.kept("run", "a", task), task

    # nothing is touched by a look at the job, whatever it would ask
    before = path.read_bytes()
    said = b.run("part", f"a={b.model('a4')}", *tasks, "--dry-run")
    assert "unimoe-router" in said.stdout and "unimoe-expert" in said.stdout, said.stdout
    assert path.read_bytes() == before

    # another task, or another model under the same name, is asked again
    text = (b.dir / "own.jsonl").read_bytes()
    (b.dir / "own.jsonl").write_bytes(text.replace(b"shape 0", b"thing 0"))
    said = b.run("part", words[0], *tasks)
    assert "own: the task has changed since it was asked" in said.stderr and "8 requests" in said.stderr, said.stderr
    said = b.run("part", f"a={b.model('a4')}", *tasks)
    assert "own: the model has changed" in said.stderr and "choice: the model has changed" in said.stderr, said.stderr


def refused(b, tasks):
    model = b.model("s4")
    write_lines(b.dir / "twice.jsonl", [{"id": 1, "question": "?", "answer": "x"}] * 2)
    write_lines(b.dir / "empty.jsonl", [{"id": 1, "question": "?", "options": ["x", ""], "answer": "x"}])
    write_lines(b.dir / "none.jsonl", [{"id": 99, "answer": "x"}])
    cases = [
        (["no/such"], tasks, 3, "model no/such: there is no such folder"),
        ([model], [], 2, "--task is missing"),
        ([], tasks, 2, "the model is missing"),
        ([model], ["--task", "no.jsonl"], 4, "there is no file no.jsonl"),
        ([model], ["--task", f"{b.dir}/twice.jsonl"], 4, "two questions have the id 1"),
        ([model], ["--task", f"{b.dir}/empty.jsonl"], 4, "option B is empty"),
        ([model], tasks + tasks, 2, "two tasks are called own"),
        ([model, model], tasks, 2, "two models are called s4"),
        ([model], tasks + ["--specialist", "taste=s4"], 2, "no question has this modality, but image, speech"),
        ([model], tasks + ["--specialist", "image=other"], 2, "no model has this name, but s4"),
        ([], tasks + ["--answers", f"x={b.dir}/none.jsonl"], 4, "has no answer to any question"),
        ([model], tasks + ["--format", "vqa2"], 2, "--format: vqa2, allowed"),
    ]
    for models, words, code, text in cases:
        done = b.run("bad", *models, *words, code=code)
        assert text in done.stderr, (text, done.stderr)
    assert not (b.dir / "bad/answers").exists()


def main():
    build, source = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
    if shutil.which("mpirun") is None:
        return 77
    with tempfile.TemporaryDirectory() as tmp:
        b = Bench(build, source, pathlib.Path(tmp))
        tasks = b.tasks()
        words = side_by_side(b, tasks)
        likelihood(b)
        killed(b, tasks, words)
        refused(b, tasks)
    return 0


if __name__ == "__main__":
    sys.exit(main())

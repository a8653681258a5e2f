#!/usr/bin/env python3
"""Files of requests through a job: a bad line fails alone, data files are read as they are, lines are answered as they arrive.

usage: test_requests.py PROGRAM SOURCE_DIR
"""
import base64
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

PROGRAM, SOURCE = (pathlib.Path(a).resolve() for a in sys.argv[1:3])
MODEL, MEDIA = SOURCE / "tests/golden/models/s4", SOURCE / "tests/golden/media"
GREEDY = {"max_new_tokens": 2, "temperature": 0, "ignore_eos": True}


def command(*words):
    return [str(w) for w in (PROGRAM, "generate", "--model", MODEL, "--json", "--experts", 1, *words)]


class Requests(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def run_file(self, data, *words, name="r.jsonl"):
        """Exit code, and the result and error lines by id."""
        (self.folder / name).write_bytes(data)
        run = subprocess.run(command("--requests", self.folder / name, *words), capture_output=True, timeout=280)
        lines = [json.loads(line) for line in run.stdout.splitlines()]
        self.err = run.stderr.decode()
        self.assertEqual(lines[-1]["kind"], "summary", self.err)
        self.order = [line["id"] for line in lines[:-1]]
        return run.returncode, {line["id"]: line for line in lines[:-1]}

    def request(self, **keys):
        return json.dumps({**GREEDY, **keys}).encode() + b"\n"

    def test_bad_lines_fail_alone(self):
        bad = [b'{"id": "nul", "prompt": "a \\u0000 b"}', b'{"id": "surrogate", "prompt": "\\ud800"}', b'{"id": "twice", "prompt": "a", "prompt": "b"}',
               b'{"id": "seed", "prompt": "a", "seed": 18446744073709551616}', b'{"id": "utf8", "prompt": "\xff"}', b'{"id": "zero", "prompt": "\0"}',
               b'{"id": "cut", "prompt": "a', b"nonsense", b"[1, 2]", b"{", b'{"id": "key", "promt": "a"}', b'{"id": "nan", "prompt": "a", "top_p": NaN}',
               b'{"id": "url", "prompt": "a", "image": "https://example.org/a.png"}', b'{"id": "path", "prompt": "a", "image": "%s.png"}' % (b"x" * 5000),
               b'{"id": "deep", "prompt": %s}' % (b"[" * 5000), b'{"id": "keys"%s}' % b"".join(b', "k%d": 0' % i for i in range(100000))]
        data = b"\xef\xbb\xbf" + self.request(id="first", prompt="a")
        for line in bad:
            data += line + b"\r\n\n"
        for routers in (1, 2):
            code, lines = self.run_file(data + self.request(id="last", prompt="a"), "--encoders", 0, "--routers", routers)
            self.assertEqual(code, 4, self.err)
            self.assertEqual(len(lines), len(bad) + 2)
            self.assertEqual(lines["first"]["ids"], lines["last"]["ids"])
            for i, line in enumerate(bad):
                number = 2 + 2 * i
                name = json.loads(line.split(b",")[0] + b"}")["id"] if line.startswith(b'{"id"') else str(number)
                self.assertEqual((lines[name]["kind"], lines[name]["line"]), ("error", number), lines[name])
                self.assertNotIn("JSON_", lines[name]["error"])
            self.assertIn(f"{len(bad)} of {len(bad) + 2} requests failed", self.err)

    def test_line_that_is_too_long(self):
        code, lines = self.run_file(self.request(id="a", prompt="a") + b'{"id": "long", "prompt": "' + b"x" * (70 << 20) + b'"}\n' + self.request(id="b", prompt="a"),
                                    "--encoders", 0)
        self.assertEqual((code, lines["a"]["kind"], lines["b"]["kind"]), (4, "result", "result"), self.err)
        self.assertIn("bytes, one request may have", lines["long"]["error"])

    def test_data_file(self):
        """One array of samples with extra keys, with all turns answered and with repeated ids."""
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}, {"from": "human", "value": "Where?"}]
        sample = {"conversations": turns + [{"from": "gpt", "value": "Here."}], "image": "small.png", "dataset": "d", "height": 3}
        data = json.dumps([{"id": "one", **sample}, {"question_id": 12, "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": ""}]},
                           {"id": "one", **sample}, 7], indent=1).encode()
        code, lines = self.run_file(data, "--media-folder", MEDIA, "--max-new-tokens", 2, "--temperature", 0, "--in-order", name="samples.json")
        self.assertEqual(code, 4)
        self.assertEqual(self.order, ["one", "12", "one", "4"])
        self.assertEqual([lines[i].get("element") for i in ("12", "one", "4")], [2, 3, 4])
        self.assertEqual(self.err.count("ignored: dataset, height"), 1, self.err)
        self.assertIn('the id of element 3, "one", is that of an earlier one too', self.err)
        asked = self.request(id="by hand", sample={"conversations": turns, "image": str(MEDIA / "small.png")})
        self.assertEqual(self.run_file(asked)[1]["by hand"]["ids"], lines["one"]["ids"])

    def test_forms(self):
        """The same question about the same image in every form."""
        png = base64.b64encode((MEDIA / "small.png").read_bytes()).decode()
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}}
        chat = {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "\nWhat?"}]}]}
        forms = {"flat": {"prompt": "What?", "image": str(MEDIA / "small.png")}, "url": {"prompt": "What?", "image": f"file://{MEDIA}/small.png"},
                 "base64": {"prompt": "What?", "image": png}, "chat": chat, "parts": {"prompt": [{"image": str(MEDIA / "small.png")}, "\nWhat?"]}}
        data = b"".join(self.request(id=name, **form) for name, form in forms.items())
        body = {"model": "m", "max_tokens": 2, "temperature": 0, "ignore_eos": True, **chat}
        data += json.dumps({"custom_id": "batch", "method": "POST", "url": "/v1/chat/completions", "body": body}).encode()
        code, lines = self.run_file(data)
        self.assertEqual(code, 0, self.err)
        self.assertEqual({str(line["ids"]) for line in lines.values()}, {str(lines["flat"]["ids"])})
        self.assertEqual(len(lines), 6)

    def test_answers_come_as_lines_do(self):
        """The second line is written only after the first was answered."""
        job = subprocess.Popen(command("--requests", "-", "--encoders", 0), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name in ("first", "second"):
            job.stdin.write(self.request(id=name, prompt="hi"))
            job.stdin.flush()
            self.assertEqual(json.loads(job.stdout.readline())["id"], name)
        out, err = job.communicate(timeout=120)
        self.assertEqual((job.returncode, json.loads(out)["requests"]), (0, 2), err)

    def test_in_order(self):
        """Long answers first: with --in-order they are printed first too."""
        data = b"".join(self.request(prompt="a", **{"max_new_tokens": 60 if i % 5 == 0 else 1}) for i in range(20))
        for routers in (1, 2):
            code, _ = self.run_file(data, "--in-order", "--encoders", 0, "--routers", routers, "--max-batch", 3)
            self.assertEqual((code, self.order), (0, [str(i + 1) for i in range(20)]), self.err)

    def test_prompt_file(self):
        (self.folder / "q.txt").write_text("hi\n")
        ids = []
        for words, text in ((["--prompt", "hi"], ""), (["--prompt-file", self.folder / "q.txt"], ""), (["--prompt", "-"], "hi\r\n"), (["--prompt-file", "-"], "\ufeffhi")):
            run = subprocess.run(command(*words, "--encoders", 0, "--max-new-tokens", 2), input=text.encode(), capture_output=True, timeout=120)
            self.assertEqual(run.returncode, 0, run.stderr)
            ids.append(json.loads(run.stdout.splitlines()[0])["ids"])
        self.assertTrue(all(i == ids[0] for i in ids), ids)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

#!/usr/bin/env python3
"""unimoe plot: the image is sound XML that says what the counters of a run or the log of a training say, for few and many experts; what
cannot be drawn is an error that names the place.

usage: test_plot.py PROGRAM
"""
import csv
import io
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml

PROGRAM = pathlib.Path(sys.argv[1]).resolve()
USAGE, DATA, RUNTIME = 2, 4, 1
KINDS = ("text", "image", "speech", "sound", "video")
SVG = "{http://www.w3.org/2000/svg}"
NAMES = "phase,layer,modality,expert,tokens,first_choice,weight"


def counters(cells, experts, layers, moe=None, model="m", top_k=2):
    """The text of a routing file. cells: {(phase, layer, modality, expert): tokens}."""
    moe = range(layers) if moe is None else moe
    lines = ["# unimoe routing 1", f"# model: {model}", "# variant: custom", f"# layers: {layers}",
             "# moe_layers: " + " ".join(map(str, moe)), f"# experts: {experts}", f"# top_k: {top_k}", "# requests: 3", "# failed: 0", NAMES]
    lines += [f"{p},{l},{m},{e},{n},{n // 2},{n / 2:.9f}" for (p, l, m, e), n in cells.items()]
    return "\n".join(lines) + "\n"


def spread(experts, moe, kinds, shift=0):
    """Counts that differ from cell to cell and are never zero."""
    cells = {("prefill", l, m, e): 1 + (7 * l + 13 * e + 29 * KINDS.index(m) + shift) % 97 for l in moe for m in kinds for e in range(experts)}
    cells.update({("decode", l, "text", e): 1 + (3 * l + e + shift) % 5 for l in moe for e in range(experts)})
    return cells


class Box:
    """Approximate box of a label: in a wide sans-serif face a letter is 0.6 of the font size wide, and a capital 0.72 high."""

    def __init__(self, node):
        self.text, size = node.text, float(node.get("font-size"))
        x, y, w = float(node.get("x")), float(node.get("y")), 0.6 * size * len(node.text)
        left = {"middle": w / 2, "end": w}.get(node.get("text-anchor"), 0)
        if node.get("transform"):
            self.x0, self.x1, self.y0, self.y1 = x - 0.72 * size, x, y - w + left, y + left
        else:
            self.x0, self.x1, self.y0, self.y1 = x - left, x - left + w, y - 0.72 * size, y

    def meets(self, other):
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1


class Plot(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory()
        self.addCleanup(self.tmp.cleanup)
        self.dir = pathlib.Path(self.tmp.name)

    def file(self, text, name="a.csv"):
        path = self.dir / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def unimoe(self, *words):
        env = {k: v for k, v in os.environ.items() if not k.startswith("UNIMOE_")}
        return subprocess.run([PROGRAM, *map(str, words)], capture_output=True, text=True, env=env, cwd=self.dir, timeout=240)

    def draw(self, path, *words, what="routing"):
        out = self.dir / "out.svg"
        run = self.unimoe("plot", what, path, "--out", out, *words)
        self.assertEqual((run.returncode, run.stdout, run.stderr), (0, "", ""))
        return self.sound(out.read_bytes())

    def sound(self, svg):
        """Parses; nothing from elsewhere; every label is on the page and none lies on another."""
        root = xml.fromstring(svg)
        self.assertEqual(root.tag, SVG + "svg")
        self.assertLessEqual({n.tag.removeprefix(SVG) for n in root.iter()},
                             {"svg", "title", "desc", "defs", "linearGradient", "stop", "g", "rect", "line", "path", "circle", "text"})
        self.assertEqual(re.findall(rb"(?:href|url\((?!#)|@import|https?://(?!www\.w3\.org/2000/svg))", svg), [])
        self.assertEqual(re.findall(rb"\b(?:nan|inf)\b", re.sub(rb"<(title|desc|text)\b.*?</\1>", b"", svg)), [])
        self.assertTrue(root.find(SVG + "title").text and root.find(SVG + "desc").text)
        width, height = float(root.get("width")), float(root.get("height"))
        boxes = [Box(n) for n in root.iter(SVG + "text") if n.text]
        for b in boxes:
            self.assertTrue(b.x0 >= 0 and b.x1 <= width and b.y0 >= 0 and b.y1 <= height, f"{b.text!r} is not on the page")
        boxes.sort(key=lambda b: b.y0)
        for i, b in enumerate(boxes):
            for other in boxes[i + 1:]:
                if other.y0 >= b.y1:
                    break
                self.assertFalse(b.meets(other), f"{b.text!r} and {other.text!r} lie on one another")
        return root

    def labels(self, root):
        return [n.text for n in root.iter(SVG + "text")]

    def test_every_kind_and_expert_is_named(self):
        for experts, moe, kinds in ((4, range(4), KINDS), (8, range(0, 32, 2), KINDS[:3]), (16, range(3), KINDS), (4, range(32), KINDS)):
            with self.subTest(experts=experts):
                labels = self.labels(self.draw(self.file(counters(spread(experts, moe, kinds), experts, moe[-1] + 1, moe))))
                for m in kinds:
                    self.assertEqual(labels.count(m), 2, f"{m}: over its map and in the legend of b")
                for e in range(experts):
                    self.assertGreaterEqual(labels.count(str(e)), len(kinds) + 1, f"expert {e}: under each map and under b")
                for word in ("expert", "layer", "1/E", "%", f"even: 1/{experts}", "all", "share of assignments (%)"):
                    self.assertIn(word, labels)
                for l in moe:
                    self.assertIn(str(l), labels)

    def test_numbers_are_right(self):
        cells = {("prefill", 0, "text", 0): 30, ("prefill", 0, "text", 1): 10, ("prefill", 0, "image", 1): 5,
                 ("decode", 0, "text", 1): 60, ("prefill", 2, "image", 0): 1, ("prefill", 2, "image", 1): 31}
        path = self.file(counters(cells, 2, 3, [0, 2]))
        labels = self.labels(self.draw(path))
        for number in ("30", "70", "0.0", "100", "3.1", "97"):  # text in layer 0; image in layers 0 and 2
            self.assertIn(number, labels)
        self.assertTrue(any("137 assignments of 3 requests" in t for t in labels))
        labels = self.labels(self.draw(path, "--phase", "prefill"))
        self.assertIn("75", labels)
        self.assertTrue(any("77 assignments" in t and "rows of prompts;" in t for t in labels))
        labels = self.labels(self.draw(path, "--phase", "decode"))
        self.assertNotIn("image", labels)
        self.assertTrue(any("60 assignments" in t and "rows of new tokens;" in t for t in labels))

    def test_table(self):
        cells = {("prefill", 0, "text", 0): 30, ("prefill", 0, "text", 1): 10, ("prefill", 0, "image", 1): 5, ("decode", 0, "text", 1): 60}
        path, table = self.file(counters(cells, 3, 1)), self.dir / "table.csv"
        self.draw(path, "--csv", table)
        rows = {(r["table"], r["layer"], r["modality"], r["expert"]): (int(r["tokens"]), float(r["share"])) for r in csv.DictReader(io.StringIO(table.read_text()))}
        want = {("share", "0", "text", "0"): (30, .3), ("share", "0", "text", "1"): (70, .7), ("share", "0", "image", "1"): (5, 1),
                ("mix", "all", "text", "0"): (30, 1), ("mix", "all", "text", "1"): (70, 70 / 75), ("mix", "all", "image", "1"): (5, 5 / 75),
                ("load", "0", "all", "0"): (30, 30 / 105), ("load", "0", "all", "1"): (75, 75 / 105)}
        self.assertEqual(rows.keys(), want.keys())
        for key, (tokens, share) in want.items():
            self.assertEqual(rows[key][0], tokens)
            self.assertAlmostEqual(rows[key][1], share, delta=1e-9)
        # without an image, and with a second run
        other = self.file(counters({("prefill", 0, "text", 2): 4, ("prefill", 0, "text", 0): 12}, 3, 1), "b.csv")
        run = self.unimoe("plot", "routing", path, "--compare", other, "--csv", table)
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        rows = {(r["table"], r["modality"], r["expert"]): r for r in csv.DictReader(io.StringIO(table.read_text()))}
        self.assertEqual(rows["share", "text", "2"], {"table": "share", "layer": "0", "modality": "text", "expert": "2", "tokens": "0", "share": "0.000000000",
                                                      "other_tokens": "4", "other_share": "0.250000000", "difference": "-0.250000000"})
        self.assertAlmostEqual(float(rows["load", "all", "0"]["difference"]), 30 / 105 - .75, delta=1e-9)

    def test_compare(self):
        a = self.file(counters({("prefill", 0, "text", 0): 30, ("prefill", 0, "text", 1): 10, ("prefill", 0, "sound", 1): 9}, 2, 1), "first.csv")
        b = self.file(counters({("prefill", 0, "text", 0): 10, ("prefill", 0, "text", 1): 10, ("prefill", 0, "image", 0): 9}, 2, 1), "second.csv")
        root = self.draw(a, "--compare", b)
        labels = self.labels(root)
        self.assertEqual(root.find(SVG + "title").text, "Routing of first minus second")
        for word in ("+25", "\u221225", "0", "no change", "percentage points", "change (percentage points)",
                     "only in first, left out of a and b: sound; only in second, left out of a and b: image"):
            self.assertIn(word, labels)
        labels = self.labels(self.draw(b, "--compare", a))
        self.assertEqual(labels[0], "Routing of second minus first")
        self.assertIn("+25", labels)  # expert 1
        self.assertNotIn("nan", " ".join(labels))
        # a run minus itself: all zero
        labels = self.labels(self.draw(a, "--compare", a))
        self.assertIn("0.0", labels)
        self.assertFalse(any(re.fullmatch(r"[+\u2212](?!0\.[15]$|0\.05$)[\d.]+", t) for t in labels), labels)
        for experts, moe in ((8, range(32)), (64, range(24)), (4096, range(2))):
            x = self.file(counters(spread(experts, moe, KINDS), experts, len(moe)), "x.csv")
            y = self.file(counters(spread(experts, moe, KINDS, 31), experts, len(moe)), "y.csv")
            labels = self.labels(self.draw(x, "--compare", y))
            for m in KINDS:
                self.assertEqual(labels.count(m), 2)

    def test_small(self):
        labels = self.labels(self.draw(self.file(counters({("prefill", 0, "text", 0): 1}, 1, 1, top_k=1))))
        self.assertIn("100", labels)
        self.assertTrue(any(t.startswith("custom, 1 expert, top-1, in 1 of 1 layers") for t in labels))
        # experts and layers without any tokens
        root = self.draw(self.file(counters({("prefill", 5, "video", 3): 1}, 9, 7, [0, 5, 6])))
        self.assertIn("video", self.labels(root))

    def test_large(self):
        cells = spread(4096, range(2), KINDS[:2])
        labels = self.labels(self.draw(self.file(counters(cells, 4096, 2))))
        self.assertEqual(labels.count("expert (16 experts a column)"), 3)
        self.assertIn("even", labels)
        self.assertLess((self.dir / "out.svg").stat().st_size, 1 << 20)
        labels = self.labels(self.draw(self.file(counters(spread(4, range(200), KINDS[:1]), 4, 200))))
        self.assertIn("layer (4 layers a row)", labels)
        labels = self.labels(self.draw(self.file(counters({("prefill", 0, "text", 65535): 3}, 65536, 1))))
        self.assertIn("expert (256 experts a column)", labels)
        labels = self.labels(self.draw(self.file(counters(spread(64, range(24), KINDS), 64, 24))))
        self.assertEqual(labels.count("expert"), len(KINDS) + 1)

    def test_odd_names(self):
        name = "<b>&\"'\u00e9.csv"
        path = self.file(counters({("prefill", 0, "text", 0): 1}, 2, 1, model='</title><script>"&'), name)
        self.assertEqual(self.draw(path).find(SVG + "title").text, 'Routing of </title><script>"&')
        root = self.draw(path, "--compare", path)
        self.assertIn("<b>&\"'\u00e9", root.find(SVG + "title").text)
        # bytes that are not UTF-8 (a lone one, an overlong slash, a surrogate) and a control character
        text = counters({("prefill", 0, "text", 0): 1}, 2, 1, model="MODEL").encode().replace(b"MODEL", b"a\xffb\xc0\xafc\xed\xa0\x80d\x01e")
        title = self.draw(self.file(text)).find(SVG + "title").text
        self.assertEqual(re.sub("\ufffd+", "?", title), "Routing of a?b?c?d?e")
        title = self.draw(self.file(counters({("prefill", 0, "text", 0): 1}, 2, 1, model="\u00e4" * 500))).find(SVG + "title").text
        self.assertRegex(title, "^Routing of \u00e4{79}\u2026$")

    def test_same_bytes_and_other_line_ends(self):
        text = counters(spread(4, range(3), KINDS), 4, 3)
        self.draw(self.file(text))
        first = (self.dir / "out.svg").read_bytes()
        self.draw(self.file(text.replace("\n", "\r\n")))
        self.assertEqual(first, (self.dir / "out.svg").read_bytes())
        # lines and columns in another order, and an extra column
        head, rows = text.split(NAMES + "\n")
        lines = [",".join(reversed(r.split(","))) + ",x" for r in rows.splitlines()]
        swapped = head + ",".join(reversed(NAMES.split(","))) + ",note\n" + "\n".join(reversed(lines))
        self.draw(self.file(swapped))
        self.assertEqual(first, (self.dir / "out.svg").read_bytes())

    def refused(self, code, message, *words):
        out = self.dir / "none.svg"
        run = self.unimoe("plot", *words, "--out", out)
        self.assertEqual((run.returncode, run.stdout, run.stderr), (code, "", f"unimoe: {message}\n"))
        self.assertFalse(out.exists())

    def test_bad_files(self):
        good = counters({("prefill", 0, "text", 0): 4, ("decode", 2, "image", 1): 2}, 2, 3, [0, 2])
        self.draw(self.file(good))

        def bad(message, old, new):
            self.assertIn(old, good)
            self.file(good.replace(old, new), "bad.csv")
            self.refused(DATA, message, "routing", "bad.csv")

        bad('bad.csv:1: not a routing file: it begins with "# unimoe routing 2", want "# unimoe routing 1"', "routing 1", "routing 2")
        bad("bad.csv:10: column weight is missing", "first_choice,weight\n", "first_choice\n")
        bad("bad.csv:10: column tokens is missing", ",tokens,", ",token,")
        bad('bad.csv:9: no line "# experts: ..." before the columns', "# experts: 2\n", "")
        bad('bad.csv:9: no line "# moe_layers: ..." before the columns', "# moe_layers: 0 2\n", "")
        bad("bad.csv:5: moe_layers: 0, want rising numbers below 3", "moe_layers: 0 2", "moe_layers: 2 0")
        bad("bad.csv:5: moe_layers: 3, want rising numbers below 3", "moe_layers: 0 2", "moe_layers: 0 3")
        bad("bad.csv:6: experts: 0, allowed 1..4194304", "experts: 2", "experts: 0")
        bad("bad.csv:7: experts came before", "# top_k: 2", "# experts: 2")
        bad("bad.csv:11: phase: warmup, allowed prefill decode", "prefill,0", "warmup,0")
        bad("bad.csv:11: layer: 1 is none of moe_layers", "prefill,0", "prefill,1")
        bad("bad.csv:11: layer: x is none of moe_layers", "prefill,0", "prefill,x")
        bad("bad.csv:11: modality: smell is none", "text", "smell")
        bad("bad.csv:12: expert: 2, allowed 0..1", "image,1", "image,2")
        bad("bad.csv:12: expert: -1, allowed 0..1", "image,1", "image,-1")
        bad("bad.csv:11: tokens: 4.5 is no count", "0,4,2,", "0,4.5,2,")
        bad("bad.csv:11: tokens: 99999999999999999999 is no count", "0,4,2,", "0,99999999999999999999,2,")
        bad("bad.csv:11: first_choice: 5, allowed 0..4", "0,4,2,", "0,4,5,")
        bad("bad.csv:11: weight: nan, allowed 0..4", "4,2,2.000000000", "4,2,nan")
        bad("bad.csv:11: weight: 4.1, allowed 0..4", "4,2,2.000000000", "4,2,4.1")
        bad("bad.csv:11: 6 fields, the columns are 7", "4,2,2.000000000", "4,2")
        bad("bad.csv:12: this cell came before", "decode,2,image,1", "prefill,0,text,0")
        bad("bad.csv: no prefill or decode rows were counted", good[good.index("prefill"):], "")
        bad("bad.csv: not a routing file: it is no text", "custom", "cus\0tom")
        self.file(good, "good.csv")
        self.refused(DATA, "no.csv: No such file or directory", "routing", "no.csv")
        self.file("", "empty.csv")
        self.refused(DATA, 'empty.csv:1: not a routing file: it begins with "", want "# unimoe routing 1"', "routing", "empty.csv")
        only = counters({("prefill", 0, "text", 0): 4}, 2, 1)
        self.file(only, "only.csv")
        self.refused(DATA, "only.csv: no decode rows were counted", "routing", "only.csv", "--phase", "decode")

    def test_runs_that_do_not_fit(self):
        cell = {("prefill", 0, "text", 0): 4}
        for name, text in (("a", counters(cell, 2, 3)), ("b", counters(cell, 3, 3)), ("c", counters(cell, 2, 4)), ("d", counters(cell, 2, 4, [0, 1, 3])),
                           ("e", counters({("prefill", 0, "image", 0): 4}, 2, 3))):
            self.file(text, name)
        self.refused(DATA, "a has 2 experts, b has 3: no difference can be drawn", "routing", "a", "--compare", "b")
        self.refused(DATA, "a has 3 MoE layers, c has 4: no difference can be drawn", "routing", "a", "--compare", "c")
        self.refused(DATA, "a has 3 MoE layers, d has 3 others: no difference can be drawn", "routing", "a", "--compare", "d")
        self.refused(DATA, "a and e have no modality in common", "routing", "a", "--compare", "e")

    def test_usage(self):
        self.refused(USAGE, "what to plot is missing: unimoe plot routing FILE.csv --out FILE.svg, or unimoe plot training RUN --out FILE.svg")
        self.refused(USAGE, "plot: losses, allowed: routing training", "losses", "x.csv")
        self.refused(USAGE, "the counters are missing: unimoe plot routing FILE.csv", "routing")
        self.refused(USAGE, "--phase: warmup, allowed: all prefill decode", "routing", "x.csv", "--phase", "warmup")
        run = self.unimoe("plot", "routing", "x.csv")
        self.assertEqual((run.returncode, run.stderr), (USAGE, "unimoe: --out is missing: the SVG to write (or --csv FILE)\n"))
        run = self.unimoe("plot", "routing", self.file(counters({("prefill", 0, "text", 0): 4}, 2, 1)), "--out", "no/such/x.svg")
        self.assertEqual(run.returncode, RUNTIME)
        self.assertIn("no/such/x.svg", run.stderr)
        for name in ("a.png", "a.PDF", "b.jpg", "c.txt"):
            run = self.unimoe("plot", "routing", "x.csv", "--out", name)
            self.assertEqual(run.returncode, USAGE, run.stderr)
            self.assertIn(f"--out {name}: .{name[2:]} is not written, but SVG", run.stderr)
            run = self.unimoe("generate", "--model", "m", "--prompt", "x", "--routing", name)
            self.assertEqual(run.returncode, USAGE, run.stderr)
            self.assertIn(f"--routing {name}: .{name[2:]} is not written, but SVG", run.stderr)
        self.assertEqual(self.unimoe("plot", "routing", "x.csv", "--csv", "t.svg").returncode, USAGE)
        path = self.file(counters({("prefill", 0, "text", 0): 4}, 2, 1))
        table, image = path.with_name("by-name.csv"), path.with_name("by-name.SVG")
        self.assertEqual(self.unimoe("plot", "routing", path, "-o", table).returncode, 0)
        self.assertNotIn("<svg", table.read_text())
        self.assertEqual(self.unimoe("plot", "routing", path, "-o", image).returncode, 0)
        self.assertIn("<svg", image.read_text())
        self.assertRegex(self.unimoe("help").stdout, r"\n  plot +draw which experts")
        self.assertTrue(self.unimoe("plot", "--help").stdout.startswith("usage: unimoe plot routing FILE.csv | training RUN, --out FILE.svg"))

    # --- plot training ---

    def log(self, records, name="trainer_log.jsonl", end=""):
        return self.file("".join(json.dumps(r) + "\n" for r in records) + end, name)

    def test_training(self):
        for steps, layers, experts, every in ((1, 3, 4, 1), (7, 1, 1, 1), (60, 0, 0, 1), (400, 4, 8, 1), (3000, 32, 64, 50), (9, 2, 300, 2)):
            with self.subTest(steps=steps, layers=layers):
                records = [record(s, 2 * steps, layers, experts) for s in range(every, steps + 1, every)]
                records[-1]["eval_loss"] = 2.5
                path = self.log(records)
                root = self.draw(path, what="training")
                labels = self.labels(root)
                self.assertEqual(root.find(SVG + "title").text, f"Training of {self.dir.name}")
                last = records[-1]["step"]
                self.assertTrue(any(t.startswith(f"step {last} of {2 * steps}; loss {records[-1]['loss']:.4g}, of held-out samples 2.5") for t in labels), labels)
                for word in ("Loss", "Loss of samples with each modality", "Norm of the gradient", "loss", "held-out samples", "text", "image", "step"):
                    self.assertIn(word, labels)
                self.assertNotIn("sound", labels)
                self.assertEqual("Most loaded expert of each layer" in labels, layers > 0)
                self.assertEqual("Where the tokens of each modality go" in labels, 0 < experts <= 256)
                self.assertEqual("least even layer" in labels, layers > 4)
                self.assertEqual([t for t in labels if t.startswith("layer ")], [f"layer {2 * l}" for l in range(layers)] if layers <= 4 else [])
                first = (self.dir / "out.svg").read_bytes()
                self.draw(self.dir, what="training")  # the folder means its log
                self.assertEqual(first, (self.dir / "out.svg").read_bytes())
                self.assertLess(len(first), 600000)

    def test_training_values(self):
        """Where the curves are, and whose rows the map shows."""
        records = [record(s, 40, 1, 2) for s in range(1, 41)]
        for r in records:
            r["loss"] = 5.0 if r["step"] <= 20 else 2.5
            r["load"][0]["text"] = [3, 1] if r["step"] > 36 else [0, 9]
            r["load"][0]["image"] = [0, 4]
        root = self.draw(self.log(records), what="training")
        labels = self.labels(root)
        for word in ("75", "25", "100", "0.0", "16"):  # of the last tenth: 12 and 4 of 16 rows of text
            self.assertIn(word, labels)
        self.assertTrue(any("panel e: steps 37 to 40" in t for t in labels))
        raw = next(n for n in root.iter(SVG + "path") if n.get("stroke") == "#d0d0d0")
        points = [tuple(map(float, p)) for p in re.findall(r"[ML]([\d.]+) ([\d.]+)", raw.get("d"))]
        self.assertEqual(len(points), 40)
        heights = sorted({y for _, y in points})
        ticks = {n.text: float(n.get("y")) - 3.5 for n in root.iter(SVG + "text") if n.get("text-anchor") == "end" and float(n.get("y")) < 300 and float(n.get("x")) < 70}
        self.assertAlmostEqual(heights[0], ticks["5"], delta=0.01)
        self.assertAlmostEqual(heights[1], (ticks["0"] + ticks["5"]) / 2, delta=0.01)
        for (x, _), r in zip(points, records):
            self.assertAlmostEqual(x, points[0][0] + (points[-1][0] - points[0][0]) * (r["step"] - 1) / 39, delta=0.01)

    def test_training_table(self):
        records = [record(s, 9, 2, 4) for s in (1, 2, 5)]
        records[1]["skipped"] = 'the "norm", of late'
        table = self.dir / "t.csv"
        self.draw(self.log(records), "--csv", table, what="training")
        rows = list(csv.DictReader(io.StringIO(table.read_bytes().decode(), newline="")))
        self.assertEqual([r["step"] for r in rows], ["1", "2", "5"])
        self.assertEqual(rows[1]["skipped"], 'the "norm", of late')
        self.assertAlmostEqual(float(rows[2]["loss_image"]), records[2]["loss_of"]["image"], delta=1e-7)

    def test_training_odd_values(self):
        for odd in ({"loss": None, "norm": None}, {"loss": 1e300}, {"loss": -3}, {"loss": 0, "norm": 0}, {"loss": 1e-29, "norm": 1e29}, {"step": 2**50, "steps": 2**50 + 5},
                    {"load": []}, {"load": {}}, {"load": [{"layer": 2**40, "max_over_mean": None, "text": [1, "x", -1]}]}, {"loss_of": {}}, {"load": [{}] * 9}):
            with self.subTest(odd=odd):
                records = [record(s, 9, 2, 4) for s in range(1, 6)]
                records[-1].update(odd)
                self.draw(self.log(records), what="training")
                self.draw(self.log([records[-1]]), what="training")
                self.draw(self.log([{**r, **odd, "step": r["step"]} for r in records]), what="training")

    def test_training_bad_files(self):
        good = [record(s, 9, 2, 4) for s in (1, 2, 3)]
        self.log(good, end='{"kind":"step","st')  # a run that was killed, or is going on
        self.draw(self.dir, what="training")
        self.log(good[:1] + [{"kind": "other"}], "bad.jsonl")
        self.refused(DATA, "bad.jsonl:2: no record of a training step", "training", "bad.jsonl")
        self.log(good[:2] + good[:1], "bad.jsonl")
        self.refused(DATA, "bad.jsonl:3: step 1 comes after step 2", "training", "bad.jsonl")
        self.file("{}\nx\n", "bad.jsonl")
        self.refused(DATA, "bad.jsonl:1: no record of a training step", "training", "bad.jsonl")
        self.file("", "bad.jsonl")
        self.refused(DATA, "bad.jsonl has no record: the first step of the run is not over", "training", "bad.jsonl")
        self.refused(DATA, "no.jsonl: No such file or directory", "training", "no.jsonl")
        self.refused(USAGE, "the run is missing: unimoe plot training RUN", "training")
        self.refused(USAGE, "plot training: --compare is for plot routing", "training", self.dir, "--compare", "x")
        self.refused(USAGE, "plot training: --phase is for plot routing", "training", self.dir, "--phase", "decode")


def record(step, steps, layers, experts):
    """A record of trainer_log.jsonl: losses that fall, loads that differ. More than 256 experts are not listed."""
    loads = []
    for l in range(layers):
        entry = {"layer": 2 * l, "max_over_mean": 1 + (step * (l + 3) % 7) / 7, "entropy": 0.9, "idle": 0}
        if experts <= 256:
            entry.update({m: [1 + (7 * l + 13 * e + step) % 9 for e in range(experts)] for m in ("text", "image")})
        loads.append(entry)
    loss = 7 * math.exp(-step / steps) + (step % 3) / 10
    out = {"kind": "step", "step": step, "steps": steps, "epoch": 0.1, "loss": loss, "cross_entropy": loss, "lr": 1e-3, "norm": 3 / step, "balance": 0, "multimodal": 0,
           "kl": 0, "z": 0, "loss_of": {"text" if step % 2 else "image": loss}, "samples": 8, "targets": 50, "rows": 300, "lost": 0, "media": "image", "seconds": 0.5,
           "rows_per_second": 600, "left_seconds": 9}
    if step + 1 < steps:
        out["loss_of"] = {"text": loss, "image": loss / 2}
    return {**out, "load": loads} if layers else out


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

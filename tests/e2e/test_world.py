#!/usr/bin/env python3
"""The small world (launch/world): splits without leaks, media that show what is said of them, the same bytes again and after interruptions.

usage: test_world.py SOURCE_DIR      exit 77: a package of launch/world/packages.txt is missing
"""
import collections
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import unittest
import wave

SOURCE = pathlib.Path(sys.argv[1]).resolve()
MAKE = SOURCE / "launch/world/make"
sys.path.insert(0, str(SOURCE / "launch/world"))
sys.dont_write_bytecode = True
TRAINED = ("train", "val")


def make(folder, *words, **how):
    return subprocess.run([MAKE, "--out", folder, "--size", "small", *words], capture_output=True, text=True, timeout=280, check=False, **how)


def digests(root):
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


class World(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        run = make(cls.folder)
        if run.returncode != 0:
            raise AssertionError(run.stderr)
        cls.told = run.stderr
        cls.manifest = json.loads((cls.folder / "world.json").read_text())
        cls.media = {m["file"]: m["recipe"] for m in map(json.loads, (cls.folder / "media.jsonl").read_text().splitlines())}
        cls.data = {p.name: json.loads(p.read_text()) for p in cls.folder.glob("*.json") if p.name != "world.json"}
        cls.asked = {p.stem: [json.loads(line) for line in p.read_text().splitlines()] for p in (cls.folder / "eval").glob("*.jsonl")}

    def split_of(self, path):
        return path.split("/")[2]

    def items_shown(self, splits):
        """File, colour and shape of all that pictures, frames and clips of these splits show."""
        for path, recipe in self.media.items():
            recipe = recipe.get("clip", recipe)
            if self.split_of(path) in splits and "items" in recipe:
                for item in recipe["items"]:
                    if "shape" in item:
                        for key in ("colour", "second_colour"):
                            if key in item:
                                yield path, item[key], item["shape"]

    def test_every_split_has_samples(self):
        self.assertEqual(set(self.asked), {"val", "new-instances", "combinations", "voices", "fonts", "real", "programs"})
        for name, lines in self.asked.items():
            self.assertTrue(lines or name in ("real", "programs"), name)
        names = [f"{kind}-{m}" for kind in ("words", "labels", "stage1", "stage2") for m in ("image", "video", "speech", "sound")] + ["stage0", "stage2-text", "stage3", "val"]
        for name in names:
            self.assertTrue(self.data[name + ".json"], name)
        self.assertEqual({m["modality"] for m in self.asked["new-instances"]}, {"image", "speech", "sound", "video", "text", "two modalities"})
        tasks = {m["task"] for m in self.asked["new-instances"]} | {m["task"] for m in self.asked["val"]}
        self.assertTrue({"named colour", "sound fits picture", "counts match"} & tasks)

    def test_samples_fit_their_media(self):
        for name, found in self.data.items():
            for sample in found:
                asks = [t["value"] for t in sample["conversations"] if t["from"] == "human"]
                answers = [t["value"] for t in sample["conversations"] if t["from"] == "gpt"]
                self.assertEqual(len(asks), len(answers))
                self.assertTrue(all(a and "<" not in a for a in answers), sample)
                counts = collections.Counter(re.findall("<[a-z]+>", " ".join(asks)))
                heard = sample.get("voice", []) + sample.get("sound", [])
                self.assertEqual(counts, collections.Counter(**{"<image>": 1} if "image" in sample else {}, **{"<video>": 1} if "video" in sample else {},
                                                             **{"<audio>": len(heard)} if heard else {}), (name, sample))
                video = sample.get("video", [])
                for path in heard + [sample.get("image")] * ("image" in sample) + (video if isinstance(video, list) else [video]):
                    self.assertIn(path, self.media)
                    self.assertEqual(self.split_of(path), "val" if name == "val.json" else "train")
        for name, lines in self.asked.items():
            for line in lines:
                for value in line["media"].values():
                    for path in value if isinstance(value, list) else [value]:
                        self.assertTrue((self.folder / "eval" / path).is_file(), path)
                        self.assertEqual(path.split("/")[3], name)
                key = re.escape(line["key"].lower().rstrip(".?"))
                self.assertRegex(line["answer"].lower().replace("nothing", "nothing no"), rf"(?<!\w){key}(?!\w)")  # whole words, as eval reads it

    def test_labels_name_what_is_shown(self):
        """Colour and shape of all that a picture shows, what a voice says; nothing asks, and there is no system sentence."""
        from words import plural
        for kind in ("image", "speech"):
            for sample in self.data[f"labels-{kind}.json"]:
                system, asked, said = (t["value"] for t in sample["conversations"])
                self.assertEqual((system, asked), ("", "<image>" if kind == "image" else "<audio>"))
                recipe = self.media[sample["image"] if kind == "image" else sample["voice"][0]]
                if kind == "speech":
                    self.assertEqual(said, recipe["text"])
                for item in recipe.get("items", []):
                    if "shape" in item:
                        self.assertTrue(f"{item['colour']} {item['shape']}" in said or f"{item['colour']} {plural(item['shape'])}" in said, (said, recipe))
                if "items" in recipe and not recipe["items"]:
                    self.assertTrue(said.startswith("nothing"), said)

    def test_words_are_part_of_labels(self):
        """The word for a medium is among those that its label has, and only pictures of one thing have one."""
        for m in ("image", "video", "speech", "sound"):
            key = {"speech": "voice"}.get(m, m)
            labels = {json.dumps(s[key]): s["conversations"][-1]["value"] for s in self.data[f"labels-{m}.json"]}
            for sample in self.data[f"words-{m}.json"]:
                word = sample["conversations"][-1]["value"]
                self.assertIn(word.rstrip("s"), labels[json.dumps(sample[key])])
                if m == "image":
                    self.assertEqual(len(self.media[sample["image"]]["items"]), 1)

    def test_splits_share_no_media(self):
        owner = {}
        for path in self.media:
            digest = hashlib.sha256((self.folder / path).read_bytes()).hexdigest()
            self.assertEqual(owner.setdefault(digest, self.split_of(path)), self.split_of(path), path)
        self.assertEqual({str(p.relative_to(self.folder)) for p in (self.folder / "media").rglob("*") if p.is_file()}, set(self.media))

    def test_held_out_combinations(self):
        from words import COLOURS, HELD_OUT, SHAPES
        self.assertEqual(len(HELD_OUT), len(COLOURS))
        for path, colour, shape in self.items_shown({*TRAINED, "new-instances", "voices", "programs"}):
            self.assertNotIn((colour, shape), HELD_OUT, path)
        named = re.compile("|".join(f"{c} {s}" for c, s in HELD_OUT))
        for name, found in self.data.items():
            for sample in found:
                self.assertIsNone(named.search(json.dumps(sample["conversations"])), (name, sample))
        for path, recipe in self.media.items():
            if self.split_of(path) in TRAINED:
                self.assertIsNone(named.search(recipe.get("text", "")), path)
        shown = collections.defaultdict(set)
        for path, colour, shape in self.items_shown({"combinations"}):
            shown[path].add((colour, shape))
        self.assertTrue(shown)
        for path, pairs in shown.items():
            self.assertTrue(pairs & HELD_OUT, path)
        self.assertEqual({s for _, s in HELD_OUT}, set(SHAPES))

    def test_held_out_voices_and_fonts(self):
        from speak import UNHEARD
        spoken = collections.defaultdict(set)
        for path, recipe in self.media.items():
            if recipe["kind"] == "speech":
                spoken[self.split_of(path)].add((recipe["program"], recipe["voice"]))
        self.assertTrue(spoken["voices"] and spoken["voices"] <= set(UNHEARD))
        kinds = {part for _, name in UNHEARD for part in name.split("+")} - {"en-us", "en-gb"}
        for split in set(spoken) - {"voices", "programs"}:
            for program, name in spoken[split]:
                self.assertFalse(set(name.split("+")) & kinds, (split, program, name))
        fonts = collections.defaultdict(set)
        for path, recipe in self.media.items():
            fonts[self.split_of(path) == "fonts"] |= {i["font"] for i in recipe.get("items", []) if "font" in i}
        self.assertTrue(fonts[True] and fonts[False])
        self.assertFalse(fonts[True] & fonts[False])

    def test_other_programs_are_only_in_their_split(self):
        for path, recipe in self.media.items():
            other = recipe["kind"] == "drawn" or recipe.get("maker") == "lavfi" or recipe.get("program") == "festival"
            self.assertEqual(other, self.split_of(path) == "programs", path)

    def test_texts_are_asked_in_new_words(self):
        trained = {t["value"] for s in self.data["stage3.json"] if not set(s) & {"image", "voice", "sound", "video"} for t in s["conversations"]}
        for name in ("val", "new-instances"):
            for line in self.asked[name]:
                if line["modality"] == "text" and line["task"] != "copy":
                    self.assertNotIn(line["question"], trained)

    def test_pictures_show_what_is_said(self):
        import numpy
        from PIL import Image
        seen = 0
        for path, recipe in self.media.items():
            if recipe["kind"] not in ("picture", "drawn"):
                continue
            with Image.open(self.folder / path) as image:
                pixels = numpy.asarray(image.convert("RGB"), float)
            self.assertEqual(pixels.shape, (recipe["size"], recipe["size"], 3))
            self.assertTrue(64 <= recipe["size"] <= 128)
            for item in recipe["items"]:
                if item.get("shape") not in (None, "ring") and "rgb" in item:
                    there = pixels[round(item["y"] * recipe["size"]), round(item["x"] * recipe["size"])]
                    self.assertLess(numpy.abs(there - item["rgb"]).max(), 60, (path, item))
                    seen += 1
        self.assertGreater(seen, 20)

    def test_sounds_have_as_many_beeps_as_is_said(self):
        import numpy
        import waves
        heard = 0
        for path, recipe in self.media.items():
            if recipe.get("maker") != "beeps" or not path.endswith(".wav"):
                continue
            x, rate = waves.read(self.folder / path)
            level = numpy.abs(x[:len(x) // 160 * 160]).reshape(-1, 160).max(axis=1) > 0.3 * numpy.abs(x).max()
            self.assertEqual(int(level[0]) + int((numpy.diff(level.astype(int)) == 1).sum()), recipe["count"], path)
            self.assertEqual(rate, 16000)
            heard += 1
        self.assertGreater(heard, 2)

    def test_lengths(self):
        for path, recipe in self.media.items():
            if path.endswith(".wav"):
                with wave.open(str(self.folder / path)) as file:
                    seconds = file.getnframes() / file.getframerate()
                self.assertTrue(0.1 < seconds <= (4.0 if path.startswith("media/speech") else 2.5), (path, seconds))
                self.assertEqual((file.getnchannels(), file.getsampwidth()), (1, 2))
            if recipe["kind"] == "clip":
                probe = subprocess.run(["ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=codec_type,nb_read_frames", "-of", "json",
                                        self.folder / path], capture_output=True, check=True)
                streams = {s["codec_type"]: int(s["nb_read_frames"]) for s in json.loads(probe.stdout)["streams"]}
                self.assertEqual(streams["video"], recipe["frames"], path)
                self.assertEqual("audio" in streams, "track" in recipe, path)

    def test_same_bytes_again_after_an_interruption(self):
        before = digests(self.folder)
        gone = [p for i, p in enumerate(sorted(self.media)) if i % 9 == 0]
        for path in gone:
            (self.folder / path).unlink()
        (self.folder / "world.json").unlink()
        (self.folder / gone[0]).with_name(".half.png.123").write_bytes(b"half")
        run = make(self.folder, "--cores", "1")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(digests(self.folder), before)

    def test_stopped_by_a_signal(self):
        with tempfile.TemporaryDirectory() as folder:
            for stop, code in ((signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)):
                with subprocess.Popen([MAKE, "--out", folder, "--size", "small"], stderr=subprocess.PIPE, text=True) as run:
                    while "pictures:" not in run.stderr.readline():
                        pass
                    run.send_signal(stop)
                    told = run.stderr.read()  # ends when no worker has it open any more
                    self.assertEqual(run.wait(60), code)
                self.assertEqual("the same command goes on" in told, stop == signal.SIGTERM, told)
            self.assertFalse(pathlib.Path(folder, "world.json").exists())
            for path in pathlib.Path(folder).rglob("*.*"):
                if not path.name.startswith(".") and path.is_file():
                    self.assertEqual(path.read_bytes(), (self.folder / path.relative_to(folder)).read_bytes())

    def test_the_seed_decides(self):
        import world
        drawn = [world.draw(seed, "small") for seed in (1, 1, 2)]
        self.assertEqual(drawn[0][:2], drawn[1][:2])
        self.assertEqual(set(drawn[0][2].recipes), set(self.media))
        full = world.draw(1, "full")  # what is rare shows only there
        self.assertEqual([s for found in full[0].values() for s in found if not all(t["ask"].strip() for t in s["turns"])], [])
        self.assertEqual([p for p, r in full[2].recipes.items() if r.get("maker") == "nothing" and not r["how"]["hiss"]], [])
        self.assertFalse({p for p in drawn[2][2].recipes if "/real/" not in p} & set(self.media))

    def test_look_shows_every_split(self):
        run = subprocess.run([SOURCE / "launch/world/look", self.folder, "--samples", "5"], capture_output=True, text=True, check=True, timeout=60)
        page = pathlib.Path(run.stdout.strip()).read_text()
        pathlib.Path(run.stdout.strip()).unlink()
        for name in ("train", *self.asked):
            self.assertIn(f'<h2 id="{name}">', page)
        shown = re.findall(r'src="([^"]*)"', page)
        self.assertGreater(len(shown), 20)
        self.assertEqual({p for p in shown if not (self.folder / p).is_file()}, set())
        self.assertEqual(subprocess.run([SOURCE / "launch/world/look", self.folder / "eval"], capture_output=True, check=False, timeout=60).returncode, 2)

    def test_a_missing_package_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            fake = pathlib.Path(folder, "dpkg-query")
            fake.write_text("#!/bin/sh\nprintf 'sox installed 1\\nflite not-installed 1\\n'\nexit 1\n")
            fake.chmod(0o755)
            run = make(pathlib.Path(folder, "w"), env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"})
            self.assertEqual(run.returncode, 1)
            self.assertRegex(run.stderr, "apt-get install .*python3-numpy .*espeak-ng flite fluidsynth")
            self.assertNotIn(" sox", run.stderr)
            self.assertFalse(pathlib.Path(folder, "w").exists())

    def test_vocabulary(self):
        pieces = read_pieces((self.folder / "tokenizer.model").read_bytes())
        self.assertEqual(pieces[:3], ["<unk>", "<s>", "</s>"])
        self.assertEqual(pieces[3:259], [f"<0x{b:02X}>" for b in range(256)])
        self.assertEqual(len(pieces), len(set(pieces)))
        known, words = set(pieces), (self.folder / "vocabulary.txt").read_text().split()
        self.assertGreater(len(words), 200)
        self.assertEqual([w for w in ("the", "voice", "says", "colour", "triangle", "assistant") if "\u2581" + w not in known], [])


def read_pieces(data):
    """The texts of the pieces of a SentencePiece model: field 1 of field 1."""
    found, at = [], 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
    while at < len(data):
        tag, size = varint(), varint()
        if tag == 1 << 3 | 2:
            found.append(data[at + 2:at + 2 + data[at + 1]].decode())
        at += size
    return found


if __name__ == "__main__":
    wanted = [line.split()[1] for line in (SOURCE / "launch/world/packages.txt").read_text().splitlines() if line.startswith("need")]
    has = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", *wanted], capture_output=True, text=True, check=False).stdout.split("\n")
    lacking = [name for name in wanted if f"{name} installed" not in has]
    if lacking:
        print(f"test_world: skipped, packages are missing: {' '.join(lacking)}")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])

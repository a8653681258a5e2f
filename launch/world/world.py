"""The world: draws all splits, makes their media, and writes data files, evaluation files, the vocabulary and a manifest.

Everything follows from the seed and the size. See README.md for the files, docs/WORLD.md for what is in them.
"""
import collections
import json
import os
import pathlib
import re
import sys
import time

import others
import questions
import recipes
import recordings
import render
import samples
import texts
import vocabulary_model
from words import HELD_OUT

SYSTEM = ("A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the "
          "user's questions. USER: ASSISTANT:")
VOCABULARY = 1280  # pieces: all words of the full world are whole with 1145

# How many media or samples of each kind a split draws, at full size. "small" has a hundredth.
TRAIN = {"pictures": 20000, "digits": 1000, "speech": 15000, "sounds": 4500, "clips": 3600, "texts": 1800, "copying": 1200, "spoken": 6000, "named": 1800,
         "fits": 800, "counts": 800, "tracks": 800, "named sounds": 900}
VAL = {"pictures": 200, "digits": 40, "speech": 160, "sounds": 120, "clips": 120, "texts": 80, "copying": 20, "spoken": 180, "named": 60, "fits": 30,
       "counts": 30, "tracks": 30, "named sounds": 30}
TEST = {"pictures": 600, "digits": 0, "speech": 400, "sounds": 400, "clips": 400, "texts": 160, "copying": 140, "spoken": 500, "named": 150, "fits": 100,
        "counts": 100, "tracks": 100, "named sounds": 100}
TESTS = ["new-instances", "combinations", "voices", "fonts", "real", "programs"]


def amounts(table, size):
    return {k: v if size == "full" else max(2, v // 100) if v else 0 for k, v in table.items()}


def fill(split, n, digits, part, talks):
    """Every kind of sample of a split of new instances."""
    copies = 6 if split.name == "train" else 2
    split.add_pictures(n["pictures"], talks)
    split.add_digits(digits[:n["digits"]], 0)
    split.add_clips(n["clips"], talks)
    split.add_sounds(n["sounds"], talks)
    split.add_speech(n["speech"], talks / 2)
    split.add_texts(n["texts"], part)
    split.add_copying(n["copying"])
    two_modalities(split, n, copies)
    return split


def two_modalities(split, n, copies):
    split.add_spoken(n["spoken"], copies)
    split.add_named(n["named"], copies)
    split.add_fits(n["fits"])
    split.add_counts(n["counts"])
    split.add_tracks(n["tracks"])
    split.add_named_sounds(n["named sounds"], copies)


def draw(seed, size):
    """All splits, what training says of each medium by itself, and the media: dict of name -> samples, twice, and recipes.Media."""
    media = recipes.Media()
    some = (lambda n: n) if size == "full" else (lambda n: max(2, n // 100))
    trained, kept = recordings.digits()
    shuffle = recipes.random_of(seed, "digits").sample
    trained = shuffle(trained, len(trained))
    train = fill(samples.Split(media, seed, "train"), amounts(TRAIN, size), trained[:900], 2, 0.8)
    val = fill(samples.Split(media, seed, "val"), amounts(VAL, size), trained[900:], 0, 0)
    new = fill(samples.Split(media, seed, "new-instances"), amounts(TEST, size), [], 1, 0)

    combined = samples.Split(media, seed, "combinations", held_out=True)
    combined.add_pictures(some(400), kinds={"one": 40, "two": 30, "group": 30})
    combined.add_clips(some(200))
    combined.add_spoken(some(150), 2)

    voices = samples.Split(media, seed, "voices", unheard=True)
    voices.add_pictures(some(120))
    voices.add_sounds(some(30))
    voices.add_clips(some(30))
    del voices.samples[:]  # only what voices say about them
    voices.add_speech(some(420))
    voices.add_spoken(some(320), 3)
    voices.add_named(some(120), 3)

    fonts = samples.Split(media, seed, "fonts", unseen=True)
    fonts.add_pictures(some(250), kinds={"glyph": 1})

    real = samples.Split(media, seed, "real")
    real.add_digits(kept if size == "full" else kept[:3])
    real.add_people(recordings.speech())
    real.add_recordings(recordings.icons())
    if recordings.patches():
        real.add_patches(some(150), recordings.patches())
    programs = other_programs(samples.Split(media, seed, "programs", voices=others.speech_recipe), some)
    splits = {s.name: s.samples for s in (train, val, new, combined, voices, fonts, real, programs)}
    return splits, {"words": train.words, "labels": train.labels, "stage1": train.captions}, used(media, splits.values())


def other_programs(split, some):
    """What other programs than training's draw, say and play, as far as they are installed."""
    if others.GRAPHICS.exists():
        split.add_others(some(200), some(120))
    if others.voices():
        split.add_speech(some(120))
        if split.pictures:
            split.add_named(some(60), 1)
    return split


def used(media, splits):
    """The media without those that no sample has."""
    paths = {path for found in splits for sample in found for path in files_of(sample)}
    media.recipes = {path: recipe for path, recipe in media.recipes.items() if path in paths}
    return media


def files_of(sample):
    for value in sample["media"].values():
        yield from value if isinstance(value, list) else [value]


# --- files ---

def conversation(sample):
    """A sample in Uni-MoE's form."""
    turns = [{"from": "system", "value": sample["system"]}] if "system" in sample else []
    turns += [{"from": who, "value": turn[key]} for turn in sample["turns"] for who, key in (("human", "ask"), ("gpt", "answer"))]
    return {"id": sample["id"], **sample["media"], "conversations": turns}


def evaluated(sample):
    """A line of an evaluation file, whose folder is one below the world's."""
    media = {k: [f"../{p}" for p in v] if isinstance(v, list) else f"../{v}" for k, v in sample["media"].items()}
    turn = sample["turns"][0]
    line = {"id": sample["id"], "question": turn["ask"], "media": media, "answer": turn["answer"], "key": turn["key"], "modality": sample["modality"],
            "task": turn["task"], "split": sample["split"]}
    return {**line, "speaker": sample["speaker"]} if "speaker" in sample else line


def write(path, data):
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def write_json(path, items):
    write(path, b"[\n" + ",\n".join(json.dumps(i, ensure_ascii=False) for i in items).encode() + b"\n]\n")


def mixtures(train, described):
    """Data files of the training stages: name -> samples. described: words, labels and captions (for stage 1), each about one medium."""
    def of(modality, found=train):
        return [s for s in found if s["modality"] == modality]
    two = of(samples.TWO)
    files = {"stage0.json": [s for s in train if s["modality"] != samples.TWO] + described["stage1"]}
    files.update({f"{kind}-{m}.json": of(m, found) for kind, found in described.items() for m in ("image", "video", "speech", "sound")})
    files.update({f"stage2-{m}.json": of(m) for m in ("image", "video", "text")})
    files["stage2-speech.json"] = of("speech") + [s for s in two if "voice" in s["media"]]
    files["stage2-sound.json"] = of("sound") + [s for s in two if "sound" in s["media"] and "voice" not in s["media"]]
    return {**files, "stage3.json": train}


def write_data(folder, splits, described, seed):
    """Data and evaluation files; how many samples each has."""
    counts = {}
    for name, chosen in {**mixtures(splits["train"], described), "val.json": splits["val"]}.items():
        chosen = list(chosen)
        recipes.random_of(seed, "order", name).shuffle(chosen)
        write_json(folder / name, [conversation(s) for s in chosen])
        counts[name] = len(chosen)
    for name in ["val", *TESTS]:
        lines = [json.dumps(evaluated(s), ensure_ascii=False) + "\n" for s in splits[name]]
        write(folder / "eval" / f"{name}.jsonl", "".join(lines).encode())
        counts[f"eval/{name}.jsonl"] = len(lines)
    return counts


def write_vocabulary(folder, splits):
    """vocabulary.txt, the words that occur; and tokenizer.model. The tests' words are all in training but for held-out combinations."""
    lines = [SYSTEM] * 50
    for sample in splits["train"]:
        lines += [re.sub("<[a-z]+>", "", turn[key]) for turn in sample["turns"] for key in ("ask", "answer")]
    lines += texts.all_words() * 3
    lines += [phrase.replace("{0}", "").replace("{1}", "") for phrases in questions.PHRASES.values() for phrase in phrases]
    model, learned = vocabulary_model.model(lines, VOCABULARY)
    words = collections.Counter(word.strip("\"'(<.,?!:;)>") for line in lines for word in line.split())
    write(folder / "vocabulary.txt", "".join(f"{w}\n" for w in sorted(words) if w).encode())
    write(folder / "tokenizer.model", model)
    return learned


def manifest(folder, seed, size, versions, splits, media, counts):
    by = {name: dict(sorted(collections.Counter(s["modality"] for s in found).items())) for name, found in splits.items()}
    files = collections.Counter(path.split("/")[1] for path in media.recipes)
    sizes = sum((folder / path).stat().st_size for path in media.recipes)
    summary = {"seed": seed, "size": size, "versions": versions, "held_out_combinations": sorted(" ".join(p) for p in HELD_OUT),
               "held_out_voices": [" ".join(v) for v in samples.speak.UNHEARD], "left_out": recordings.lacking() + others.lacking(), "samples": by, "files": counts,
               "media_files": dict(sorted(files.items())), "media_bytes": sizes}
    write(folder / "world.json", json.dumps(summary, indent=1).encode() + b"\n")
    return summary


def make(out, seed, size, cores, versions):
    """Makes a world in the folder; 0, or 1 when a file could not be made."""
    folder, started = pathlib.Path(out), time.monotonic()
    (folder / "eval").mkdir(parents=True, exist_ok=True)
    splits, described, media = draw(seed, size)
    print(f"{sum(map(len, splits.values()))} samples with {len(media.recipes)} media files, drawn in {time.monotonic() - started:.0f} s", file=sys.stderr)
    for kind in ("pictures", "frames", "clips", "sounds", "speech"):
        chosen = {path: recipe for path, recipe in media.recipes.items() if path.split("/")[1] == kind}
        print(f"{kind}:", file=sys.stderr)
        failed = render.everything(folder, chosen, cores or os.cpu_count())
        if failed:
            print("\n".join(failed[:10]) + f"\nmake: {len(failed)} of the {kind} could not be made", file=sys.stderr)
            return 1
    write_vocabulary(folder, splits)
    lines = [json.dumps({"file": path, "recipe": recipe}, ensure_ascii=False) + "\n" for path, recipe in sorted(media.recipes.items())]
    write(folder / "media.jsonl", "".join(lines).encode())
    summary = manifest(folder, seed, size, versions, splits, media, write_data(folder, splits, described, seed))
    print(f"{folder}: {summary['media_bytes'] / 1e6:.0f} MB of media, {sum(map(len, splits.values()))} samples, in {time.monotonic() - started:.0f} s",
          file=sys.stderr)
    return 0

#!/usr/bin/env python3
"""Makes tests/ref/labels.json: conversations with the ids and labels that the original's walk over their text gives (spec 1.2 to 1.4),
and whether it gives up and masks all of a sample. Written from the specification, with SentencePiece's Python package.

usage: make_labels.py MODEL_DIR > labels.json"""
import json
import pathlib
import re
import sys

import sentencepiece

SYSTEM = ("A chat between a curious user and an artificial intelligence assistant. "
          "The assistant gives helpful, detailed, and polite answers to the user's questions.")
PLACES = {"<image>": -200, "<audio>": -300, "<video>": -400}
IGNORED, UNKNOWN, END, LIMIT = -100, 0, 2, 2048
SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2}


def encode(model, text):
    ids = [1]
    for part in re.split(r"(<unk>|<s>|</s>)", text):
        ids += [SPECIAL[part]] if part in SPECIAL else model.encode(part) if part else []
    return ids


def encode_with_media(model, text):
    ids = [1]
    for part in re.split(r"(<image>|<audio>|<video>)", text):
        ids += [PLACES[part]] if part in PLACES else encode(model, part)[1:]
    return ids


def prompt(turns):
    text = SYSTEM + " "
    for i, message in enumerate(turns):
        role = "USER" if i % 2 == 0 else "ASSISTANT"
        text += role + (": " + message + (" " if i % 2 == 0 else "</s>") if message else ":")
    return text


def labels_of(model, text, ids):
    labels, at = list(ids), 1
    labels[0] = IGNORED
    for part in text.split("</s>"):
        halves = part.split(" ASSISTANT: ")
        if not part or len(halves) != 2:
            break
        whole = len(encode_with_media(model, part))
        asked = len(encode_with_media(model, halves[0] + " ASSISTANT: ")) - 2
        labels[at:at + asked] = [IGNORED] * len(labels[at:at + asked])
        at += whole
    labels[at:] = [IGNORED] * len(labels[at:])
    masked = at < LIMIT and at != sum(i != UNKNOWN for i in ids)
    return labels, masked


CASES = [
    ["What is it?", "A cat."],
    ["What is it?", "A cat.", "And its colour?", "It is red, of course."],
    ["<image>\nWhat colour?", "red"],
    ["Is <image> like <audio> or\n<video>?", "left", "Why?", "three\nfour", "So?", "yes"],
    ["a", " two leading blanks"],
    ["a", "ends in blanks  "],
    ["a", "\nbegins with a line"],
    ["a", "  "],
    ["  blanks  ", "b"],
    ["a", "x" * 40, "b", "", "c", "d"],
    ["caf\u00e9 \u4e2d\u6587", "na\u00efve \U0001f600 smile"],
    ["a", "tab\there"],
    ["an <unk> in the question", "b"],
    ["a", "an <unk> in the answer"],
    ["a", "ends early</s>goes on"],
    ["say ASSISTANT: ok", "ok"],
    ["say \" ASSISTANT: ok\"", "ok"],
    ["a", "USER: x ASSISTANT: y"],
    ["a", "b", "say ASSISTANT: ok", "ok", "c", "d"],
    ["a", "b", "c", ""],
    ["<s> at the start", "b <s>"],
    ["a", "ASSISTANT: "],
    ["a" * 4000, "b"],
    ["a", "b" * 3000],
]


def main():
    model = sentencepiece.SentencePieceProcessor(model_file=str(pathlib.Path(sys.argv[1]) / "tokenizer.model"))
    rows = []
    for turns in CASES:
        text = prompt(turns)
        ids = encode_with_media(model, text)
        labels, masked = labels_of(model, text, ids)
        rows.append({"turns": turns, "ids": ids, "labels": labels, "masked": masked})
    json.dump(rows, sys.stdout, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()

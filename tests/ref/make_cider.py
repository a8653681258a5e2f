#!/usr/bin/env python3
"""Makes tests/ref/cider.json: captions, references and the scores that pycocoevalcap 1.2 gives them (its CiderScorer, on texts that are
cut already, so that its Java tokeniser is not needed).

usage: make_cider.py > cider.json      needs pycocoevalcap and numpy"""
import json
import random
import sys

from pycocoevalcap.cider.cider_scorer import CiderScorer

WORDS = "a dog cat man woman red blue ball street car runs sits on in the with under over two small big tree".split()
MEDIA, REFERENCES = 12, 5


def changed(rng, words):
    words = list(words)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(words))
        what = rng.randrange(3)
        if what == 0:
            words[at] = rng.choice(WORDS)
        elif what == 1 and len(words) > 1:
            del words[at]
        else:
            words.insert(at, rng.choice(WORDS))
    return words


def main():
    rng = random.Random(9)
    rows = []
    for _ in range(MEDIA):
        about = [rng.choice(WORDS) for _ in range(rng.randrange(3, 10))]
        rows.append({"caption": " ".join(changed(rng, about)),
                     "refs": [" ".join(changed(rng, about)) for _ in range(rng.randrange(1, REFERENCES + 1))]})
    rows[3]["caption"] = rows[3]["refs"][0]
    rows[5]["caption"] = "nothing of it"
    rows[7]["caption"] = "dog"
    scorer = CiderScorer(n=4, sigma=6.0)
    for row in rows:
        scorer += (row["caption"], row["refs"])
    mean, scores = scorer.compute_score()
    for row, score in zip(rows, scores):
        row["score"] = float(score)
    json.dump({"mean": float(mean), "rows": rows}, sys.stdout, indent=0)
    print()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Seconds that a window of sound takes through BEATs and the Q-Former, ours (bench_sound) and PyTorch's in turn: the same shapes,
f32, random weights, the same number of threads. The PyTorch side is the network of spec 2.5 and 3.3 in plain torch calls, with the
faster of its two attentions; its filter bank is left out, ours counts. TSV: case, unit, ours, torch, torch / ours (medians).

example: bench/bench_sound.py --build build/release --threads 1,2
"""
import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys
import time

import torch
from torch.nn import functional as F

D, HEADS, INNER, LAYERS, PATCH_DIM, PATCH = 768, 12, 3072, 12, 512, 16
QUERIES, DIM_OUT, FRAMES, BINS = 50, 4096, 2998, 128
ALPHA = (2 * LAYERS) ** 0.25


def say(text):
    print(text, file=sys.stderr, flush=True)


def linear(n, k):
    return torch.randn(n, k) * 0.02, torch.randn(n) * 0.02


def norm(n):
    return torch.ones(n), torch.zeros(n)


def heads_of(x):
    return x.view(x.shape[0], HEADS, D // HEADS).transpose(0, 1)[None]


def attention_weights():
    return {name: linear(D, D) for name in ("q", "k", "v", "out")} | {"norm": norm(D)}


class Torch:
    def __init__(self):
        torch.manual_seed(1)
        self.patch = torch.randn(PATCH_DIM, 1, PATCH, PATCH) * 0.02
        self.patch_norm, self.project, self.norm = norm(PATCH_DIM), linear(D, PATCH_DIM), norm(D)
        self.conv = torch.randn(D, D // 16, 128) * 0.02, torch.zeros(D)
        self.layers = [{"self": attention_weights(), "grep": linear(8, D // HEADS), "a": torch.ones(1, HEADS, 1, 1),
                        "fc1": linear(INNER, D), "fc2": linear(D, INNER), "norm": norm(D)} for _ in range(LAYERS)]
        self.rows = FRAMES // PATCH * (BINS // PATCH)
        self.table = torch.randn(1, HEADS, self.rows, self.rows)
        self.queries = torch.randn(QUERIES, D)
        self.qformer = [{"self": attention_weights(), "cross": attention_weights() if i % 2 == 0 else None,
                         "fc1": linear(INNER, D), "fc2": linear(D, INNER), "norm": norm(D)} for i in range(LAYERS)]
        self.projector = linear(DIM_OUT, D)
        self.bank = torch.randn(1, 1, FRAMES, BINS)
        self.fused = False

    def attend(self, x, keys, w, bias=None):
        q, k, v = (heads_of(F.linear(y, *w[name])) for y, name in ((x, "q"), (keys, "k"), (keys, "v")))
        if bias is not None:
            bias = bias(q)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            scores = (q / math.sqrt(D // HEADS)) @ k.transpose(2, 3)
            y = (scores if bias is None else scores.add_(bias)).softmax(-1) @ v
        return F.linear(y[0].transpose(0, 1).reshape(x.shape[0], D), *w["out"])

    def beats(self, real):
        x = F.conv2d(self.bank, self.patch, stride=PATCH)[0].flatten(1).T
        x = F.linear(F.layer_norm(x, (PATCH_DIM,), *self.patch_norm), *self.project)
        x[real:] = 0
        x = x + F.gelu(F.conv1d(x.T[None], *self.conv, padding=64, groups=16)[0, :, :-1].T)
        x = F.layer_norm(x, (D,), *self.norm)
        mask = torch.zeros(self.rows)
        mask[real:] = -math.inf
        for w in self.layers:
            def bias(q, w=w):
                ga, gb = torch.sigmoid(F.linear(q, *w["grep"]).unflatten(-1, (2, 4)).sum(-1)).split(1, -1)
                gated = (ga * (gb * w["a"] - 1) + 2) * self.table
                return gated if real == self.rows else gated + mask
            x = F.layer_norm(ALPHA * x + self.attend(x, x, w["self"], bias), (D,), *w["self"]["norm"])
            x = F.layer_norm(ALPHA * x + F.linear(F.gelu(F.linear(x, *w["fc1"])), *w["fc2"]), (D,), *w["norm"])
        return x

    def rows_of(self, x):
        h = self.queries
        for w in self.qformer:
            h = F.layer_norm(h + self.attend(h, h, w["self"]), (D,), *w["self"]["norm"])
            if w["cross"]:
                h = F.layer_norm(h + self.attend(h, x, w["cross"]), (D,), *w["cross"]["norm"])
            h = F.layer_norm(h + F.linear(F.gelu(F.linear(h, *w["fc1"])), *w["fc2"]), (D,), *w["norm"])
        return F.linear(h, *self.projector)

    def seconds(self, threads, real):
        """Of one window: (beats, qformer)."""
        torch.set_num_threads(threads)
        with torch.no_grad():
            begin = time.perf_counter()
            x = self.beats(real)
            middle = time.perf_counter()
            self.rows_of(x)
            return middle - begin, time.perf_counter() - middle


def ours(args, threads):
    words = [str(args.program), "--rounds", "1", "--threads", str(threads), "--seconds", str(args.seconds), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    stages = {row["stage"]: row["median_s"] for row in json.loads(done.stdout)}
    return stages["beats"], stages["qformer"]


def measure(args, peer, threads):
    real = min(peer.rows, (args.seconds * 100 + 1) // 2)
    mine, theirs = [], {False: [], True: []}
    for i in range(-1, args.rounds):
        say(f"{threads} threads, round {i + 1} of {args.rounds}")
        if i >= 0:
            mine.append(ours(args, threads))
        for fused in theirs:
            peer.fused = fused
            seconds = peer.seconds(threads, real)
            if i >= 0:
                theirs[fused].append(seconds)
    for stage, name in enumerate(("beats", "qformer")):
        own = statistics.median(s[stage] for s in mine)
        best = min(statistics.median(s[stage] for s in both) for both in theirs.values())
        print(f"{name} {args.seconds} s t{threads}\ts\t{own:.4f}\t{best:.4f}\t{best / own:.2f}", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--build", default="build/release", help="build folder with bench/bench_sound")
    ap.add_argument("--threads", default="1", help="a list, default 1")
    ap.add_argument("--rounds", type=int, default=5, help="default 5, after one that is not timed")
    ap.add_argument("--seconds", type=int, default=30, choices=range(1, 31), metavar="1..30", help="of sound in the window")
    args = ap.parse_args()
    args.program = pathlib.Path(args.build) / "bench" / "bench_sound"
    if not args.program.exists():
        say(f"bench_sound.py: {args.program} not found: cmake --workflow --preset release builds it")
        return 2
    peer = Torch()
    print("case\tunit\tours\ttorch\tratio")
    for threads in (int(t) for t in args.threads.split(",")):
        measure(args, peer, threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())

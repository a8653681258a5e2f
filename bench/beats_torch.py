"""BEATs iter3+ and its Q-Former (spec 2.5, 3.3) in plain torch calls, random weights: what bench_encoders.py compares the sound tower
with, since transformers has no BEATs. The filter bank is left out."""
import math
import time

import torch
from torch.nn import functional as F

D, HEADS, INNER, LAYERS, PATCH_DIM, PATCH = 768, 12, 3072, 12, 512, 16
QUERIES, FRAMES, BINS = 50, 2998, 128
ROWS = FRAMES // PATCH * (BINS // PATCH)
ALPHA = (2 * LAYERS) ** 0.25  # DeepNorm


def linear(n, k):
    return torch.randn(n, k) * 0.02, torch.randn(n) * 0.02


def norm(n):
    return torch.ones(n), torch.zeros(n)


def heads_of(x):
    return x.view(x.shape[0], HEADS, D // HEADS).transpose(0, 1)[None]


def attention():
    return {name: linear(D, D) for name in ("q", "k", "v", "out")} | {"norm": norm(D)}


def ffn():
    return {"fc1": linear(INNER, D), "fc2": linear(D, INNER), "norm": norm(D)}


class Beats:
    """fused: torch's scaled_dot_product_attention, else matrix products and a softmax."""

    def __init__(self, width, fused):
        self.fused = fused
        self.bank, self.table = torch.randn(1, 1, FRAMES, BINS), torch.randn(1, HEADS, ROWS, ROWS)
        self.patch = torch.randn(PATCH_DIM, 1, PATCH, PATCH) * 0.02
        self.patch_norm, self.project, self.norm = norm(PATCH_DIM), linear(D, PATCH_DIM), norm(D)
        self.conv = torch.randn(D, D // 16, 128) * 0.02, torch.zeros(D)
        self.layers = [{"self": attention(), "grep": linear(8, D // HEADS), "a": torch.ones(1, HEADS, 1, 1)} | ffn()
                       for _ in range(LAYERS)]
        self.queries = torch.randn(QUERIES, D)
        self.qformer = [{"self": attention(), "cross": attention() if i % 2 == 0 else None} | ffn() for i in range(LAYERS)]
        self.projector = linear(width, D)

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

    def encode(self):
        x = F.conv2d(self.bank, self.patch, stride=PATCH)[0].flatten(1).T
        x = F.linear(F.layer_norm(x, (PATCH_DIM,), *self.patch_norm), *self.project)
        x = x + F.gelu(F.conv1d(x.T[None], *self.conv, padding=64, groups=16)[0, :, :-1].T)
        x = F.layer_norm(x, (D,), *self.norm)
        for w in self.layers:
            def bias(q, w=w):
                ga, gb = torch.sigmoid(F.linear(q, *w["grep"]).unflatten(-1, (2, 4)).sum(-1)).split(1, -1)
                return (ga * (gb * w["a"] - 1) + 2) * self.table
            x = F.layer_norm(ALPHA * x + self.attend(x, x, w["self"], bias), (D,), *w["self"]["norm"])
            x = F.layer_norm(ALPHA * x + F.linear(F.gelu(F.linear(x, *w["fc1"])), *w["fc2"]), (D,), *w["norm"])
        return x

    def align(self, x):
        h = self.queries
        for w in self.qformer:
            h = F.layer_norm(h + self.attend(h, h, w["self"]), (D,), *w["self"]["norm"])
            if w["cross"]:
                h = F.layer_norm(h + self.attend(h, x, w["cross"]), (D,), *w["cross"]["norm"])
            h = F.layer_norm(h + F.linear(F.gelu(F.linear(h, *w["fc1"])), *w["fc2"]), (D,), *w["norm"])
        return F.linear(h, *self.projector)

    def measure(self):
        """Seconds of each stage of one window."""
        with torch.inference_mode():
            t0 = time.perf_counter()
            x = self.encode()
            t1 = time.perf_counter()
            self.align(x)
            t2 = time.perf_counter()
        return {"sound encoder": t1 - t0, "sound aligner": t2 - t1, "sound": t2 - t0}

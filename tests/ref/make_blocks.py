#!/usr/bin/env python3
"""Makes tests/golden/blocks/backward.safetensors: blocks of core/nn with all their parameters, and the terms that gates add to the loss.
For each case inputs and parameters in f32 (CASE.in.NAME), the gradient of the output (CASE.dy) and what float64 autograd of PyTorch gives,
rounded to f32 (CASE.grad.NAME, CASE.out). By hand: no test needs PyTorch.

usage: make_blocks.py OUT.safetensors"""
import math
import sys

import numpy
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

SEED = 21
ALPHA = 3.0
tensors = {}


def values(*shape, std=0.5):
    return (torch.randn(*shape) * std).float()


def keep(name, x):
    tensors[name] = numpy.ascontiguousarray(x.detach().numpy().astype(numpy.float32))


def case(name, f, inputs):
    """Gradients of sum(dy f(inputs))."""
    leaves = {k: v.double().requires_grad_() for k, v in inputs.items()}
    out = f(leaves)
    dy = values(*out.shape)
    (out * dy.double()).sum().backward()
    keep(f"{name}.out", out)
    keep(f"{name}.dy", dy)
    for k, v in inputs.items():
        keep(f"{name}.in.{k}", v)
        keep(f"{name}.grad.{k}", leaves[k].grad)


def layer(p, name, x):
    """A linear layer and the LoRA beside it."""
    y = F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))
    if f"{name}.lora_A" in p:
        a, b = p[f"{name}.lora_A"], p[f"{name}.lora_B"]
        y = y + ALPHA / a.shape[0] * F.linear(F.linear(x, a), b)
    return y


def layer_values(p, name, n, k, r, bias):
    p[f"{name}.weight"] = values(n, k)
    if bias:
        p[f"{name}.bias"] = values(n)
    p[f"{name}.lora_A"] = values(r, k)
    p[f"{name}.lora_B"] = values(n, r)


def attention(T=14, H=4, KH=2, D=6, dim=10):
    """A causal block: norm, attention with shared key heads, residual."""

    def f(p):
        x = F.layer_norm(p["x"], [dim], p["norm.weight"], p["norm.bias"], 1e-5)
        q = layer(p, "q", x).view(T, H, D)
        k = layer(p, "k", x).view(T, KH, D).repeat_interleave(H // KH, 1)
        v = layer(p, "v", x).view(T, KH, D).repeat_interleave(H // KH, 1)
        s = torch.einsum("thd,nhd->htn", q, k) / math.sqrt(D)
        s = s.masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), float("-inf"))
        heads = torch.einsum("htn,nhd->thd", s.softmax(-1), v)
        return p["x"] + layer(p, "o", heads.reshape(T, H * D))

    p = {"x": values(T, dim), "norm.weight": values(dim), "norm.bias": values(dim)}
    layer_values(p, "q", H * D, dim, 3, True)
    layer_values(p, "k", KH * D, dim, 3, False)
    layer_values(p, "v", KH * D, dim, 3, True)
    layer_values(p, "o", dim, H * D, 3, True)
    case("attention", f, p)


def ffn(T=11, D=9, wide=20):
    def f(p):
        return layer(p, "down", F.silu(layer(p, "gate", p["x"])) * layer(p, "up", p["x"]))

    p = {"x": values(T, D)}
    layer_values(p, "gate", wide, D, 2, False)
    layer_values(p, "up", wide, D, 2, False)
    layer_values(p, "down", D, wide, 2, False)
    case("ffn", f, p)


# kinds of rows: text 0, image 1, audio 2, video 3; samples as ranges of rows
KINDS = [0, 1, 1, 1, 0, 2, 2, 0, 0, 0, 2, 3, 3, 3, 0, 0, 0, 0, 0, 0]
SAMPLES = [(0, 9), (9, 16), (16, 20)]
MEANT = {1: [1, 4], 2: [2, 5], 3: [3, 4]}
PAIRS = [(1, 2), (1, 0), (2, 0), (2, 3), (3, 0)]


def of_kind(x, lo, hi, kind):
    return x[[t for t in range(lo, hi) if KINDS[t] == kind]]


def multimodal(z):
    loss = 0
    for lo, hi in SAMPLES:
        for kind, experts in MEANT.items():
            p = of_kind(z, lo, hi, kind).softmax(-1)
            if len(p) > 0:
                target = torch.zeros(z.shape[1], dtype=z.dtype)
                target[experts] = 1
                loss = loss + len(p) / (hi - lo) * (p - target).abs().mean()
    return loss


def kl(z):
    loss = 0
    for lo, hi in SAMPLES:
        mean = {k: of_kind(z.softmax(-1), lo, hi, k) for k in range(4)}
        mean = {k: v.mean(0) for k, v in mean.items() if len(v) > 0}
        terms = [1 - F.kl_div(mean[a].log_softmax(-1), mean[b].softmax(-1), reduction="mean")
                 for a, b in PAIRS if a in mean and b in mean]
        if terms:
            loss = loss + torch.stack(terms).mean()
    return loss


def balance(z):
    p = z.softmax(-1)
    first = F.one_hot(z.argmax(-1), z.shape[1]).double()
    return z.shape[1] * (p.mean(0) * first.mean(0)).sum()


def gates(E=6):
    z = values(len(KINDS), E, std=1.0)
    for name, f in {"balance": balance, "z": lambda z: (z.logsumexp(-1) ** 2).mean(), "multimodal": multimodal,
                    "kl": kl}.items():
        leaf = z.double().requires_grad_()
        out = f(leaf)
        out.backward()
        keep(f"{name}.out", out.reshape(1))
        keep(f"{name}.grad.logits", leaf.grad)
    keep("gates.in.logits", z)


torch.manual_seed(SEED)
attention()
ffn()
gates()
save_file(tensors, sys.argv[1], metadata={"seed": str(SEED), "torch": torch.__version__.split("+")[0]})

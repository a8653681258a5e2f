#!/usr/bin/env python3
"""Makes tests/golden/ops/backward.safetensors: for each case inputs in f32 (CASE.in.NAME), the gradient of the output (CASE.dy) and what
float64 autograd of PyTorch gives, rounded to f32 (CASE.grad.NAME, CASE.out...). By hand: no test needs PyTorch.

usage: make_ops.py OUT.safetensors"""
import math
import sys

import numpy
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

SEED = 20
tensors = {}


def values(*shape, std=1.0):
    return (torch.randn(*shape) * std).float()


def keep(name, x):
    x = x.detach()
    kind = numpy.int32 if not x.is_floating_point() else numpy.float32
    tensors[name] = numpy.ascontiguousarray(x.numpy().astype(kind))


def case(name, f, inputs, extra=(), dy=None):
    """Gradients of sum(dy f(inputs)); extra: values that f reads and that have no gradient."""
    leaves = {k: v.double().requires_grad_() for k, v in inputs.items()}
    out = f(**leaves)
    dy = values(*out.shape) if dy is None else dy
    (out * dy.double()).sum().backward()
    keep(f"{name}.out", out)
    keep(f"{name}.dy", dy)
    for k, v in dict(extra).items():
        keep(f"{name}.in.{k}", v)
    for k, v in inputs.items():
        keep(f"{name}.in.{k}", v)
        keep(f"{name}.grad.{k}", leaves[k].grad)


def turn(x, cos, sin):
    half = x.shape[-1] // 2
    return torch.cat([x[..., :half] * cos - x[..., half:] * sin, x[..., half:] * cos + x[..., :half] * sin], -1)


def attention(q, k, v, seen, bias=None):
    """q [T,H,D], k and v [n,KH,D]; seen [T,n]"""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    s = torch.einsum("thd,nhd->htn", q, k) / math.sqrt(q.shape[-1])
    if bias is not None:
        s = s + bias
    p = s.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("htn,nhd->thd", p, v)


def attentions():
    T, H, D = 13, 4, 12
    for name, kv_heads, n, pos in (("causal", 2, 70, 57), ("cross", 4, 66, None)):
        seen = torch.ones(T, n, dtype=torch.bool)
        if pos is not None:
            seen = torch.arange(n)[None] <= pos + torch.arange(T)[:, None]
        case(name, lambda q, k, v: attention(q, k, v, seen), dict(q=values(T, H, D), k=values(n, kv_heads, D), v=values(n, kv_heads, D)))
    n, seen = T, torch.ones(T, T, dtype=torch.bool)
    at = T - 1 + torch.arange(T)[None] - torch.arange(T)[:, None]  # the table's column for query t and key i

    def biased(q, k, v, table, gate):
        return attention(q, k, v, seen, gate.t()[:, :, None] * table[:, at])

    case("biased", biased, dict(q=values(T, H, D), k=values(n, H, D), v=values(n, H, D), table=values(H, 2 * T - 1), gate=values(T, H)))


def rows():
    T, D = 7, 37
    x, w, b = values(T, D), values(D), values(D)
    case("rmsnorm", lambda x, w: x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * w, dict(x=x, w=w))
    case("layernorm", lambda x, w, b: F.layer_norm(x, (D,), w, b, 1e-5), dict(x=x, w=w, b=b))
    x = values(T, D, std=3.0)
    case("gelu", F.gelu, dict(input=x))
    k = float(torch.tensor(1.702).float())
    case("quick_gelu", lambda x: x * torch.sigmoid(k * x), dict(x=x))
    case("swiglu", lambda g, u: F.silu(g) * u, dict(g=x, u=values(T, D)))
    case("softmax", lambda x: x.softmax(-1), dict(x=x))
    angle = values(T, 6, std=5.0)
    cos, sin = angle.cos(), angle.sin()
    case("rope", lambda x: turn(x, cos.double()[:, None], sin.double()[:, None]), dict(x=values(T, 3, 12)), dict(cs=torch.cat([cos, sin], -1)))
    target = torch.tensor([3, 36, -1, 0, 11, -1, 11])
    case("cross_entropy", lambda x: F.cross_entropy(x, target, ignore_index=-1, reduction="none"), dict(x=x), dict(target=target), torch.full((T,), 0.5))

    def gate(x, a):
        first, last = torch.sigmoid(x.view(T, 5, 2, 4).sum(-1)).unbind(-1)
        return first * (last * a - 1) + 2

    case("bias_gate", gate, dict(x=values(T, 5, 8), a=values(5)))


def moves():
    T, K, D = 6, 3, 19
    index = torch.tensor([[0, 5, 9], [12, -1, 4], [3, 1, 2], [-1, -1, -1], [10, 11, -1], [6, 7, 8]])

    def combine(rows, weight):
        return (rows[index.clamp(min=0)] * weight[..., None] * (index >= 0)[..., None]).sum(1)

    case("combine", combine, dict(rows=values(13, D), weight=values(T, K)), dict(index=index))
    ids = torch.tensor([4, 0, 4, 2, 2, 4, 1])
    case("gather", lambda x: x[ids], dict(x=values(5, D)), dict(index=ids))
    case("windows", lambda x: x.unfold(0, 9, 4), dict(x=values(33)))
    case("linear", lambda x, w: x @ w.t(), dict(x=values(11, 23), w=values(18, 23)))


def adamw():
    how = dict(lr=3e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    p = values(50)
    keep("adamw.in.p", p)
    leaf = p.double().requires_grad_()
    optimizer = torch.optim.AdamW([leaf], **how)
    grads = values(5, 50)
    keep("adamw.in.g", grads)
    for g in grads:
        leaf.grad = g.double()
        optimizer.step()
    state = optimizer.state[leaf]
    for name, x in (("p", leaf), ("m", state["exp_avg"]), ("v", state["exp_avg_sq"])):
        keep(f"adamw.out.{name}", x)


torch.manual_seed(SEED)
attentions()
rows()
moves()
adamw()
save_file(tensors, sys.argv[1], {"seed": str(SEED), "torch": torch.__version__})

"""The training step of bench_train.py in PyTorch: the model of a unimoe model directory (Llama, or Mixtral's sparse form of it) in plain
torch calls, its weights from the safetensors under the same names, AdamW, LoRA by PEFT. Prints one JSON line: losses and seconds of
every step. bench_train.py starts it as a program of its own, so that its memory can be measured.
"""
import argparse
import json
import pathlib
import time

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

IGNORED = -100


class RMSNorm(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(c["hidden_size"])), c["rms_norm_eps"]

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, dim = c["num_attention_heads"], c["num_key_value_heads"], c["hidden_size"]
        self.size = dim // self.heads
        self.q_proj, self.o_proj = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, self.kv_heads * self.size, bias=False)
        self.v_proj = nn.Linear(dim, self.kv_heads * self.size, bias=False)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape
        q, k, v = (f(x).view(batch, length, -1, self.size).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        q, k = (y * cos + torch.cat((-y[..., self.size // 2:], y[..., :self.size // 2]), -1) * sin for y in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.kv_heads != self.heads)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


class SwiGLU(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.Module):
    """Mixtral's: softmax over the logits of the chosen, each expert on its rows, sums by index_add."""

    def __init__(self, c):
        super().__init__()
        self.top = c["num_experts_per_tok"]
        self.gate = nn.Linear(c["hidden_size"], c["num_experts"], bias=False)
        self.experts = nn.ModuleList(SwiGLU(c) for _ in range(c["num_experts"]))

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        logits, chosen = self.gate(rows).topk(self.top, dim=-1)
        weights = logits.softmax(-1)
        out = torch.zeros_like(rows)
        for e, expert in enumerate(self.experts):
            row, slot = torch.where(chosen == e)
            out.index_add_(0, row, expert(rows[row]) * weights[row, slot, None])
        return out.view_as(x)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn, self.mlp = Attention(c), Experts(c) if c["moe"] else SwiGLU(c)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(c), RMSNorm(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c)


class Model(nn.Module):
    """The mean loss of ids [batch, length]. The head runs over the rows that have a target only, as ours does."""

    def __init__(self, c, length):
        super().__init__()
        self.model, self.lm_head = Trunk(c), nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        size = c["hidden_size"] // c["num_attention_heads"]
        angle = torch.outer(torch.arange(length), c["rope_theta"] ** -(torch.arange(0, size, 2) / size)).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids, row, target):
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, self.cos, self.sin)
        x = self.model.norm(x.reshape(-1, x.shape[-1])[row])
        return F.cross_entropy(self.lm_head(x), target, reduction="sum")


def model_of(args, config, length):
    with torch.device("meta"):
        model = Model(config, length)
    model.to_empty(device="cpu")
    fresh = Model(config | {"num_hidden_layers": 0, "vocab_size": 1}, length)
    model.cos, model.sin = fresh.cos, fresh.sin
    weights = {}
    for file in pathlib.Path(args.model).glob("*.safetensors"):
        weights.update(load_file(file))
    model.load_state_dict(weights)
    if not args.adapter:
        return model
    import peft  # only for frozen weights
    how = peft.PeftConfig.from_pretrained(args.adapter)
    how.task_type = None  # with CAUSAL_LM it wants a model of transformers
    return peft.PeftModel.from_pretrained(model, args.adapter, is_trainable=True, config=how)


def micro_batches(samples, size):
    """(ids, rows with a target, their targets) of every micro-batch."""
    for at in range(0, len(samples), size):
        ids = torch.tensor([s["ids"] for s in samples[at:at + size]])
        labels = torch.tensor([s["labels"][1:] + [IGNORED] for s in samples[at:at + size]]).flatten()
        row = (labels != IGNORED).nonzero()[:, 0]
        yield ids, row, labels[row]


def train(args):
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = json.loads((pathlib.Path(args.model) / "config.json").read_text(encoding="utf-8"))
    samples = json.loads(pathlib.Path(args.samples).read_text(encoding="utf-8"))
    model = model_of(args, config, len(samples[0]["ids"]))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, weight_decay=0.0, fused=True)
    run = torch.compile(model) if args.compile else model
    batches = list(micro_batches(samples, args.micro_batch))
    targets = sum(len(target) for _, _, target in batches)
    losses, seconds = [], []
    for _ in range(args.steps):
        since, total = time.perf_counter(), 0.0
        for ids, row, target in batches:
            loss = run(ids, row, target) / targets
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - since)
        losses.append(total)
    print(json.dumps({"losses": losses, "seconds": seconds, "targets": targets, "trained": sum(p.numel() for p in trained)}))


def gemm_limit(args):
    """GFLOP/s of the best of three seconds' products of M rows at the shapes N,K of the model, weighted by their work."""
    torch.set_num_threads(args.threads)
    work = spent = 0.0
    for shape in args.gemm.split(";"):
        rows, n, k = (int(x) for x in shape.split(","))
        x, w = torch.randn(rows, k), torch.randn(n, k)
        best = 1e9
        until = time.perf_counter() + 0.3
        while time.perf_counter() < until:
            since = time.perf_counter()
            F.linear(x, w)
            best = min(best, time.perf_counter() - since)
        work += 2.0 * rows * n * k
        spent += best
    print(json.dumps({"gflops": work / spent * 1e-9}))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", help="model directory")
    p.add_argument("--samples", help="JSON list of samples: ids, labels, all of one length")
    p.add_argument("--adapter", help="folder of a PEFT adapter that trains; the model's weights are frozen then")
    p.add_argument("--micro-batch", type=int, default=1)
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--lr", type=float, default=1e-4)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--compile", action="store_true", help="torch.compile")
    p.add_argument("--gemm", help="measure the limit of products instead: M,N,K;M,N,K;...")
    args = p.parse_args()
    if args.gemm:
        gemm_limit(args)
    else:
        train(args)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What training leaves, read by the programs that others use: a dense model loads in transformers, an adapter in PEFT, both with our
logits, and PEFT merges an adapter as unimoe convert does.

usage: test_exports.py BUILD SOURCE      exit 77: no mpirun, or the libraries of tests/requirements-torch.txt are not there (tests/run installs
them)
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

from common import again_in, check

BUILD, SOURCE = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
try:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM
except ImportError as missing:
    again_in("venv-torch", SOURCE, missing)

TOLERANCE = 1e-4
KEYS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")


def unimoe(*words):
    r = subprocess.run([str(w) for w in (BUILD / "unimoe", *words)], capture_output=True, text=True, timeout=300)
    check(r.returncode == 0, f"unimoe {words}: {r.stdout}{r.stderr}")


def dense(tmp, name, **keys):
    config = tmp / f"{name}.config"
    shutil.copytree(SOURCE / "tests/golden/models/s4", config, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer*", "special*"))
    said = json.loads((config / "config.json").read_text())
    said.update({"moe": False, **keys})
    (config / "config.json").write_text(json.dumps(said))
    unimoe("init", "--config", config / "config.json", "--seed", 1, "--out", tmp / name)
    return tmp / name


def ours(tmp, model):
    """The ids of a prompt and the logits that we give for them."""
    request, out = tmp / "request.json", tmp / "trace.safetensors"
    request.write_text(json.dumps({"prompt": "What is seen, and what is heard?"}))
    unimoe("trace", request, "--model", model, "--max-new-tokens", 1, "--out", out)
    got = load_file(out)
    return got["input_ids"].long(), got["logits"].float()


def llama(folder):
    """The language model of a folder of ours; every weight of it must be there."""
    said = json.loads((folder / "config.json").read_text())
    model, info = LlamaForCausalLM.from_pretrained(folder, config=LlamaConfig(**{k: said[k] for k in KEYS}), output_loading_info=True)
    tied = ["lm_head.weight"] if said["tie_word_embeddings"] else []
    check(set(info["missing_keys"]) <= set(tied) and not info["mismatched_keys"], f"{folder}: {info}")
    check(all("mm_" in k or "query_tokens" in k for k in info["unexpected_keys"]), f"{folder}: unexpected {info['unexpected_keys']}")
    return model.eval()


def theirs(model, ids):
    with torch.no_grad():
        return model(input_ids=ids[None]).logits[0].float()


def off(got, want):
    check(got.shape == want.shape, f"shapes {got.shape} {want.shape}")
    return ((got - want).abs().max() / want.abs().max()).item()


def train(tmp, base, out, *more):
    media = SOURCE / "tests/golden/training/s4"
    (tmp / "data.json").write_text(json.dumps(json.loads((media / "training.json").read_text())["samples"]))
    unimoe("train", base, "--data", tmp / "data.json", "--media-folder", media, "--batch", 3, "--steps", 3, "--lr", 0.03, "--warmup", 0,
           "--out", tmp / out, *more)
    return tmp / out


def adapter(tmp, base, name, *stage):
    """An adapter over the dense model in PEFT gives the logits of the model that unimoe convert merges; so do PEFT's merged weights."""
    run, merged = train(tmp, base, name, *stage, "--save", "adapter"), tmp / f"{name}-merged"
    unimoe("convert", "--base", base, "--tuned", run / "adapter", "--out", merged)
    ids, want = ours(tmp, merged)
    plain = llama(base)
    before = off(theirs(plain, ids), want)
    adapted = PeftModel.from_pretrained(plain, str(run / "adapter")).eval()
    far = off(theirs(adapted, ids), want)
    check(far < TOLERANCE < before / 10, f"{name}: PEFT's logits are off by {far}, those without the adapter by {before}")
    weights, kept = adapted.merge_and_unload().state_dict(), load_file(merged / "model.safetensors")
    names = [n for n in kept if n in weights]
    check(len(names) == len(weights), f"{name}: {set(weights) - set(names)}")
    for n in names:
        check(off(weights[n], kept[n]) < 1e-6, f"{name}: {n} is merged otherwise")
    return merged


def main(tmp):
    for name, keys in (("base", {}), ("grouped", {"num_key_value_heads": 2, "tie_word_embeddings": True})):
        base = dense(tmp, name, **keys)
        ids, want = ours(tmp, base)
        check((far := off(theirs(llama(base), ids), want)) < TOLERANCE, f"{name}: transformers' logits are off by {far}")
    base = tmp / "base"
    whole = train(tmp, base, "whole", "--stage", 2)
    ids, want = ours(tmp, whole)
    check((far := off(theirs(llama(whole), ids), want)) < TOLERANCE, f"--save model: transformers' logits are off by {far}")
    check(off(theirs(llama(base), ids), want) > 100 * TOLERANCE, "the training changed nothing")
    merged = adapter(tmp, base, "experts", "--stage", 2)
    a, b = load_file(whole / "model.safetensors"), load_file(merged / "model.safetensors")
    check(all(torch.equal(a[n], b[n]) for n in a if ".mlp." in n), "--save model and --save adapter leave different experts")
    adapter(tmp, base, "tuned", "--stage", 3)


if __name__ == "__main__":
    if shutil.which("mpirun") is None:
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        main(pathlib.Path(folder))

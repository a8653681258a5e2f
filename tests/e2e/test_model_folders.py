#!/usr/bin/env python3
"""Model folders as users really have them: for broken downloads the exit code is 3 and the message says what to do; odd but valid ones
work; init leaves nothing behind. The cases follow public reports about safetensors, transformers and model caches.

usage: test_model_folders.py UNIMOE
"""
import json
import os
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

from common import check, tensors, write_tensors

UNIMOE = pathlib.Path(sys.argv[1]).resolve()
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4665b6c0\nsize 5290000000\n"
HTML = "<!DOCTYPE html>\n<html lang=\"en\"><head><title>Sign in</title></head></html>\n"


def unimoe(*args, **more):
    return subprocess.run([UNIMOE, *map(str, args)], capture_output=True, text=True, timeout=120, **more)


class Folder:
    """A fresh copy of the valid model for every case."""

    def __init__(self, tmp):
        self.tmp, self.sound = tmp, tmp / "sound"
        check(unimoe("init", "--preset", "tiny", "--out", self.sound).returncode == 0, "init")

    def __call__(self, change):
        model = self.tmp / "model"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(self.sound, model)
        change(model)
        return model


def both(model):
    """inspect, and generate as far as it goes without ranks."""
    return [unimoe("inspect", model), unimoe("generate", "--model", model, "--prompt", "x", "--dry-run")]


def edit_json(name, **keys):
    def change(model):
        path = model / name
        value = json.loads(path.read_text())
        for key, item in keys.items():
            value.pop(key, None) if item is ... else value.__setitem__(key, item)
        path.write_text(json.dumps(value))
    return change


def text(name, content):
    return lambda model: (model / name).write_text(content)


def shards(model, folder=""):
    """The weights as two files and an index."""
    named, _ = tensors(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    (model / folder).mkdir(exist_ok=True)
    names, where = sorted(named), {}
    for k in range(2):
        file = f"{folder}model-0000{k + 1}-of-00002.safetensors"
        part = names[k::2]
        write_tensors(model / file, {n: named[n] for n in part}, {"format": "pt"})
        where.update({n: file for n in part})
    index = {"metadata": {"total_size": 1, "note": [None]}, "weight_map": where, "generated_by": "a test"}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def cut(model, keep):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])


def replaced(model, name, make):
    (model / name).unlink()
    make(model / name)


def sharded(change):
    def both_steps(model):
        shards(model)
        change(model)
    return both_steps


def cached(model):
    """As a model cache lays it out: links to files named by their sums, one of them gone."""
    blobs = model / "blobs"
    blobs.mkdir()
    (model / "model.safetensors").rename(blobs / "4665b6c0.incomplete")
    (model / "model.safetensors").symlink_to("blobs/4665b6c0")


BROKEN = [
    ("weights empty", lambda m: cut(m, 0), "model.safetensors: the file is empty: download it again"),
    ("weights of 4 bytes", lambda m: cut(m, 4), "download it again"),
    ("weights cut in the header", lambda m: cut(m, 1000), "the file is cut off: 1000 bytes"),
    ("weights cut in the data", lambda m: cut(m, 300000), "the file is cut off: 300000 bytes", "wanted"),
    ("weights one byte short", lambda m: cut(m, (m / "model.safetensors").stat().st_size - 1), "cut off"),
    ("weights with a tail", lambda m: (m / "model.safetensors").open("ab").write(b"xy"), "the last 2 bytes belong to no tensor"),
    ("weights of zeros", lambda m: (m / "model.safetensors").write_bytes(bytes(100000)), "begins with zeros"),
    ("weights a pointer", text("model.safetensors", LFS), "model.safetensors: a Git LFS pointer", "5290000000 bytes", "git lfs pull"),
    ("config a pointer", text("config.json", LFS), "config.json: a Git LFS pointer", "git lfs pull"),
    ("generation config a pointer", text("generation_config.json", LFS), "generation_config.json: a Git LFS pointer"),
    ("tower weights a pointer", text("vision_tower/model.safetensors", LFS), "vision_tower/model.safetensors: a Git LFS pointer"),
    ("tower config a pointer", text("vision_tower/config.json", LFS), "vision_tower/config.json: a Git LFS pointer"),
    ("tokenizer a pointer", text("tokenizer.model", LFS), "tokenizer.model: a Git LFS pointer", "git lfs pull"),
    ("tokenizer a page", text("tokenizer.model", HTML), "tokenizer.model: a web page"),
    ("tokenizer empty", text("tokenizer.model", ""), "tokenizer.model: the file is empty"),
    ("tokenizer missing", lambda m: (m / "tokenizer.model").unlink(), "tokenizer.model is missing"),
    ("tokenizer a folder", lambda m: replaced(m, "tokenizer.model", pathlib.Path.mkdir), "tokenizer.model: a folder, not a file"),
    ("weights a page", text("model.safetensors", HTML), "model.safetensors: a web page"),
    ("weights a message", text("model.safetensors", "Access to model x/y is restricted. Log in.\n"), "a message, not the file itself"),
    ("weights of PyTorch", lambda m: (m / "model.safetensors").write_bytes(b"PK\x03\x04" + bytes(100)), "a PyTorch or zip file"),
    ("config a page", text("config.json", HTML), "config.json: a web page"),
    ("config empty", text("config.json", ""), "config.json: the file is empty"),
    ("config cut", lambda m: (m / "config.json").write_text((m / "config.json").read_text()[:200]), "config.json: not JSON"),
    ("config with comments", text("config.json", '{\n // sizes\n "hidden_size": 64\n}'), "line 2", "JSON has no comments"),
    ("config with a trailing comma", text("config.json", '{"hidden_size": 64,}'), "no comma before a closing bracket"),
    ("config of Python", text("config.json", "{'hidden_size': 64}"), "double quotes"),
    ("config a list", text("config.json", "[]"), "config.json: not a JSON object"),
    ("config missing", lambda m: (m / "config.json").unlink(), "not a model directory: there is no config.json in it"),
    ("config a folder", lambda m: replaced(m, "config.json", pathlib.Path.mkdir), "config.json: a folder, not a file"),
    ("config of NaN", edit_json("config.json", rms_norm_eps=float("nan")), "rms_norm_eps"),
    ("weights a folder", lambda m: replaced(m, "model.safetensors", pathlib.Path.mkdir), "model.safetensors: a folder, not a file"),
    ("weights a link to themselves", lambda m: replaced(m, "model.safetensors", lambda p: p.symlink_to(p.name)), "leads back to itself"),
    ("weights a link to nothing", cached, "a symbolic link to blobs/4665b6c0, which does not exist", "download it again"),
    ("weights missing", lambda m: (m / "model.safetensors").unlink(), "neither model.safetensors nor model.safetensors.index.json"),
    ("weights not complete", lambda m: (m / "model.safetensors").rename(m / "model.safetensors.incomplete"), "model.safetensors.incomplete is a download"),
    ("weights under another name", lambda m: (m / "model.safetensors").rename(m / "consolidated.safetensors"), "consolidated.safetensors is there"),
    ("a shard missing", sharded(lambda m: (m / "model-00002-of-00002.safetensors").unlink()), "model-00002-of-00002.safetensors is missing", "index.json"),
    ("a shard a pointer", sharded(text("model-00001-of-00002.safetensors", LFS)), "model-00001-of-00002.safetensors: a Git LFS pointer"),
    ("the index missing", sharded(lambda m: (m / "model.safetensors.index.json").unlink()), "but not the index"),
    ("the index a pointer", sharded(text("model.safetensors.index.json", LFS)), "index.json: a Git LFS pointer"),
    ("the index a page", sharded(text("model.safetensors.index.json", HTML)), "index.json: a web page"),
    ("the index empty of names", sharded(text("model.safetensors.index.json", '{"weight_map": {}}')), "weight_map is missing, empty"),
    ("an eos that is text", edit_json("config.json", eos_token_id="</s>"), "eos_token_id: allowed a token id"),
    ("another vocabulary", edit_json("config.json", vocab_size=512), "vocab_size: 512", "[400,64]"),
    ("no tower folder", lambda m: shutil.rmtree(m / "vision_tower"), "vision_tower"),
]


def a_link_tree(model):
    """What a sound cache looks like."""
    blobs = model / "blobs"
    blobs.mkdir()
    for i, path in enumerate(sorted(p for p in model.iterdir() if p.is_file())):
        path.rename(blobs / str(i))
        path.symlink_to(f"blobs/{i}")


def odd_tensors(model):
    """Buffers and leftover tensors of other types beside the needed ones."""
    named, _ = tensors(model / "model.safetensors")
    named["model.layers.0.self_attn.rotary_emb.inv_freq"] = ("F64", [4], bytes(32))
    named["model.embed_positions.position_ids"] = ("I64", [1, 3], bytes(24))
    named["model.layers.0.k_scale"] = ("F8_E4M3", [5], bytes(5))
    named["model.masked_bias"] = ("BOOL", [], b"\1")
    named["model.counts"] = ("U16", [2], bytes(4))
    named["model.none"] = ("F32", [0, 4], b"")
    write_tensors(model / "model.safetensors", named, "null", blanks=77)


def metadata_of_numbers(model):
    named, _ = tensors(model / "model.safetensors")
    write_tensors(model / "model.safetensors", named, {"format": "pt", "step": 3, "args": {"lr": 1e-4}})


def in_bf16_and_f64(model):
    """Matrices cut to bf16, norms in f64, as a save after a partial cast leaves them."""
    named, _ = tensors(model / "model.safetensors")
    for k, (dtype, shape, raw) in named.items():
        values = struct.unpack(f"<{len(raw) // 4}f", raw)
        if len(shape) == 1:
            named[k] = ("F64", shape, struct.pack(f"<{len(values)}d", *values))
        else:
            named[k] = ("BF16", shape, b"".join(raw[i + 2 : i + 4] for i in range(0, len(raw), 4)))
    write_tensors(model / "model.safetensors", named)


def tied(model):
    """Shared embeddings are stored once."""
    named, _ = tensors(model / "model.safetensors")
    del named["lm_head.weight"]
    write_tensors(model / "model.safetensors", named, {"format": "pt"})
    edit_json("config.json", tie_word_embeddings=True)(model)


def duplicated(model):
    shards(model)
    named, _ = tensors(model / "model-00001-of-00002.safetensors")
    other = model / "model-00002-of-00002.safetensors"
    more, _ = tensors(other)
    name = sorted(named)[0]
    write_tensors(other, {**more, name: named[name]})


ODD = [
    ("a cache of links", a_link_tree),
    ("tensors of other types", odd_tensors),
    ("metadata of numbers", metadata_of_numbers),
    ("bf16 with f64 norms", in_bf16_and_f64),
    ("tied embeddings", tied),
    ("shards", shards),
    ("shards in a folder", lambda m: shards(m, "weights/")),
    ("a tensor in two shards", duplicated),
    ("both the file and an index", lambda m: text("model.safetensors.index.json", "{}")(m)),
    ("Infinity in the config", edit_json("config.json", time_step_limit=[0.0, float("inf")], x=float("nan"), y=-float("inf"))),
    ("a byte order mark", lambda m: (m / "config.json").write_bytes(b"\xef\xbb\xbf" + (m / "config.json").read_bytes())),
    ("a key twice", lambda m: text("config.json", '{"hidden_size": 1, ' + (m / "config.json").read_text().lstrip()[1:])(m)),
    ("an unknown torch_dtype", edit_json("config.json", torch_dtype="float8_e4m3fn")),
    ("no torch_dtype, unknown keys", edit_json("config.json", torch_dtype=..., quantization_config=None, auto_map={"A": "b"}, _name_or_path="/x")),
    ("a pad token past the vocabulary", edit_json("config.json", pad_token_id=400)),
    ("no end token", edit_json("config.json", eos_token_id=None)),
    ("a list of end tokens", edit_json("config.json", eos_token_id=[2, 7])),
    ("no generation config", lambda m: (m / "generation_config.json").unlink()),
    ("sampling of a release", edit_json("generation_config.json", temperature=0.9, top_p=0.6, top_k=None, do_sample=True, max_length=4096)),
    ("a long path", lambda m: [(m / ("d" * 200) / ("e" * 200)).mkdir(parents=True)]),
]


def broken(folder):
    for words, change, *sentence in BROKEN:
        model = folder(change)
        for run in both(model):
            check(run.returncode == 3 and all(s in run.stderr for s in sentence), f"{words}: {run.args[1]}: {run.returncode} {run.stderr}")
            check(len(run.stderr.splitlines()) == 1, f"{words}: {run.stderr}")


def odd(folder):
    for words, change in ODD:
        for run in both(folder(change)):
            check(run.returncode == 0, f"{words}: {run.args[1]}: {run.returncode} {run.stderr}")
    run = both(folder(edit_json("generation_config.json", num_beams=4, repetition_penalty=1.1)))[1]
    check(run.stderr.count("num_beams, repetition_penalty") == 1, f"named once: {run.stderr}")
    deep = folder.tmp
    for _ in range(15):
        deep = deep / ("d" * 200)
    deep.parent.mkdir(parents=True)
    shutil.copytree(folder.sound, deep)
    for run in both(deep):
        check(run.returncode == 0, f"a path of {len(str(deep))} characters: {run.stderr}")


def no_model(tmp, folder):
    """Paths that are not a model at all."""
    (tmp / "cache" / "snapshots").mkdir(parents=True)
    shutil.copytree(folder.sound, tmp / "cache" / "snapshots" / "abc")
    (tmp / "empty").mkdir()
    (tmp / "m.gguf").write_bytes(b"GGUF")
    for path, words in ((tmp / "empty", "empty: not a model directory"), (tmp / "cache", "did you mean"),
                        (tmp / "m.gguf", "GGUF files cannot be read"), (folder.sound / "config.json", "is a file; a model is a folder")):
        for run in both(path):
            check(run.returncode == 3 and words in run.stderr, f"{path.name}: {run.returncode} {run.stderr}")
    for run in both(tmp / "nothere"):
        check(run.returncode == 3 and "No such file" in run.stderr, f"nothere: {run.stderr}")
    if os.geteuid() != 0:
        closed = folder(lambda m: (m / "model.safetensors").chmod(0))
        check(all(r.returncode == 3 and "Permission denied" in r.stderr for r in both(closed)), "closed weights")


def init(tmp):
    """A failed or stopped init leaves nothing."""
    before = sorted(p.name for p in tmp.iterdir())
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # write() fails then, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (500000, 500000))
    run = unimoe("init", "--preset", "tiny", "--out", tmp / "a" / "b", preexec_fn=limit)
    check(run.returncode == 1 and "too large" in run.stderr, f"no room: {run.returncode} {run.stderr}")
    stopped = subprocess.Popen([UNIMOE, "init", "--preset", "moe-376m", "--out", tmp / "c"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not list(tmp.glob("c.tmp.*/model*.safetensors.tmp.*")) and time.monotonic() < until:
        time.sleep(0.02)
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate(timeout=60)
    check(stopped.returncode == 1 and "stopped by SIGINT" in err, f"stopped: {stopped.returncode} {err}")
    check(sorted(p.name for p in tmp.iterdir()) == before, "init left something")
    run = unimoe("init", "--preset", "tiny", "--out", tmp / "a" / "b")
    check(run.returncode == 0 and "275.14 k parameters" in run.stdout, run.stdout + run.stderr)
    run = unimoe("init", "--preset", "tiny", "--out", tmp / "a" / "b")
    check(run.returncode == 2 and "already holds a model" in run.stderr, run.stderr)
    help_text = unimoe("init", "--help").stdout
    check(all(w in help_text for w in ("speech-8e-7b", "37.57 B", "140.0 GiB", "for a first run")), help_text)
    run = unimoe("init")
    check(run.returncode == 2 and "--preset NAME" in run.stderr, run.stderr)


def tokenizer(tmp):
    """init takes a tokenizer that is given, when it is one and fits."""
    given, config = tmp / "given.model", tmp / "a" / "b" / "config.json"
    shutil.copy(tmp / "a" / "b" / "tokenizer.model", given)
    check(unimoe("init", "--config", config, "--tokenizer", given, "--out", tmp / "own").returncode == 0, "init --tokenizer")
    check((tmp / "own" / "tokenizer.model").read_bytes() == given.read_bytes(), "another tokenizer")
    small = tmp / "small.json"
    small.write_text(json.dumps({**json.loads(config.read_text()), "vocab_size": 300, "mm_vision_tower": None}))
    run = unimoe("init", "--config", small, "--tokenizer", given, "--out", tmp / "d")
    check(run.returncode == 3 and f"--tokenizer {given}: " in run.stderr and "pieces, but vocab_size is 300" in run.stderr, run.stderr)
    for content, said in ((LFS, "a Git LFS pointer"), (HTML, "a web page"), ("{}", "tokenizer.model")):
        given.write_text(content)
        run = unimoe("init", "--config", config, "--tokenizer", given, "--out", tmp / "d")
        check(run.returncode == 3 and said in run.stderr and str(given) in run.stderr, run.stderr)
    run = unimoe("init", "--config", config, "--tokenizer", tmp / "absent", "--out", tmp / "d")
    check(run.returncode == 3 and "absent" in run.stderr and not (tmp / "d").exists(), run.stderr)


def main():
    with tempfile.TemporaryDirectory() as name:
        tmp = pathlib.Path(name)
        folder = Folder(tmp)
        init(tmp)
        tokenizer(tmp)
        no_model(tmp, folder)
        broken(folder)
        odd(folder)


if __name__ == "__main__":
    main()

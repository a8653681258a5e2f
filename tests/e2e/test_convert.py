#!/usr/bin/env python3
"""unimoe convert: released folders in, a model directory out, as a user does it. Needs python3-torch (exit 77: not there).

usage: test_convert.py BUILD SOURCE PART      PART: models itself experts refused files back | golden (starts mpirun)
"""
import json
import os
import pathlib
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import zipfile

try:
    import torch
except ImportError:
    sys.exit(77)
import release
from common import check

BUILD, SOURCE, PART = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
GOLDEN = SOURCE / "tests" / "golden"
CASES = ("text", "image", "audio")


def unimoe(*words):
    return subprocess.run([str(w) for w in (BUILD / "unimoe", *words)], capture_output=True, text=True, timeout=300)


def convert(*words):
    r = unimoe("convert", *words)
    check(r.returncode == 0, f"convert {words}: {r.stdout}{r.stderr}")
    return r.stdout


def same(got, want, names, tolerance, words):
    for n in names:
        a, b = got[n].float(), want[n].float()
        far = (a - b).abs().max().item() if a.shape == b.shape else "another shape"
        check(a.shape == b.shape and far <= tolerance * max(b.abs().max().item(), 1e-30), f"{words}: {n} is off by {far}")


def made(name, tmp, *more):
    """The model converted from its release, as (release folder, directory)."""
    model, source, out = GOLDEN / "models" / name, tmp / f"{name}.release", tmp / name
    flags = release.RELEASES[name](model, source)
    convert(*flags, "--out", out, *more)
    return source, out


def models(tmp):
    """Every released layout gives the golden tensors back, passes inspect, and says what became of each source tensor."""
    for name in release.RELEASES:
        model = GOLDEN / "models" / name
        source, out = made(name, tmp)
        got, want = release.load_all(out), release.load(model / "model.safetensors")
        check(set(got) == set(want), f"{name}: tensors differ: {set(got) ^ set(want)}")
        exact = [n for n in want if "_proj.weight" not in n or name == "s4i" or ".deepspeed_experts." in n]
        same(got, want, exact, 0, name)
        same(got, want, want, 1e-6, name)
        check(all(got[n].dtype == want[n].dtype for n in want), f"{name}: types changed")
        for tower in ("vision_tower", "audio_tower"):
            a, b = release.load_all(out / tower), release.load(model / tower / "model.safetensors")
            check(set(a) == set(b), f"{name}: {tower}: {set(a) ^ set(b)}")
            same(a, b, b, 0, f"{name} {tower}")
            check(json.loads((out / tower / "config.json").read_text()) == json.loads((model / tower / "config.json").read_text()),
                  f"{name}: {tower}/config.json changed")
        a, b = (json.loads((d / "config.json").read_text()) for d in (out, model))
        check({k: v for k, v in a.items() if k not in ("moe_type", "moe_stride")} == {k: v for k, v in b.items() if k not in ("moe_type", "moe_stride")},
              f"{name}: config {a}")
        check(a["moe_type"] == b["moe_type"] and (a["moe_type"] == "dense" or a["moe_stride"] == b["moe_stride"]), f"{name}: placement {a}")
        for words in (("inspect", out), ("inspect", out, "--verify")):
            r = unimoe(*words)
            check(r.returncode == 0, f"{name}: {words}: {r.stdout}{r.stderr}")
        fates(json.loads((out / "conversion.json").read_text()), name)
        check(not list(tmp.glob("*.tmp.*")), "a temporary folder is left")
        shutil.rmtree(source), shutil.rmtree(out)


def itself(tmp):
    """A model directory, which is all safetensors and whose config names its towers, converts to itself, whatever the variant."""
    for name in release.RELEASES:
        model, out = GOLDEN / "models" / name, tmp / "again"
        convert("--base", model, "--out", out)
        got, want = release.load_all(out), release.load(model / "model.safetensors")
        check(set(got) == set(want) and all(torch.equal(got[n], want[n]) for n in want), f"{name} changed")
        check(json.loads((out / "config.json").read_text()) == json.loads((model / "config.json").read_text()), f"{name}: its config changed")
        again = subprocess.run(["diff", "-r", out, model], capture_output=True, text=True).stdout
        check(len(again.splitlines()) <= 8 and "tokenizer" not in again, f"{name}: {again}")
        r = unimoe("inspect", out, "--verify", "--json")
        check(r.returncode == 0 and json.loads(r.stdout)["bad"] == 0 and json.loads(r.stdout)["files"] > 8, f"{name}: {r.stdout}")
        shutil.rmtree(out)
    two_towers(tmp)


def two_towers(tmp):
    """A model with a tower for speech and one for sounds, there and out."""
    r = unimoe("init", "--preset", "small", "--out", tmp / "small")
    check(r.returncode == 0, f"init: {r.stderr}")
    convert("--base", tmp / "small", "--out", tmp / "again")
    for folder in (".", "vision_tower", "speech_tower", "sound_tower"):
        a, b = release.load_all(tmp / "small" / folder), release.load_all(tmp / "again" / folder)
        check(b and set(a) == set(b) and all(torch.equal(a[n], b[n]) for n in a), f"two towers: {folder} changed")
    said = convert("--model", tmp / "small", "--to", "hf", "--out", tmp / "out")
    check("no BEATs" in said and "word pieces" in said, f"two towers: {said}")
    speech = release.load_all(tmp / "out" / "speech_tower")
    check("encoder.conv1.weight" in speech and "decoder.layers.1.fc1.weight" in speech, "two towers: the speech tower is not whole")


def fates(report, name):
    by_name = {}
    for t in report["tensors"]:
        check(("used" in t) != ("unused" in t), f"{name}: {t}")
        by_name.setdefault(t["tensor"], []).append(t)
    def why(tensor, file):
        return [t.get("unused") for t in by_name[tensor] if t["file"].startswith(file)][0] or ""
    check("computed" in why("model.layers.0.self_attn.rotary_emb.inv_freq", "pytorch_model"), f"{name}: inv_freq")
    check("own files" in why("model.audio_tower.encoder.conv1.weight", "pytorch_model"), f"{name}: tower copies")
    check("non_lora_trainables.bin" in why("model.mm_projector.weight" if name == "s8fm" else "model.mm_projector.0.weight", "pytorch_model"),
          f"{name}: replaced projector")
    lora = by_name["base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"][0]
    check(lora["used"] == "merged into model.layers.1.self_attn.q_proj.weight", f"{name}: {lora}")
    if name.startswith("s8"):
        check("4-expert" in why("model.layers.0.mlp.experts.3.up_proj.weight", "pytorch_model"), f"{name}: left experts")
    else:
        check("mlp_gates.bin replaces" in why("base_model.model.model.layers.0.mlp.gate.lora_A.weight", "adapter"), f"{name}: gate LoRA")


def experts(tmp):
    """--expert-files: the fixed list of six files for eight slots; the LoRA stays. And experts of fewer ranks than experts."""
    model, source = GOLDEN / "models" / "s8", tmp / "r"
    flags = release.eight(model, source)
    more = release.expert_files(model, tmp / "experts")
    convert(*flags, *more, "--out", tmp / "out")
    got, want = release.load_all(tmp / "out"), release.load(model / "model.safetensors")
    for e, file in enumerate(release.SLOTS):
        for n, t in torch.load(tmp / "experts" / f"{file}.bin").items():
            slot = n.replace(".mlp.", f".mlp.deepspeed_moe.experts.deepspeed_experts.{e}.")
            check(torch.equal(got[slot], t), f"{slot} is not that of {file}")
    same(got, want, [n for n in want if "lora" in n], 0, "LoRA of experts")
    r = unimoe("convert", *flags, "--expert-files", source, "--out", tmp / "no")
    check(r.returncode == 3 and "mlp_audiocap.bin" in r.stderr, f"no expert files: {r.stderr}")

    key, tuned = ".deepspeed_experts.", source / "tuned"
    files = [torch.load(tuned / f"{e}_mlp_experts.bin") for e in range(8)]
    for e in range(8):
        (tuned / f"{e}_mlp_experts.bin").unlink()
    for r in range(4):  # two experts a rank
        torch.save({n.replace(f"{key}0.", f"{key}{j}."): t for j in range(2) for n, t in files[2 * r + j].items()}, tuned / f"{r}_mlp_experts.bin")
    convert(*flags, "--out", tmp / "pairs")
    got = release.load_all(tmp / "pairs")
    same(got, want, [n for n in want if key in n], 0, "two experts a rank")
    (tuned / "2_mlp_experts.bin").rename(tuned / "4_mlp_experts.bin")
    r = unimoe("convert", *flags, "--out", tmp / "no")
    check(r.returncode == 3 and "no 2_mlp_experts.bin" in r.stderr, f"a gap in the slots: {r.stderr}")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def stored(path, out, method=zipfile.ZIP_STORED, **changed):
    """A copy of a torch file, its entries written by `method`, some of them with other bytes."""
    with zipfile.ZipFile(path) as a, zipfile.ZipFile(out, "w", method) as b:
        for item in a.namelist():
            b.writestr(item, changed.get(item.split("/")[-1].replace(".", "_"), a.read(item)))


def big_endian(path):
    """Says so as torch 2.1 and newer do, which write that they are little-endian."""
    little = path.with_suffix(".little")
    path.rename(little)
    with zipfile.ZipFile(little) as a, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as b:
        for item in a.namelist():
            if not item.endswith("/byteorder"):
                b.writestr(item, a.read(item))
        b.writestr(a.namelist()[0].split("/")[0] + "/byteorder", b"big")
    little.unlink()


def refused(tmp):
    """Broken and hostile sources: one sentence that names the cause, the right exit code, and nothing left behind."""
    model, source, out = GOLDEN / "models" / "s4", tmp / "r", tmp / "out"
    flags = release.four(model, source)
    base, tuned = source / "base", source / "tuned"

    def fails(words, code, *sentence, flags=flags):
        r = unimoe("convert", *flags, "--out", out)
        check(r.returncode == code and all(s in r.stderr + r.stdout for s in sentence), f"{words}: {r.returncode} {r.stderr}{r.stdout}")
        check(not out.exists() and not list(tmp.glob("out*")), f"{words}: something is left")

    def with_file(path, change, *expected, **more):
        backup = tmp / "backup"
        shutil.copy(path, backup)
        change(path)
        fails(f"{path.name}", *expected, **more)
        shutil.copy(backup, path)

    gates, trace = tuned / "mlp_gates.bin", tmp / "ran"
    with_file(gates, lambda p: torch.save({"x": Evil(trace)}, p), 3, "posix.system", "mlp_gates.bin")
    with_file(gates, lambda p: stored(tmp / "backup", p, data_pkl=b"\x80\x02cos\nsystem\nX\x05\0\0\0touch\x85R."), 3, "os.system")
    with_file(gates, lambda p: stored(tmp / "backup", p, data_pkl=pickle.dumps({"a": Evil(trace)}, 4)), 3, "posix.system")
    check(not trace.exists(), "a pickle was run")
    with_file(gates, lambda p: stored(tmp / "backup", p, zipfile.ZIP_DEFLATED), 3, "compressed", "mlp_gates.bin")
    with_file(gates, lambda p: p.write_bytes(p.read_bytes()[:-100]), 3, "cut off", "mlp_gates.bin")
    with_file(gates, lambda p: torch.save(torch.load(p), p, _use_new_zipfile_serialization=False), 3, "before 1.6", "torch.save")
    with_file(gates, big_endian, 3, "big-endian")
    with_file(gates, lambda p: p.write_bytes(b"hello"), 3, "download it again")
    with_file(gates, lambda p: p.write_bytes(b"\xff\xd8\xff\xe0 not weights"), 3, "no ZIP file")
    with_file(gates, lambda p: p.write_bytes(b""), 3, "mlp_gates.bin: the file is empty")
    with_file(gates, lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12ab\nsize 9876\n"), 3, "9876 bytes", "git lfs pull")

    def without(name):
        return lambda p: torch.save({n: t for n, t in torch.load(p).items() if n != name}, p)

    shard = base / "pytorch_model-00001-of-00002.bin"
    gone = sorted(torch.load(shard))[0]
    with_file(shard, without(gone), 3, gone, "does not contain it")  # the index knows it
    with_file(shard, lambda p: p.unlink(), 3, "pytorch_model-00001-of-00002.bin is missing")
    index = base / "pytorch_model.bin.index.json"
    with_file(index, lambda p: p.write_text("<!DOCTYPE html><html></html>"), 3, "pytorch_model.bin.index.json: a web page")
    def unlist(p):
        known = json.loads(p.read_text())
        for lost in [n for n in known["weight_map"] if n == "model.norm.weight"]:
            file = base / known["weight_map"].pop(lost)
            shutil.copy(file, tmp / "kept")
            torch.save({n: t for n, t in torch.load(file).items() if n != lost}, file)
        p.write_text(json.dumps(known))
    where = base / json.loads(index.read_text())["weight_map"]["model.norm.weight"]
    with_file(index, unlist, 3, "missing model.norm.weight [64]", "nothing is written")
    shutil.copy(tmp / "kept", where)

    halves(with_file, without, gates, tuned)
    fails("towers nowhere", 3, "mm_vision_tower", "--vision-tower", flags=flags[:4])
    fails("the other tower", 2, "--speech-tower", flags=[*flags[:-2], "--sound-tower", source / "video"])
    out.mkdir()
    r = unimoe("convert", *flags, "--out", out)
    check(r.returncode == 2 and "already" in r.stderr and not list(out.iterdir()), f"existing folder: {r.stderr}")
    out.rmdir()
    beats(tmp)
    eights(tmp)


def beats(tmp):
    flags = release.four(GOLDEN / "models" / "a4", tmp / "ra")
    saved = torch.load(flags[-1])
    def fails(value, *sentence):
        torch.save(value, flags[-1])
        r = unimoe("convert", *flags, "--out", tmp / "out")
        check(r.returncode == 3 and all(s in r.stderr for s in sentence) and not list(tmp.glob("out*")), f"{sentence}: {r.stderr}")
    other = dict(saved["model"])
    table = "encoder.layers.1.self_attn.relative_attention_bias.weight"
    other[table] = other[table] + 1
    fails({"cfg": saved["cfg"], "model": other}, table, "share one table")
    fails(saved["model"], "no BEATs checkpoint")
    fails({"cfg": {k: v for k, v in saved["cfg"].items() if k != "encoder_layers"}, "model": saved["model"]}, "encoder_layers")


def halves(with_file, without, gates, tuned):
    """Files that do not fit together."""
    with_file(gates, lambda p: torch.save({n: t[:3] for n, t in torch.load(p).items()}, p), 3, "misshapen model.layers.0.mlp.gate.weight")
    adapter = tuned / "adapter_model.bin"
    with_file(adapter, without("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"), 3, "q_proj", "no lora_B")
    with_file(adapter, lambda p: torch.save(dict(torch.load(p), x=torch.ones(1)), p), 3, "no part of a LoRA")
    with_file(tuned / "adapter_config.json", lambda p: p.unlink(), 3, "no adapter_config.json")
    with_file(tuned / "adapter_config.json", lambda p: p.write_text('{"lora_alpha": 4}'), 3, "adapter_config.json", "r: ")
    with_file(tuned / "adapter_config.json", lambda p: p.write_text('{"r": 2, "lora_alpha": 4, "use_dora": true}'), 3, "use_dora")
    with_file(tuned / "tokenizer.model", lambda p: p.unlink(), 3, "tokenizer.model")


def eights(tmp):
    model, source, out = GOLDEN / "models" / "s8", tmp / "r8", tmp / "out"
    flags = release.eight(model, source)
    tuned = source / "tuned"
    shutil.copy(tuned / "0_mlp_experts.bin", tuned / "00_mlp_experts.bin")
    r = unimoe("convert", *flags, "--out", out)
    check(r.returncode == 3 and "slot 0" in r.stderr and "keep one" in r.stderr, f"a slot twice: {r.stderr}")
    (tuned / "00_mlp_experts.bin").unlink()
    config = source / "base" / "8config.json"
    text = config.read_text()
    config.write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != "lora_r"}))
    r = unimoe("convert", *flags, "--out", out)
    check(r.returncode == 3 and "lora_r" in r.stderr and not list(tmp.glob("out*")), f"a LoRA without r: {r.stderr}")
    config.unlink()
    r = unimoe("convert", *flags, "--out", out)
    check(r.returncode == 3 and "8config.json" in r.stderr, f"no 8config: {r.stderr}")


def files(tmp):
    """Shards, types, dry run, an adapter that is kept, and the manifest."""
    model = GOLDEN / "models" / "s4"
    flags = release.four(model, tmp / "r")
    plain, want = tmp / "plain", release.load(model / "model.safetensors")
    said = convert(*flags, "--out", plain, "--dry-run")
    check(not plain.exists() and "used" in said and not list(tmp.glob("plain*")), f"dry run: {said}")
    convert(*flags, "--out", plain)
    convert(*flags, "--out", tmp / "shards", "--shard-size", "100K")
    check(len(list((tmp / "shards").glob("model-*-of-*.safetensors"))) > 3 and (tmp / "shards" / "model.safetensors.index.json").exists(), "no shards")
    a, b = release.load_all(plain), release.load_all(tmp / "shards")
    check(set(a) == set(b) and all(torch.equal(a[n], b[n]) for n in a), "shards differ from one file")
    check(unimoe("inspect", tmp / "shards", "--verify").returncode == 0, "shards: verify")
    said = convert(*flags, "--out", tmp / "bf16", "--weights", "bf16")
    c = release.load_all(tmp / "bf16")
    check("rounded" in said and all(torch.equal(c[n], a[n].bfloat16()) for n in a), "bf16 is not the rounding of f32")
    convert(*flags, "--out", tmp / "keep", "--adapter", "keep")
    kept, base = release.load(tmp / "keep" / "adapter_model.safetensors"), release.load_all(tmp / "keep")
    q = "model.layers.0.self_attn.q_proj"
    w = base[q + ".weight"] + 2.0 * kept[f"base_model.model.{q}.lora_B.weight"] @ kept[f"base_model.model.{q}.lora_A.weight"]
    check((w - want[q + ".weight"]).abs().max() < 1e-6, "a kept adapter does not add up")
    check(not any("mlp.gate.lora" in n for n in kept), "an adapter that mlp_gates.bin makes void is kept")
    (tmp / "r" / "tuned" / "optimizer.pt").write_bytes(b"x")
    check("not read: optimizer.pt" in convert(*flags, "--out", tmp / "more"), "a file that nobody asks for")
    full(tmp, flags)
    manifest(plain, tmp)


def full(tmp, flags):
    """No disk space for the weights: one sentence, and nothing is left behind."""
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300000, 300000))
    out = tmp / "full"
    r = subprocess.run([str(w) for w in (BUILD / "unimoe", "convert", *flags, "--out", out)], capture_output=True, text=True, preexec_fn=limit,
                       restore_signals=False, timeout=300)  # Python ignores the signal of this limit, so write fails as on a full disk
    check(r.returncode == 1 and "too large" in r.stderr and not list(tmp.glob("full*")), f"no room: {r.returncode} {r.stderr}")


def manifest(plain, tmp):
    def verdict(code, *sentence):
        r = unimoe("inspect", plain, "--verify")
        check(r.returncode == code and all(s in r.stdout + r.stderr for s in sentence), f"verify: {r.returncode} {r.stdout}{r.stderr}")

    verdict(0, "0 are missing")
    target = plain / "vision_tower" / "model.safetensors"
    data = bytearray(target.read_bytes())
    data[5000] ^= 1
    target.write_bytes(data)
    verdict(3, "bad vision_tower/model.safetensors", f"0..{len(data)}")
    known = json.loads((plain / "manifest.json").read_text())
    known["block_bytes"] = 1024  # named by its blocks, as a large file is
    import hashlib
    data[5000] ^= 1
    for f in known["files"]:
        if f["name"] == "vision_tower/model.safetensors":
            f["blocks"] = [hashlib.sha256(data[i:i + 1024]).hexdigest() for i in range(0, len(data), 1024)]
            check(f["sha256"] == hashlib.sha256(data).hexdigest() and f["size"] == len(data), "the manifest's checksum")
    (plain / "manifest.json").write_text(json.dumps(known))
    verdict(3, "4096..5120")
    target.write_bytes(data)
    verdict(0)
    target.write_bytes(data + b"x")
    verdict(3, f"{len(data) + 1} bytes, the manifest says {len(data)}")
    target.write_bytes(data)
    (plain / "notes.txt").write_text("x")
    verdict(3, "extra notes.txt")
    (plain / "notes.txt").unlink()
    (plain / "tokenizer.model").rename(tmp / "elsewhere")
    verdict(3, "missing tokenizer.model")
    (plain / "manifest.json").unlink()
    verdict(3, "manifest.json")


def back(tmp):
    """A model written out again: adapters as PEFT, the parts under the names of transformers."""
    model = GOLDEN / "models" / "s4"
    flags = release.four(model, tmp / "r")
    convert(*flags, "--out", tmp / "keep", "--adapter", "keep")
    convert("--model", tmp / "keep", "--to", "peft", "--out", tmp / "peft")
    a, b = (release.load(tmp / d / "adapter_model.safetensors") for d in ("keep", "peft"))
    check(set(a) == set(b) and all(torch.equal(a[n], b[n]) for n in a), "the kept adapter changed")
    check((tmp / "peft" / "adapter_config.json").read_text() == (tmp / "r" / "tuned" / "adapter_config.json").read_text(), "its config changed")
    r = unimoe("convert", "--model", model, "--to", "peft", "--out", tmp / "none")
    check(r.returncode == 3 and "no LoRA" in r.stderr and not (tmp / "none").exists(), f"no adapter: {r.stderr}")

    eight = GOLDEN / "models" / "s8"
    convert("--model", eight, "--to", "peft", "--out", tmp / "peft8")
    got, want = release.load(tmp / "peft8" / "adapter_model.safetensors"), release.load(eight / "model.safetensors")
    inside = {n: t for n, t in want.items() if "_proj_lora_" in n}
    renamed = {"base_model.model." + n.replace("_proj_lora_", "_proj.lora_"): t for n, t in inside.items()}
    check(inside and set(got) == set(renamed) and all(torch.equal(got[n], renamed[n]) for n in got), "the LoRA of experts changed")
    cfg, own = (json.loads((d / n).read_text()) for d, n in ((tmp / "peft8", "adapter_config.json"), (eight, "config.json")))
    check(cfg["r"] == own["lora_r"] and cfg["lora_alpha"] == own["lora_alpha"] and cfg["peft_type"] == "LORA" and cfg["bias"] == "none", f"{cfg}")
    check(sorted(cfg["target_modules"]) == sorted(n[len("base_model.model."):-len(".lora_A.weight")] for n in got if "lora_A" in n), f"{cfg}")
    to_hf(tmp, model, eight)


def to_hf(tmp, model, eight):
    convert("--model", model, "--to", "hf", "--out", tmp / "hf")
    got, want = release.load_all(tmp / "hf"), release.load(model / "model.safetensors")
    leaf = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    def own(n):
        n = n.replace("block_sparse_moe", "mlp")
        return ".".join(leaf.get(part, part) for part in n.split("."))
    check(set(map(own, got)) == {n for n in want if not n.startswith(("model.mm_", "model.query"))}, "names of the language model")
    check(all(torch.equal(t, want[own(n)]) for n, t in got.items()), "values of the language model")
    cfg = json.loads((tmp / "hf" / "config.json").read_text())
    check(cfg["model_type"] == "mixtral" and cfg["num_local_experts"] == 4 and cfg["num_experts_per_tok"] == 2, f"{cfg}")
    video, tower = release.load_all(tmp / "hf" / "vision_tower"), release.load(model / "vision_tower" / "model.safetensors")
    check(set(video) == set(tower) and all(torch.equal(video[n], tower[n]) for n in video), "the vision tower changed")
    speech, tower = release.load_all(tmp / "hf" / "speech_tower"), release.load(model / "audio_tower" / "model.safetensors")
    prefix = "model.mm_audio_aligner.decoder.audio_decoder."
    whisper = {n[len("model."):]: t for n, t in tower.items() if n.startswith("model.encoder.")}
    whisper.update({"decoder." + n[len(prefix):]: t for n, t in want.items() if n.startswith(prefix)})
    check(set(speech) == set(whisper) and all(torch.equal(speech[n], whisper[n]) for n in whisper), "the speech tower is not whole")
    rest = release.load_all(tmp / "hf" / "connectors")
    check(set(rest) == {n for n in want if n.startswith(("model.mm_", "model.query")) and not n.startswith(prefix)}, f"connectors: {set(rest)}")
    check(unimoe("inspect", tmp / "hf", "--verify").returncode == 0, "its manifest")

    said = convert("--model", eight, "--to", "hf", "--out", tmp / "hf8")
    check("transformers cannot load it" in said, "a model with dense layers between")
    got, want = release.load_all(tmp / "hf8"), release.load(eight / "model.safetensors")
    cfg = json.loads((eight / "config.json").read_text())
    stem = "model.layers.0.mlp.deepspeed_moe.experts.deepspeed_experts.5.down_proj"
    w = want[stem + ".weight"] + cfg["lora_alpha"] / cfg["lora_r"] * want[stem + "_lora_B.weight"] @ want[stem + "_lora_A.weight"]
    check((got["model.layers.0.block_sparse_moe.experts.5.w2.weight"] - w).abs().max() < 1e-6, "the LoRA of an expert is not merged")
    r = unimoe("convert", "--model", GOLDEN / "models" / "s8fm", "--to", "hf", "--out", tmp / "fm")
    check(r.returncode == 3 and "use_fm_block" in r.stderr, f"pre-projection: {r.stderr}")


def golden(tmp):
    """The converted models answer as the golden ones do."""
    for name in release.RELEASES:
        _, out = made(name, tmp)
        cases = [c for c in CASES if (GOLDEN / "cases" / name / c).is_dir()]
        check(len(cases) == len(CASES) - (name == "s4i"), f"{name}: golden cases are missing")  # s4i has no audio case
        for case in cases:
            expected, got = GOLDEN / "cases" / name / case, tmp / "t.safetensors"
            r = unimoe("trace", expected / "request.json", "--model", out, "--out", got, "--experts", "2")
            check(r.returncode == 0, f"trace {name}/{case}: {r.stderr}{r.stdout}")
            r = subprocess.run([BUILD / "tests" / "golden_compare", got, expected / "expected.safetensors"], capture_output=True, text=True)
            check(r.returncode == 0, f"{name}/{case}: {r.stdout}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="unimoe-") as folder:
        globals()[PART](pathlib.Path(folder))
    print(f"{PART}: ok")

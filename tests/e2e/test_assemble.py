#!/usr/bin/env python3
"""unimoe assemble: which tensor of a mixture comes from where, what is refused, and that copies of one MLP answer as that MLP does.

usage: test_assemble.py BUILD SOURCE PART      PART: files refused | answers trained (start mpirun; exit 77: there is none)
"""
import array
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

from common import check, tensors, write_tensors

BUILD, SOURCE, PART = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3]
LAYERS, PROJ = 3, ("gate_proj", "up_proj", "down_proj")
NAMES = {"mixtral": ("mlp.gate.weight", "mlp.experts."), "gshard": ("mlp.deepspeed_moe.gate.wg.weight", "mlp.deepspeed_moe.experts.deepspeed_experts."),
         "dynamic": ("mlp.gate.weight", "mlp.dynamic_real_moe.deepspeed_moe.experts.deepspeed_experts.")}


def unimoe(*words):
    return subprocess.run([str(w) for w in (BUILD / "unimoe", *words)], capture_output=True, text=True, timeout=300)


def done(*words):
    r = unimoe(*words)
    check(r.returncode == 0, f"unimoe {words}: {r.stdout}{r.stderr}")
    return r


def refused(code, said, *words):
    """The command ends with this code and says this, and nothing is left of what it was to make."""
    r = unimoe(*words)
    check(r.returncode == code and said in r.stderr, f"unimoe {words}: exit {r.returncode}, want {code} and {said!r}: {r.stdout}{r.stderr}")
    return r


def load(path):
    return tensors(path)[0]


def floats(tensor):
    check(tensor[0] == "F32", f"type {tensor[0]}")
    return array.array("f", tensor[2])


def dense(tmp, name, seed, **keys):
    """A small dense model with the towers of a golden one."""
    config = tmp / f"{name}.config"
    shutil.copytree(SOURCE / "tests/golden/models/s4", config, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer*", "special*"))
    said = json.loads((config / "config.json").read_text())
    said.update({"moe": False, **keys})
    (config / "config.json").write_text(json.dumps(said))
    done("init", "--config", config / "config.json", "--seed", seed, "--out", tmp / name)
    return tmp / name


def expert_file(path, model):
    """The MLPs of a dense model, as stage 2 and the releases have them."""
    write_tensors(path, {k: v for k, v in load(model / "model.safetensors").items() if ".mlp." in k})
    return path


def manifest(tmp, **keys):
    path = tmp / "experts.json"
    path.write_text(json.dumps(keys))
    return path


def expert_is(mixture, gate, layer, e, source, words):
    for p in PROJ:
        got = mixture[f"model.layers.{layer}.{NAMES[gate][1]}{e}.{p}.weight"]
        check(got == source[f"model.layers.{layer}.mlp.{p}.weight"], f"{words}: expert {e} of layer {layer}, {p}")


def files(tmp):
    """Experts come from files and models, connectors from the models that are named, the rest from the base."""
    base, other, third = dense(tmp, "base", 1), dense(tmp, "other", 2), dense(tmp, "third", 3)
    file = expert_file(tmp / "mlp_third.safetensors", third)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    want = {n: load(tmp / n / "model.safetensors") for n in ("base", "other", "third")}
    m = manifest(tmp, base="base", experts=[{"name": "plain", "from": "base"}, {"from": "other", "note": "n"}, {"from": file.name, "sha256": digest}],
                 connectors={"image": "other", "speech": "third"}, layers="interval", seed=5, note="a test")
    r = done("assemble", m, "--out", tmp / "mix")
    check("identical" not in r.stderr, r.stderr)
    got, config = load(tmp / "mix/model.safetensors"), json.loads((tmp / "mix/config.json").read_text())
    check((config["moe"], config["num_experts"], config["num_experts_per_tok"], config["moe_type"], config["moe_stride"]) == (True, 3, 2, "sparse", 2), config)
    for layer in (0, 2):
        for e, source in enumerate(("base", "other", "third")):
            expert_is(got, "mixtral", layer, e, want[source], "mix")
        gate = got[f"model.layers.{layer}.mlp.gate.weight"]
        check(gate[:2] == ("F32", [3, 64]) and 0.015 < size(floats(gate)) < 0.025, f"the gate {gate[:2]}")
    check(got["model.layers.0.mlp.gate.weight"][2] != got["model.layers.2.mlp.gate.weight"][2], "gates of two layers are equal")
    for name, tensor in got.items():
        source = "other" if "mm_projector" in name else "third" if "mm_audio_aligner" in name or "query_tokens" in name else "base"
        check(".mlp.experts." in name or ".mlp.gate." in name or tensor == want[source][name], f"{name} is not that of {source}")
    for tower in ("vision_tower", "audio_tower"):
        check(load(tmp / "mix" / tower / "model.safetensors") == load(base / tower / "model.safetensors"), f"{tower} is not the base's")
    for name in ("tokenizer.model", "generation_config.json", "vision_tower/config.json"):
        check((tmp / "mix" / name).read_bytes() == (base / name).read_bytes(), f"{name} is not the base's")
    said = json.loads((tmp / "mix/assembly.json").read_text())
    check([x["name"] for x in said["experts"]] == ["plain", "1", "2"] and said["experts"][2]["sha256"] == digest, said)
    check(len({x["mlp_sha256"][0] for x in said["experts"]}) == 3 and said["experts"][0]["mlp_sha256"][1] is None, said)
    done("inspect", tmp / "mix", "--verify")
    done("assemble", m, "--out", tmp / "again")
    check((tmp / "again/model.safetensors").read_bytes() == (tmp / "mix/model.safetensors").read_bytes(), "two runs differ")
    placements(tmp, base, want["base"])
    twins(tmp, file, want["third"])


def placements(tmp, base, want):
    """Layers, gates, types and noise of copies."""
    for n, (words, layers) in enumerate({"all": (0, 1, 2), "first-half": (0,), "second-half": (1, 2), "1": (1,), "0,2": (0, 2)}.items()):
        for gate in ("mixtral", "gshard"):
            out = tmp / f"up-{gate}-{n}"
            done("assemble", "--upcycle", base, "--num-experts", 2, "--moe-layers", words, "--gate", gate, "--out", out)
            got = load(out / "model.safetensors")
            check([l for l in range(LAYERS) if f"model.layers.{l}.{NAMES[gate][0]}" in got] == list(layers), f"{words}: layers")
            for layer in layers:
                for e in range(2):
                    expert_is(got, gate, layer, e, want, f"{words} {gate}")
            r = done("inspect", out, "--json")
            check(json.loads(r.stdout)["variant"] in ("custom", "speech-4e"), r.stdout)
    out = tmp / "noisy"
    done("assemble", "--upcycle", base, "--num-experts", 2, "--noise", 0.1, "--weights", "bf16", "--out", out)
    got = load(out / "model.safetensors")
    check({v[0] for v in got.values()} == {"BF16"} and json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16", "types")
    a, b = (wide(got[f"model.layers.0.mlp.experts.{e}.up_proj.weight"]) for e in range(2))
    was = floats(want["model.layers.0.mlp.up_proj.weight"])
    apart = size([x - y for x, y in zip(a, was)]) / size(was)
    check(0.08 < apart < 0.12 and a != b, f"noise of 0.1 moved an expert by {apart}")


def size(values):
    return (sum(x * x for x in values) / len(values)) ** 0.5


def wide(tensor):
    check(tensor[0] == "BF16", tensor[0])
    return array.array("f", b"".join(b"\0\0" + tensor[2][i:i + 2] for i in range(0, len(tensor[2]), 2)))


def twins(tmp, file, third):
    """Identical experts are named, by their content; also where they are equal in some layers only."""
    shutil.copy(file, tmp / "copy.safetensors")
    half = dict(third)
    half["model.layers.1.mlp.up_proj.weight"] = third["model.layers.2.mlp.up_proj.weight"]
    write_tensors(tmp / "half.safetensors", {k: v for k, v in half.items() if ".mlp." in k})
    m = manifest(tmp, base="base", experts=[{"from": "base"}, {"name": "third", "from": file.name}, {"name": "twin", "from": "copy.safetensors"},
                                            {"name": "half", "from": "half.safetensors"}])
    r = done("assemble", m, "--out", tmp / "twins")
    check("experts 1 (third) and 2 (twin) are identical in every layer" in r.stderr, r.stderr)
    check("experts 1 (third) and 3 (half) are identical in layers 0, 2" in r.stderr, r.stderr)
    r = done("assemble", m, "--noise", 0.01, "--out", tmp / "apart")
    check("identical" not in r.stderr, r.stderr)


def cases(tmp):
    """What cannot be assembled, and what is said of it."""
    base, small = dense(tmp, "base", 1), dense(tmp, "small", 2, intermediate_size=64)
    done("assemble", "--upcycle", base, "--num-experts", 2, "--out", tmp / "mixture")
    file = expert_file(tmp / "mlp.safetensors", base)
    lacking = {k: v for k, v in load(file).items() if k != "model.layers.1.mlp.up_proj.weight"}
    write_tensors(tmp / "lacking.safetensors", lacking)
    write_tensors(tmp / "deeper.safetensors", {**load(file), "model.layers.3.mlp.up_proj.weight": load(file)["model.layers.1.mlp.up_proj.weight"]})
    write_tensors(tmp / "whole.safetensors", {k: ("I32", v[1], v[2]) if "layers.0.mlp.down" in k else v for k, v in load(file).items()})
    (tmp / "adapter").mkdir()
    (tmp / "adapter/adapter_config.json").write_text("{}")
    good = {"from": "mlp.safetensors"}
    yield 3, "small: tensor model.layers.0.mlp.gate_proj.weight is F32 [64,64], want [96,64] of a float type, for expert 1 (s); and 8 more", [good, {"name": "s", "from": "small"}], {}
    yield 3, "lacking.safetensors: tensor model.layers.1.mlp.up_proj.weight [96,64] is missing, for expert 0 (0): nothing is written", [{"from": "lacking.safetensors"}], {}
    yield 3, "deeper.safetensors: tensor model.layers.3.mlp.up_proj.weight, but the base", [{"from": "deeper.safetensors"}], {}
    yield 3, "model.layers.0.mlp.down_proj.weight is I32", [{"from": "whole.safetensors"}], {}
    yield 3, "it is a mixture of experts already", [{"from": "mixture"}], {}
    yield 3, "mixture: it has 2 experts already", [good], {"base": "mixture"}
    yield 3, "unimoe convert --base MODEL --tuned", [{"from": "adapter"}], {}
    yield 3, "absent.safetensors is not there", [{"from": "absent.safetensors"}], {}
    yield 3, "but the manifest says " + "0" * 64, [{**good, "sha256": "0" * 64}], {}
    yield 3, "sha256: it is that of a file", [{"from": "base", "sha256": "0" * 64}], {}
    yield 3, 'unknown key "form", did you mean "from"?', [{"form": "mlp.safetensors"}], {}
    yield 3, 'unknown key "expert"', [good], {"expert": []}
    yield 3, "experts: allowed a list", [], {}
    yield 3, "experts_per_token: 2, allowed 1..1", [good], {"experts_per_token": 2}
    yield 3, 'gate: "switch", allowed mixtral, gshard and dynamic', [good], {"gate": "switch"}
    yield 3, 'layers: "0,9": the model has layers 0 to 2', [good], {"layers": "0,9"}
    yield 3, 'layers: "some", allowed all, interval', [good], {"layers": "some"}
    yield 3, "layers: with the dynamic gate all or interval", [good], {"layers": "1", "gate": "dynamic"}
    yield 3, "only the dynamic gate has shared experts", [good], {"shared": [good]}
    yield 3, "connectors: sound: ", [good], {"connectors": {"sound": "base"}}
    yield 3, 'config: moe_type: it follows from "layers" of the manifest', [good], {"config": {"moe_type": "dense"}}
    yield 3, "config.json: use_fm_block", [good], {"config": {"use_fm_block": "yes"}}


def refuse(tmp):
    out = tmp / "out"
    for code, said, experts, more in cases(tmp):
        refused(code, said, "assemble", manifest(tmp, **{"base": "base", "experts": experts, **more}), "--out", out)
        check(not list(tmp.glob("out*")), f"{said}: something was left behind: {list(tmp.glob('out*'))}")
    base = tmp / "base"
    refused(2, "say how many experts with --num-experts N", "assemble", "--upcycle", base, "--out", out)
    refused(2, "a manifest excludes --upcycle", "assemble", "x.json", "--upcycle", base, "--num-experts", 2, "--out", out)
    refused(2, "say what to assemble", "assemble", "--out", out)
    refused(2, "say what to make", "assemble", "--upcycle", base, "--num-experts", 2)
    refused(2, "is there already", "assemble", "--upcycle", base, "--num-experts", 2, "--out", base)
    refused(3, "x.json", "assemble", tmp / "x.json", "--out", out)
    (tmp / "x.json").write_text('{"base": "base",')
    refused(3, "x.json", "assemble", tmp / "x.json", "--out", out)
    done("assemble", "--upcycle", base, "--num-experts", 2, "--dry-run", "--out", out)
    check(not list(tmp.glob("out*")), "--dry-run has written something")


def logits(tmp, model, name):
    request = tmp / "request.json"
    request.write_text(json.dumps({"prompt": "What is seen, and what is heard?", "image": str(SOURCE / "tests/golden/media/photo.jpg")}))
    done("trace", request, "--model", model, "--max-new-tokens", 4, "--ignore-eos", "--out", tmp / f"{name}.safetensors")
    return floats(load(tmp / f"{name}.safetensors")["logits"])


def answers(tmp):
    """Copies of one MLP answer as the dense model does wherever the weights of a token's experts add up to one."""
    base = dense(tmp, "base", 1)
    file = expert_file(tmp / "mlp.safetensors", base)
    want = logits(tmp, base, "dense")
    top = max(abs(x) for x in want)

    def off(name, *words):
        done("assemble", *words, "--seed", 3, "--out", tmp / name)
        return max(abs(x - y) for x, y in zip(logits(tmp, tmp / name, name), want)) / top

    copies = ("--upcycle", base, "--num-experts", 4)
    for gate, k in (("mixtral", 1), ("mixtral", 3), ("gshard", 1), ("gshard", 2), ("dynamic", 2)):
        far = off(f"{gate}{k}", *copies, "--gate", gate, "--experts-per-token", k)
        check(far < 1e-5, f"{gate}, {k} experts a token: logits are off by {far}")
    for words in (("--gate", "dynamic"), ("--moe-layers", "second-half"), ("--gate", "gshard", "--moe-layers", "interval")):
        far = off("-".join(words), *copies, *words)
        check(far < 1e-5, f"{words}: logits are off by {far}")
    one = {"from": file.name}
    shared = manifest(tmp, base="base", experts=[one] * 3, shared=[one], gate="dynamic")
    far = off("shared", shared)
    check(far < 1e-5, f"a shared expert: logits are off by {far}")
    fm = manifest(tmp, base="base", experts=[one] * 3, gate="gshard", config={"use_fm_block": True, "use_expert_bias": True})
    far = off("fm", fm)
    check(far < 1e-5, f"pre-projection and bias of the gate: logits are off by {far}")
    nulls = manifest(tmp, base="base", experts=[one] * 3, gate="dynamic", experts_per_token=3, config={"mlp_dynamic_null_expert_num": 2})
    far = off("nulls", nulls)
    check(far > 1e-3, f"null experts keep their share of the weight, but logits are off by {far} only")
    far = off("noise", *copies, "--noise", 0.5)
    check(far > 1e-3, f"noise: logits are off by {far} only")


def trained(tmp):
    """A dense model is trained in stage 2 on any number of routers and leaves an expert file, and that of the adapter alone is the same."""
    base = dense(tmp, "base", 1)
    media = SOURCE / "tests/golden/training/s4"
    said = json.loads((media / "training.json").read_text())
    (tmp / "data.json").write_text(json.dumps(said["samples"]))

    def train(out, *more):
        r = done("train", base, "--data", tmp / "data.json", "--media-folder", media, "--stage", 2, "--batch", 3, "--steps", 2, "--lr", 0.05,
                 "--warmup", 0, "--out", tmp / out, *more)
        check(f"its expert in {tmp / out}/mlp_expert.safetensors" in r.stderr, r.stderr)
        return tmp / out

    whole, part = train("whole"), train("part", "--save", "adapter", "--routers", 2)
    model, expert = load(whole / "model.safetensors"), load(whole / "mlp_expert.safetensors")
    was = load(base / "model.safetensors")
    check(set(expert) == {f"model.layers.{n}.mlp.{p}.weight" for n in range(LAYERS) for p in PROJ}, set(expert))
    for name, tensor in expert.items():
        check(tensor == model[name] and tensor != was[name], f"{name} of the expert file")
    check((part / "mlp_expert.safetensors").read_bytes() == (whole / "mlp_expert.safetensors").read_bytes(), "expert files differ")
    check(not (part / "model.safetensors").exists() and (part / "adapter/adapter_config.json").exists(), "--save adapter")

    for n, source in enumerate(("whole", "whole/mlp_expert.safetensors", "part")):
        m = manifest(tmp, base="base", experts=[{"from": "base"}, {"from": source}], connectors={"image": source if n != 1 else "part/adapter"})
        done("assemble", m, "--out", tmp / f"mix{n}")
    first = (tmp / "mix0/model.safetensors").read_bytes()
    check(all((tmp / f"mix{n}/model.safetensors").read_bytes() == first for n in (1, 2)), "folder, file and adapter give different models")
    got = load(tmp / "mix0/model.safetensors")
    expert_is(got, "mixtral", 1, 1, expert, "trained")
    check(got["model.mm_projector.0.weight"] == model["model.mm_projector.0.weight"] != was["model.mm_projector.0.weight"], "the projector")
    done("train", tmp / "mix0", "--data", tmp / "data.json", "--media-folder", media, "--stage", 3, "--batch", 3, "--steps", 1, "--out", tmp / "tuned")
    check(not (tmp / "tuned/mlp_expert.safetensors").exists(), "stage 3 leaves no expert")


if __name__ == "__main__":
    if PART in ("answers", "trained") and shutil.which("mpirun") is None:
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        {"files": files, "refused": refuse, "answers": answers, "trained": trained}[PART](pathlib.Path(folder))

"""Makes release folders, as the original programs leave them, from the golden models; unimoe convert turns them back.

Spec 7.2 has the files and names. What a later file replaces is written wrong in the earlier one, so that the order matters.
Needs torch and numpy of Debian (python3-torch)."""
import json
import pathlib
import shutil
import struct

import torch

ALIGNER = ("model.mm_audio_aligner.", "model.query_tokens")
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def load(path):
    """The tensors of a safetensors file."""
    data = bytearray(pathlib.Path(path).read_bytes())
    (n,) = struct.unpack_from("<Q", data)
    header, out = json.loads(data[8:8 + n]), {}
    for name, x in header.items():
        if name != "__metadata__":
            a, b = x["data_offsets"]
            out[name] = torch.frombuffer(data[8 + n + a:8 + n + b], dtype=DTYPES[x["dtype"]]).reshape(x["shape"])
    return out


def load_all(folder):
    """The tensors of a model folder, in one file or in shards."""
    out = {}
    for path in sorted(pathlib.Path(folder).glob("model*.safetensors")):
        out.update(load(path))
    return out


def wrong(t):
    return torch.full_like(t, 0.25)


def adapt(base, names, adapter, scale, exact, seed):
    """Takes scale * B A off each named weight of base and puts A and B into adapter. exact: two rows are halved, so that adding
    them again gives every bit back in any float type; else A and B are random."""
    rng = torch.Generator().manual_seed(seed)
    for name in names:
        w, r = base[name], 2
        if exact:
            a = w[:r].clone()
            b = torch.zeros(w.shape[0], r, dtype=w.dtype)
            b[torch.arange(r), torch.arange(r)] = 0.5 / scale
        else:
            a = 0.05 * torch.randn(r, w.shape[1], generator=rng)
            b = 0.05 * torch.randn(w.shape[0], r, generator=rng)
        base[name] = (w.float() - scale * (b.float() @ a.float())).to(w.dtype)
        stem = "base_model.model." + name[:-len(".weight")]
        adapter[stem + ".lora_A.weight"], adapter[stem + ".lora_B.weight"] = a, b


def save_shards(folder, tensors):
    """Two pytorch_model files and their index."""
    names, weight_map = sorted(tensors), {}
    for i in range(2):
        file = f"pytorch_model-{i + 1:05d}-of-00002.bin"
        part = {n: tensors[n] for n in names[i::2]}
        torch.save(part, folder / file)
        weight_map.update({n: file for n in part})
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def towers(model, out):
    """vision and audio towers as separate downloads; gives the flags that name them."""
    flags = ["--vision-tower", out / "video"]
    for kind, name in (("vision_tower", "video"), ("audio_tower", "whisper")):
        tensors, cfg = load(model / kind / "model.safetensors"), json.loads((model / kind / "config.json").read_text())
        if cfg["model_type"] == "beats":
            table = tensors["encoder.layers.0.self_attn.relative_attention_bias.weight"]
            for i in range(1, cfg["encoder_layers"]):
                tensors[f"encoder.layers.{i}.self_attn.relative_attention_bias.weight"] = table
            del cfg["model_type"]
            torch.save({"cfg": cfg, "model": tensors}, out / "BEATs.pt")
            flags += ["--sound-tower", out / "BEATs.pt"]
            continue
        (out / name).mkdir()
        torch.save(tensors, out / name / "pytorch_model.bin")
        for file in ("config.json", "preprocessor_config.json"):
            shutil.copy(model / kind / file, out / name / file)
        flags += ["--speech-tower", out / name] if kind == "audio_tower" else []
    return flags


def small_files(model, *folders):
    for folder in folders:
        for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
            shutil.copy(model / name, folder / name)


def config_of(model, **more):
    """As published: towers by the authors' paths."""
    cfg = json.loads((model / "config.json").read_text())
    cfg.update(mm_vision_tower="/path/of/authors/video", mm_audio_tower="/path/of/authors/whisper", **more)
    return cfg


def trained_files(tensors, tuned, prefix):
    """Moves projector, gates and aligner out of tensors into files of their own; wrong ones stay."""
    def move(wanted, file, order=sorted, rename=lambda n: n):
        part = {n: tensors[n] for n in order(n for n in tensors if wanted(n))}
        if part:
            torch.save({rename(n): t for n, t in part.items()}, tuned / file)
            tensors.update({n: wrong(t) for n, t in part.items()})

    move(lambda n: ".mm_projector." in n, "non_lora_trainables.bin", rename=lambda n: "base_model.model." + n)
    move(lambda n: n.endswith((".mlp.gate.weight", ".gate.wg.weight")), "mlp_gates.bin")
    move(lambda n: n.startswith(ALIGNER), "mm_audio_aligner.bin",
         order=lambda names: sorted(names, key=lambda n: (n == "model.query_tokens", n)))  # the queries last: by name, not by place
    move(lambda n: ".deepspeed_moe.fm_" in n, "fm_adapter.bin")
    for n in [n for n in tensors if n.startswith(prefix) or ".deepspeed_moe." in n]:
        del tensors[n]


def strays(base):
    """Further files of released base folders, and files that nobody needs."""
    base["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    base["model.vision_tower.vision_tower.vision_model.embeddings.class_embedding"] = torch.ones(4)
    base["model.audio_tower.encoder.conv1.weight"] = torch.ones(4)


def adapter_files(tuned, adapter, scale):
    torch.save(adapter, tuned / "adapter_model.bin")
    cfg = {"peft_type": "LORA", "r": 2, "lora_alpha": 2 * scale, "bias": "none", "lora_dropout": 0.05, "fan_in_fan_out": False,
           "modules_to_save": None, "target_modules": [n[len("base_model.model."):-len(".lora_A.weight")] for n in adapter if "lora_A" in n]}
    (tuned / "adapter_config.json").write_text(json.dumps(cfg))


def four(model, out, exact=False):
    """A 4-expert release: base and tuned folder and towers below out. Gives the flags."""
    base, tuned = out / "base", out / "tuned"
    base.mkdir(parents=True), tuned.mkdir()
    tensors, adapter = load(model / "model.safetensors"), {}
    trained_files(tensors, tuned, "no such")
    names = [n for n in tensors if "_proj.weight" in n and n.startswith("model.layers.")]
    adapt(tensors, names, adapter, 2.0, exact, 1)
    gate = "base_model.model.model.layers.0.mlp.gate"  # the quirk of spec 5.2: lost again, as mlp_gates.bin comes later
    adapter[gate + ".lora_A.weight"] = torch.ones(2, tensors["model.norm.weight"].shape[0])
    adapter[gate + ".lora_B.weight"] = torch.ones(tensors["model.layers.0.mlp.gate.weight"].shape[0], 2)
    turned = "model.layers.0.self_attn.q_proj.weight"
    tensors[turned] = tensors[turned].t().contiguous().t()  # the same values in another memory order
    strays(tensors)
    save_shards(base, tensors)
    adapter_files(tuned, adapter, 2.0)
    cfg = config_of(model)
    for key in ("moe_type", "moe_stride"):
        cfg.pop(key, None)
    if "mm_audio_qformer" in cfg:
        cfg["mm_audio_qformer"] = {"num_attention_heads": cfg["mm_audio_qformer"]["num_attention_heads"]}
    (tuned / "config.json").write_text(json.dumps(cfg))
    (base / "config.json").write_text(json.dumps(dict(cfg, num_experts=3)))
    small_files(model, tuned)
    return ["--base", base, "--tuned", tuned, *towers(model, out)]


def eight(model, out):
    """An 8-expert release whose expert files hold their own base weights."""
    base, tuned = out / "base", out / "tuned"
    base.mkdir(parents=True), tuned.mkdir()
    tensors, adapter, key = load(model / "model.safetensors"), {}, ".deepspeed_experts."
    for e in range(8):
        part = {n.replace(f"{key}{e}.", f"{key}0."): t for n, t in tensors.items() if f"{key}{e}." in n}
        torch.save(part, tuned / f"{e}_mlp_experts.bin")
    trained_files(tensors, tuned, "no such")
    names = [n for n in tensors if n.endswith("_proj.weight") and n.startswith("model.layers.")]
    adapt(tensors, names, adapter, 4.0, False, 2)
    tensors["model.layers.0.mlp.gate.weight"] = torch.ones(4, 8)  # left from the 4-expert model
    tensors["model.layers.0.mlp.experts.3.up_proj.weight"] = torch.ones(4, 8)
    strays(tensors)
    save_shards(base, tensors)
    adapter_files(tuned, adapter, 4.0)
    (base / "8config.json").write_text(json.dumps(config_of(model)))
    (base / "config.json").write_text(json.dumps(dict(config_of(model), model_type="llava", num_experts=4)))
    small_files(model, base)
    return ["--base", base, "--tuned", tuned, *towers(model, out)]


SLOTS = ("mlp_audiocap", "mlp_basev", "mlp_base", "mlp_base1", "mlp_base4", "mlp_base7", "mlp_base", "mlp_base7")


def expert_files(model, out):
    """The six files of Uni_MoE_8e_Experts with random values; gives the flags."""
    out.mkdir()
    rng, tensors = torch.Generator().manual_seed(3), load(model / "model.safetensors")
    for name in set(SLOTS):
        part = {}
        for n, t in tensors.items():
            if ".deepspeed_experts.0." in n and "lora" not in n:
                part[n.replace(".deepspeed_moe.experts.deepspeed_experts.0.", ".")] = torch.randn(t.shape, generator=rng)
        torch.save(part, out / f"{name}.bin")
    return ["--expert-files", out]


RELEASES = {"s4": four, "s4i": lambda m, o: four(m, o, exact=True), "a4": four, "s8": eight, "s8fm": eight}

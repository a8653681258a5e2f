#!/usr/bin/env python3
"""Makes tests/golden/towers: a model with small towers and short windows, and what PyTorch says of it in float64: the rows of each medium, and
the gradient of every parameter of towers and connectors for a given gradient of the rows. By hand: it needs torch and transformers.

CLIP, Whisper's encoder and decoder, its feature extractor and the Q-Former are transformers' own; BEATs and its filter bank are written here
from their papers.

usage: make_towers.py      (writes beside itself, into ../golden/towers)"""
import json
import math
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import (Blip2QFormerConfig, Blip2QFormerModel, CLIPVisionConfig, CLIPVisionModel, WhisperConfig, WhisperFeatureExtractor,
                          WhisperModel)

OUT = pathlib.Path(__file__).resolve().parent.parent / "golden" / "towers"
DIM, QUERIES, SECONDS, RATE = 24, 5, 1, 16000
SIZES = dict(
    vision=dict(hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14, num_channels=3,
                hidden_act="quick_gelu", layer_norm_eps=1e-5),
    speech=dict(d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=24, decoder_layers=2, decoder_attention_heads=4,
                decoder_ffn_dim=20, num_mel_bins=80, max_source_positions=50 * SECONDS, max_target_positions=8, activation_function="gelu",
                scale_embedding=False),
    sound=dict(encoder_layers=2, encoder_embed_dim=16, encoder_ffn_embed_dim=24, encoder_attention_heads=2, activation_fn="gelu",
               layer_norm_first=False, deep_norm=True, conv_bias=False, conv_pos=8, conv_pos_groups=4, relative_position_embedding=True,
               num_buckets=16, max_distance=12, gru_rel_pos=True, input_patch_size=16, embed_dim=12, finetuned_model=False,
               window_seconds=SECONDS),
    qformer=dict(hidden_size=12, num_hidden_layers=3, num_attention_heads=2, intermediate_size=20, cross_attention_frequency=2,
                 encoder_hidden_size=16, layer_norm_eps=1e-12))


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def configs():
    dump(OUT / "config.json", dict(
        model_type="llava", hidden_size=DIM, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=32, rms_norm_eps=1e-5, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        tie_word_embeddings=False, hidden_act="silu", mm_vision_tower="vision_tower", mm_speech_tower="speech_tower",
        mm_sound_tower="sound_tower", mm_projector_type="mlp2x_gelu", audio_projector_type="mlp2x_gelu", mm_vision_select_layer=-2,
        mm_vision_select_feature="patch", mm_hidden_size=SIZES["vision"]["hidden_size"], query_tokens_size=QUERIES,
        mm_audio_qformer=SIZES["qformer"], torch_dtype="float32"))
    dump(OUT / "vision_tower/config.json", dict(model_type="clip_vision_model", **SIZES["vision"]))
    side = SIZES["vision"]["image_size"]
    dump(OUT / "vision_tower/preprocessor_config.json", dict(
        image_processor_type="CLIPImageProcessor", do_resize=True, size=dict(shortest_edge=side), do_center_crop=True,
        crop_size=dict(height=side, width=side), do_normalize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3))
    dump(OUT / "speech_tower/config.json", dict(model_type="whisper", **SIZES["speech"]))
    dump(OUT / "speech_tower/preprocessor_config.json", dict(
        feature_extractor_type="WhisperFeatureExtractor", feature_size=80, sampling_rate=RATE, hop_length=160, chunk_length=SECONDS, n_fft=400,
        padding_value=0.0))
    dump(OUT / "sound_tower/config.json", dict(model_type="beats", **SIZES["sound"]))


class Weights:
    """Random tensors by name, float32 values held in float64, and their gradients."""

    def __init__(self, seed):
        self.rng = torch.Generator().manual_seed(seed)
        self.t = {}

    def new(self, name, *shape, std=0.3, base=0.0):
        x = (torch.randn(*shape, generator=self.rng) * std + base).to(torch.float32)
        self.t[name] = x.to(torch.float64).requires_grad_()
        return self.t[name]

    def linear(self, name, n, k, bias=True):
        self.new(name + ".weight", n, k)
        if bias:
            self.new(name + ".bias", n)

    def norm(self, name, n):
        self.new(name + ".weight", n, base=1.0)
        self.new(name + ".bias", n)

    def adopt(self, module, prefix, skip=()):
        """The parameters of a transformers module become random ones of this list, in place."""
        for name, p in list(module.named_parameters()):
            base = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            if name in skip:
                continue
            value = self.new(prefix + name, *p.shape, base=base)
            holder = module.get_submodule(name.rpartition(".")[0])
            leaf = name.rpartition(".")[2]
            del holder._parameters[leaf]
            setattr(holder, leaf, value)

    def lin(self, name, x):
        return F.linear(x, self.t[name + ".weight"], self.t.get(name + ".bias"))

    def ln(self, name, x, eps=1e-5):
        return F.layer_norm(x, x.shape[-1:], self.t[name + ".weight"], self.t[name + ".bias"], eps)

    def save(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().to(torch.float32).contiguous() for k, v in self.t.items()}, path)


def projector(w, prefix, x):
    return w.lin(prefix + "2", F.gelu(w.lin(prefix + "0", x)))


def new_projector(w, prefix, k):
    w.linear(prefix + "0", DIM, k)
    w.linear(prefix + "2", DIM, DIM)


def fbank(wave):
    """Kaldi's log filter bank as BEATs uses it, [frames, 128]."""
    mel = lambda hz: 1127.0 * np.log(1.0 + hz / 700.0)  # noqa: E731
    x = wave.astype(np.float64) * 32768.0
    frames = 1 + (len(x) - 400) // 160
    x = np.stack([x[i * 160:i * 160 + 400] for i in range(frames)])
    x = x - x.mean(axis=1, keepdims=True)
    x = x - 0.97 * np.concatenate([x[:, :1], x[:, :-1]], axis=1)
    x = x * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    power = np.abs(np.fft.rfft(x, 512)) ** 2
    points = np.linspace(mel(20.0), mel(RATE / 2), 130)
    bins = mel(np.arange(256) * RATE / 512)
    up = (bins[None] - points[:-2, None]) / (points[1:-1] - points[:-2])[:, None]
    down = (points[2:, None] - bins[None]) / (points[2:] - points[1:-1])[:, None]
    bank = np.maximum(0.0, np.minimum(up, down))
    energy = np.log(np.maximum(power[:, :256] @ bank.T, 1.1920928955078125e-07))
    return (energy - 15.41663) / (2 * 6.55582)


def windows(wave, size, step):
    return [wave[at:at + size] for at in range(0, len(wave), step)]


def vision(w, c, pixels):
    tower = CLIPVisionModel(CLIPVisionConfig(**SIZES["vision"], attn_implementation="eager")).double()
    w.adopt(tower, "")
    new_projector(c, "model.mm_projector.", 16)
    hidden = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    return projector(c, "model.mm_projector.", hidden)


def speech(w, c, wave):
    model = WhisperModel(WhisperConfig(vocab_size=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
                                       attn_implementation="eager", **SIZES["speech"])).double()
    w.adopt(model.encoder, "model.encoder.")
    prefix = "model.mm_speech_aligner."
    c.adopt(model.decoder, prefix + "decoder.audio_decoder.", skip=("embed_tokens.weight",))
    queries = c.new(prefix + "query_tokens", 1, QUERIES, 16)
    new_projector(c, prefix + "projector.", 16)
    extract = WhisperFeatureExtractor(feature_size=80, chunk_length=SECONDS)
    size = RATE * SECONDS
    out = []
    for part in windows(wave, size, size + 1):
        mel = extract(part, sampling_rate=RATE, return_tensors="np")["input_features"]
        hidden = model.encoder(torch.tensor(mel, dtype=torch.float64)).last_hidden_state
        out.append(projector(c, prefix + "projector.", model.decoder(
            inputs_embeds=queries, encoder_hidden_states=hidden, use_cache=False).last_hidden_state)[0])
    return torch.cat(out)


def new_beats(w):
    s = SIZES["sound"]
    d, e, k, g = s["encoder_embed_dim"], s["embed_dim"], s["conv_pos"], s["conv_pos_groups"]
    w.new("patch_embedding.weight", e, 1, 16, 16, std=0.1)
    w.norm("layer_norm", e)
    w.linear("post_extract_proj", d, e)
    w.new("encoder.pos_conv.0.weight_g", 1, 1, k, base=1.0)
    w.new("encoder.pos_conv.0.weight_v", d, d // g, k)
    w.new("encoder.pos_conv.0.bias", d)
    w.norm("encoder.layer_norm", d)
    for i in range(s["encoder_layers"]):
        at = f"encoder.layers.{i}."
        for name in "qkv":
            w.linear(at + f"self_attn.{name}_proj", d, d)
        w.linear(at + "self_attn.out_proj", d, d)
        if i == 0:
            w.new(at + "self_attn.relative_attention_bias.weight", s["num_buckets"], s["encoder_attention_heads"])
        w.linear(at + "self_attn.grep_linear", 8, d // s["encoder_attention_heads"])
        w.new(at + "self_attn.grep_a", 1, s["encoder_attention_heads"], 1, 1, base=1.0)
        w.norm(at + "self_attn_layer_norm", d)
        w.linear(at + "fc1", s["encoder_ffn_embed_dim"], d)
        w.linear(at + "fc2", d, s["encoder_ffn_embed_dim"])
        w.norm(at + "final_layer_norm", d)


def buckets(rows):
    s = SIZES["sound"]
    half = s["num_buckets"] // 2
    exact = half // 2
    distance = np.arange(rows)[None] - np.arange(rows)[:, None]
    n = np.abs(distance)
    far = exact + np.trunc(np.log(np.maximum(n, 1) / exact) / math.log(s["max_distance"] / exact) * (half - exact))
    return torch.tensor(np.where(distance > 0, half, 0) + np.where(n < exact, n, np.minimum(half - 1, far)).astype(np.int64))


def beats_attention(w, at, x, real, bias):
    h = SIZES["sound"]["encoder_attention_heads"]
    rows, d = x.shape
    split = lambda y: y.view(rows, h, d // h).transpose(0, 1)  # noqa: E731
    q, k, v = (split(w.lin(at + f"{n}_proj", x)) for n in "qkv")
    ga, gb = torch.sigmoid(w.lin(at + "grep_linear", q).view(h, rows, 2, 4).sum(-1)).unbind(-1)
    gate = ga * (gb * w.t[at + "grep_a"].view(h, 1) - 1.0) + 2.0
    scores = q @ k.transpose(1, 2) / math.sqrt(d // h)
    scores = scores.masked_fill(~real[None, None], float("-inf")) + gate[..., None] * bias
    return w.lin(at + "out_proj", (scores.softmax(-1) @ v).transpose(0, 1).reshape(rows, d))


def beats(w, wave, size):
    s = SIZES["sound"]
    d, k = s["encoder_embed_dim"], s["conv_pos"]
    padded = np.concatenate([wave, np.full(size - len(wave), wave[-1])])
    bank = fbank(padded)
    rows = len(bank) // 16 * 8
    mask = np.arange(size) < len(wave)
    mask = mask[:size - size % len(bank)].reshape(len(bank), -1).any(1)
    real = torch.tensor(mask[:len(bank) - len(bank) % rows].reshape(rows, -1).any(1))
    x = F.conv2d(torch.tensor(bank)[None, None], w.t["patch_embedding.weight"], stride=16)[0].flatten(1).T
    x = w.lin("post_extract_proj", w.ln("layer_norm", x)) * real[:, None]
    v, g = w.t["encoder.pos_conv.0.weight_v"], w.t["encoder.pos_conv.0.weight_g"]
    conv = F.conv1d(x.T[None], g * v / v.norm(dim=(0, 1), keepdim=True), w.t["encoder.pos_conv.0.bias"], padding=k // 2,
                    groups=s["conv_pos_groups"])[0, :, :rows].T
    x = w.ln("encoder.layer_norm", x + F.gelu(conv))
    alpha = (2 * s["encoder_layers"]) ** 0.25
    bias = w.t["encoder.layers.0.self_attn.relative_attention_bias.weight"][buckets(rows)].permute(2, 0, 1)
    for i in range(s["encoder_layers"]):
        at = f"encoder.layers.{i}."
        x = w.ln(at + "self_attn_layer_norm", alpha * x + beats_attention(w, at + "self_attn.", x, real, bias))
        x = w.ln(at + "final_layer_norm", alpha * x + w.lin(at + "fc2", F.gelu(w.lin(at + "fc1", x))))
    return x


def sound(w, c, wave):
    new_beats(w)
    prefix = "model.mm_sound_aligner."
    q = SIZES["qformer"]
    qformer = Blip2QFormerModel(Blip2QFormerConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager", **q)).double()
    c.adopt(qformer, prefix + "qformer.qformer.")
    queries = c.new(prefix + "query_tokens", 1, QUERIES, q["hidden_size"])
    new_projector(c, prefix + "projector.", q["hidden_size"])
    size = RATE * SECONDS
    out = []
    for part in windows(wave, size, size):
        hidden = beats(w, part, size)[None]
        out.append(projector(c, prefix + "projector.", qformer(query_embeds=queries, encoder_hidden_states=hidden).last_hidden_state)[0])
    return torch.cat(out)


def main():
    configs()
    rng = np.random.default_rng(5)
    pixels = rng.normal(size=(2, 3, 28, 28)).astype(np.float32)
    wave = (0.3 * np.sin(np.arange(RATE * 3 // 2) ** 1.3 / 90.0) + 0.05 * rng.normal(size=RATE * 3 // 2)).astype(np.float32)
    llm, expected = Weights(1), {}
    towers = {name: Weights(2 + i) for i, name in enumerate(("vision", "speech", "sound"))}
    made = dict(vision=vision(towers["vision"], llm, torch.tensor(pixels, dtype=torch.float64)),
                speech=speech(towers["speech"], llm, wave), sound=sound(towers["sound"], llm, wave))
    expected["pixels"], expected["wave"] = torch.tensor(pixels), torch.tensor(wave)
    loss = 0.0
    for name, rows in made.items():
        grad = torch.tensor(rng.normal(size=rows.shape).astype(np.float32))
        expected[f"{name}.rows"], expected[f"{name}.grad"] = rows.detach().float().contiguous(), grad
        loss = loss + (rows * grad.double()).sum()
    loss.backward()
    for w in (llm, *towers.values()):
        for name, x in w.t.items():
            if x.grad is not None:
                expected["grad." + name] = x.grad.float().contiguous()
    llm.save(OUT / "model.safetensors")
    for name, w in towers.items():
        w.save(OUT / f"{name}_tower/model.safetensors")
    save_file(expected, OUT / "expected.safetensors")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The proof of unimoe convert --to hf: transformers' MixtralForCausalLM gives the golden logits of a model with experts in every
layer, and its CLIPVisionModel and WhisperModel find every tensor. By hand: it needs transformers, which no test installs.

usage: check_mixtral.py BUILD      exit 0: equal within 1e-4 of the largest logit"""
import pathlib
import subprocess
import sys
import tempfile

import torch
from transformers import CLIPVisionModel, MixtralForCausalLM, WhisperModel

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import release  # noqa: E402

release.DTYPES.update(I32=torch.int32, I64=torch.int64)


def whole(cls, folder):
    model, info = cls.from_pretrained(folder, torch_dtype=torch.float32, output_loading_info=True)
    lost = {k: v for k, v in info.items() if v}
    assert not lost, f"{cls.__name__}: {lost}"
    return model


def main():
    golden = HERE.parent / "golden"
    with tempfile.TemporaryDirectory(prefix="unimoe-") as tmp:
        out = pathlib.Path(tmp) / "hf"
        subprocess.run([pathlib.Path(sys.argv[1]) / "unimoe", "convert", "--model", golden / "models" / "s4", "--to", "hf", "--out", out], check=True)
        whole(CLIPVisionModel, out / "vision_tower"), whole(WhisperModel, out / "speech_tower")
        model = whole(MixtralForCausalLM, out)
        for case in ("text", "image"):
            want = release.load(golden / "cases" / "s4" / case / "expected.safetensors")
            with torch.no_grad():
                got = model(inputs_embeds=want["embeddings"][None]).logits[0]
            logits = want["logits"] if "logits" in want else want["logits_tail"]
            far = (got[-len(logits):] - logits).abs().max().item() / logits.abs().max().item()
            print(f"{case}: logits within {far:.1e} of the largest")
            assert far < 1e-4
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The encoders beside PyTorch on the same cores: CLIP-L/14-336 with its projector, Whisper small's log-mel, encoder and decoder with 50
learned queries, BEATs with its Q-Former, in alternation, random weights of the same sizes on both sides. Prints TSV with the ratio peer / ours;
above 1 is faster than the peer. Needs a Python with torch and transformers. BEATs is our own in plain torch calls (beats_torch.py): the
faster of two ways of attention counts, and its filter bank is left out, while ours is in "sound".

With --whisper-bench and --whisper-model (a ggml file of Whisper small) whisper.cpp's encoder is one more peer.

example: bench/bench_encoders.py --build build/release --threads 2 --rounds 5
"""
import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import time

KINDS = ("image", "speech", "sound")


class BenchError(Exception):
    pass


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(words):
    words = [str(w) for w in words]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BenchError(f"{words[0]} not found: cmake --workflow --preset release") from None
    if done.returncode != 0:
        raise BenchError(f"exit code {done.returncode}: {' '.join(words)}\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def model_of(args):
    if args.model:
        return args.model
    folder = pathlib.Path(args.build).resolve() / "bench-models" / "encoders-full"
    if not (folder / "config.json").exists():
        say(f"making {folder}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        run([pathlib.Path(args.build) / "unimoe", "init", "--preset", "encoders-full", "--out", folder])
    return folder


def ours(args, model, kind):
    """Seconds of each stage of one kind, one run."""
    out = run([pathlib.Path(args.build) / "bench/bench_encoders", "--model", model, "--only", kind, "--rounds", 1,
               "--threads", args.threads, "--json"])
    return {row["stage"]: row["median_s"] for row in json.loads(out)}


class Torch:
    """The same towers in PyTorch; each stage has the same input and output as ours."""

    def __init__(self, threads, width):
        try:
            import numpy
            import torch
            import transformers
        except ImportError as e:
            raise BenchError(f"{e}: run this with a Python that has torch and transformers") from None
        import beats_torch  # beside this file; needs torch
        self.torch, self.name = torch, f"torch-{torch.__version__}"
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        nn = torch.nn
        clip = transformers.CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16,
                                             image_size=336, patch_size=14)
        whisper = transformers.WhisperConfig(d_model=768, encoder_layers=12, encoder_attention_heads=12, encoder_ffn_dim=3072,
                                             decoder_layers=12, decoder_attention_heads=12, decoder_ffn_dim=3072, num_mel_bins=80,
                                             max_target_positions=448, vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                                             decoder_start_token_id=1)
        self.clip = transformers.CLIPVisionModel(clip).eval()
        self.image_projector = nn.Sequential(nn.Linear(1024, width), nn.GELU(), nn.Linear(width, width)).eval()
        self.whisper = transformers.WhisperModel(whisper).eval()
        self.speech_projector = nn.Linear(768, width).eval()
        self.beats = [beats_torch.Beats(width, fused) for fused in (False, True)]
        self.extractor = transformers.WhisperFeatureExtractor()
        self.pixels = torch.randn(1, 3, 336, 336)
        self.queries = torch.randn(1, 50, 768)
        self.wave = (0.1 * numpy.random.default_rng(0).standard_normal(480000)).astype("float32")

    def image(self):
        rows = self.clip(self.pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
        return self.image_projector(rows)

    def measure(self, kind):
        if kind == "sound":
            return min((b.measure() for b in self.beats), key=lambda times: times["sound"])
        with self.torch.inference_mode():
            t0 = time.perf_counter()
            if kind == "image":
                self.image()
                return {"image": time.perf_counter() - t0}
            mel = self.extractor(self.wave, sampling_rate=16000, return_tensors="pt").input_features
            t1 = time.perf_counter()
            rows = self.whisper.encoder(mel).last_hidden_state
            t2 = time.perf_counter()
            state = self.whisper.decoder(inputs_embeds=self.queries, encoder_hidden_states=rows, use_cache=False).last_hidden_state
            self.speech_projector(state)
            t3 = time.perf_counter()
        return {"speech mel": t1 - t0, "speech encoder": t2 - t1, "speech aligner": t3 - t2, "speech": t3 - t0}


class WhisperCpp:
    def __init__(self, program, model, threads):
        self.name, self.words = "whisper.cpp", [program, "-m", model, "-t", threads]

    def measure(self, kind):
        if kind != "speech":
            return {}
        done = subprocess.run([str(w) for w in self.words], capture_output=True, text=True, check=False)
        found = re.search(r"encode time *=.*\( *([0-9.]+) ms per run\)", done.stdout + done.stderr)
        if done.returncode != 0 or not found:
            raise BenchError(f"{self.words[0]}: no encode time in what it prints")
        return {"speech encoder": float(found.group(1)) / 1000}


def compare(args, model, peers):
    """One line per stage and peer that has the stage; every round runs all of them, ours first."""
    mine, theirs = {}, {p.name: {} for p in peers}
    kinds = [args.only] if args.only else KINDS
    for i in range(-1, args.rounds):  # the first round warms up
        for kind in kinds:
            runs = [(mine, ours(args, model, kind))]
            runs += [(theirs[p.name], p.measure(kind)) for p in peers]
            for kept, times in runs:
                for stage, seconds in times.items():
                    if i >= 0:
                        kept.setdefault(stage, []).append(seconds)
            say(f"round {i + 1} of {args.rounds}, {kind}")
    for stage, seconds in mine.items():
        beside = [(n, t[stage]) for n, t in theirs.items() if stage in t] or [("-", None)]
        for name, other in beside:
            median = statistics.median(seconds)
            row = [stage, args.threads, args.rounds, f"{median:.4f}", name]
            row += [f"{statistics.median(other):.4f}", f"{statistics.median(other) / median:.2f}"] if other else ["-", "-"]
            print(*row, sep="\t", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build/release", help="folder of a release build")
    p.add_argument("--model", help="model directory; default: made once by unimoe init --preset encoders-full")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--only", choices=KINDS)
    p.add_argument("--width", type=int, default=512, help="hidden size of the language model")
    p.add_argument("--no-torch", action="store_true", help="measure without PyTorch")
    p.add_argument("--whisper-bench", help="whisper.cpp's whisper-bench")
    p.add_argument("--whisper-model", help="its model, ggml-small.bin")
    args = p.parse_args()
    try:
        if bool(args.whisper_bench) != bool(args.whisper_model):
            raise BenchError("--whisper-bench and --whisper-model go together")
        peers = [] if args.no_torch else [Torch(args.threads, args.width)]
        if args.whisper_bench:
            peers.append(WhisperCpp(args.whisper_bench, args.whisper_model, args.threads))
        print("stage", "threads", "rounds", "ours_s", "peer", "peer_s", "ratio", sep="\t")
        compare(args, model_of(args), peers)
    except BenchError as e:
        say(f"bench_encoders: {e}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""A training step beside PyTorch on the same cores: the same model, weights, tokens and number of steps, f32, AdamW; a dense model and one with
4 experts of which 2 compute each token; all weights trained (stage 0), or frozen with LoRA of r 8 on every matrix (stage 3). The peer is
train_torch.py, the faster of eager and torch.compile. Programs run in alternation; the losses of both sides must agree, else nothing
is compared. Prints TSV: tokens a second, peak memory, ratios (time: above 1 is faster than the peer; memory: below 1 is smaller), and MFU.

MFU is the model's multiply-adds (6 a token for every trained matrix value, 4 for a frozen one, and causal attention) over time, as a
share of the GEMM limit: the best that bench_ops or PyTorch reaches in this run at the shapes of the model. Memory is the most that all
processes of the job (launcher, mpirun, ranks) have at one time: RssAnon and RssShmem, looked at twenty times a second. Memory that ranks share
counts once for each; pages of files (weights, programs, libraries), which the system can drop, count on neither side.

cpu_ratio compares the CPU seconds that one more step takes, from runs of different length, eager's over ours: it says more than the time where
other programs use the machine, best with --threads 1. With ranks that wait for one another it counts their waiting too.

Needs a release build, and a Python with torch, safetensors, sentencepiece, and for frozen weights peft.

example: bench/bench_train.py --build build/release --torch ~/venv/bin/python --rounds 3
"""
import argparse
import json
import os
import pathlib
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
SYSTEM = ("A chat between a curious user and an artificial intelligence assistant. "
          "The assistant gives helpful, detailed, and polite answers to the user's questions.")
IGNORED = -100
RANK = 8
SAME = 1e-3  # how far losses of the first steps may be apart, relative
WARM = 1     # first steps that no time counts


class BenchError(Exception):
    pass


def say(text):
    print(text, file=sys.stderr, flush=True)


# --- programs and their memory ----------------------------------------------------------------------------------------------


def children():
    """{pid: its children} of the machine."""
    tree = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        tree.setdefault(parent, []).append(int(stat.parent.name))
    return tree


def owned(pid):
    """Resident bytes that are not pages of files; 0 when the process is gone."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return 1024 * sum(int(kB) for kB in re.findall(r"(?:RssAnon|RssShmem):\s*(\d+) kB", status))


class Memory(threading.Thread):
    """Looks at a process and all below it, twenty times a second."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.done = pid, 0, threading.Event()

    def run(self):
        while not self.done.wait(0.05):
            tree, left, now = children(), [self.pid], 0
            while left:
                pid = left.pop()
                now += owned(pid)
                left += tree.get(pid, [])
            self.peak = max(self.peak, now)

    def end(self):
        self.done.set()
        self.join()
        return self.peak


def run(words, timeout=1800, what=None):
    """(standard output, peak bytes, CPU seconds)"""
    words = [str(w) for w in words]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+") as errors:
        try:
            program = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True)
        except FileNotFoundError:
            raise BenchError(f"{words[0]} not found: cmake --workflow --preset release") from None
        memory = Memory(program.pid)
        memory.start()
        try:
            out, _ = program.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            program.kill()
            raise BenchError(f"no end after {timeout} s: {' '.join(words)}") from None
        finally:
            peak = memory.end()
        if program.returncode != 0:
            errors.seek(0)
            text = (out + errors.read())[-2000:]
            raise BenchError(f"exit code {program.returncode}: {what or ' '.join(words)}\n{text}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return out, peak, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# --- the model and the tokens -----------------------------------------------------------------------------------------------


def make_model(args, kind, folder):
    """A model directory of random weights, made by unimoe init."""
    config = {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "hidden_size": args.dim, "intermediate_size": args.ffn,
              "num_hidden_layers": args.layers, "num_attention_heads": args.dim // 64, "num_key_value_heads": args.dim // 64,
              "vocab_size": args.vocab, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
              "rope_scaling": None, "hidden_act": "silu", "initializer_range": 0.02, "bos_token_id": 1, "eos_token_id": 2,
              "pad_token_id": 0, "tie_word_embeddings": False, "moe": kind == "moe", "num_experts": 4, "num_experts_per_tok": 2,
              "moe_type": "dense", "moe_stride": 1, "torch_dtype": "float32"}
    file = folder.parent / f"{folder.name}.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    run([args.program, "init", "--config", file, "--seed", 1, "--out", folder])
    return config


def make_samples(args, tokenizer, out, ids_out):
    """Conversations that are all of --length ids, as unimoe reads them and as ids and labels."""
    rng = random.Random(1)
    head = tokenizer.encode(f"{SYSTEM} USER: Go on. ASSISTANT:")
    ask = [tokenizer.bos_id(), *head]
    words = [tokenizer.id_to_piece(i) for i in range(tokenizer.get_piece_size())]
    words = [w[1:] for w in words if re.fullmatch("▁[a-z]{1,12}", w)]
    if len(ask) + 8 > args.length or not words:
        raise BenchError(f"--length {args.length}: the template alone takes {len(ask)} ids")
    rows, lists = [], []
    while len(rows) < args.batch:
        text = [rng.choice(words) for _ in range(args.length)]
        while len(encoded(tokenizer, " ".join(text), ask)) > args.length:
            text.pop()
        ids = encoded(tokenizer, " ".join(text), ask)
        if len(ids) != args.length:
            continue  # its words were not one id each
        rows.append({"id": str(len(rows)), "conversations": [{"from": "human", "value": "Go on."},
                                                             {"from": "gpt", "value": " ".join(text)}]})
        lists.append({"ids": ids, "labels": [IGNORED] * len(ask) + ids[len(ask):]})
    out.write_text(json.dumps(rows), encoding="utf-8")
    ids_out.write_text(json.dumps(lists), encoding="utf-8")


def encoded(tokenizer, answer, ask):
    ids = [tokenizer.bos_id(), *tokenizer.encode(f"{SYSTEM} USER: Go on. ASSISTANT: {answer}"), tokenizer.eos_id()]
    if ids[:len(ask)] != ask:
        raise BenchError("the tokenizer joins the question with the answer")
    return ids


# --- one run of each side ---------------------------------------------------------------------------------------------------


def ours(args, case, steps, out, lr):
    """{losses, seconds, peak} of unimoe train."""
    shutil.rmtree(out, ignore_errors=True)
    words = [args.program, "train", case["folder"], "--data", case["data"], "--out", out, "--steps", steps, "--batch", args.batch,
             "--micro-batch", args.micro_batch, "--lr", lr, "--schedule", "constant", "--warmup", 0, "--weight-decay", 0,
             "--threads", args.threads, "--save-every", 0, "--seed", 1, "--quiet", "--balance-coef", 0, "--multimodal-coef", 0,
             "--kl-coef", 0, "--weights", "f32"]
    words += ["--experts", args.experts] if case["kind"] == "moe" else []
    if case["what"] == "frozen":
        words += ["--stage", 3, "--lora-r", RANK, "--lora-alpha", 2 * RANK, "--lora-dropout", 0, "--lora-what",
                  "*_proj.weight", "--save", "adapter"]
        words += ["--freeze", "*mlp.gate.weight"] if case["kind"] == "moe" else []
    else:
        words += ["--stage", 0]
    _, peak, cpu = run(words)
    steps = [json.loads(line) for line in (out / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {"losses": [s["loss"] for s in steps], "seconds": [s["seconds"] for s in steps], "peak": peak,
            "targets": steps[0]["targets"], "cpu": cpu}


def theirs(args, case, steps, compiled):
    words = [args.torch, HERE / "train_torch.py", "--model", case["folder"], "--samples", case["ids"], "--micro-batch", args.micro_batch,
             "--steps", steps, "--lr", args.lr, "--threads", args.threads]
    words += ["--adapter", case["adapter"]] if case["what"] == "frozen" else []
    words += ["--compile"] if compiled else []
    out, peak, cpu = run(words)
    return {**json.loads(out.splitlines()[-1]), "peak": peak, "cpu": cpu}


def same_losses(case, mine, other):
    for i, (a, b) in enumerate(zip(mine["losses"], other["losses"])):
        if abs(a - b) > SAME * abs(b):
            raise BenchError(f"{case['name']}: step {i + 1} has loss {a:.6f} here and {b:.6f} in PyTorch: these are not the same steps")
    if mine["targets"] != other["targets"]:
        raise BenchError(f"{case['name']}: {mine['targets']} targets here, {other['targets']} in PyTorch")


# --- the limit --------------------------------------------------------------------------------------------------------------


def shapes_of(config, rows):
    """The products of a layer and of the head, (M, N, K)."""
    D, F, V = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    share = rows // 2 if config["moe"] else rows
    return [(rows, D, D), (share, F, D), (share, D, F), (rows, V, D)]


def gemm_limit(args, config):
    """GFLOP/s of the better of both at the shapes of a micro-batch."""
    shapes = shapes_of(config, args.micro_batch * args.length)
    out, _, _ = run([args.torch, HERE / "train_torch.py", "--threads", args.threads, "--gemm", ";".join(f"{m},{n},{k}" for m, n, k in shapes)])
    peer = json.loads(out)["gflops"]
    work = spent = 0.0
    for m, n, k in shapes:
        out, _, _ = run([pathlib.Path(args.build) / "bench_ops", "--threads", args.threads, "--shape", f"{n},{k}", "--rows", m, "--rounds", 5,
                      "--no-attention", "--json"])
        rate = next(r["metrics"]["gflops"]["p90"] for r in json.loads(out)["rows"] if r["dtype"] == "f32")
        work += m * n * k
        spent += m * n * k / rate
    return {"ours": work / spent, "peer": peer}


def flops_of(config, what, args):
    """Of a step: 2 a multiply-add."""
    D, F, V, L = config["hidden_size"], config["intermediate_size"], config["vocab_size"], config["num_hidden_layers"]
    tokens = args.batch * args.length
    ffn = 3 * D * F * (config["num_experts_per_tok"] if config["moe"] else 1) + (4 * D if config["moe"] else 0)
    layers = L * (4 * D * D + ffn)
    times = 6 if what == "full" else 4
    attention = 6 * L * tokens * args.length * D  # causal: half of 12
    lora = 0
    if what == "frozen":
        active = config["num_experts_per_tok"] if config["moe"] else 1
        lora = 6 * tokens * L * RANK * (8 * D + active * 3 * (D + F))
    return tokens * times * (layers + V * D) + attention + lora


# --- the table --------------------------------------------------------------------------------------------------------------


def compare(args, case):
    """A row of the table."""
    work = case["work"]
    case["adapter"] = None
    if case["what"] == "frozen":  # its first values: one step at a learning rate of zero
        out = work / f"adapter-{case['kind']}"
        ours(args, case, 1, out, 0)
        case["adapter"] = out / "adapter"
    sides = {"ours": [], "eager": [], "compiled": []}
    short = {"ours": ours(args, case, WARM + 1, work / "run", args.lr), "eager": theirs(args, case, WARM + 1, False)}
    same_losses(case, short["ours"], short["eager"])
    if args.no_compile or shutil.which("c++") is None:
        say("torch.compile is left out" + ("" if args.no_compile else ": there is no C++ compiler"))
        del sides["compiled"]
    for turn in range(args.rounds):
        for side, runs in sides.items():
            one = ours(args, case, args.steps, work / "run", args.lr) if side == "ours" else theirs(args, case, args.steps,
                                                                                                  side == "compiled")
            if side != "ours":
                same_losses(case, sides["ours"][-1], one)
            runs.append(one)
            say(f"{turn + 1}/{args.rounds} {case['name']} {side}: {statistics.median(one['seconds'][WARM:]):.3f} s a step, "
                f"{one['peak'] / 2**20:.0f} MiB")
    seconds = {side: statistics.median(s for one in runs for s in one["seconds"][WARM:]) for side, runs in sides.items()}
    peak = {side: statistics.median(one["peak"] for one in runs) for side, runs in sides.items()}
    cpu = {side: statistics.median(one["cpu"] for one in sides[side]) - short[side]["cpu"] for side in short}
    best = min((s for s in seconds if s != "ours"), key=seconds.get)
    limit, flops = case["limit"], flops_of(case["config"], case["what"], args)
    top, tokens = max(limit.values()), args.batch * args.length
    return [case["name"], tokens, f"{tokens / seconds['ours']:.0f}", best, f"{tokens / seconds[best]:.0f}",
            f"{seconds[best] / seconds['ours']:.2f}", f"{cpu['eager'] / cpu['ours']:.2f}", f"{peak['ours'] / 2**20:.0f}", f"{peak[best] / 2**20:.0f}",
            f"{peak['ours'] / peak[best]:.2f}", f"{flops / seconds['ours'] / top * 1e-9:.2f}", f"{flops / seconds[best] / top * 1e-9:.2f}",
            f"{limit['ours']:.0f}", f"{limit['peer']:.0f}"]


COLUMNS = ["case", "tokens_a_step", "ours_tokens_s", "peer", "peer_tokens_s", "ratio", "cpu_ratio", "ours_MiB", "peer_MiB", "memory_ratio", "ours_mfu",
           "peer_mfu", "gemm_ours_gflops", "gemm_torch_gflops"]


def bench(args):
    try:
        import sentencepiece
    except ImportError:
        raise BenchError("this Python has no sentencepiece: pip install sentencepiece") from None
    check_peer(args)
    args.program = pathlib.Path(args.build).resolve() / "unimoe"
    print(*COLUMNS, sep="\t", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-train-", dir=args.work) as work:
        work = pathlib.Path(work)
        for kind in args.kind:
            folder = work / kind
            config = make_model(args, kind, folder)
            tokenizer = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
            make_samples(args, tokenizer, work / f"{kind}-data.json", work / f"{kind}-ids.json")
            limit = gemm_limit(args, config)
            for what in args.what:
                case = {"name": f"{kind} {what}", "kind": kind, "what": what, "folder": folder, "data": work / f"{kind}-data.json",
                        "ids": work / f"{kind}-ids.json", "config": config, "limit": limit, "work": work}
                print(*compare(args, case), sep="\t", flush=True)


def check_peer(args):
    wanted = "torch, safetensors.torch" + (", peft" if "frozen" in args.what else "")
    try:
        done = subprocess.run([args.torch, "-c", f"import {wanted}"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BenchError(f"{args.torch}: there is no such Python; --torch names one that has torch") from None
    if done.returncode != 0:
        why = done.stderr.strip().splitlines()
        raise BenchError(f"{args.torch}: {why[-1] if why else 'it fails'}; --torch names a Python that has {wanted}")


def choice_list(choices):
    def parse(text):
        values = text.split(",")
        for value in values:
            if value not in choices:
                raise argparse.ArgumentTypeError(f"{value}: choose from {', '.join(choices)}")
        return values

    return parse


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build/release", help="folder of a release build")
    p.add_argument("--torch", default=sys.executable, metavar="PYTHON", help="Python that has torch (default: this one)")
    p.add_argument("--kind", type=choice_list(["dense", "moe"]), default=["dense", "moe"], metavar="NAME,...", help="default dense,moe")
    p.add_argument("--what", type=choice_list(["full", "frozen"]), default=["full", "frozen"], metavar="NAME,...", help="default full,frozen")
    p.add_argument("--dim", type=int, default=512, help="hidden size, a multiple of 64 (default %(default)s)")
    p.add_argument("--ffn", type=int, default=1408, help="default %(default)s")
    p.add_argument("--layers", type=int, default=8, help="default %(default)s")
    p.add_argument("--vocab", type=int, default=4096, help="default %(default)s")
    p.add_argument("--length", type=int, default=256, help="tokens of a sample (default %(default)s)")
    p.add_argument("--batch", type=int, default=4, help="samples of a step (default %(default)s)")
    p.add_argument("--micro-batch", type=int, default=2, help="samples at a time, on both sides (default %(default)s)")
    p.add_argument("--steps", type=int, default=5, help="of each run; the first does not count (default %(default)s)")
    p.add_argument("--rounds", type=int, default=3, help="default %(default)s")
    p.add_argument("--lr", type=float, default=1e-5, help="default %(default)s")
    p.add_argument("--experts", type=int, default=1, help="expert ranks beside the router (default %(default)s)")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the job and of PyTorch alike")
    p.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    p.add_argument("--work", help="folder for models and runs (default: a temporary one)")
    args = p.parse_args()
    if args.steps < WARM + 2 or args.rounds < 1:
        p.error(f"--steps is at least {WARM + 2}, --rounds at least 1")
    try:
        bench(args)
    except BenchError as e:
        say(f"bench_train: {e}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Tokens per second of whole answers: prefill and decode by expert ranks, batch, codec and wire type, with the share of time in
compute, exchange and waiting; beside it, run by run in alternation, llama-bench of a llama.cpp relative when its path is given.

Each measurement starts a fresh job, which answers three waves of --batch requests with prompts of exactly --prompt-tokens tokens.
With batch 1 the first answer warms up and is left out, as llama-bench does; larger batches are taken from the job's summary.
Peer runs follow batch 1 cases only, since llama-bench decodes one sequence. TSV goes to standard output, progress to standard error.

example: bench/bench_generate.py --build build/release --experts 1,2,4 --peer ~/ik/bin/llama-bench --peer-model moe-376m.gguf
"""
import argparse
import itertools
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

WAVES = 3
SHARES = ("compute_share", "exchange_share", "wait_share")
BYTES = ("raw_bytes", "wire_bytes")
ROOT = pathlib.Path(__file__).resolve().parent.parent


class BenchError(Exception):
    pass


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(words, timeout):
    words = [str(w) for w in words]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError:
        raise BenchError(f"{words[0]} not found") from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"no end after {timeout} s: {' '.join(words)}") from None
    if done.returncode != 0:
        raise BenchError(f"exit code {done.returncode}: {' '.join(words)}\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


# --- our side ---------------------------------------------------------------------------------------------------------------


class Unimoe:
    """The unimoe command of one build with one model."""

    def __init__(self, args):
        self.program = pathlib.Path(args.build).resolve() / "unimoe"
        self.timeout, self.threads = args.timeout, args.threads
        if not self.program.exists():
            raise BenchError(f"{self.program} not found: cmake --workflow --preset release builds build/release/unimoe")
        self.model = pathlib.Path(args.model) if args.model else self.make_model(args)

    def make_model(self, args):
        folder = self.program.parent / "bench-models" / f"{args.preset}-{args.dtype}-{args.seed}"
        if not (folder / "config.json").exists():
            say(f"making {folder}")
            folder.parent.mkdir(parents=True, exist_ok=True)
            run([self.program, "init", "--preset", args.preset, "--dtype", args.dtype, "--seed", args.seed, "--out", folder],
                self.timeout)
        return folder

    def generate(self, prompts, new_tokens, flags):
        """(results in order of the prompts, summary)."""
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as requests:
            for i, prompt in enumerate(prompts):
                requests.write(json.dumps({"id": str(i), "prompt": prompt}) + "\n")
            requests.flush()
            out = run([self.program, "generate", "--model", self.model, "--requests", requests.name, "--json", "--ignore-eos",
                       "--temperature", "0", "--max-new-tokens", new_tokens, "--threads", self.threads, *flags], self.timeout)
        return read_answers(out, len(prompts))


def read_answers(out, wanted):
    results, summary = {}, None
    for line in out.splitlines():
        if not line.startswith("{"):
            continue  # the mpirun line
        record = json.loads(line)
        if record.get("kind") == "result":
            results[int(record["id"])] = record
        elif record.get("kind") == "error":
            raise BenchError(f"request {record.get('id')}: {record.get('error')}")
        elif record.get("kind") == "summary":
            summary = record
    if len(results) != wanted or summary is None:
        raise BenchError(f"{len(results)} results of {wanted}, {'a' if summary else 'no'} summary")
    return [results[i] for i in range(wanted)], summary


def words(seed):
    """An endless text that depends only on the seed. It has many different words, so that tokens spread over the experts."""
    rng = random.Random(seed)
    while True:
        yield "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))


def make_prompts(unimoe, count, tokens):
    """Prompts of exactly the given number of tokens. Short answers tell how many tokens a text has, template included: first the number of
    words approaches the length from below, then one-token words fill the rest."""
    texts = [list(itertools.islice(words(seed), tokens)) for seed in range(count)]
    taken = [max(1, tokens // 4)] * count
    fill = [0] * count
    for _ in range(12):
        prompts = [" ".join(t[:n] + ["a"] * f) for t, n, f in zip(texts, taken, fill)]
        results, _ = unimoe.generate(prompts, 1, ["--experts", 1])
        over = [r["prompt_tokens"] - tokens for r in results]
        if not any(over):
            return prompts
        for i, excess in enumerate(over):
            if excess > 0 and taken[i] <= 1:
                raise BenchError(f"{tokens} prompt tokens are fewer than the template takes")
            if excess > 0:
                per_word = max(1.0, results[i]["prompt_tokens"] / (taken[i] + fill[i]))
                taken[i], fill[i] = max(1, taken[i] - 1 - int(excess / per_word)), 0
            elif excess < -16:
                per_word = max(1.0, results[i]["prompt_tokens"] / (taken[i] + fill[i]))
                taken[i] = min(tokens, taken[i] + max(1, int(-excess / per_word / 1.1)))
            elif excess < 0:
                fill[i] += -excess
    raise BenchError(f"found no text of exactly {tokens} tokens with this tokeniser")


def measure(unimoe, case, prompts, new_tokens):
    """One job: {metric: value}. A prompt's first new token belongs to its prefill."""
    flags = ["--experts", case["experts"], "--max-batch", case["batch"], "--codec", case["codec"], "--wire", case["wire"],
             "--prefix-cache", "0"]  # the waves repeat their prompts: every row is to be computed
    results, summary = unimoe.generate(prompts * WAVES, new_tokens, flags)
    sample = {name: summary[name] for name in SHARES + BYTES}
    if case["batch"] > 1 or new_tokens < 2:
        sample["prefill"] = summary["prefill_tokens_per_second"]
        sample["decode"] = summary["decode_tokens_per_second"]
        return sample
    warm = results[1:]
    sample["prefill"] = statistics.median(r["prompt_tokens"] / r["prefill_seconds"] for r in warm)
    sample["decode"] = statistics.median((r["new_tokens"] - 1) / r["decode_seconds"] for r in warm)
    return sample


# --- the peer ---------------------------------------------------------------------------------------------------------------


def measure_peer(args):
    out = run([args.peer, "-m", args.peer_model, "-t", args.threads, "-p", args.prompt_tokens, "-n", args.new_tokens, "-r",
               WAVES - 1, "-o", "json"], args.timeout)
    sample = {}
    for record in json.loads(out[out.index("["):]):
        sample["peer_prefill" if record["n_prompt"] else "peer_decode"] = float(record["avg_ts"])
    return sample


# --- table ------------------------------------------------------------------------------------------------------------------


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, round(p / 100 * (len(values) - 1)))]


def digest(samples):
    """Per metric: median, p10, p90 and all values; ratios are of medians."""
    table = {}
    for name in samples[0]:
        values = [s[name] for s in samples]
        table[name] = {"median": statistics.median(values), "p10": percentile(values, 10), "p90": percentile(values, 90),
                       "values": values}
    for name in ("prefill", "decode"):
        if "peer_" + name in table and table["peer_" + name]["median"] > 0:
            table["ratio_" + name] = {"median": table[name]["median"] / table["peer_" + name]["median"]}
    return table


COLUMNS = [("prefill", "%.1f"), ("decode", "%.2f"), ("compute_share", "%.3f"), ("exchange_share", "%.3f"), ("wait_share", "%.3f"),
           ("raw_bytes", "%d"), ("wire_bytes", "%d"), ("peer_prefill", "%.1f"), ("peer_decode", "%.2f"), ("ratio_prefill", "%.3f"),
           ("ratio_decode", "%.3f")]


def tsv(rows):
    names = [name for name, _ in COLUMNS]
    yield "\t".join(["case", *names, "prefill_p10", "prefill_p90", "decode_p10", "decode_p90", "commit"])
    for row in rows:
        cells = [row["case"]]
        cells += [fmt % row["metrics"][name]["median"] if name in row["metrics"] else "-" for name, fmt in COLUMNS]
        cells += ["%.2f" % row["metrics"][name][p] for name in ("prefill", "decode") for p in ("p10", "p90")]
        yield "\t".join([*cells, row["commit"]])


def commit():
    try:
        git = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "-"
    return git.stdout.strip() or "-"


def cpu_name():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "-"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "-")


def cases_of(args):
    for experts, batch, codec, wire in itertools.product(args.experts, args.batch, args.codec, args.wire):
        yield {"experts": experts, "batch": batch, "codec": codec, "wire": wire,
               "case": f"experts={experts} batch={batch} codec={codec} wire={wire}"}


def bench(args):
    unimoe = Unimoe(args)
    cases = list(cases_of(args))
    say(f"finding prompts of {args.prompt_tokens} tokens")
    prompts = make_prompts(unimoe, max(args.batch), args.prompt_tokens)
    samples = {case["case"]: [] for case in cases}
    for turn in range(args.repeat):
        for case in cases:
            sample = measure(unimoe, case, prompts[:case["batch"]], args.new_tokens)
            if args.peer and case["batch"] == 1:
                sample.update(measure_peer(args))
            samples[case["case"]].append(sample)
            say(f"{turn + 1}/{args.repeat} {case['case']}: prefill {sample['prefill']:.1f} decode {sample['decode']:.2f}"
                + (f", peer {sample['peer_prefill']:.1f} {sample['peer_decode']:.2f}" if "peer_prefill" in sample else ""))
    rows = [{**case, "commit": commit(), "metrics": digest(samples[case["case"]])} for case in cases]
    for line in tsv(rows):
        print(line)
    if args.json:
        about = {"bench": "generate", "cpu": cpu_name(), "threads": args.threads, "model": str(unimoe.model.name),
                 "prompt_tokens": args.prompt_tokens, "new_tokens": args.new_tokens, "load_average": os.getloadavg()[0]}
        pathlib.Path(args.json).write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def words_list(kind, choices=None):
    def parse(text):
        values = [kind(word) for word in text.split(",")]
        for value in values:
            if choices and value not in choices or kind is int and value < 1:
                raise argparse.ArgumentTypeError(f"{value}: choose from {', '.join(choices)}" if choices else f"{value} is below 1")
        return values

    return parse


def parse_args(argv):
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--build", required=True, help="build folder with the unimoe command, best of preset release")
    model = ap.add_mutually_exclusive_group()
    model.add_argument("--model", help="model folder; default: one of random weights is made from --preset")
    model.add_argument("--preset", default="moe-376m", help="sizes of the random model (default %(default)s)")
    ap.add_argument("--dtype", default="f32", choices=["f32", "bf16"], help="weights of the random model (default %(default)s)")
    ap.add_argument("--seed", type=int, default=1, help="of the random weights (default %(default)s)")
    ap.add_argument("--experts", type=words_list(int), default=[1, 2, 4], metavar="N,...", help="expert ranks (default 1,2,4)")
    ap.add_argument("--batch", type=words_list(int), default=[1, 4], metavar="N,...", help="requests at once (default 1,4)")
    ap.add_argument("--codec", type=words_list(str, ["none", "zstd"]), default=["none"], metavar="NAME,...", help="default none")
    ap.add_argument("--wire", type=words_list(str, ["f32", "bf16"]), default=["f32"], metavar="TYPE,...", help="default f32")
    ap.add_argument("--prompt-tokens", type=int, default=256, help="default %(default)s")
    ap.add_argument("--new-tokens", type=int, default=64, help="default %(default)s")
    ap.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the host, ours and the peer's alike")
    ap.add_argument("--repeat", type=int, default=3, help="jobs of each case; medians are printed (default %(default)s)")
    ap.add_argument("--peer", help="path of llama-bench")
    ap.add_argument("--peer-model", help="GGUF of the same shapes and weight type")
    ap.add_argument("--timeout", type=int, default=900, help="seconds for one job (default %(default)s)")
    ap.add_argument("--json", metavar="FILE", help="write all values there too, for bench/compare.py")
    args = ap.parse_args(argv)
    if bool(args.peer) != bool(args.peer_model):
        ap.error("--peer and --peer-model go together")
    if min(args.prompt_tokens, args.new_tokens, args.repeat, args.threads) < 1:
        ap.error("--prompt-tokens, --new-tokens, --repeat and --threads are at least 1")
    return args


if __name__ == "__main__":
    try:
        bench(parse_args(sys.argv[1:]))
    except BenchError as e:
        sys.exit(f"bench_generate: {e}")
    except KeyboardInterrupt:
        sys.exit(130)

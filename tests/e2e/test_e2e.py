#!/usr/bin/env python3
"""Whole jobs under mpirun, started as a user starts them.

usage: test_e2e.py BUILD SOURCE PART      PART: golden bits hand media routing faults models memory hosts idle
"""
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

BUILD, SOURCE, PART = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3]
GOLDEN = SOURCE / "tests" / "golden"
UNIMOE = str(BUILD / "unimoe")
ROLES = ("unimoe-router", "unimoe-expert", "unimoe-encoder")


def check(ok, words):
    if not ok:
        raise SystemExit(f"FAILED: {words}")


def run(words, **more):
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=500, **more)


def same(a, b):
    r = run([BUILD / "tests" / "golden_compare", "--same", a, b])
    check(r.returncode == 0, f"{a} and {b}: {r.stdout}")


def trace(model, case, out, *flags):
    r = run([UNIMOE, "trace", GOLDEN / "cases" / model / case / "request.json", "--out", out, *flags])
    check(r.returncode == 0, f"trace {model}/{case} {flags}: {r.stderr}{r.stdout}")


def golden(tmp):
    """The golden cases at 3, 4, 6 and 9 ranks."""
    shapes = {3: (1, 1, 1), 4: (1, 2, 1), 6: (1, 4, 1), 9: (2, 5, 2)}
    cases = [("s4", "text"), ("s4", "image"), ("s4", "turns"), ("s4i", "text"), ("s4i", "image"),
             ("s8", "text"), ("s8", "image"), ("s8", "turns"), ("s8fm", "text"), ("s8fm", "image"), ("s8fm", "turns")]
    cases += [("s4", "mixed"), ("a4", "mixed"), ("s8", "mixed"), ("s8fm", "mixed"), ("a4", "audio"), ("s4", "files")]
    for n, (routers, experts, encoders) in shapes.items():
        for model, case in cases:
            if n != 6 and case not in ("text", "image"):
                continue
            out = tmp / "t.safetensors"
            trace(model, case, out, "--routers", routers, "--experts", experts, "--encoders", encoders)
            r = run([BUILD / "tests" / "golden_compare", out, GOLDEN / "cases" / model / case / "expected.safetensors"])
            check(r.returncode == 0, f"{model}/{case} at {n} ranks: {r.stdout}")


def bits(tmp):
    """The same bytes for any number of expert ranks, codec, chunk, and run."""
    for model, counts in (("s4", (2, 3, 4)), ("s8", (2, 3, 5, 8))):
        for wire in ("f32", "bf16"):
            trace(model, "image", tmp / "a.safetensors", "--experts", 1, "--wire", wire)
            for n in counts:
                trace(model, "image", tmp / "b.safetensors", "--experts", n, "--wire", wire, "--codec", "zstd", "--prefill-chunk", 9 * n)
                same(tmp / "a.safetensors", tmp / "b.safetensors")


def media_request(path):
    """Writes a request with media of every kind."""
    folder = SOURCE / "tests" / "media"
    request = {"prompt": "Look <image> at <video>, hear <speech> and <speech> and <sound>.", "image": str(GOLDEN / "media" / "photo.jpg"),
               "video": str(folder / "av.mp4"), "speech": [str(GOLDEN / "media" / "speech.wav"), str(folder / "tones.m4a")],
               "sound": str(GOLDEN / "media" / "siren.wav"), "max_new_tokens": 5, "temperature": 0, "ignore_eos": True}
    path.write_text(json.dumps(request))
    return request


def media(tmp):
    """An image, a video, two speech files and a sound through encoder ranks of their own: the same bytes as through one rank; also
    typed by hand, and with the same files again."""
    r = run([UNIMOE, "init", "--preset", "small", "--seed", "5", "--out", tmp / "m"])
    check(r.returncode == 0, r.stderr)
    request = media_request(tmp / "request.json")
    for encoders, name in (("1", "a"), ("image=1,speech=2,sound=1", "b")):
        r = run([UNIMOE, "trace", tmp / "request.json", "--model", tmp / "m", "--out", tmp / f"{name}.safetensors", "--encoders", encoders])
        check(r.returncode == 0, f"--encoders {encoders}: {r.stderr}{r.stdout}")
    same(tmp / "a.safetensors", tmp / "b.safetensors")
    turned(tmp)
    (tmp / "r.jsonl").write_text("".join(json.dumps({**request, "id": str(i)}) + "\n" for i in range(3)))
    common = ["--model", tmp / "m"]
    r = run(mpirun((1, ROLES[0], *common, "--requests", tmp / "r.jsonl"), (2, ROLES[1], *common), (1, ROLES[2], *common, "--modalities", "image"),
                   (1, ROLES[2], *common, "--modalities", "speech,sound")))
    check(r.returncode == 0, r.stderr)
    lines = [json.loads(line) for line in r.stdout.splitlines()]
    check(len({str(line["ids"]) for line in lines[:3]}) == 1 and len(lines) == 4, f"answers differ: {r.stdout}")
    check(lines[-1]["media_encoded"] == 5 and lines[-1]["media_cached"] == 10, f"encoded again: {lines[-1]}")


def turned(tmp):
    """--image-orientation exif: a turned image gives the bytes of the upright one, in a list of frames too; by default it does not."""
    folder = SOURCE / "tests" / "images" / "formats"
    for name, image, flags in (("c", "upright.png", []), ("d", "turned.webp", ["--image-orientation", "exif"]), ("e", "turned.webp", [])):
        path = str(folder / image)
        (tmp / "turned.json").write_text(json.dumps({"prompt": "<image> and <video>", "image": path, "video": [path, path], "max_new_tokens": 2}))
        r = run([UNIMOE, "trace", tmp / "turned.json", "--model", tmp / "m", "--out", tmp / f"{name}.safetensors", *flags])
        check(r.returncode == 0, f"{image} {flags}: {r.stderr}{r.stdout}")
    same(tmp / "c.safetensors", tmp / "d.safetensors")
    r = run([BUILD / "tests" / "golden_compare", "--same", tmp / "c.safetensors", tmp / "e.safetensors"])
    check(r.returncode != 0, "turned.webp is turned by default")


def mpirun(*apps):
    words = ["mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "pmdl", "^ompi"]
    if os.geteuid() == 0:
        words.append("--allow-run-as-root")
    for i, (n, role, *flags) in enumerate(apps):
        words += ([":"] if i else []) + ["-np", str(n), str(BUILD / role), *[str(f) for f in flags]]
    return words


def hand(tmp):
    """The same job typed by hand, in any order of the programs, and requests from standard input."""
    model = GOLDEN / "models" / "s4"
    line = json.dumps({"prompt": "<image>\nHi", "image": str(GOLDEN / "media" / "small.png"), "max_new_tokens": 4, "temperature": 0})
    (tmp / "r.jsonl").write_text(line + "\n")
    common = ["--model", model]
    first = run(mpirun((1, ROLES[0], *common, "--requests", "-"), (3, ROLES[1], *common), (1, ROLES[2], *common)), input=line + "\n")
    check(first.returncode == 0, first.stderr)
    other = run(mpirun((2, ROLES[1], *common), (1, ROLES[2], *common), (2, ROLES[0], *common, "--requests", tmp / "r.jsonl")))
    check(other.returncode == 0, other.stderr)
    answers = [json.loads(r.stdout.splitlines()[0]) for r in (first, other)]
    check(answers[0]["kind"] == "result" and answers[0]["ids"] == answers[1]["ids"], f"answers differ: {answers}")
    summary = json.loads(other.stdout.splitlines()[-1])
    check([r["role"] for r in summary["ranks"]] == ["expert", "expert", "encoder", "router", "router"], f"ranks: {summary['ranks']}")
    none = run(mpirun((1, ROLES[1], *common)))
    check(none.returncode != 0 and "router" in none.stderr, f"a job without a router: {none.stderr}")
    other_model = run(mpirun((1, ROLES[0], *common, "--requests", tmp / "r.jsonl"), (1, ROLES[1], "--model", GOLDEN / "models" / "s8")))
    check(other_model.returncode != 0 and "another model" in other_model.stderr, f"two models in one job: {other_model.stderr}")


def routing(tmp):
    """The counters of a job: the same bytes by hand and by generate, for any number of ranks; the image; a router that does not count."""
    model, lines = GOLDEN / "models" / "s4", []
    for i in range(4):
        image = {"image": str(GOLDEN / "media" / "tall.png")} if i % 2 else {}
        lines.append(json.dumps({"prompt": "<image>\nHi" if image else "Hi", "max_new_tokens": 3 + i, "temperature": 0, "ignore_eos": True, **image}))
    requests = tmp / "r.jsonl"
    requests.write_text("\n".join(lines) + "\n")
    words = [UNIMOE, "generate", "--model", model, "--requests", requests]
    r = run([*words, "--routing", "a.svg", "--experts", 1], cwd=tmp)
    check(r.returncode == 0, r.stderr)
    counters = (tmp / "a.csv").read_bytes()
    check(b"\nprefill,0,image," in counters and b"\ndecode,0,text," in counters, counters.decode())
    check((tmp / "a.svg").read_bytes().startswith(b"<?xml"), "generate --routing a.svg drew no image")
    r = run([*words, "--routing", "b.csv", "--routers", 3, "--experts", 3, "--prefill-chunk", 5, "--codec", "zstd"], cwd=tmp)
    check(r.returncode == 0, r.stderr)
    check((tmp / "b.csv").read_bytes() == counters and not (tmp / "b.svg").exists(), "counters of 3 routers differ")
    common = ["--model", model]
    router = (ROLES[0], *common, "--requests", requests)
    others = ((2, ROLES[1], *common), (1, ROLES[2], *common))
    r = run(mpirun((1, *router, "--routing", tmp / "c.csv"), *others))
    check(r.returncode == 0, r.stderr)
    check((tmp / "c.csv").read_bytes() == counters, "counters of the job typed by hand differ")
    r = run(mpirun((1, *router, "--routing", tmp / "d.csv"), (1, *router), *others))
    check(r.returncode == 2 and "give it to every router" in r.stderr, f"a router that does not count: {r.returncode} {r.stderr}")
    check(not (tmp / "d.csv").exists(), "counters of half the routers were written")
    r = run([*words, "--routing", "no/such/x.csv"], cwd=tmp)
    check(r.returncode == 2 and "--routing: folder" in r.stderr, r.stderr)


def descendants(pid):
    """The processes below pid, or all: number and name of the program."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                found[int(entry.name)] = (int(stat.rsplit(")", 1)[1].split()[1]), (entry / "cmdline").read_bytes().split(b"\0")[0].decode())
            except OSError:
                pass
    if pid is None:
        return {p: pathlib.Path(name).name for p, (_, name) in found.items()}
    tree, grown = {pid}, True
    while grown:
        more = {p for p, (parent, _) in found.items() if parent in tree} - tree
        tree |= more
        grown = bool(more)
    return {p: pathlib.Path(found[p][1]).name for p in tree if p in found}


def wait_for(condition, seconds, words):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise SystemExit(f"FAILED: {words}")


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def ranks_at_work(log, count, parent=None):
    """Process numbers and names of the ranks once all of them have loaded what they compute with, as their log says."""
    loaded = wait_for(lambda: sum(log.read_text().count(w) for w in (" backbone of ", " owns ", " encoders: ")) >= count, 200, f"{count} ranks did not load")
    time.sleep(0.5)  # in the middle of the work, which takes far longer
    return loaded and {p: n for p, n in descendants(parent).items() if n in ROLES}


def faults(tmp):
    """A rank of each role is killed, and stopped, in the middle of its work: the message names it, exactly once."""
    request = json.dumps({"prompt": "go on", "max_new_tokens": 60000, "ignore_eos": True, "temperature": 0})
    (tmp / "r.jsonl").write_text((request + "\n") * 200)  # each ends where the model has no more positions
    for number, name in ((signal.SIGKILL, "killed"), (signal.SIGSTOP, "stopped")):
        for role in ROLES:
            words = [UNIMOE, "generate", "--model", GOLDEN / "models" / "s4", "--requests", tmp / "r.jsonl", "--experts", "3", "--encoders", "1", "--log-level", "info"]
            log = tmp / "log"
            with open(log, "w") as to:
                job = subprocess.Popen([str(w) for w in words], stdout=subprocess.DEVNULL, stderr=to)
            ranks = ranks_at_work(log, 5, job.pid)
            check(len(ranks) == 5, f"ranks: {ranks}")
            victim = [p for p, n in ranks.items() if n == role][-1]
            begun = time.monotonic()
            os.kill(victim, number)
            job.wait(timeout=200)
            label, last = role.removeprefix("unimoe-") + "/", log.read_text().strip().splitlines()[-1]
            print(f"{label} {name}: exit {job.returncode} after {time.monotonic() - begun:.2f} s: {last}")
            errors = [line for line in log.read_text().splitlines() if re.match(r"\S+ E ", line)]
            check(len(errors) <= 1, f"{label} {name}: more than one rank reports it: {errors}")
            check(all(label in line.split(" ", 3)[3] for line in errors), f"{label} {name}: another rank is blamed: {errors}")
            check(job.returncode not in (0, None), f"{label} {name}: exit {job.returncode}")
            check(last.startswith("unimoe: ") and label in last and "rank" in last, f"{label} {name}: the message names no role and rank: {log.read_text()}")
            left = [p for p in ranks if alive(p)]
            check(not left, f"{label} {name}: processes left: {left}")


def edit_header(path, change):
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    header = change(json.loads(data[8 : 8 + n]))
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + n :])


def models(tmp):
    """Unusable models: the job ends with exit code 3 and names the tensor and its fault."""
    name = "model.layers.1.mlp.experts.3.up_proj.weight"

    def misshape(h):
        h[name]["shape"] = h[name]["shape"][::-1]
        return h

    def rename(h):
        return {(k + "x" if k == name else k): v for k, v in h.items()}

    for change, words in ((misshape, [name, "shape [64,96]", "[96,64]"]), (rename, [name, "missing"])):
        copy = tmp / "model"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(GOLDEN / "models" / "s4", copy)
        edit_header(copy / "model.safetensors", change)
        r = run([UNIMOE, "generate", "--model", copy, "--prompt", "x", "--experts", "2"])
        check(r.returncode == 3, f"exit {r.returncode}: {r.stderr}")
        for w in words:
            check(w in r.stderr, f"no {w!r} in {r.stderr}")
        i = run([UNIMOE, "inspect", copy])
        check(i.returncode == 3 and name in i.stdout + i.stderr, f"inspect: {i.stdout}{i.stderr}")


def memory(tmp):
    """An expert rank holds what it owns and buffers, not the model."""
    config = json.loads((GOLDEN / "models" / "s4" / "config.json").read_text())
    config.update(hidden_size=512, intermediate_size=2048, num_hidden_layers=4, num_experts=8, vocab_size=1000, num_attention_heads=8, num_key_value_heads=8)
    for key in ("mm_vision_tower", "mm_audio_tower"):
        config.pop(key)
    (tmp / "c.json").write_text(json.dumps(config))
    r = run([UNIMOE, "init", "--config", tmp / "c.json", "--seed", "1", "--out", tmp / "m"])
    check(r.returncode == 0, r.stderr)
    r = run([UNIMOE, "generate", "--model", tmp / "m", "--prompt", "hello", "--experts", "4", "--max-new-tokens", "4", "--json"])
    check(r.returncode == 0, r.stderr)
    owned = 3 * 512 * 2048 * 4 * 4 * 2  # matrices, bytes, layers, experts of a rank
    for rank in json.loads(r.stdout.splitlines()[-1])["ranks"]:
        if rank["role"] == "expert":
            print(f"expert/{rank['index']}: {rank['resident_bytes'] / 2**20:.0f} MiB resident, {owned / 2**20:.0f} MiB owned")
            check(rank["resident_bytes"] < owned + 48 * 2**20, f"expert/{rank['index']} holds {rank['resident_bytes']} bytes, owns {owned}")


def idle(tmp):
    """Eight ranks wait for requests longer than the deadline and use almost no processor time; then a request arrives and is answered."""
    common = ["--model", GOLDEN / "models" / "s4", "--log-level", "info"]
    words = mpirun((2, ROLES[0], *common, "--requests", "-"), (4, ROLES[1], *common), (2, ROLES[2], *common))
    log = tmp / "log"
    with open(log, "w") as to:
        job = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=to, text=True)

    def used(pid):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    ranks = [p for p, n in ranks_at_work(log, 8, job.pid).items() if n in ROLES]
    check(len(ranks) == 8, f"ranks: {ranks}")

    before, begun = [used(p) for p in ranks], time.monotonic()
    time.sleep(6.0)
    shares = [100 * (used(p) - b) / (time.monotonic() - begun) for p, b in zip(ranks, before)]
    print("idle ranks, % of a core:", " ".join(f"{s:.2f}" for s in shares))
    out, _ = job.communicate(json.dumps({"prompt": "hi", "max_new_tokens": 2, "temperature": 0, "ignore_eos": True}) + "\n", timeout=200)
    check(job.returncode == 0, f"exit {job.returncode}: {log.read_text()}")
    check(json.loads(out.splitlines()[0])["new_tokens"] == 2, out)
    check(max(shares) < 2.0, f"an idle rank takes {max(shares):.1f} % of a core")


def join_hosts(ip, names, net):
    """The cable between two network namespaces, the first of which is there; their addresses are NET.1 and NET.2."""
    ip("netns", "add", names[1])
    ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
    for i, n in enumerate(names):
        ip("link", "set", n, "netns", n)
        ip("-n", n, "addr", "add", f"{net}.{i + 1}/24", "dev", n)
        ip("-n", n, "link", "set", n, "up")
        ip("-n", n, "link", "set", "lo", "up")


def hosts(tmp):
    """Two hosts, each a network namespace, joined by a cable: the same bytes as on one, with encoders on the other host; a rank killed
    over there ends the job, which names it and its host."""
    tag, net = f"um{os.getpid() % 10000}", "10.77.0"
    names = [f"{tag}a", f"{tag}b"]

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, text=True).returncode == 0

    if os.geteuid() != 0 or shutil.which("ip") is None or not ip("netns", "add", names[0]):
        print("skipped: needs root and network namespaces")
        raise SystemExit(77)
    try:
        join_hosts(ip, names, net)
        agent = tmp / "agent"
        agent.write_text(f"""#!/bin/sh
case $1 in *.1) ns={names[0]};; *) ns={names[1]};; esac
shift
exec ip netns exec $ns unshare -u sh -c "hostname $ns; $*"
""")
        agent.chmod(0o755)
        (tmp / "hostfile").write_text(f"{net}.1 slots=3\n{net}.2 slots=3\n")
        daemons = "oob_tcp_if_include" if " 4." in run(["mpirun", "--version"]).stdout.splitlines()[0] else "prte_if_include"
        settings = (("plm_rsh_agent", agent), ("btl_tcp_if_include", f"{net}.0/24"), (daemons, f"{net}.0/24"))
        words = " ".join(f"--mca {k} {v}" for k, v in settings)
        over = ["--hostfile", tmp / "hostfile", f"--mpirun-args={words}", "--codec", "zstd", "--log-level", "info"]

        def namespace(path):
            try:
                return os.stat(path).st_ino
            except OSError:
                return None

        def there(*job):
            return [str(w) for w in ("ip", "netns", "exec", names[0], "unshare", "-u", "sh", "-c", f"hostname {names[0]}; exec \"$@\"", "sh", *job)]

        def same_as_here(request, model, encoders, *shape):
            trace_to = [UNIMOE, "trace", request, "--model", model, *shape, "--out"]
            here = run([*trace_to, tmp / "a.safetensors"])
            check(here.returncode == 0, here.stderr)
            r = run(there(*trace_to, tmp / "b.safetensors", *over))
            check(r.returncode == 0, f"trace over two hosts: {r.stderr}")
            for i in encoders:
                check(re.search(rf"encoder/{i} \(rank \d, host {names[1]}\)", r.stderr), f"encoder/{i} is not on the second host: {r.stderr}")
            same(tmp / "a.safetensors", tmp / "b.safetensors")

        same_as_here(GOLDEN / "cases" / "s4" / "image" / "request.json", GOLDEN / "models" / "s4", [0], "--experts", 4)
        r = run([UNIMOE, "init", "--preset", "small", "--seed", "5", "--out", tmp / "m"])
        check(r.returncode == 0, r.stderr)
        media_request(tmp / "request.json")
        same_as_here(tmp / "request.json", tmp / "m", [0, 1, 2], "--experts", 2, "--encoders", "image=1,speech=1,sound=1")
        for role in ROLES[1:]:
            log = tmp / "log"
            with open(log, "w") as to:
                job = subprocess.Popen(there(UNIMOE, "generate", "--model", GOLDEN / "models" / "s4", "--prompt", "go on", "--max-new-tokens", 60000,
                                             "--ignore-eos", "--experts", 4, "--encoders", 1, *over), stdout=subprocess.DEVNULL, stderr=to)
            ranks = {p: (n, namespace(f"/proc/{p}/ns/net")) for p, n in ranks_at_work(log, 6).items()}
            near, far = (namespace(f"/run/netns/{n}") for n in names)
            ranks = {p: found for p, found in ranks.items() if found[1] in (near, far)}  # others run jobs too
            check(len(ranks) == 6, f"ranks: {ranks}")
            victim = [p for p, found in ranks.items() if found == (role, far)][-1]
            os.kill(victim, signal.SIGKILL)
            job.wait(timeout=200)
            last = log.read_text().strip().splitlines()[-1]
            print(f"killed on the second host: exit {job.returncode}: {last}")
            label = role.removeprefix("unimoe-") + "/"
            check(job.returncode == 1 and re.search(rf"{label}\d \(rank \d, host ({names[1]}|{net}.2)", last), f"{label}: exit {job.returncode}: {log.read_text()}")
            # The other host ends its ranks by itself once the connection is gone.
            wait_for(lambda: not [p for p in ranks if alive(p)], 100, f"{label} killed on the second host: ranks are left")
    finally:
        for n in names:
            ip("netns", "del", n)


with tempfile.TemporaryDirectory() as folder:
    {"golden": golden, "bits": bits, "hand": hand, "routing": routing, "faults": faults, "models": models, "memory": memory, "hosts": hosts, "idle": idle, "media": media}[PART](pathlib.Path(folder))
print("1 passed, 0 failed")

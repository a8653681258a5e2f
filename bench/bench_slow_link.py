#!/usr/bin/env python3
"""Tokens per second over a slow network: one router on one host, four expert ranks on another, with one micro-batch in flight and with two.

The hosts are network namespaces. The cable between them is a pair of TAP devices whose frames this program carries from one to the other,
each --delay-us after it was sent, so that every message of the job, whatever its size, is late by that much. All lines run the same
requests in alternation and must give the same answers. Needs root, ip and /dev/net/tun. TSV goes to standard output.

example: sudo bench/bench_slow_link.py --build build/release --delay-us 1000 --rounds 3
"""
import argparse
import collections
import fcntl
import json
import multiprocessing
import os
import pathlib
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import time

NET = "10.77.9"
MTU = 60000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
WORKLOADS = {  # requests, words of a prompt, tokens of an answer, what counts
    "prefill": (16, 512, 1, "prompt_tokens"),
    "decode": (64, 4, 16, "new_tokens"),
}
ECHO = """
import socket
s = socket.create_server(("", 7777))
print("ready", flush=True)
c, _ = s.accept()
c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while data := c.recv(64):
    c.sendall(data)
"""
ASK = """
import socket, statistics, sys, time
c = socket.create_connection((sys.argv[1], 7777))
c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
times = []
for _ in range(10):
    start = time.monotonic()
    c.sendall(b"x")
    c.recv(64)
    times.append(time.monotonic() - start)
print(1e3 * statistics.median(times))
"""
LINES = ((1, 8, 64), (2, 8, 64), (1, 16, 128))  # micro-batches in flight, max batch, prefill chunk


class BenchError(Exception):
    pass


def ip(*words):
    done = subprocess.run(["ip", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"ip {' '.join(map(str, words))}: {done.stderr.strip()}")


def tap(name):
    """A TAP device; it lives as long as the descriptor, also when it is moved to another namespace."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return fd


def carry(fds, delay):
    """Carries frames from each TAP device to the other, `delay` seconds after they came. Ends with its parent."""
    queues = (collections.deque(), collections.deque())
    parent = os.getppid()
    while os.getppid() == parent:
        now = time.monotonic()
        for queue, out in zip(queues, reversed(fds)):
            while queue and queue[0][0] <= now:
                try:
                    os.write(out, queue.popleft()[1])
                except BlockingIOError:
                    pass  # a full device drops frames, and TCP sends them again
        due = [q[0][0] for q in queues if q]
        wait = max(0.0, min(due) - time.monotonic()) if due else 0.5
        # select() waits for less than a millisecond, poll() does not
        ready = select.select(fds, (), (), wait)[0]
        now = time.monotonic()
        for fd in ready:
            while True:
                try:
                    queues[fds.index(fd)].append((now + delay, os.read(fd, MTU + 64)))
                except BlockingIOError:
                    break


class Hosts:
    """Two hosts and the cable between them."""

    def __init__(self, folder, delay_us):
        self.names = [f"slow{os.getpid() % 10000}{c}" for c in "ab"]
        self.fds, self.carrier = [], None
        try:
            for i, name in enumerate(self.names):
                ip("netns", "add", name)
                self.fds.append(tap(name))
                ip("link", "set", name, "mtu", MTU)
                ip("link", "set", name, "netns", name)
                ip("-n", name, "addr", "add", f"{NET}.{i + 1}/24", "dev", name)
                ip("-n", name, "link", "set", name, "up")
                ip("-n", name, "link", "set", "lo", "up")
            self.carrier = multiprocessing.Process(target=carry, args=(self.fds, delay_us / 1e6), daemon=True)
            self.carrier.start()
        except BaseException:
            self.close()
            raise
        agent = folder / "agent"
        agent.write_text(f"""#!/bin/sh
case $1 in *.1) ns={self.names[0]};; *) ns={self.names[1]};; esac
shift
exec ip netns exec $ns unshare -u sh -c "hostname $ns; $*"
""")
        agent.chmod(0o755)
        (folder / "hostfile").write_text(f"{NET}.1 slots=1\n{NET}.2 slots=8\n")
        version = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, check=True).stdout
        daemons = "oob_tcp_if_include" if " 4." in version.splitlines()[0] else "prte_if_include"
        settings = (("plm_rsh_agent", agent), ("btl_tcp_if_include", f"{NET}.0/24"), (daemons, f"{NET}.0/24"))
        self.words = ["--hostfile", folder / "hostfile", "--mpirun-args=--bind-to none " + " ".join(f"--mca {k} {v}" for k, v in settings)]

    def run(self, words):
        here = ["ip", "netns", "exec", self.names[0], "unshare", "-u", "sh", "-c", f"hostname {self.names[0]}; exec \"$@\"", "sh"]
        return subprocess.run([*here, *map(str, words)], capture_output=True, text=True, timeout=900, check=False)

    def round_trip_ms(self):
        """Median of ten messages there and back over one TCP connection."""
        server = subprocess.Popen(["ip", "netns", "exec", self.names[1], sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True)
        server.stdout.readline()  # it listens
        done = subprocess.run(["ip", "netns", "exec", self.names[0], sys.executable, "-c", ASK, f"{NET}.2"], capture_output=True, text=True, timeout=30, check=True)
        server.wait(timeout=30)
        return float(done.stdout)

    def close(self):
        if self.carrier is not None:
            self.carrier.terminate()
        for fd in self.fds:
            os.close(fd)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def requests_write(path, n, words):
    with open(path, "w", encoding="utf-8") as out:
        for i in range(n):
            prompt = " ".join(chr(ord("a") + (i + k) % 26) for k in range(words))
            out.write(json.dumps({"id": f"r{i}", "prompt": prompt}) + "\n")


def run_once(args, hosts, workload, line, requests):
    _, _, answer, counted = WORKLOADS[workload]
    micro, batch, chunk = line
    done = hosts.run([args.program, "generate", "--model", args.model, "--requests", requests, "--in-order", "--json", "--experts", 4, "--encoders", 0,
                      "--prefix-cache", 0, "--ignore-eos", "--temperature", 0, "--max-new-tokens", answer, "--micro-batches", micro, "--max-batch", batch,
                      "--prefill-chunk", chunk, *hosts.words])
    if done.returncode != 0:
        raise BenchError(f"{workload}: exit code {done.returncode}: {done.stderr[-2000:]}")
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    summary = [text for text in lines if text["kind"] == "summary"][0]
    answers = [text["ids"] for text in lines if text["kind"] == "result"]
    return summary[counted] / summary["seconds"], answers


def measure(args, hosts, folder):
    print("workload\tmicro_batches\tmax_batch\tprefill_chunk\ttokens_s\tratio")
    for workload, (n, words, _, _) in WORKLOADS.items():
        requests_write(folder / "requests.jsonl", n, words)
        rates, first = {line: [] for line in LINES}, None
        for _ in range(args.rounds):
            for line in LINES:
                rate, answers = run_once(args, hosts, workload, line, folder / "requests.jsonl")
                rates[line].append(rate)
                first = first or answers
                if answers != first:
                    raise BenchError(f"{workload}: micro-batches {line[0]}, max batch {line[1]}: other answers than the first line's")
        base = statistics.median(rates[LINES[0]])
        for line in LINES:
            rate = statistics.median(rates[line])
            print(f"{workload}\t{line[0]}\t{line[1]}\t{line[2]}\t{rate:.1f}\t{rate / base:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release", help="folder with the programs (default %(default)s)")
    parser.add_argument("--model", help="model directory; default: unimoe init --preset small")
    parser.add_argument("--delay-us", type=int, default=1000, help="of every frame, one way (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.program = pathlib.Path(args.build).resolve() / "unimoe"
    with tempfile.TemporaryDirectory() as name:
        folder, hosts = pathlib.Path(name), None
        try:
            if args.model is None:
                args.model = folder / "model"
                subprocess.run([args.program, "init", "--preset", "small", "--out", args.model], check=True, capture_output=True)
            hosts = Hosts(folder, args.delay_us)
            print(f"round trip: {hosts.round_trip_ms():.2f} ms", file=sys.stderr)
            measure(args, hosts, folder)
        except (BenchError, OSError, subprocess.CalledProcessError) as e:
            print(f"bench_slow_link: {e}", file=sys.stderr)
            return 1
        finally:
            if hosts is not None:
                hosts.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

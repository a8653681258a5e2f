#!/usr/bin/env python3
"""Compares two results of one bench, before and after a change, case by case.

A difference counts when it is larger than --threshold percent and larger than the noise of both runs (the distance of p10 and p90
over the median). Reads the JSON of bench_generate.py, or TSV with the columns case, median, p10, p90 and, if there, metric and unit.

usage: compare.py BEFORE AFTER [--threshold 5] [--lower-is-better]
exit 0: nothing got slower, 1: something did, 2: the files cannot be compared
"""
import argparse
import csv
import json
import pathlib
import sys

LOWER_UNITS = ("s", "ms", "us", "ns", "B", "bytes")
LOWER_METRICS = ("raw_bytes", "wire_bytes")
SKIPPED_METRICS = ("compute_share", "exchange_share", "wait_share", "ratio_prefill", "ratio_decode", "peer_prefill", "peer_decode")


class CompareError(Exception):
    pass


def read_json(text):
    rows = {}
    for row in json.loads(text)["rows"]:
        for metric, value in row["metrics"].items():
            if metric not in SKIPPED_METRICS:
                rows[row["case"], metric] = {**value, "lower": metric in LOWER_METRICS}
    return rows


def read_tsv(text, lower):
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    rows = {}
    for row in csv.DictReader(lines, delimiter="\t"):
        unit = row.get("unit") or ""
        rows[row["case"], row.get("metric") or "median"] = {
            **{p: float(row[p]) for p in ("median", "p10", "p90")}, "lower": lower or unit in LOWER_UNITS}
    return rows


def read(path, lower):
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        rows = read_json(text) if text.lstrip().startswith("{") else read_tsv(text, lower)
    except OSError as e:
        raise CompareError(f"{path}: {e.strerror}") from None
    except (KeyError, TypeError, ValueError) as e:
        raise CompareError(f"{path}: neither a bench's JSON nor TSV with case, median, p10, p90 ({e})") from None
    if not rows:
        raise CompareError(f"{path}: no rows")
    return rows


def noise(row):
    return (row["p90"] - row["p10"]) / abs(row["median"]) if row["median"] else 0.0


def verdict(before, after, threshold):
    """(change as a fraction, noise of both, word): better and worse take the direction of the metric into account."""
    if before["median"] == 0:
        return 0.0, 0.0, "same" if after["median"] == 0 else "new"
    change = after["median"] / before["median"] - 1
    jitter = max(noise(before), noise(after))
    if abs(change) <= max(threshold, jitter):
        return change, jitter, "same"
    return change, jitter, "better" if (change < 0) == before["lower"] else "worse"


def compare(before, after, threshold):
    common = [key for key in before if key in after]
    if not common:
        raise CompareError("the two files have no case in common")
    worse = 0
    print("case\tmetric\tbefore\tafter\tchange\tnoise\tverdict")
    for key in common:
        change, jitter, word = verdict(before[key], after[key], threshold)
        worse += word == "worse"
        print(f"{key[0]}\t{key[1]}\t{before[key]['median']:.6g}\t{after[key]['median']:.6g}\t{change:+.1%}\t{jitter:.1%}\t{word}")
    for key in [k for k in before if k not in after]:
        print(f"{key[0]}\t{key[1]}\t{before[key]['median']:.6g}\t-\t-\t-\tgone")
    return worse


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("before")
    ap.add_argument("after")
    ap.add_argument("--threshold", type=float, default=5, metavar="PERCENT", help="smaller changes do not count (default 5)")
    ap.add_argument("--lower-is-better", action="store_true", help="for TSV without a unit column that holds times")
    args = ap.parse_args()
    try:
        worse = compare(read(args.before, args.lower_is_better), read(args.after, args.lower_is_better), args.threshold / 100)
    except CompareError as e:
        print(f"compare: {e}", file=sys.stderr)
        return 2
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())

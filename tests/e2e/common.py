"""What the tests of whole commands share: a check that names itself, safetensors files, and Python libraries that only some machines have."""
import json
import os
import pathlib
import struct
import sys


def check(ok, words):
    if not ok:
        raise SystemExit(f"FAILED: {words}")


def tensors(path):
    """name -> (type, shape, bytes) of a safetensors file, and its metadata or None."""
    raw = pathlib.Path(path).read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    head, data = json.loads(raw[8 : 8 + n]), raw[8 + n :]
    meta = head.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], data[slice(*v["data_offsets"])]) for k, v in head.items()}, meta


def write_tensors(path, named, meta=None, blanks=0):
    """The reverse; meta "null" writes a null. blanks: spaces behind the header."""
    head, data = {} if meta is None else {"__metadata__": None if meta == "null" else meta}, b""
    for k, (dtype, shape, raw) in named.items():
        head[k] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(head).encode() + b" " * blanks
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def again_in(venv, source, missing):
    """A library is missing: the program starts again with the Python of build/VENV (tests/run makes it), or ends with 77, skipped."""
    python = source / "build" / venv / "bin" / "python"
    if python.exists() and "UM_IN_VENV" not in os.environ:
        os.execve(python, [python, "-B", *sys.argv], {**os.environ, "UM_IN_VENV": "1"})
    print(f"skipped: {missing}")
    raise SystemExit(77)

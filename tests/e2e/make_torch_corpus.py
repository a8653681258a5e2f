#!/usr/bin/env python3
"""Makes tests/corpus/torch and tests/corpus/pickle: small torch.save files and the pickles in them. Needs torch (Debian's 1.13).

usage: make_torch_corpus.py      writes beside itself"""
import collections
import pathlib
import pickle
import zipfile

import torch

HERE = pathlib.Path(__file__).resolve().parent.parent / "corpus"


def values():
    x = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    state = collections.OrderedDict(a=x, a_turned=x.t(), row=x[1], corner=x[1:, 2:])
    state._metadata = collections.OrderedDict([("", {"version": 1})])
    yield "state", state
    yield "types", {str(t): torch.tensor([1, 0, 3]).to(t) for t in (torch.float32, torch.float16, torch.bfloat16, torch.float64,
                                                                     torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)}
    yield "odd", {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5), "wide": torch.ones(1, 2, 1, 2, 1),
                  "spread": torch.tensor([7.0]).expand(3), "parameter": torch.nn.Parameter(torch.ones(2))}
    yield "beats", {"cfg": {"encoder_layers": 2, "deep_norm": True, "dropout": 0.05, "activation_fn": "gelu", "none": None,
                            "list": [1, -2, 300, 70000, 1 << 40], "tuple": (1, 2, 3, 4)},
                    "model": {"encoder.x": torch.ones(2, 2)}}
    yield "nested", {"state_dict": {"x": torch.ones(1)}, "step": 3}


def main():
    for folder in ("torch", "pickle"):
        (HERE / folder).mkdir(parents=True, exist_ok=True)
    for name, value in values():
        path = HERE / "torch" / name
        torch.save(value, path)
        with zipfile.ZipFile(path) as z:
            (HERE / "pickle" / name).write_bytes(z.read([n for n in z.namelist() if n.endswith("/data.pkl")][0]))
    plain = {"a": [1, 2.5, "é", None, True, (), (1,), {}], "b": {"c": -1}}
    for protocol in (2, 4, 5):
        (HERE / "pickle" / f"plain{protocol}").write_bytes(pickle.dumps(plain, protocol))
    (HERE / "pickle" / "evil").write_bytes(b"\x80\x02cos\nsystem\nq\0X\x04\0\0\0trueq\1\x85q\2Rq\3.")


if __name__ == "__main__":
    main()

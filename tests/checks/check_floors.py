#!/usr/bin/env python3
"""Holds the sources to the floors and doors of the architecture (docs/ARCHITECTURE.md).

Floor: a file includes only its own folder and folders below it; the roles never include one another.
Door:  an outside library, the allocator, the environment and vector instructions are each used by a few named files only.
Crowd: a folder holds at most FOLDER_FILES sources beside their headers, so that it can be read from its listing.
Order: a .c file includes its own header first, and the project's headers, by their path from the root, before the others.

usage: check_floors.py [--root DIR] [--self-test]      exit 0: clean, 1: violations
"""
import argparse
import collections
import fnmatch
import functools
import pathlib
import re
import sys

from source_tree import Finding, read_tree, report, self_test, source_of

BASE = ["core/base"]
CORE = BASE + ["core/options", "core/model", "core/tensor", "proto", "core/nn", "core/comm"]
ROLES = ["router", "expert_worker", "encoder_worker"]
TRAIN = ["core/train"]
ROUTER = ["router/request", "router/backbone", "router/engine", "router/data", "router/train"]
ENCODER = ["encoder_worker/frontend", "encoder_worker/decode", "encoder_worker/towers"]
LAUNCH = ["launch/torch", "launch/model_dir", "launch/convert", "launch/assemble", "launch/plot", "launch/job", "launch/train", "launch/eval/metrics", "launch/eval/tasks", "launch/eval"]

# folder -> the other folders that its files may include from. The longest matching folder counts.
FLOORS = {
    "core/base": [],
    "core/options": BASE + ["core/model"],
    "core/model": BASE,
    "core/tensor": BASE,
    "proto": BASE,
    "core/nn": BASE + ["core/model", "core/tensor", "proto"],
    "core/comm": CORE,
    "core/train": CORE,
    "router/request": BASE + ["core/model"],
    "router/backbone": CORE,
    "router/engine": CORE + ["router/request", "router/backbone"],
    "router/data": BASE + ["core/model", "core/nn", "core/tensor", "router/request"],
    "router/train": CORE + TRAIN + ["router/request", "router/backbone", "router/engine", "router/data"],
    "router": CORE + TRAIN + ROUTER,
    "expert_worker": CORE + TRAIN,
    "encoder_worker/frontend": BASE + ["core/model", "core/tensor"],  # signal processing only: no layers, no messages
    "encoder_worker/decode": BASE + ["encoder_worker/frontend"],
    "encoder_worker/sandbox": BASE + ["encoder_worker/frontend", "encoder_worker/decode"],  # unimoe-decoder: minimal code near hostile bytes
    "encoder_worker/towers": CORE + ["encoder_worker/frontend"],
    "encoder_worker": CORE + TRAIN + ENCODER,
    "gateway": CORE,
    "launch/torch": BASE + ["core/model", "core/tensor", "core/nn"],
    "launch/model_dir": CORE + ["router/request"],
    "launch/convert": CORE + ["launch/torch", "launch/model_dir"],
    "launch/assemble": CORE + ["launch/torch", "launch/model_dir", "launch/convert"],
    "launch/plot": BASE + TRAIN + ["core/options", "core/model"],
    "launch/job": CORE + TRAIN + ["launch/model_dir", "encoder_worker/towers", "router/backbone", "router/engine", "router/request", "router/train"],  # sizes, for the plan of memory
    "launch/eval/metrics": BASE,  # numbers of texts: no model
    "launch/eval/tasks": BASE + ["core/model", "router/request", "launch/eval/metrics"],
    "launch/eval": CORE + ["launch/eval/metrics", "launch/eval/tasks", "launch/job", "launch/model_dir", "launch/plot", "router/request"],
    "launch/train": CORE + TRAIN + ["launch/job", "launch/model_dir", "launch/plot", "router/request", "router/data", "encoder_worker/decode"],
    "launch": CORE + TRAIN + ROLES + ROUTER + LAUNCH + ["gateway"],
    "bench": CORE + TRAIN + ROLES + ROUTER + ENCODER + LAUNCH + ["gateway", "launch", "tests"],
    "tests": CORE + TRAIN + ROLES + ROUTER + ENCODER + LAUNCH + ["encoder_worker/sandbox", "gateway", "launch", "bench"],
}

# (files, header) -> why this include may cross a floor
FLOOR_EXCEPTIONS = {
    ("proto/*", "core/tensor/dtype.h"): "frames and codecs name the type of their values; dtype.h has types and sizes, no ops",
}

FOLDER_FILES = 15

GENERATED = {"proto/control.pb-c.h", "proto/events.pb-c.h"}


def header(*names):
    return re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"](?:' + "|".join(names) + r')[>"]', re.M)


def call(*names):
    return re.compile(r"(?<![\w.>])(?:" + "|".join(names) + r")\s*\(")


# name, what betrays the use, files that may, sentence
DOORS = [
    ("mpi", header(r"mpi\.h", r"mpi-ext\.h"), ["core/comm/mpi/*", "bench/*"],
     "MPI is called by the MPI transport only (and by bench, which compares with collectives)"),
    ("zstd", header(r"zstd\w*\.h"), ["proto/*"], "compression belongs to proto/"),
    ("protobuf", header(r"protobuf-c/[\w./-]+", r"[\w./-]*\.pb-c\.h"), ["proto/*"],
     "generated messages are reached through proto/control.h"),
    ("xxhash", header(r"xxhash\.h"), ["proto/*"], "checksums of frames belong to proto/"),
    ("jansson", header(r"jansson\w*\.h"), ["core/base/json.c"], "JSON is read through core/base/json.h"),
    ("crypto", header(r"openssl/\w+\.h"), ["core/base/sha256.c"], "checksums are made through core/base/sha256.h"),
    ("sentencepiece", header(r"sentencepiece[\w./-]*"), ["router/request/tokenizer_sp.cc"], "the C++ tokeniser stays behind its shim"),
    ("images", header(r"png\.h", r"jpeglib\.h", r"jerror\.h", r"turbojpeg\.h", r"webp/[\w./-]+",
                      r"gif_lib\.h", r"tiffio\.h", r"avif/[\w./-]+"),
     ["encoder_worker/sandbox/images/*.c"], "image files are decoded in encoder_worker/sandbox/images"),
    ("ffmpeg", header(r"libav\w+/[\w./-]+", r"libsw\w+/[\w./-]+"), ["encoder_worker/sandbox/*"],
     "media are decoded in the sandboxed process only"),
    ("sndfile", header(r"sndfile\.h"), ["encoder_worker/sandbox/sound_file.c"], "sound files are read where they are decoded"),
    ("soxr", header(r"soxr[\w./-]*"), ["encoder_worker/sandbox/wave_read.c"], "sound is resampled where it is decoded"),
    ("seccomp", header(r"seccomp\.h", r"linux/(?:seccomp|filter|landlock)\.h"), ["encoder_worker/sandbox/sandbox.c"],
     "the walls of the decoder are built in one place"),
    ("cuda", header(r"cuda[\w./-]*", r"cublas[\w./-]*", r"nccl[\w./-]*"), ["*.cu"], "CUDA and NCCL are used in .cu files only"),
    ("sockets", header(r"sys/socket\.h", r"sys/un\.h", r"netinet/[\w./-]+", r"arpa/inet\.h", r"microhttpd\.h"), ["gateway/*"],
     "sockets and HTTP belong to gateway/"),
    ("environment", re.compile(r"(?<![\w.>])(?:secure_)?getenv\s*\(|\b_{0,2}environ\b"), ["core/options/config.c"],
     "the environment is read by the option table only"),
    ("malloc", call("malloc", "calloc", "realloc", "reallocarray", "free", "aligned_alloc", "posix_memalign", "strdup", "strndup",
                    "asprintf", "vasprintf"), ["core/base/arena.c"],
     "memory comes from arenas; long-lived objects from um_zalloc, um_alloc_aligned, um_strdup"),
    ("openmp", re.compile(r'^[ \t]*#[ \t]*(?:include[ \t]*[<"]omp\.h|pragma[ \t]+omp\b)', re.M), ["core/tensor/cpu*", "bench/*"],
     "threads of one rank are the CPU op table's (bench gives other libraries as many)"),
    ("vector", header(r"\w*mmintrin\.h", r"immintrin\.h", r"x86intrin\.h", r"arm_neon\.h", r"cpuid\.h"),
     ["core/tensor/*", "proto/*"], "vector instructions are for kernels and byte planes"),
    ("bench-peers", header(r"cblas\.h", r"(?:oneapi/dnnl/)?dnnl[\w./-]*"), ["bench/*"], "compared with, never computed with"),
]

# (files, door) -> why these may use it too
DOOR_EXCEPTIONS = {
    ("encoder_worker/decode/decoder_child.c", "sockets"): "a socketpair to its own child: with a pipe, a dead child is a SIGPIPE",
    ("core/base/openmp.c", "environment"): "sets what the OpenMP runtime reads before main, unless the user has set it",
    ("bench/bench_exchange.c", "environment"): "its rank decides its role before MPI is up: mpirun's own variable",
}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^">]+)[">]')
CONDITION = re.compile(r"^[ \t]*#[ \t]*(if|ifdef|ifndef|endif)\b")


def floor_of(path):
    names = [f for f in FLOORS if path.startswith(f + "/")]
    return max(names, key=len) if names else None


@functools.lru_cache(maxsize=None)
def includes_of(source):
    """(line, opening mark, name, inside #if) of every include."""
    depth, includes = 0, []
    for number, line in enumerate(source.code_lines, 1):
        condition = CONDITION.match(line)
        if condition:
            depth += -1 if condition.group(1) == "endif" else 1
        match = INCLUDE.match(line)
        if match:
            includes.append((number, match.group(1), match.group(2), depth > 0))
    return includes


def excepted(table, path, what, used):
    for key in table:
        if key[1] == what and fnmatch.fnmatchcase(path, key[0]):
            used.add(key)
            return True
    return False


def check_floor(source, used):
    here = floor_of(source.path)
    if here is None:
        yield Finding(source.path, 1, "floor", "this folder has no floor: add it to FLOORS, or move the file")
        return
    for line, mark, name, _ in includes_of(source):
        there = floor_of(name)
        if mark != '"' or there in (None, here) or there in FLOORS[here]:
            continue
        if excepted(FLOOR_EXCEPTIONS, source.path, name, used):
            continue
        yield Finding(source.path, line, "floor", f'"{name}": {here} may include {", ".join(FLOORS[here]) or "only itself"}')


@functools.lru_cache(maxsize=None)
def door_uses(source):
    """(door, line, what, sentence) of every use outside the files that may."""
    uses = []
    for name, pattern, allowed, sentence in DOORS:
        if any(fnmatch.fnmatchcase(source.path, glob) for glob in allowed):
            continue
        for match in pattern.finditer(source.code):
            start = match.start() + len(match.group(0)) - len(match.group(0).lstrip())
            what = match.group(0).strip()
            uses.append((name, source.line_of(start), what, f"{sentence} ({', '.join(allowed)})"))
    return uses


def check_doors(source, used):
    for name, line, what, sentence in door_uses(source):
        if not excepted(DOOR_EXCEPTIONS, source.path, name, used):
            yield Finding(source.path, line, "door", f"{what}: {sentence}")


def check_order(source, paths):
    own = source.path.rsplit(".", 1)[0] + ".h"
    listed = includes_of(source)
    in_tests = floor_of(source.path) == "tests"  # cmocka.h needs these headers before it
    if source.path.endswith((".c", ".cc", ".cu")) and not in_tests and own in paths and (not listed or listed[0][2] != own):
        yield Finding(source.path, listed[0][0] if listed else 1, "order", f'the first include is to be "{own}"')
    outside_seen = False
    for line, mark, name, conditional in listed:
        if mark == "<":
            outside_seen = outside_seen or not conditional
        elif name not in paths and name not in GENERATED:
            yield Finding(source.path, line, "order", f'"{name}" is no file: write its path from the root')
        elif outside_seen and not conditional and not in_tests:
            yield Finding(source.path, line, "order", f'"{name}" stands after an outside header: the project\'s come first')


def check_crowd(sources):
    folders = collections.defaultdict(list)
    for source in sources:
        if not source.path.endswith(".h"):
            folders[source.folder].append(source.path)
    for folder, paths in sorted(folders.items()):
        if len(paths) > FOLDER_FILES:
            yield Finding(max(paths), 1, "crowd", f"{folder} holds {len(paths)} sources, limit {FOLDER_FILES}: make folders")


def check(root):
    sources = [s for s in read_tree(root) if s.is_c]
    paths = {s.path for s in sources}
    findings, used = list(check_crowd(sources)), set()
    for source in sources:
        findings += check_floor(source, used)
        findings += check_doors(source, used)
        findings += check_order(source, paths)
    for key in [*FLOOR_EXCEPTIONS, *DOOR_EXCEPTIONS]:
        if key not in used:
            findings.append(Finding("tests/checks/check_floors.py", 1, "exception", f"{key} is used by no file: take it out"))
    return findings


PLANTS = [
    ("core/base/planted.c", '#include "core/nn/safetensors.h"\n', "floor"),
    ("core/model/planted.h", '#include "core/tensor/ops.h"\n', "floor"),
    ("core/nn/planted.c", '#include "core/comm/comm.h"\n', "floor"),
    ("proto/planted.c", '#include "core/model/model.h"\n', "floor"),
    ("router/planted.c", '#include "expert_worker/expert.h"\n', "floor"),
    ("expert_worker/planted.c", '#include "encoder_worker/encoder.h"\n', "floor"),
    ("core/comm/planted.h", '#include "launch/launch.h"\n', "floor"),
    ("core/stray.c", "int x;\n", "floor"),
    ("router/planted.c", "#include <mpi.h>\n", "door"),
    ("core/comm/planted.c", "#include <zstd.h>\n", "door"),
    ("router/planted.c", '#include "proto/control.pb-c.h"\n', "door"),
    ("core/nn/planted.c", "#include <jansson.h>\n", "door"),
    ("core/nn/planted.c", "#include <openssl/evp.h>\n", "door"),
    ("router/planted.cc", "#include <sentencepiece_processor.h>\n", "door"),
    ("router/planted.c", "#include <png.h>\n", "door"),
    ("encoder_worker/planted.c", "#include <libavformat/avformat.h>\n", "door"),
    ("encoder_worker/planted.c", "#include <soxr.h>\n", "door"),
    ("encoder_worker/sandbox/planted.c", "#include <seccomp.h>\n", "door"),
    ("encoder_worker/sandbox/planted.c", '#include "core/nn/safetensors.h"\n', "floor"),
    ("encoder_worker/sandbox/planted.c", '#include "encoder_worker/towers/vision.h"\n', "floor"),
    ("core/nn/planted.c", "  #  include <xxhash.h>\n", "door"),
    ("core/tensor/planted.c", "#include <cuda_runtime.h>\n", "door"),
    ("core/comm/planted.c", "#include <sys/socket.h>\n", "door"),
    ("router/planted.c", 'const char *f(void) { return getenv("HOME"); }\n', "door"),
    ("launch/planted.c", "extern char **environ;\n", "door"),
    ("core/nn/planted.c", "void *f(void) { return malloc(4); }\n", "door"),
    ("core/nn/planted.c", "void f(void *p) { if (p) free (p); }\n", "door"),
    ("core/nn/planted.c", "void f(void)\n{\n#pragma omp parallel\n    g();\n}\n", "door"),
    ("core/nn/planted.c", "#include <immintrin.h>\n", "door"),
    ("core/tensor/planted.c", "#include <cblas.h>\n", "door"),
    ("core/base/log.c", '#include "log.h"\n', "order"),
    ("core/nn/planted.c", '#include <stdio.h>\n#include "core/base/status.h"\n', "order"),
    ("core/nn/planted.c", '#include "../base/status.h"\n', "order"),
]
# Must not be reported: words in comments and strings, names that merely end like a banned one, members.
CLEAN = ('#include "core/base/status.h"\n\n#include <stdio.h>\n/* malloc(1) and getenv("X") */\nstruct s { void (*free)(int); };\n'
         'void f(struct s *p) { p->free(1); um_free(0); puts("free(p) #include <mpi.h>"); }\n')


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--root", default=pathlib.Path(__file__).resolve().parents[2])
    ap.add_argument("--self-test", action="store_true", help="plant violations in a copy of the tree: each must be found")
    args = ap.parse_args()
    if not args.self_test:
        return report("floors and doors", check(args.root))
    crowd = [source_of(f"core/nn/planted{i}.c", "int x;\n") for i in range(FOLDER_FILES + 1)]
    if len(list(check_crowd(crowd))) != 1 or list(check_crowd(crowd[1:])):
        print("check_crowd does not count to its limit")
        return 1
    return self_test(args.root, check, PLANTS, clean=[("core/nn/planted_clean.c", CLEAN)])


if __name__ == "__main__":
    sys.exit(main())

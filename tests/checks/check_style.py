#!/usr/bin/env python3
"""Holds the sources to the rules of CONTRIBUTING.md that a program can check: sizes, names, banned words, where printing is allowed.

usage: check_style.py [--root DIR] [--self-test]      exit 0: clean, 1: violations (warnings do not count)
"""
import argparse
import ast
import collections
import fnmatch
import functools
import pathlib
import re
import sys

from source_tree import TOP, Finding, read_tree, report, self_test, source_of

FILE_LINES, FILE_LINES_WARN = 900, 600
FUNCTION_LINES, FUNCTION_LINES_WARN = 130, 60
COLUMNS = 140  # comments; clang-format holds code to 100

LIBRARY = ("core/", "proto/", "router/", "expert_worker/", "encoder_worker/")
SHIPPED = LIBRARY + ("launch/", "gateway/")
NAMED_ALIKE = {"main.c", "loop.c", "CMakeLists.txt", "README.md"}  # one in each folder
THIS = "tests/checks/check_style.py"  # holds every banned word


def word(*names):
    return re.compile(r"(?<![\w.>])(?:" + "|".join(names) + r")\s*\(")


# rule, pattern, on code without comments and strings (True) or on all text (False), sentence
BANNED_IN_C = [
    ("banned", word("strcpy", "stpcpy", "strcat", "strncpy", "gets"), "use memcpy with the length, snprintf or um_arena_printf"),
    ("banned", word("sprintf", "vsprintf"), "use snprintf"),
    ("banned", word("atoi", "atol", "atoll", "atof"), "use strtol and the like and look at the end pointer"),
    ("banned", word("rand", "srand", "random", "drand48"), "use core/base/rng.h: seeded and the same everywhere"),
    ("banned", word("alloca", "__builtin_alloca"), "use the scratch arena"),
    ("banned", word("strtok", "localtime", "gmtime", "strerror_l"), "it has hidden state or is not portable: use the _r form"),
    ("banned", re.compile(r"^[ \t]*#[ \t]*include[ \t]*<assert\.h>", re.M), "use UM_ASSERT: it stays on in all builds but release"),
    ("banned", re.compile(r"-f(?:fast-math|associative-math)|\bOfast\b"), "sums keep one order"),
]
BANNED_IN_TEXT = [
    ("tab", re.compile(r"\t"), "indent with spaces"),
    ("blank", re.compile(r"[ \r]+$", re.M), "blanks at the end of the line"),
    ("unfinished", re.compile(r"\b(?:TODO|FIXME|XXX)\b|\bstub(?:s|bed)?\b|not (?:yet )?implemented", re.I),
     "finish it, or leave it out and open an issue"),
    ("machine", re.compile(r"(?<![\w.$}/-])/(?:home|root|Users|work|mnt)/\w|(?<![\w.$}/-])/tmp/(?![\w.-]*X{6})"),
     "a path of one machine"),
]
# Words before abort(), and the two places whose task is printing.
MAY_PRINT = {
    "core/base/log.c": "the log's sink",
    "core/options/config*.c": "--help and --print-config",
    "core/base/arena.c": "says why before it aborts",
    "core/comm/program.c": "prints --help and --version for the three role programs",
    "router/loop.c": "router 0 writes the answers to standard output",
    "core/base/status.c": "a failed assert says where before it aborts",
    "*/main.c": "a program answers --help and --version",
}
PRINT = re.compile(r"(?<![\w.>])(?:v?printf|puts|putchar|perror|f(?:printf|puts|putc|write)\s*\((?=[^;]*\bstd(?:out|err)\b))\s*\(?")

# file -> why it may keep a variable of file scope that changes
MAY_KEEP_STATE = {
    "core/base/log.c": "the log's sink: level and the thread's name",
}

# What stands at the top beside the folders of source_tree.py; hidden names are a person's own (an editor's, git's).
AT_THE_TOP = {"CHANGELOG.md", "CMakeLists.txt", "CMakePresets.json", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md", "build", "__pycache__"}

# headers -> what their static inline functions and macros may begin with instead of um_
OWN_PREFIX = {
    "core/tensor/cpu/v16*.h": ("v16_", "V16_"),  # words of the kernels' vector language, seen by kernels only
}


def check_file(source):
    lines = len(source.lines) - 1
    if lines > FILE_LINES:
        yield Finding(source.path, lines, "file-size", f"{lines} lines, limit {FILE_LINES}")
    if source.text and not source.text.endswith("\n"):
        yield Finding(source.path, lines, "end", "no newline at the end of the file")
    if source.path == THIS:
        return
    for rule, pattern, sentence in BANNED_IN_TEXT:
        if rule == "tab" and (source.name == "Makefile" or source.path.endswith(".md")):
            continue
        for match in pattern.finditer(source.text):
            line = source.text.count("\n", 0, match.start()) + 1
            yield Finding(source.path, line, rule, f"{match.group(0).strip()!r}: {sentence}")


def check_c(source):
    for rule, pattern, sentence in BANNED_IN_C:
        for match in pattern.finditer(source.code):
            yield Finding(source.path, source.line_of(match.start()), rule, f"{match.group(0).strip()}: {sentence}")
    for number, (line, code) in enumerate(zip(source.lines, source.code_lines), 1):
        if len(line) > COLUMNS and not code.strip():
            yield Finding(source.path, number, "columns", f"{len(line)} columns, limit {COLUMNS}")
    if source.path.endswith(".h") and not re.search(r"^#pragma once$", source.code, re.M):
        yield Finding(source.path, 1, "once", "a header begins with #pragma once")
    if source.path.startswith(LIBRARY) and not any(fnmatch.fnmatchcase(source.path, p) for p in MAY_PRINT):
        for match in PRINT.finditer(source.code):
            if match.group(0).rstrip().endswith("("):
                yield Finding(source.path, source.line_of(match.start()), "print",
                              f"{match.group(0).strip()}: libraries return text or log it")


_MARKS = re.compile(r"[{};]")


def top_level(code):
    """(start, text, body) of every statement outside braces: text is the declaration with the insides of its braces left out,
    body the (first, last) offset of a function's braces or None. extern "C" and namespaces count as no braces."""
    start, depth, opened, text = 0, 0, 0, ""
    for mark in _MARKS.finditer(code):
        i, c = mark.start(), mark.group(0)
        if depth == 0 and c == "{":
            text += code[max(start, opened):i]
            if re.search(r'extern\s*"[ C]*"\s*$|\bnamespace\b[^;()]*$', text):
                start, text = i + 1, ""
            else:
                depth, opened = 1, i
        elif c == "{":
            depth += 1
        elif c == "}" and depth > 0:
            depth -= 1
            if depth == 0 and text.rstrip().endswith(")"):
                yield start, text, (opened, i)
                start, text = i + 1, ""
            opened = i + 1
        elif depth == 0:
            if c == ";":
                yield start, text + code[max(start, opened):i], None
            start, text = i + 1, ""


def without_directives(code):
    """Blanks preprocessor lines with their continuations."""
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: re.sub(r"[^\n]", " ", m.group(0)), code, flags=re.M)


def functions_of(source, code):
    """(name, line of the opening brace, lines of the body with its braces)."""
    for _, text, body in top_level(code):
        if body:
            yield declared_name(text) or "?", source.line_of(body[0]), code.count("\n", *body) + 1


def without_attributes(text):
    return re.sub(r"__attribute__\s*\(\(.*?\)\)+|_Alignas\s*\([^)]*\)", " ", text, flags=re.S)


def declared_name(text):
    """The function that a declaration names, or None: the identifier before the first parenthesis that does not belong to an attribute."""
    match = re.search(r"([A-Za-z_]\w*)\s*\(", without_attributes(text))
    return match.group(1) if match else None


def check_shapes(source, warnings):
    code = without_directives(source.code)
    for name, line, lines in functions_of(source, code):
        if lines > FUNCTION_LINES:
            yield Finding(source.path, line, "function-size", f"{name}: {lines} lines, limit {FUNCTION_LINES}")
        elif lines > FUNCTION_LINES_WARN:
            warnings.append(f"{source.path}:{line}: {name} has {lines} lines, aim at {FUNCTION_LINES_WARN}")
    if source.path.endswith(".h") and source.path.startswith(SHIPPED):
        yield from check_names(source, code)
    elif source.path.startswith(SHIPPED):
        yield from check_state(source, code)


def line_at(source, start, text):
    return source.line_of(start + len(text) - len(text.lstrip()))


def check_names(source, code):
    prefixes = ("um_", "UM_") + next((p for glob, p in OWN_PREFIX.items() if fnmatch.fnmatchcase(source.path, glob)), ())
    for start, text, _ in top_level(code):
        if re.search(r"\btypedef\b|=", text):
            continue
        name = declared_name(text)
        allowed = prefixes if re.match(r"\s*static\b", text) else "um_"
        if name and name != "_Static_assert" and not name.startswith(allowed):
            yield Finding(source.path, line_at(source, start, text), "name", f"{name}: functions in headers begin with um_")
    for match in re.finditer(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", source.code, re.M):
        if not match.group(1).startswith(prefixes):
            yield Finding(source.path, source.line_of(match.start()), "name", f"{match.group(1)}: macros in headers begin with UM_")


def check_state(source, code):
    """Variables of file scope that can change: two ranks as threads of one process would share them."""
    if source.path in MAY_KEEP_STATE:
        return
    for start, text, body in top_level(code):
        declaration = " ".join(without_attributes(text).split("=")[0].split())
        if body or not declaration or re.search(r"\b(?:typedef|extern|using|sig_atomic_t)\b|\(", declaration):
            continue
        if re.fullmatch(r"(?:struct|enum|union)(?: \w+)?", declaration):
            continue  # a type
        outermost = declaration.rpartition("*")[2] if "*" in declaration else declaration
        if not re.search(r"\bconst(?:expr)?\b", outermost):
            yield Finding(source.path, line_at(source, start, text), "state",
                          f"{declaration[:60]}: a variable of file scope that can change")


def check_python(source, warnings):
    for node in ast.walk(ast.parse(source.text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield Finding(source.path, node.lineno, "function-size", f"{node.name}: {lines} lines, limit {FUNCTION_LINES}")
            elif lines > FUNCTION_LINES_WARN:
                warnings.append(f"{source.path}:{node.lineno}: {node.name} has {lines} lines, aim at {FUNCTION_LINES_WARN}")


def check_unique_names(sources):
    folders = collections.defaultdict(list)
    for source in sources:
        if source.name not in NAMED_ALIKE and (source.is_c or source.path.endswith((".py", ".proto", ".sh"))):
            folders[source.name].append(source.path)
    for paths in folders.values():
        for path in paths[1:]:
            yield Finding(path, 1, "unique", f"{paths[0]} has the same name")
        for path in paths[:1] if len(paths) > 1 else ():
            yield Finding(path, 1, "unique", f"{paths[1]} has the same name")


@functools.lru_cache(maxsize=None)
def check_one(path, text):
    """Findings and warnings that concern this file alone."""
    source, findings, warnings = source_of(path, text), [], []
    findings += check_file(source)
    if FILE_LINES_WARN < len(source.lines) - 1 <= FILE_LINES:
        warnings.append(f"{path}: {len(source.lines) - 1} lines, aim at {FILE_LINES_WARN}")
    if source.is_c:
        findings += check_c(source)
        findings += check_shapes(source, warnings)
    elif path.endswith(".py"):
        findings += check_python(source, warnings)
    return findings, warnings


def check_top(root):
    for path in sorted(pathlib.Path(root).iterdir()):
        if not path.name.startswith(".") and path.name not in AT_THE_TOP and path.name not in TOP:
            yield Finding(path.name, 1, "stray", "what a test or a person left behind: outputs go below build/")


def check(root, warnings=None):
    sources = read_tree(root)
    findings = list(check_top(root)) + list(check_unique_names(sources))
    for source in sources:
        own_findings, own_warnings = check_one(source.path, source.text)
        findings += own_findings
        if warnings is not None:
            warnings += own_warnings
    return findings


def plants():
    c = "core/nn/planted.c"
    long_body = "static int f(int x)\n{\n" + "    x++;\n" * FUNCTION_LINES + "    return x;\n}\n"
    yield c, "int x;\n" * (FILE_LINES + 1), "file-size"
    yield c, long_body, "function-size"
    yield "router/planted.cc", 'extern "C" {\n' + long_body + "}\n", "function-size"
    yield "bench/planted.py", "def f(x):\n" + "    x += 1\n" * FUNCTION_LINES + "    return x\n", "function-size"
    for use in ("strcpy(a, b)", "strcat(a, b)", "sprintf(a, b)", "atoi(a)", "rand()", "alloca(4)", "strtok(a, b)"):
        yield c, f"void f(void) {{ {use}; }}\n", "banned"
    yield c, "#include <assert.h>\n", "banned"
    yield c, "void f(void)\n{\n\tg();\n}\n", "tab"
    yield c, "int x; \n", "blank"
    yield c, "int x;", "end"
    yield c, "/* TODO: more */\n", "unfinished"
    yield "docs/planted.md", "This is not implemented.\n", "unfinished"
    yield "launch/planted.sh", "cd /home/someone\n", "machine"
    yield "tests/planted.py", 'open("/tmp/x")\n', "machine"
    yield c, "/* " + "x" * COLUMNS + " */\n", "columns"
    yield "core/nn/planted.h", "int um_planted(void);\n", "once"
    yield "core/nn/planted.h", "#pragma once\nint planted(void);\n", "name"
    yield "core/nn/planted.h", "#pragma once\nstatic inline int planted(int x) { return x; }\n", "name"
    yield "core/nn/planted.h", "#pragma once\n#define MAX(a, b) ((a) > (b) ? (a) : (b))\n", "name"
    yield c, 'void f(void) { printf("x"); }\n', "print"
    yield "router/planted.c", 'void f(void)\n{\n    fprintf(stderr, "x");\n}\n', "print"
    yield c, "static int calls;\n", "state"
    yield c, 'static const char *last = "";\n', "state"
    yield c, "int um_table[4] = {1, 2, 3, 4};\n", "state"
    yield "router/status.c", "int x(void);\n", "unique"
    yield "late.jsonl", "{}\n", "stray"


CLEAN = [
    ("core/nn/planted.c",
     '/* strcpy(a, b) is banned */\nstatic const char *const names[] = {"printf(", "atoi(1)"};\nstruct thing {\n    int a;\n};\n'
     "enum { A, B };\ntypedef struct other {\n    int b;\n} other;\nextern const int um_other;\nconst int um_constant = 3;\n"
     "static void f(FILE *to);\nstatic void f(FILE *to) { fprintf(to, \"%s\", names[0]); }\n"),
    ("core/nn/planted.h",
     "#pragma once\n#define UM_X 1\ntypedef int (*um_call)(int x);\nstruct um_s {\n    int (*go)(int x);\n};\n"
     "um_status um_planted(int x) __attribute__((format(printf, 1, 2)));\n"),
    ("launch/planted.sh", "dir=$(mktemp -d /tmp/unimoe-XXXXXX)\ncd \"$HOME/work/x\"\n"),
]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--root", default=pathlib.Path(__file__).resolve().parents[2])
    ap.add_argument("--self-test", action="store_true", help="plant violations in a copy of the tree: each must be found")
    args = ap.parse_args()
    if args.self_test:
        return self_test(args.root, check, list(plants()), CLEAN)
    warnings = []
    findings = check(args.root, warnings)
    return report("style", findings, warnings)


if __name__ == "__main__":
    sys.exit(main())

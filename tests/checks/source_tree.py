"""The source tree as check_floors.py and check_style.py see it: which files there are, and C text without comments and strings."""
import functools
import pathlib
import re
import shutil
import tempfile

TOP = ("core", "proto", "gateway", "router", "expert_worker", "encoder_worker", "launch", "bench", "tests", "docs", "cmake",
       ".ci")
C_KINDS = (".c", ".h", ".cc", ".cu", ".inc")
TEXT_KINDS = C_KINDS + (".py", ".sh", ".cmake", ".proto", ".md", ".txt", ".json", ".yml", "")
SKIPPED_FOLDERS = {"build", "golden", "corpus", "__pycache__"}  # data and outputs, not sources


class Finding:
    def __init__(self, path, line, rule, text):
        self.path, self.line, self.rule, self.text = path, line, rule, text

    def __str__(self):
        return f"{self.path}:{self.line}: [{self.rule}] {self.text}"


class Source:
    """One file. text: as it is; code: the same lines with comments and string contents blanked (C kinds only)."""

    def __init__(self, path, text):
        self.path, self.text = path, text
        self.is_c = path.endswith(C_KINDS)
        self.lines = text.split("\n")

    @functools.cached_property
    def code(self):
        return blank_comments_and_strings(self.text) if self.is_c else self.text

    @functools.cached_property
    def code_lines(self):
        return self.code.split("\n")

    @property
    def folder(self):
        return self.path.rpartition("/")[0]

    @property
    def name(self):
        return self.path.rpartition("/")[2]

    def line_of(self, offset):
        return self.code.count("\n", 0, offset) + 1


_TOKENS = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def blank_comments_and_strings(text):
    """Keeps every newline and column. The words of #include stay, since rules read them."""

    def blank(match):
        token = match.group(0)
        if token[0] == '"':
            start = text.rfind("\n", 0, match.start()) + 1
            if re.match(r"\s*#\s*include", text[start:match.start()]):
                return token
        keep = token[0] if token[0] in "\"'" else ""
        inner = token[len(keep):len(token) - len(keep)]
        return keep + re.sub(r"[^\n]", " ", inner) + keep

    return _TOKENS.sub(blank, text)


@functools.lru_cache(maxsize=None)  # the self-tests read the same files many times
def source_of(path, text):
    return Source(path, text)


def read_tree(root):
    """Every source and text file below root, sorted by path."""
    root = pathlib.Path(root)
    found = [p for p in root.iterdir() if p.is_file() and p.name not in (".git", "LICENSE")]
    for top in TOP:
        found += [p for p in (root / top).rglob("*") if p.is_file()] if (root / top).is_dir() else []
    sources = []
    for path in sorted(found):
        inside = path.relative_to(root)
        if SKIPPED_FOLDERS.intersection(inside.parts[:-1]) or path.suffix not in TEXT_KINDS:
            continue
        try:
            sources.append(source_of(inside.as_posix(), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue  # binary test data without a suffix
    return sources


def report(name, findings, warnings=()):
    for warning in warnings:
        print("warning:", warning)
    for finding in findings:
        print(finding)
    print(f"{name}: {len(findings)} violations, {len(warnings)} warnings")
    return 1 if findings else 0


def with_planted(root, path, text, check):
    """Findings for path before and after text was appended to it; the tree is then as it was."""
    target = root / path
    fresh = [p for p in target.parents if not p.exists()]
    old = target.read_text(encoding="utf-8") if target.exists() else None
    before = [f.rule for f in check(root) if f.path == path]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text((old or "") + text, encoding="utf-8")
    after = [f.rule for f in check(root) if f.path == path]
    if old is None:
        target.unlink()
    else:
        target.write_text(old, encoding="utf-8")
    for folder in fresh:
        shutil.rmtree(folder, ignore_errors=True)
    return before, after


def self_test(root, check, plants, clean=()):
    """Plants each (path, text, rule) in a copy of the tree: check(copy) must name that rule for that path once more than
    before. Each (path, text) of clean must be found without fault. Returns an exit code."""
    failures = 0
    with tempfile.TemporaryDirectory() as tmp:
        copy = pathlib.Path(tmp) / "tree"
        for source in read_tree(root):
            (copy / source.folder).mkdir(parents=True, exist_ok=True)
            (copy / source.path).write_text(source.text, encoding="utf-8")
        for path, text, rule in plants:
            before, after = with_planted(copy, path, text, check)
            if after.count(rule) <= before.count(rule):
                failures += 1
                print(f"not caught: {rule} planted in {path}: {text[:60]!r}")
        for path, text in clean:
            before, after = with_planted(copy, path, text, check)
            if after != before:
                failures += 1
                print(f"caught without cause in {path}: {sorted(after)}")
    print(f"self-test: {len(plants)} plants, {len(clean)} clean files, {failures} failures")
    return 1 if failures else 0

"""A SentencePiece model (tokenizer.model) for the words of the world: byte pair encoding, trained on the texts of the samples.

Written here rather than by SentencePiece's trainer, so that its bytes depend on the texts alone. Ids as LLaMA has them: <unk> <s> </s>, the 256
bytes, then the pieces; a text that has other characters falls back to bytes.
"""
import collections
import struct

BLANK = "\u2581"  # stands for a space
CHARACTERS = [chr(c) for c in range(33, 127)]
NORMAL, UNKNOWN, CONTROL, UNUSED, BYTE = 1, 2, 3, 5, 6


def varint(v):
    out = bytearray()
    while v >= 0x80:
        out.append(v & 0x7F | 0x80)
        v >>= 7
    out.append(v)
    return bytes(out)


def number(field, v):
    return varint(field << 3) + varint(v & (1 << 64) - 1)


def text(field, v):
    return varint(field << 3 | 2) + varint(len(v)) + v


def merges(counts, n):
    """The first n merges of pairs of pieces, most frequent first; words with how often they occur."""
    words = {word: list(word) for word in counts}
    found = []
    while len(found) < n:
        pairs = collections.Counter()
        for word, parts in words.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        found.append(best[0] + best[1])
        for word, parts in words.items():
            if any(pair == best for pair in zip(parts, parts[1:])):
                words[word] = merged(parts, best)
    return list(dict.fromkeys(found))


def merged(parts, pair):
    out, i = [], 0
    while i < len(parts):
        if tuple(parts[i:i + 2]) == pair:
            out.append(parts[i] + parts[i + 1])
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return out


def word_counts(lines):
    """How often each word occurs, with the blank before it. Punctuation is not merged with letters: it stands for itself."""
    counts = collections.Counter()
    for line in lines:
        for word in line.split():
            start = len(word) - len(word.lstrip("\"'(<"))
            core = word[start:].rstrip(".,?!:;\"')>")
            if core:
                counts[(BLANK if start == 0 else "") + core] += 1
    return counts


def pieces(lines, n):
    """n pieces with their types: specials, bytes, the blank and ASCII, what was learned, and unused ones up to n."""
    found = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)] + [(f"<0x{b:02X}>", BYTE) for b in range(256)]
    found += [(c, NORMAL) for c in [BLANK, *CHARACTERS]]
    if n < len(found):
        raise ValueError(f"a vocabulary of {n} pieces: {len(found)} are needed for bytes and characters alone")
    learned = merges(word_counts(lines), n - len(found))
    found += [(p, NORMAL) for p in learned]
    return found + [(f"<unused_{i}>", UNUSED) for i in range(n - len(found))], len(learned)


def model(lines, n):
    """The bytes of tokenizer.model, and how many of its pieces were learned."""
    out, score = b"", 0
    found, learned = pieces(lines, n)
    plain = set(CHARACTERS) | {BLANK}
    for piece, kind in found:
        scored = kind in (NORMAL, UNUSED)
        value = -1e6 - score if piece in plain else -float(score)  # single characters are the last resort
        out += text(1, text(1, piece.encode()) + struct.pack("<Bf", 2 << 3 | 5, value if scored else 0.0) + number(3, kind))
        score += scored
    trainer = number(3, 2) + number(4, n) + number(35, 1) + number(40, 0) + number(41, 1) + number(42, 2) + number(43, -1)
    normalizer = text(1, b"identity") + text(2, b"") + number(3, 1) + number(4, 0) + number(5, 1)
    return out + text(2, trainer) + text(3, normalizer), learned

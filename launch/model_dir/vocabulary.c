/* See vocabulary.h. Writes the few protobuf fields of SentencePiece's model file directly, without that library's schema. Field
 * numbers: sentencepiece_model.proto of the SentencePiece project. */
#include "launch/model_dir/vocabulary.h"

#include "core/base/bytes.h"

#include <stdio.h>
#include <string.h>

/* --- protobuf --- */

static void put_varint(um_text *t, uint64_t v)
{
    for (; v >= 0x80; v >>= 7) um_text_add(t, &(char){(char)(v | 0x80)}, 1);
    um_text_add(t, &(char){(char)v}, 1);
}

static void put_int(um_text *t, int field, int64_t v)
{
    put_varint(t, (uint64_t)field << 3);
    put_varint(t, (uint64_t)v);
}

static void put_bytes(um_text *t, int field, const char *s, size_t n)
{
    put_varint(t, (uint64_t)field << 3 | 2);
    put_varint(t, n);
    um_text_add(t, s, n);
}

static void put_float(um_text *t, int field, float v)
{
    uint8_t b[4];
    um_put_u32(b, um_f32_bits(v));
    put_varint(t, (uint64_t)field << 3 | 5);
    um_text_add(t, (const char *)b, 4);
}

/* --- pieces --- */

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, UNUSED = 5, BYTE = 6 };

#define BLANK "\xE2\x96\x81" /* U+2581, which represents a space */

/* The letters are in order of their frequency in English, for vocabularies that are too small for all. */
static const char characters[] = "etaoinshrdlcumwfgypbvkjxqzETAOINSHRDLCUMWFGYPBVKJXQZ.,?!'\"-:;()"
                                 "0123456789/*&%$#@+=_<>[]{}|~^`\\";

/* Each is the concatenation of two earlier pieces, so that merging can produce it. */
static const char *const fragments[] = {
    "th",        "he",        "in",         "er",
    "an",        "re",        "on",         "at",
    "en",        "es",        "or",         "it",
    "is",        "ar",        "al",         "ou",
    "ing",       "ed",        "st",         "le",
    "ion",       "ent",       BLANK "t",    BLANK "a",
    BLANK "s",   BLANK "w",   BLANK "o",    BLANK "c",
    BLANK "b",   BLANK "i",   BLANK "p",    BLANK "f",
    BLANK "m",   BLANK "d",   BLANK "th",   BLANK "the",
    BLANK "an",  BLANK "and", BLANK "in",   BLANK "of",
    BLANK "to",  BLANK "is",  BLANK "on",   BLANK "it",
    BLANK "wh",  BLANK "re",  BLANK "st",   BLANK "be",
    BLANK "h",   BLANK "n",   BLANK "l",    BLANK "g",
    BLANK "y",   "ver",       "ter",        "ly",
    "tion",      "ation",     BLANK "wha",  BLANK "what",
    BLANK "for", BLANK "you", BLANK "that", "US",
    "ER",        "USER",      BLANK "USER", "AS",
    "SI",        "ST",        "AN",         "ANT",
    "ASSI",      "STANT",     "ASSISTANT",  BLANK "ASSISTANT",
};

typedef struct builder {
    um_text *to;
    um_text piece; /* one piece at a time */
    int n, max;
    int normal; /* normal pieces so far: the merge order */
} builder;

static void add(builder *b, const char *s, int type)
{
    if (b->n == b->max) return;
    bool scored = type == NORMAL || type == UNUSED;
    b->piece.n = 0;
    put_bytes(&b->piece, 1, s, strlen(s));
    put_float(&b->piece, 2, scored ? -(float)b->normal++ : 0.0f); /* larger = merged earlier */
    put_int(&b->piece, 3, type);
    put_bytes(b->to, 1, b->piece.s, b->piece.n);
    b->n++;
}

static bool is_fragment(const char *s)
{
    for (size_t i = 0; i < sizeof fragments / sizeof *fragments; i++) {
        if (strcmp(fragments[i], s) == 0) return true;
    }
    return false;
}

/* Adds prefix + every word of `letters` lower-case letters, in order of frequency. */
static void add_words(builder *b, const char *prefix, int letters)
{
    int count = 1;
    for (int i = 0; i < letters; i++) count *= 26;
    for (int i = 0; i < count && b->n < b->max; i++) {
        char s[16];
        size_t n = strlen(prefix);
        memcpy(s, prefix, n);
        for (int k = letters - 1, v = i; k >= 0; k--, v /= 26)
            s[n + (size_t)k] = characters[v % 26];
        s[n + (size_t)letters] = '\0';
        if (!is_fragment(s)) add(b, s, NORMAL);
    }
}

static void add_pieces(builder *b)
{
    char s[32];
    add(b, "<unk>", UNKNOWN);
    add(b, "<s>", CONTROL);
    add(b, "</s>", CONTROL);
    for (int i = 0; i < 256; i++) {
        snprintf(s, sizeof s, "<0x%02X>", (unsigned)i);
        add(b, s, BYTE);
    }
    add(b, BLANK, NORMAL);
    for (const char *c = characters; *c != '\0'; c++) add(b, (char[2]){*c, '\0'}, NORMAL);
    for (size_t i = 0; i < sizeof fragments / sizeof *fragments; i++) add(b, fragments[i], NORMAL);
    add_words(b, BLANK, 1);
    add_words(b, "", 2);
    add_words(b, BLANK, 2);
    add_words(b, "", 3);
    add_words(b, BLANK, 3);
    for (int i = 0; b->n < b->max; i++) {
        snprintf(s, sizeof s, "<unused_%d>", i);
        add(b, s, UNUSED);
    }
}

/* TrainerSpec: BPE (2) with byte fallback, and the ids of the control pieces; -1 means that there is none. */
static void add_trainer(um_text *to, int n)
{
    um_text t = {0};
    put_int(&t, 3, 2);
    put_int(&t, 4, n);
    put_int(&t, 35, 1);
    put_int(&t, 40, 0);
    put_int(&t, 41, 1);
    put_int(&t, 42, 2);
    put_int(&t, 43, -1);
    put_bytes(to, 2, t.s, t.n);
    um_text_free(&t);
}

/* NormalizerSpec: identity; a space is added before the text, spaces become U+2581 and are not merged. */
static void add_normalizer(um_text *to)
{
    um_text t = {0};
    put_bytes(&t, 1, "identity", 8);
    put_bytes(&t, 2, "", 0);
    put_int(&t, 3, 1);
    put_int(&t, 4, 0);
    put_int(&t, 5, 1);
    put_bytes(to, 3, t.s, t.n);
    um_text_free(&t);
}

void um_vocabulary_write(um_text *t, int n)
{
    UM_ASSERT(n >= UM_VOCABULARY_MIN);
    builder b = {.to = t, .max = n};
    add_pieces(&b);
    um_text_free(&b.piece);
    add_trainer(t, n);
    add_normalizer(t);
}

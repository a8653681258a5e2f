/* See tokenizer.h. */
#include "router/request/tokenizer.h"

#include "core/base/file.h"
#include "router/request/tokenizer_sp.h"

#include <string.h>

struct um_tokenizer {
    um_sp *sp;
    size_t longest; /* um_tokenizer_longest */
    int32_t word;   /* a piece whose text alone is not empty; -1: there is none */
    size_t word_bytes;
};

typedef struct counted {
    const um_sp *sp;
    size_t bytes;
} counted;

static void count_bytes(void *ctx, int32_t id)
{
    counted *c = ctx;
    c->bytes += um_sp_piece_bytes(c->sp, id);
}

/* A normaliser may shorten a text (spaces, wide letters, control characters), and a model without byte pieces encodes any number of
 * unknown characters as one token. Encoding a text with all of these shows whether this model does so. */
static size_t longest_of(const um_sp *sp)
{
    static const char probe[] =
        "a                                                                a \t\t\n\n\x01\x7f"
        "\xef\xbc\xa1\xef\xbc\xa1\xe3\x80\x80\xe3\x80\x80" /* wide A and wide space */
        "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8"             /* one syllable as three letters */
        "\xf4\x8f\xbf\xbd\xf4\x8f\xbf\xbd";                /* not in any vocabulary */
    counted c = {.sp = sp};
    size_t longest = strlen("<unk>"); /* the longest spelling of a special id */
    if (um_sp_encode(sp, probe, sizeof probe - 1, count_bytes, &c) != 0 ||
        c.bytes < sizeof probe - 1)
        return 0;
    for (int32_t id = 0; id < um_sp_vocab(sp); id++) {
        size_t n = um_sp_piece_bytes(sp, id);
        if (n > longest) longest = n;
    }
    return longest;
}

static void word_find(um_tokenizer *t, um_arena *scratch);

um_status um_tokenizer_open(um_tokenizer **out, const char *model_dir, um_err *err)
{
    um_arena scratch;
    um_file f = {0};
    char why[256] = "";
    um_arena_init(&scratch, "tokenizer", 4096);
    const char *path = um_path_join(&scratch, model_dir, "tokenizer.model");
    um_sp *sp = NULL;
    um_status st = um_file_map(&f, path, err);
    if (st == UM_OK) sp = um_sp_open(f.data, f.size, why, sizeof why);
    if (st == UM_OK && sp == NULL)
        st = UM_FAIL(err, UM_E_MODEL, "%s: no SentencePiece model: %s", path, why);
    if (st == UM_OK && (um_sp_bos(sp) < 0 || um_sp_eos(sp) < 0))
        st = UM_FAIL(err, UM_E_MODEL, "%s: has no begin and end of sentence pieces", path);
    if (st == UM_OK) {
        *out = um_zalloc(sizeof **out);
        (*out)->sp = sp;
        (*out)->longest = longest_of(sp);
        word_find(*out, &scratch);
    } else if (sp != NULL) {
        um_sp_close(sp);
    }
    um_file_unmap(&f);
    um_arena_free(&scratch);
    return st == UM_E_IO ? UM_E_MODEL : st;
}

void um_tokenizer_close(um_tokenizer *t)
{
    if (t == NULL) return;
    um_sp_close(t->sp);
    um_free(t);
}

int um_tokenizer_vocab(const um_tokenizer *t) { return um_sp_vocab(t->sp); }
size_t um_tokenizer_longest(const um_tokenizer *t) { return t->longest; }
int32_t um_tokenizer_eos(const um_tokenizer *t) { return um_sp_eos(t->sp); }
int32_t um_tokenizer_unk(const um_tokenizer *t) { return um_sp_unk(t->sp); }

typedef struct id_list {
    int32_t *ids, *at; /* at NULL: nobody asks */
    int n, cap;
    size_t from; /* where the string begins that is being encoded */
    bool want_at;
} id_list;

static void push_at(void *ctx, int32_t id, size_t at)
{
    id_list *l = ctx;
    if (l->n == l->cap) {
        l->cap = l->cap == 0 ? 64 : 2 * l->cap;
        l->ids = um_realloc(l->ids, (size_t)l->cap * sizeof *l->ids);
        if (l->want_at) l->at = um_realloc(l->at, (size_t)l->cap * sizeof *l->at);
    }
    if (l->want_at) l->at[l->n] = (int32_t)(l->from + at);
    l->ids[l->n++] = id;
}

static void push(void *ctx, int32_t id) { push_at(ctx, id, 0); }

/* The id of the special piece at the start of text, or -1. */
static int special_at(const um_tokenizer *t, const char *text, size_t n, size_t *bytes)
{
    const char *spell[] = {"<s>", "</s>", "<unk>"};
    int id[] = {um_sp_bos(t->sp), um_sp_eos(t->sp), um_sp_unk(t->sp)};
    for (int i = 0; i < 3; i++) {
        *bytes = strlen(spell[i]);
        if (n >= *bytes && memcmp(text, spell[i], *bytes) == 0) return id[i];
    }
    return -1;
}

/* Encodes text[0..n) into l. Returns 0, or -1 on failure. */
static int encode(const um_tokenizer *t, id_list *l, const char *text, size_t n)
{
    int failed = 0;
    push(l, um_sp_bos(t->sp));
    for (size_t at = 0; at <= n && failed == 0; at++) {
        size_t bytes = 0;
        int special = at < n && text[at] == '<' ? special_at(t, text + at, n - at, &bytes) : -1;
        if (special < 0 && at < n) continue;
        if (at > l->from && l->want_at)
            failed = um_sp_encode_at(t->sp, text + l->from, at - l->from, push_at, l);
        else if (at > l->from)
            failed = um_sp_encode(t->sp, text + l->from, at - l->from, push, l);
        l->from = at;
        if (special >= 0) push(l, special);
        if (special >= 0) at += bytes - 1;
        l->from = at + 1;
    }
    return failed;
}

um_status um_tokenizer_encode_at(const um_tokenizer *t, const char *text, size_t n, int32_t **ids,
                                 int32_t **at, int *count, um_arena *arena, um_err *err)
{
    id_list list = {.want_at = at != NULL};
    int failed = n > INT32_MAX ? -1 : encode(t, &list, text, n);
    size_t bytes = (size_t)list.n * sizeof *list.ids;
    *ids = um_arena_i32(arena, (size_t)list.n);
    if (bytes > 0) memcpy(*ids, list.ids, bytes);
    if (at != NULL) *at = um_arena_i32(arena, (size_t)list.n);
    if (at != NULL && bytes > 0) memcpy(*at, list.at, bytes);
    *count = list.n;
    um_free(list.ids);
    um_free(list.at);
    return failed == 0 ? UM_OK : UM_FAIL(err, UM_E_DATA, "the text could not be encoded");
}

um_status um_tokenizer_encode(const um_tokenizer *t, const char *text, size_t n, int32_t **ids,
                              int *count, um_arena *arena, um_err *err)
{
    return um_tokenizer_encode_at(t, text, n, ids, NULL, count, arena, err);
}

typedef struct text_out {
    um_arena *arena;
    char *s;
} text_out;

size_t um_tokenizer_space(const char *s, size_t n, bool front)
{
    static const char *const spaces[] = {
        "\t",           "\n",           "\v",           "\f",           "\r",
        "\x1c",         "\x1d",         "\x1e",         "\x1f",         " ",
        "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81",
        "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86",
        "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
        "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
        size_t m = strlen(spaces[i]);
        if (m <= n && memcmp(front ? s : s + n - m, spaces[i], m) == 0) return m;
    }
    return 0;
}

/* Copies text as a C string; zero bytes, which a C string cannot contain, become U+FFFD. */
static char *without_zeros(um_arena *arena, const char *text, size_t n)
{
    size_t zeros = 0, at = 0;
    for (size_t i = 0; i < n; i++) zeros += text[i] == '\0';
    char *out = um_arena_alloc(arena, n + 2 * zeros + 1);
    for (size_t i = 0; i < n; i++) {
        if (text[i] != '\0') {
            out[at++] = text[i];
        } else {
            memcpy(out + at, "\xef\xbf\xbd", 3);
            at += 3;
        }
    }
    out[at] = '\0';
    return out;
}

static void keep_text(void *ctx, const char *text, size_t n)
{
    text_out *o = ctx;
    o->s = without_zeros(o->arena, text, n);
}

bool um_tokenizer_writes(const um_tokenizer *t, int32_t id)
{
    return id >= 0 && id < um_sp_vocab(t->sp) && id != um_sp_bos(t->sp) && id != um_sp_eos(t->sp) &&
           id != um_sp_unk(t->sp);
}

int um_tokenizer_byte(const um_tokenizer *t, int32_t id)
{
    return um_tokenizer_writes(t, id) ? um_sp_byte(t->sp, id) : -1;
}

char *um_tokenizer_decode_raw(const um_tokenizer *t, const int32_t *ids, int n, um_arena *arena)
{
    text_out out = {.arena = arena};
    int32_t *plain = um_arena_i32(arena, (size_t)n);
    int m = 0;
    for (int i = 0; i < n; i++)
        if (um_tokenizer_writes(t, ids[i])) plain[m++] = ids[i];
    if (um_sp_decode(t->sp, plain, m, keep_text, &out) != 0 || out.s == NULL)
        return um_arena_str(arena, "");
    return out.s;
}

/* Decoded behind a piece that is no byte, so that the first of them is not at the beginning. */
char *um_tokenizer_decode_next(const um_tokenizer *t, const int32_t *ids, int n, um_arena *arena)
{
    if (t->word < 0) return um_tokenizer_decode_raw(t, ids, n, arena);
    int32_t *all = um_arena_i32(arena, (size_t)n + 1);
    all[0] = t->word;
    if (n > 0) memcpy(all + 1, ids, (size_t)n * sizeof *ids);
    return um_tokenizer_decode_raw(t, all, n + 1, arena) + t->word_bytes;
}

/* The piece that decode_next puts in front: any whose text is not empty. A byte piece would join those behind it. */
static void word_find(um_tokenizer *t, um_arena *scratch)
{
    t->word = -1;
    for (int32_t id = 0; id < um_sp_vocab(t->sp) && t->word < 0; id++) {
        um_mark mark = um_arena_mark(scratch);
        if (um_tokenizer_writes(t, id) && um_sp_byte(t->sp, id) < 0) {
            t->word_bytes = strlen(um_tokenizer_decode_raw(t, &id, 1, scratch));
            if (t->word_bytes > 0) t->word = id;
        }
        um_arena_reset(scratch, mark);
    }
}

char *um_tokenizer_strip(char *text)
{
    size_t n = strlen(text);
    for (size_t m; n > 0 && (m = um_tokenizer_space(text, n, true)) > 0; n -= m) text += m;
    for (size_t m; n > 0 && (m = um_tokenizer_space(text, n, false)) > 0;) n -= m;
    text[n] = '\0';
    return text;
}

char *um_tokenizer_decode(const um_tokenizer *t, const int32_t *ids, int n, um_arena *arena)
{
    return um_tokenizer_strip(um_tokenizer_decode_raw(t, ids, n, arena));
}

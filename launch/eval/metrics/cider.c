/* See cider.h. Formulas are those of section 3 (CIDEr-D) of arXiv 1411.5726:
 *   g_k(c) = tf of n-gram k in c times log(N / max(1, media in whose references k is))
 *   CIDEr-D_n(c, S) = 10 / |S| * sum over s of exp(-(l_c - l_s)^2 / (2 * 6^2)) * sum_k min(g_k(c), g_k(s)) g_k(s) / (|g(c)| |g(s)|)
 * and the mean over n = 1..4. As in the program that everybody compares with, lengths are counted in bigrams and tf is not divided by
 * the length, which cancels. */
#include "launch/eval/metrics/cider.h"

#include "launch/eval/metrics/answer_text.h"

#include <math.h>
#include <string.h>

enum { ORDERS = 4 };
#define SIGMA 6.0

/* An n-gram in a table: its words with a blank between them. */
typedef struct gram {
    const char *text; /* NULL: free */
    int order;        /* words - 1 */
    int count;        /* in one text; or the media in whose references it is */
    int seen;         /* the last medium that counted it, from 1 */
} gram;

typedef struct gram_table {
    gram *slots; /* [cap], a power of two */
    size_t n, cap;
    um_arena *arena;
} gram_table;

static uint64_t hash_of(const char *text)
{
    uint64_t h = 1469598103934665603u; /* FNV-1a, 64 bits */
    for (; *text != '\0'; text++) h = (h ^ (uint8_t)*text) * 1099511628211u;
    return h;
}

static gram *slot_of(const gram_table *t, const char *text)
{
    size_t at = (size_t)hash_of(text) & (t->cap - 1);
    while (t->slots[at].text != NULL && strcmp(t->slots[at].text, text) != 0)
        at = (at + 1) & (t->cap - 1);
    return &t->slots[at];
}

static void table_init(gram_table *t, size_t cap, um_arena *arena)
{
    *t = (gram_table){um_arena_zero(arena, cap * sizeof(gram)), 0, cap, arena};
}

/* The slot of text, which it has from now on. */
static gram *table_add(gram_table *t, const char *text, int order)
{
    if (2 * (t->n + 1) > t->cap) {
        gram_table wider;
        table_init(&wider, 2 * t->cap, t->arena);
        for (size_t i = 0; i < t->cap; i++)
            if (t->slots[i].text != NULL) *slot_of(&wider, t->slots[i].text) = t->slots[i];
        wider.n = t->n;
        *t = wider;
    }
    gram *g = slot_of(t, text);
    if (g->text != NULL) return g;
    *g = (gram){.text = um_arena_str(t->arena, text), .order = order};
    t->n++;
    return g;
}

/* The n-grams of a text and how often each is there; *length: its bigrams. */
static gram_table grams_of(const char *text, int *length, um_arena *arena)
{
    um_words w = um_words_caption(text, arena);
    gram_table t;
    table_init(&t, 64, arena);
    *length = w.n > 1 ? w.n - 1 : 0;
    for (int i = 0; i < w.n; i++) {
        const char *all = "";
        for (int k = 0; k < ORDERS && i + k < w.n; k++) {
            all = k == 0 ? w.word[i] : um_arena_fmt(arena, "%s %s", all, w.word[i + k]);
            table_add(&t, all, k)->count++;
        }
    }
    return t;
}

/* In how many media's references each n-gram is. */
static void rarity_count(gram_table *df, const um_caption *captions, int n, um_arena *scratch)
{
    for (int i = 0; i < n; i++)
        for (int r = 0; r < captions[i].n; r++) {
            um_mark mark = um_arena_mark(scratch);
            int length = 0;
            gram_table t = grams_of(captions[i].refs[r], &length, scratch);
            for (size_t k = 0; k < t.cap; k++) {
                if (t.slots[k].text == NULL) continue;
                gram *g = table_add(df, t.slots[k].text, t.slots[k].order);
                g->count += g->seen != i + 1;
                g->seen = i + 1;
            }
            um_arena_reset(scratch, mark);
        }
}

static double weight_of(const gram *g, const gram_table *df, double log_media)
{
    const gram *seen = slot_of(df, g->text);
    return g->count * (log_media - log(seen->text != NULL && seen->count > 1 ? seen->count : 1));
}

static void norms_of(double norm[ORDERS], const gram_table *t, const gram_table *df,
                     double log_media)
{
    memset(norm, 0, ORDERS * sizeof *norm);
    for (size_t k = 0; k < t->cap; k++) {
        const gram *g = &t->slots[k];
        if (g->text != NULL) norm[g->order] += pow(weight_of(g, df, log_media), 2);
    }
    for (int o = 0; o < ORDERS; o++) norm[o] = sqrt(norm[o]);
}

/* What a caption has in common with one reference: the sum over the orders. */
static double likeness(const gram_table *a, int la, const gram_table *b, int lb,
                       const gram_table *df, double log_media)
{
    double na[ORDERS], nb[ORDERS], dot[ORDERS] = {0}, sum = 0;
    norms_of(na, a, df, log_media);
    norms_of(nb, b, df, log_media);
    for (size_t k = 0; k < a->cap; k++) {
        const gram *g = &a->slots[k];
        if (g->text == NULL) continue;
        const gram *h = slot_of(b, g->text);
        if (h->text == NULL) continue;
        double x = weight_of(g, df, log_media), y = weight_of(h, df, log_media);
        dot[g->order] += (x < y ? x : y) * y;
    }
    for (int o = 0; o < ORDERS; o++)
        if (na[o] > 0 && nb[o] > 0) sum += dot[o] / (na[o] * nb[o]);
    return sum * exp(-(double)(la - lb) * (la - lb) / (2 * SIGMA * SIGMA));
}

um_status um_cider(double *score, double *mean, const um_caption *captions, int n, um_err *err)
{
    um_arena keep, scratch;
    gram_table df;
    double log_media = log(n), sum = 0;
    for (int i = 0; i < n; i++)
        if (captions[i].n < 1)
            return UM_FAIL(err, UM_E_DATA, "caption %d has no references", i + 1);
    um_arena_init(&keep, "cider", 1 << 20);
    um_arena_init(&scratch, "cider", 1 << 16);
    table_init(&df, 1024, &keep);
    rarity_count(&df, captions, n, &scratch);
    for (int i = 0; i < n; i++) {
        um_mark mark = um_arena_mark(&scratch);
        int la = 0, lb = 0;
        gram_table a = grams_of(captions[i].text, &la, &scratch);
        score[i] = 0;
        for (int r = 0; r < captions[i].n; r++) {
            gram_table b = grams_of(captions[i].refs[r], &lb, &scratch);
            score[i] += likeness(&a, la, &b, lb, &df, log_media);
        }
        score[i] *= 10.0 / ORDERS / captions[i].n;
        sum += score[i];
        um_arena_reset(&scratch, mark);
    }
    *mean = n > 0 ? sum / n : 0;
    um_arena_free(&keep);
    um_arena_free(&scratch);
    return UM_OK;
}

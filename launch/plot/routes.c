/* See routes.h. */
#include "launch/plot/routes.h"

#include "core/base/file.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define FILE_LIMIT ((size_t)2 << 30)
#define CELLS_LIMIT ((size_t)1 << 27)    /* 1 GiB of counters */
#define TOKENS_LIMIT (UINT64_C(1) << 52) /* so that their sums stay exact in a double */

static const char magic[] = "# unimoe routing 1";

enum { PHASE, LAYER, MODALITY, EXPERT, TOKENS, FIRST, WEIGHT, COLUMNS };
static const char *const column_name[COLUMNS] = {"phase",  "layer",        "modality", "expert",
                                                 "tokens", "first_choice", "weight"};

enum { FIELDS_MAX = 32 };

typedef struct reading {
    um_routes *r;
    int column[COLUMNS]; /* the position of each in a line */
    int fields;          /* fields in the line of names; 0 before it */
    int number;          /* number of the current line */
    int *position;       /* [layers] position in the list of MoE layers, or -1 */
    bool header[3];      /* whether layers, experts and top_k were read */
    size_t cells;
    um_arena *arena;
    um_err *err;
} reading;

#define BAD(g, ...) bad((g), um_arena_fmt((g)->arena, __VA_ARGS__))
static um_status bad(const reading *g, const char *what)
{
    return UM_FAIL(g->err, UM_E_DATA, "%s:%d: %s", g->r->path, g->number, what);
}

static bool whole(int64_t *out, const char *s, int64_t min, int64_t max)
{
    char *end = NULL;
    errno = 0;
    intmax_t v = strtoimax(s, &end, 10);
    if (end == s || *end != '\0' || errno != 0 || isspace((unsigned char)*s) || v < min || v > max)
        return false;
    *out = v;
    return true;
}

/* ---- lines with # ---- */

static um_status take_layers(reading *g, const char *value)
{
    um_routes *r = g->r;
    if (r->layers == 0) return BAD(g, "moe_layers before layers");
    if (r->layer != NULL) return BAD(g, "moe_layers came before");
    r->layer = um_arena_alloc(g->arena, (size_t)r->layers * sizeof *r->layer);
    g->position = um_arena_alloc(g->arena, (size_t)r->layers * sizeof *g->position);
    for (int i = 0; i < r->layers; i++) g->position[i] = -1;
    for (const char *p = value; *p != '\0';) {
        size_t n = strcspn(p, " ");
        const char *word = um_arena_strn(g->arena, p, n);
        int64_t l = 0;
        int least = r->moe_layers > 0 ? r->layer[r->moe_layers - 1] + 1 : 0;
        if (!whole(&l, word, least, r->layers - 1))
            return BAD(g, "moe_layers: %s, want rising numbers below %d", word, r->layers);
        g->position[l] = r->moe_layers;
        r->layer[r->moe_layers++] = (int)l;
        p += n + strspn(p + n, " ");
    }
    if (r->moe_layers == 0) return BAD(g, "moe_layers: none");
    size_t planes = (size_t)r->moe_layers * UM_MODALITIES;
    for (int p = 0; p < UM_PHASES; p++)
        r->cell[p] = um_arena_zero(g->arena, planes * sizeof *r->cell[p]);
    return UM_OK;
}

static um_status take_number(reading *g, int *out, const char *key, const char *value, int max)
{
    int64_t v = 0;
    if (*out != 0) return BAD(g, "%s came before", key);
    if (!whole(&v, value, 1, max)) return BAD(g, "%s: %s, allowed 1..%d", key, value, max);
    *out = (int)v;
    return UM_OK;
}

/* "# key: value". Unknown keys are ignored. */
static um_status take_comment(reading *g, char *line)
{
    um_routes *r = g->r;
    char *colon = strchr(line, ':');
    if (colon == NULL) return UM_OK;
    *colon = '\0';
    const char *key = line + 1 + strspn(line + 1, " "), *value = colon + 1 + strspn(colon + 1, " ");
    if (strcmp(key, "model") == 0) r->model = value;
    if (strcmp(key, "variant") == 0) r->variant = value;
    if (strcmp(key, "requests") == 0 && !whole(&r->requests, value, 0, INT64_MAX))
        return BAD(g, "requests: %s is not a number", value);
    if (strcmp(key, "failed") == 0 && !whole(&r->failed, value, 0, INT64_MAX))
        return BAD(g, "failed: %s is not a number", value);
    if (strcmp(key, "layers") == 0) return take_number(g, &r->layers, key, value, UM_MAX_LAYERS);
    if (strcmp(key, "experts") == 0) return take_number(g, &r->experts, key, value, UM_MAX_EXPERTS);
    if (strcmp(key, "top_k") == 0) return take_number(g, &r->top_k, key, value, UM_MAX_EXPERTS);
    if (strcmp(key, "moe_layers") == 0) return take_layers(g, value);
    return UM_OK;
}

/* ---- lines of cells ---- */

/* Splits line at its commas in place; returns the number of fields, FIELDS_MAX + 1 when there are more than FIELDS_MAX. */
static int split(char *line, char **field)
{
    int n = 0;
    for (char *p = line; p != NULL && n <= FIELDS_MAX;) {
        if (n < FIELDS_MAX) field[n] = p;
        n++;
        p = strchr(p, ',');
        if (p != NULL) *p++ = '\0';
    }
    return n;
}

static um_status take_names(reading *g, char *line)
{
    char *field[FIELDS_MAX];
    const um_routes *r = g->r;
    int n = split(line, field);
    if (n > FIELDS_MAX) return BAD(g, "more than %d columns", FIELDS_MAX);
    for (int c = 0; c < COLUMNS; c++) {
        g->column[c] = -1;
        for (int i = 0; i < n; i++)
            if (strcmp(field[i], column_name[c]) == 0) g->column[c] = i;
        if (g->column[c] < 0) return BAD(g, "column %s is missing", column_name[c]);
    }
    const char *missing = r->layers == 0     ? "layers"
                          : r->layer == NULL ? "moe_layers"
                          : r->experts == 0  ? "experts"
                          : r->top_k == 0    ? "top_k"
                                             : NULL;
    if (missing != NULL) return BAD(g, "no line \"# %s: ...\" before the columns", missing);
    g->fields = n;
    return UM_OK;
}

static int name_index(const char *word, int n, const char *(*name)(int))
{
    for (int i = 0; i < n; i++)
        if (strcmp(name(i), word) == 0) return i;
    return -1;
}
static const char *phase_name(int i) { return um_phase_name((um_phase)i); }
static const char *modality_name(int i) { return um_modality_name((um_modality)i); }

static um_status take_cell(reading *g, char *line)
{
    um_routes *r = g->r;
    char *field[FIELDS_MAX], *f[COLUMNS], *end = NULL;
    int n = split(line, field);
    if (n != g->fields) return BAD(g, "%d fields, the columns are %d", n, g->fields);
    for (int c = 0; c < COLUMNS; c++) f[c] = field[g->column[c]];
    int phase = name_index(f[PHASE], UM_PHASES, phase_name),
        kind = name_index(f[MODALITY], UM_MODALITIES, modality_name);
    int64_t layer = 0, expert = 0, tokens = 0, first = 0;
    if (phase < 0) return BAD(g, "phase: %s, allowed prefill decode", f[PHASE]);
    if (kind < 0) return BAD(g, "modality: %s is none", f[MODALITY]);
    if (!whole(&layer, f[LAYER], 0, r->layers - 1) || g->position[layer] < 0)
        return BAD(g, "layer: %s is none of moe_layers", f[LAYER]);
    if (!whole(&expert, f[EXPERT], 0, r->experts - 1))
        return BAD(g, "expert: %s, allowed 0..%d", f[EXPERT], r->experts - 1);
    if (!whole(&tokens, f[TOKENS], 0, (int64_t)TOKENS_LIMIT))
        return BAD(g, "tokens: %s is no count", f[TOKENS]);
    if (!whole(&first, f[FIRST], 0, tokens))
        return BAD(g, "first_choice: %s, allowed 0..%" PRId64, f[FIRST], tokens);
    double weight = strtod(f[WEIGHT], &end);
    if (end == f[WEIGHT] || *end != '\0' || !(weight >= 0 && weight <= (double)tokens * 1.000001))
        return BAD(g, "weight: %s, allowed 0..%" PRId64, f[WEIGHT], tokens);
    uint64_t **plane = &r->cell[phase][g->position[layer] * UM_MODALITIES + kind];
    if (*plane == NULL) {
        g->cells += (size_t)r->experts;
        if (g->cells > CELLS_LIMIT)
            return BAD(g, "more than %zu counters are too many to draw", CELLS_LIMIT);
        *plane = um_arena_zero(g->arena, (size_t)r->experts * sizeof **plane);
    }
    if ((*plane)[expert] != 0) return BAD(g, "this cell came before");
    (*plane)[expert] = (uint64_t)tokens;
    if (tokens > 0 && r->counted[phase]) r->seen[kind] = true;
    return UM_OK;
}

static um_status take_line(reading *g, char *line)
{
    if (g->number == 1) {
        if (strcmp(line, magic) == 0) return UM_OK;
        return BAD(g, "not a routing file: it begins with \"%.40s\", want \"%s\"", line, magic);
    }
    if (line[0] == '\0') return UM_OK;
    if (line[0] == '#' && g->fields == 0) return take_comment(g, line);
    if (line[0] == '#') return UM_OK;
    return g->fields == 0 ? take_names(g, line) : take_cell(g, line);
}

static const char *base_name(const char *path, um_arena *arena)
{
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
    size_t n = strlen(name);
    return n > 4 && strcmp(name + n - 4, ".csv") == 0 ? um_arena_strn(arena, name, n - 4) : name;
}

um_status um_routes_read(um_routes *out, const char *path, const char *phase, um_arena *arena,
                         um_err *err)
{
    um_routes r = {.path = path, .name = base_name(path, arena), .model = "", .variant = ""};
    reading g = {.r = &r, .arena = arena, .err = err};
    uint8_t *data = NULL;
    size_t size = 0;
    bool any = false;
    for (int p = 0; p < UM_PHASES; p++)
        r.counted[p] = strcmp(phase, "all") == 0 || strcmp(phase, phase_name(p)) == 0;
    if (um_file_read(&data, &size, path, FILE_LIMIT, arena, err) != UM_OK) return UM_E_DATA;
    if (memchr(data, '\0', size) != NULL)
        return UM_FAIL(err, UM_E_DATA, "%s: not a routing file: it is no text", path);
    for (char *line = (char *)data; line != NULL;) {
        char *nl = strchr(line, '\n');
        if (nl != NULL) *nl = '\0';
        size_t n = strlen(line);
        if (n > 0 && line[n - 1] == '\r') line[n - 1] = '\0';
        g.number++;
        UM_TRY(take_line(&g, line));
        line = nl == NULL ? NULL : nl + 1;
    }
    if (g.fields == 0) return BAD(&g, "the line of column names is missing");
    for (int m = 0; m < UM_MODALITIES; m++) any = any || r.seen[m];
    if (!any)
        return UM_FAIL(err, UM_E_DATA, "%s: no %s rows were counted", path,
                       strcmp(phase, "all") == 0 ? "prefill or decode" : phase);
    *out = r;
    return UM_OK;
}

um_status um_routes_alike(const um_routes *a, const um_routes *b, um_err *err)
{
    bool both = false;
    if (a->experts != b->experts)
        return UM_FAIL(err, UM_E_DATA, "%s has %d experts, %s has %d: no difference can be drawn",
                       a->path, a->experts, b->path, b->experts);
    bool same = a->moe_layers == b->moe_layers &&
                memcmp(a->layer, b->layer, (size_t)a->moe_layers * sizeof *a->layer) == 0;
    if (!same)
        return UM_FAIL(err, UM_E_DATA,
                       "%s has %d MoE layers, %s has %d%s: no difference can be drawn", a->path,
                       a->moe_layers, b->path, b->moe_layers,
                       a->moe_layers == b->moe_layers ? " others" : "");
    for (int m = 0; m < UM_MODALITIES; m++) both = both || (a->seen[m] && b->seen[m]);
    if (!both)
        return UM_FAIL(err, UM_E_DATA, "%s and %s have no modality in common", a->path, b->path);
    return UM_OK;
}

double um_routes_sum(const um_routes *r, int modality, int l0, int l1, int e0, int e1)
{
    int m0 = modality < 0 ? 0 : modality, m1 = modality < 0 ? UM_MODALITIES : modality + 1;
    uint64_t sum = 0;
    for (int p = 0; p < UM_PHASES; p++)
        for (int l = l0; l < l1 && r->counted[p]; l++)
            for (int m = m0; m < m1; m++) {
                const uint64_t *cell = r->cell[p][l * UM_MODALITIES + m];
                for (int e = e0; cell != NULL && e < e1; e++) sum += cell[e];
            }
    return (double)sum;
}

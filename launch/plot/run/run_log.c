/* See run_log.h. */
#include "launch/plot/run/run_log.h"

#include "core/base/bytes.h"
#include "core/base/file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LAYERS_MAX = 4096 }; /* of a record that is drawn */

/* What reads a file line by line. */
typedef struct reader {
    um_run_log *log;
    um_arena *arena;
    um_arena line;  /* of one line */
    double cut;     /* loads of later steps are added up */
    um_text *table; /* or NULL */
} reader;

/* What can be drawn: values beyond what a training can have are none. */
static double plain(double v)
{
    if (!(fabs(v) <= 1e30)) return NAN;
    return fabs(v) < 1e-30 ? 0 : v;
}

static size_t count_lines(const um_file *f)
{
    size_t n = 0;
    for (const uint8_t *p = f->data, *end = p + f->size; p != NULL && p < end; n++) {
        const uint8_t *nl = memchr(p, '\n', (size_t)(end - p));
        if (nl == NULL) break;
        p = nl + 1;
    }
    return n;
}

static double *column(um_arena *arena, size_t n)
{
    double *v = um_arena_alloc(arena, (n + 1) * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = NAN;
    return v;
}

static void columns(um_run_log *l, size_t n, um_arena *arena)
{
    double **const list[] = {&l->step, &l->loss, &l->cross_entropy,
                             &l->lr,   &l->norm, &l->eval_loss};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) *list[i] = column(arena, n);
    for (int m = 0; m < UM_MODALITIES; m++) l->by_modality[m] = column(arena, n);
}

/* The step of the last whole line, or 0: a hint for which loads are the last. */
static double last_step(const um_file *f)
{
    size_t end = f->size, from;
    um_json *j = NULL;
    um_train_record r = {0};
    um_err why = {0};
    while (end > 0 && f->data[end - 1] != '\n') end--;
    if (end == 0) return 0;
    for (from = --end; from > 0 && f->data[from - 1] != '\n';) from--;
    if (um_json_parse(&j, f->data + from, end - from, &why) == UM_OK) (void)um_record_read(&r, j);
    um_json_free(j);
    return (double)r.step;
}

/* The first record with loads says which layers there are. */
static void begin_loads(reader *x, const um_expert_load *from, size_t most)
{
    um_run_log *l = x->log;
    const size_t n = (size_t)from->layers;
    l->layers = from->layers;
    l->layer = um_arena_alloc(x->arena, n * sizeof *l->layer);
    l->imbalance = um_arena_alloc(x->arena, n * sizeof *l->imbalance);
    for (int i = 0; i < l->layers; i++) {
        l->layer[i] = from->layer[i].layer;
        l->imbalance[i] = column(x->arena, most);
    }
    if (from->experts == 0) return;
    l->load = (um_routes){.path = l->path,
                          .name = l->name,
                          .model = "",
                          .variant = "",
                          .layers = from->layers,
                          .experts = from->experts,
                          .layer = l->layer,
                          .moe_layers = from->layers};
    l->load.counted[UM_PREFILL] = true;
    for (int p = 0; p < UM_PHASES; p++)
        l->load.cell[p] = um_arena_zero(x->arena, n * UM_MODALITIES * sizeof(uint64_t *));
}

static void add_loads(reader *x, const um_expert_load *from, const um_train_record *r, size_t most)
{
    um_run_log *l = x->log;
    um_routes *to = &l->load;
    if (from->layers == 0 || from->layers > LAYERS_MAX) return;
    if (l->layers == 0) begin_loads(x, from, most);
    if (from->layers != l->layers) return;
    for (int i = 0; i < l->layers; i++) l->imbalance[i][l->n] = plain(from->layer[i].max_over_mean);
    if (from->experts != to->experts || (double)r->step <= x->cut) return;
    for (int i = 0; i < l->layers; i++)
        for (int m = 0; m < UM_MODALITIES; m++) {
            const uint64_t *rows = from->layer[i].rows[m];
            uint64_t **cell = &to->cell[UM_PREFILL][i * UM_MODALITIES + m];
            if (rows == NULL) continue;
            if (*cell == NULL) *cell = um_arena_zero(x->arena, (size_t)to->experts * sizeof **cell);
            for (int e = 0; e < to->experts; e++) (*cell)[e] += rows[e];
            to->seen[m] = true;
        }
    if (l->load_from == 0) l->load_from = (double)r->step;
}

static um_status add_line(reader *x, const char *text, size_t n, size_t number, size_t most,
                          um_err *err)
{
    um_run_log *l = x->log;
    um_json *j = NULL;
    um_train_record r;
    um_err why = {0};
    if (um_json_parse(&j, text, n, &why) != UM_OK)
        return UM_FAIL(err, UM_E_DATA, "%s:%zu: %.600s", l->path, number, why.msg);
    um_status st = UM_OK;
    if (!um_record_read(&r, j))
        st = UM_FAIL(err, UM_E_DATA, "%s:%zu: no record of a training step", l->path, number);
    else if (l->n > 0 && (double)r.step <= l->step[l->n - 1])
        st = UM_FAIL(err, UM_E_DATA, "%s:%zu: step %.0f comes after step %.0f", l->path, number,
                     (double)r.step, l->step[l->n - 1]);
    if (st == UM_OK) {
        const size_t at = l->n;
        l->step[at] = (double)r.step;
        l->steps = (double)(r.steps > r.step ? r.steps : r.step);
        l->loss[at] = plain(r.loss);
        l->cross_entropy[at] = plain(r.cross_entropy);
        l->lr[at] = plain(r.lr);
        l->norm[at] = plain(r.norm);
        l->eval_loss[at] = plain(r.eval_loss);
        for (int m = 0; m < UM_MODALITIES; m++) l->by_modality[m][at] = plain(r.by_modality[m]);
        um_expert_load_read(&r.load, um_json_get(j, "load"), &x->line);
        add_loads(x, &r.load, &r, most);
        if (x->table != NULL) um_record_csv(x->table, &r);
        l->n++;
    }
    um_json_free(j);
    return st;
}

static um_status read_lines(reader *x, const um_file *f, um_err *err)
{
    const size_t most = count_lines(f);
    const char *p = (const char *)f->data;
    size_t at = 0;
    columns(x->log, most, x->arena);
    x->cut = 0.9 * last_step(f);
    for (size_t i = 0; i < most; i++) {
        const size_t n = (size_t)((const char *)memchr(p + at, '\n', f->size - at) - (p + at));
        const um_mark mark = um_arena_mark(&x->line);
        UM_TRY(add_line(x, p + at, n, i + 1, most, err));
        um_arena_reset(&x->line, mark);
        at += n + 1;
    }
    if (x->log->n > 0) return UM_OK;
    return UM_FAIL(err, UM_E_DATA, "%s has no record: the first step of the run is not over",
                   x->log->path);
}

um_status um_run_log_read(um_run_log *out, const char *path, um_text *table, um_arena *arena,
                          um_err *err)
{
    um_run_log l = {.path = path};
    um_file f = {0};
    if (um_file_is_folder(path)) l.path = um_path_join(arena, path, "trainer_log.jsonl");
    const char *folder = um_path_dir(arena, l.path), *slash = strrchr(folder, '/');
    l.name = slash != NULL && slash[1] != '\0' ? slash + 1 : folder;
    reader x = {.log = &l, .arena = arena, .table = table};
    if (table != NULL) um_record_csv_columns(table);
    if (um_file_is_special(l.path))
        return UM_FAIL(err, UM_E_DATA, "%s is not a regular file", l.path);
    if (um_file_map(&f, l.path, err) != UM_OK) return UM_E_DATA;
    um_arena_init(&x.line, "line", 1 << 14);
    um_status st = read_lines(&x, &f, err);
    um_arena_free(&x.line);
    um_file_unmap(&f);
    if (st == UM_OK) *out = l;
    return st;
}

/* See event_log.h. */
#include "core/train/log/event_log.h"

#include "core/base/file.h"
#include "proto/events.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct um_event_log {
    int fd;
    um_arena arena; /* tags and values of one record */
};

static const char prefix[] = "events.out.tfevents.";

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The largest number in the names of the event files of a folder, or 0. */
static uint64_t newest(const char *folder)
{
    DIR *d = opendir(folder);
    uint64_t most = 0;
    if (d == NULL) return 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (!um_starts_with(e->d_name, prefix)) continue;
        const uint64_t n = strtoumax(e->d_name + sizeof prefix - 1, NULL, 10);
        if (n > most) most = n;
    }
    closedir(d);
    return most;
}

/* TensorBoard reads files in the order of their names, so a later one must have a larger number, whatever the clock says. */
static const char *next_path(const char *folder, um_arena *a)
{
    char host[128] = "";
    uint64_t second = (uint64_t)time(NULL);
    const uint64_t last = newest(folder);
    if (second <= last && last < UINT64_C(9999999999)) second = last + 1;
    const bool named = gethostname(host, sizeof host - 1) == 0 && host[0] != '\0';
    return um_arena_fmt(a, "%s/%s%010" PRIu64 ".%s.%ld.0", folder, prefix, second,
                        named ? host : "host", (long)getpid());
}

um_status um_event_log_open(um_event_log **out, const char *folder, uint64_t step, um_err *err)
{
    um_event_log *l = um_zalloc(sizeof *l);
    um_text t = {0};
    um_arena_init(&l->arena, "events", 1 << 14);
    const char *to = um_path_join(&l->arena, folder, "tensorboard");
    l->fd = -1;
    um_status st = um_file_mkdirs(to, err);
    if (st == UM_OK) {
        const char *path = next_path(to, &l->arena);
        l->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);
        if (l->fd < 0) st = UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(errno));
        um_events_begin(&t, now(), (int64_t)step + 1);
        if (st == UM_OK) st = um_file_put(l->fd, t.s, t.n, path, err);
    }
    um_text_free(&t);
    if (st == UM_OK)
        *out = l;
    else
        um_event_log_close(l);
    return st;
}

/* The values of one event. */
typedef struct scalars {
    um_event_scalar *list;
    size_t n;
    um_arena *arena;
} scalars;

static void add(scalars *s, const char *group, const char *name, double v)
{
    if (isnan(v)) return; /* there is none at this step */
    s->list[s->n++] = (um_event_scalar){um_arena_fmt(s->arena, "%s/%s", group, name), v};
}

static void collect(scalars *s, const um_train_record *r)
{
    add(s, "train", "loss", r->loss);
    add(s, "train", "cross_entropy", r->cross_entropy);
    add(s, "train", "learning_rate", r->lr);
    add(s, "train", "grad_norm", r->norm);
    add(s, "train", "tokens_per_second", r->rows_per_second);
    add(s, "train", "epoch", r->epoch);
    for (int m = 0; m < UM_MODALITIES; m++)
        add(s, "train_loss", um_modality_name((um_modality)m), r->by_modality[m]);
    for (int t = 0; t < UM_RECORD_TERMS; t++) add(s, "train_aux", um_record_term(t), r->aux[t]);
    for (int i = 0; i < r->load.layers; i++) {
        const um_layer_load *l = &r->load.layer[i];
        const char *name = um_arena_fmt(s->arena, "layer_%d", l->layer);
        add(s, "expert_max_over_mean", name, l->max_over_mean);
        add(s, "expert_entropy", name, l->entropy);
    }
    add(s, "eval", "loss", r->eval_loss);
}

um_status um_event_log_add(um_event_log *l, const um_train_record *r, um_err *err)
{
    um_text t = {0};
    const um_mark mark = um_arena_mark(&l->arena);
    const size_t most = 16 + UM_MODALITIES + UM_RECORD_TERMS + 2 * (size_t)r->load.layers;
    scalars s = {.list = um_arena_alloc(&l->arena, most * sizeof *s.list), .arena = &l->arena};
    collect(&s, r);
    um_events_scalars(&t, now(), (int64_t)r->step, s.list, s.n);
    um_arena_reset(&l->arena, mark);
    um_status st = t.n == 0 ? UM_OK : um_file_append(l->fd, t.s, t.n, "event file", err);
    um_text_free(&t);
    return st;
}

void um_event_log_close(um_event_log *l)
{
    if (l == NULL) return;
    if (l->fd >= 0) close(l->fd);
    um_arena_free(&l->arena);
    um_free(l);
}

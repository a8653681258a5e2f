/* See train_log.h. */
#include "core/train/log/train_log.h"

#include "core/base/file.h"
#include "core/train/log/event_log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct um_train_log {
    int lines, table; /* open for appending, or -1 */
    um_event_log *events;
};

/* Bytes of the records up to a step: lines that are whole and in order. Their rows are added to table. */
static size_t keep(um_text *table, const char *text, size_t size, uint64_t step)
{
    size_t end = 0;
    um_arena a;
    um_arena_init(&a, "record", 1 << 14);
    while (end < size) {
        const char *nl = memchr(text + end, '\n', size - end);
        um_json *j = NULL;
        um_train_record r;
        um_err why = {0};
        if (nl == NULL) break;
        const um_mark mark = um_arena_mark(&a);
        const size_t n = (size_t)(nl - text) - end;
        const bool fits = um_json_parse(&j, text + end, n, &why) == UM_OK &&
                          um_record_read(&r, j) && r.step <= step;
        if (fits) {
            um_expert_load_read(&r.load, um_json_get(j, "load"), &a);
            um_record_csv(table, &r);
        }
        um_json_free(j);
        um_arena_reset(&a, mark);
        if (!fits) break;
        end += n + 1;
    }
    um_arena_free(&a);
    return end;
}

/* Writes a file anew, and opens it for appending. */
static um_status begin(int *fd, const char *path, const char *text, size_t size, um_err *err)
{
    UM_TRY(um_file_write(path, size > 0 ? text : "", size, err));
    *fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    return *fd >= 0 ? UM_OK : UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(errno));
}

static um_status open_files(um_train_log *l, const char *folder, uint64_t step, um_arena *a,
                            um_err *err)
{
    um_file was = {0};
    um_text table = {0};
    const char *lines = um_path_join(a, folder, "trainer_log.jsonl");
    if (step > 0 && um_file_exists(lines)) UM_TRY(um_file_map(&was, lines, err));
    um_record_csv_columns(&table);
    const size_t size = keep(&table, (const char *)was.data, was.size, step);
    um_status st = begin(&l->lines, lines, (const char *)was.data, size, err);
    um_file_unmap(&was);
    if (st == UM_OK)
        st = begin(&l->table, um_path_join(a, folder, "trainer_log.csv"), table.s, table.n, err);
    um_text_free(&table);
    if (st == UM_OK) st = um_event_log_open(&l->events, folder, step, err);
    return st;
}

um_status um_train_log_open(um_train_log **out, const char *folder, uint64_t step, um_err *err)
{
    um_train_log *l = um_zalloc(sizeof *l);
    um_arena a;
    l->lines = l->table = -1;
    um_arena_init(&a, "log", 1 << 16);
    um_status st = open_files(l, folder, step, &a, err);
    um_arena_free(&a);
    if (st == UM_OK)
        *out = l;
    else
        um_train_log_close(l);
    return um_wrap(err, st, "log of the training");
}

um_status um_train_log_add(um_train_log *l, const um_train_record *r, um_err *err)
{
    um_text t = {0}, row = {0};
    um_record_json(&t, r);
    um_text_add(&t, "\n", 1);
    um_record_csv(&row, r);
    um_status st = um_file_append(l->lines, t.s, t.n, "trainer_log.jsonl", err);
    if (st == UM_OK) st = um_file_append(l->table, row.s, row.n, "trainer_log.csv", err);
    um_text_free(&t);
    um_text_free(&row);
    return st == UM_OK ? um_event_log_add(l->events, r, err) : st;
}

void um_train_log_close(um_train_log *l)
{
    if (l == NULL) return;
    if (l->lines >= 0) close(l->lines);
    if (l->table >= 0) close(l->table);
    um_event_log_close(l->events);
    um_free(l);
}

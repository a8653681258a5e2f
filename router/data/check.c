/* See check.h. */
#include "router/data/check.h"

#include "core/base/file.h"
#include "router/data/data_file.h"

#include <unistd.h>

/* Paths of media that were looked at, and what came of it: a table of hashes, so that the paths themselves are not kept. Two paths of
 * one hash of 64 bits would share what came of the first. */
typedef struct seen_medium {
    uint64_t key;    /* 0: free */
    const char *why; /* NULL: it is fine */
} seen_medium;

typedef struct checking {
    um_data_report report;
    const um_dataset_how *how;
    const um_data_checker *checker;
    const char *file, *folder;
    seen_medium *seen; /* [cap], a power of two */
    size_t n_seen, cap;
    um_arena scratch, reasons;
} checking;

/* --- media --- */

static uint64_t key_of(const um_item *item)
{
    uint64_t h = 1469598103934665603u; /* FNV-1a, 64 bits */
    for (int i = 0; i < item->n; i++)
        for (const char *p = item->paths[i];; p++) {
            h = (h ^ (uint8_t)*p) * 1099511628211u;
            if (*p == '\0') break;
        }
    h = (h ^ (uint64_t)(item->modality == UM_SPEECH ? UM_SOUND : item->modality)) * 1099511628211u;
    return h != 0 ? h : 1;
}

static seen_medium *place_of(const checking *c, uint64_t key)
{
    size_t at = (size_t)(key * 0x9E3779B97F4A7C15u >> 20) & (c->cap - 1);
    while (c->seen[at].key != 0 && c->seen[at].key != key) at = (at + 1) & (c->cap - 1);
    return &c->seen[at];
}

static void seen_grow(checking *c)
{
    seen_medium *old = c->seen;
    size_t n = c->cap;
    c->cap = n == 0 ? 1024 : 2 * n;
    c->seen = um_zalloc(c->cap * sizeof *c->seen);
    for (size_t i = 0; i < n; i++)
        if (old[i].key != 0) *place_of(c, old[i].key) = old[i];
    um_free(old);
}

static um_status files_look(const um_item *item, um_err *err)
{
    for (int i = 0; i < item->n; i++) {
        int fd = -1;
        int64_t size = 0;
        if (item->data != NULL && item->data[i].bytes != NULL) continue;
        if (um_file_open_regular(&fd, &size, item->paths[i], err) != UM_OK) return UM_E_DATA;
        close(fd);
        if (size == 0) return UM_FAIL(err, UM_E_DATA, "%s: is empty", item->paths[i]);
    }
    return UM_OK;
}

/* *why becomes what is wrong with a medium, NULL when nothing is. Fails only when the check cannot go on. */
static um_status medium_look(checking *c, const um_item *item, const char **why, um_err *err)
{
    bool given =
        item->data != NULL && item->data[0].bytes != NULL; /* names of these are not their own */
    um_err at = {0};
    if (4 * (c->n_seen + 1) > 3 * c->cap) seen_grow(c);
    seen_medium *s = given ? NULL : place_of(c, key_of(item));
    if (s != NULL && s->key != 0) {
        *why = s->why;
        return UM_OK;
    }
    um_status st = files_look(item, &at);
    if (st == UM_OK && c->checker->decode != NULL)
        st = c->checker->decode(c->checker->ctx, item, &at);
    if (st != UM_OK && st != UM_E_DATA) {
        *err = at;
        return st;
    }
    *why = st == UM_OK ? NULL : um_arena_str(&c->reasons, at.msg);
    c->report.media++;
    if (s == NULL) return UM_OK;
    *s = (seen_medium){key_of(item), *why};
    c->n_seen++;
    return UM_OK;
}

/* --- samples --- */

static const char *id_of(const um_data_sample *s) { return s->id != s->where ? s->id : NULL; }

static void report(checking *c, const um_data_sample *s, um_data_fault_kind kind,
                   const char *reason)
{
    c->report.faults[kind]++;
    c->checker->fault(c->checker->ctx, &(um_data_fault){kind, s->where, id_of(s), reason});
}

/* What is odd about a sample that is used all the same. */
static void oddities_report(checking *c, const um_data_sample *s)
{
    if (s->cut > 0)
        report(c, s, UM_FAULT_CUT,
               um_arena_fmt(&c->scratch,
                            "longer than %d ids: the last %d of %d rounds are left out",
                            c->how->maker.max_ids, s->cut, s->cut + s->rounds));
    if (s->unanswered)
        report(c, s, UM_FAULT_UNANSWERED, "its last question has no answer and is left out");
    else if (s->reference_masks)
        report(c, s, UM_FAULT_MASKED,
               "the original would learn nothing from it: its text holds an unknown character or "
               "words of the template");
}

static um_status sample_check(checking *c, const um_data_sample *s, um_err *err)
{
    bool fine = true;
    for (int i = 0; i < s->n_items; i++) {
        const char *why = NULL;
        UM_TRY(medium_look(c, &s->items[i], &why, err));
        if (why == NULL) continue;
        if (!fine) { /* a sample counts once, but each of its bad media is named */
            c->checker->fault(c->checker->ctx,
                              &(um_data_fault){UM_FAULT_MEDIA, s->where, id_of(s), why});
            continue;
        }
        report(c, s, UM_FAULT_MEDIA, why);
        fine = false;
    }
    if (!fine) return UM_OK;
    oddities_report(c, s);
    c->report.usable++;
    c->report.kinds[s->kinds]++;
    c->report.ids += s->n;
    c->report.targets += s->targets;
    if (s->n > c->report.longest) c->report.longest = s->n;
    return UM_OK;
}

static um_status item_check(void *ctx, const um_json_item *item, um_err *err)
{
    checking *c = ctx;
    um_request_source from = {.json = item->text,
                              .n = item->n,
                              .bytes = item->bytes,
                              .folder = c->folder,
                              .number = item->number,
                              .element = item->element};
    um_data_sample s = {0};
    um_err why = {0};
    if (c->checker->stop != NULL && c->checker->stop(c->checker->ctx))
        return UM_FAIL(err, UM_E_STOPPED, "the check was stopped");
    um_mark mark = um_arena_mark(&c->scratch);
    um_status st = um_sample_make(&s, &c->how->maker, &from, c->file, &c->scratch, &why);
    c->report.samples++;
    if (st == UM_OK)
        st = sample_check(c, &s, err);
    else if (st == UM_E_DATA) {
        report(c, &s, s.fault, why.msg);
        st = UM_OK;
    } else
        *err = why;
    um_arena_reset(&c->scratch, mark);
    return st;
}

/* A file that cannot be read, or has no samples, is one fault; the others are checked all the same. */
static um_status file_check(checking *c, um_err *err)
{
    um_data_reader r = {.fd = -1};
    um_err why = {0};
    int64_t before = c->report.samples;
    um_status st = um_data_reader_open(&r, c->file, &why);
    if (st == UM_OK) st = um_data_reader_all(&r, c->how, NULL, item_check, c, &why);
    um_data_reader_close(&r);
    if (st == UM_OK && c->report.samples == before)
        st = UM_FAIL(&why, UM_E_DATA, "%s: has no samples", c->file);
    if (st != UM_OK && st != UM_E_DATA) {
        *err = why;
        return st;
    }
    if (st == UM_E_DATA) {
        c->report.files_bad++;
        c->checker->fault(c->checker->ctx, &(um_data_fault){UM_FAULT_FILE, c->file, NULL, why.msg});
    }
    return UM_OK;
}

um_status um_dataset_check(um_data_report *out, const um_data_file *files, int n_files,
                           const um_dataset_how *how, const um_data_checker *checker, um_err *err)
{
    checking c = {.how = how, .checker = checker};
    um_arena folders;
    um_arena_init(&c.scratch, "data check", 1 << 16);
    um_arena_init(&c.reasons, "data check", 4096);
    um_arena_init(&folders, "data check", 4096);
    um_status st = UM_OK;
    for (int i = 0; i < n_files && st == UM_OK; i++) {
        c.file = files[i].path;
        c.folder = um_data_folder(how, files[i].path, &folders);
        st = file_check(&c, err);
    }
    if (st == UM_OK) *out = c.report;
    um_free(c.seen);
    um_arena_free(&c.scratch);
    um_arena_free(&c.reasons);
    um_arena_free(&folders);
    return st;
}

/* See kept.h. */
#include "launch/eval/kept.h"

#include "core/base/file.h"
#include "core/base/json.h"
#include "launch/eval/item_index.h"
#include "launch/eval/tasks/eval_lines.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* --- reading --- */

typedef struct kept_reading {
    um_kept *k;
    um_item_index index;
    const char *origin;
    bool other; /* the first line is another's */
} kept_reading;

/* Which part of the first line differs, in words. */
static const char *difference(const um_json *old, const char *origin, um_arena *arena)
{
    static const char *const parts[][2] = {{"weights", "the model has changed"},
                                           {"task", "the task has changed"},
                                           {"settings", "the settings have changed"},
                                           {"version", "unimoe has another version"}};
    um_json *now = NULL;
    const char *why = "they are another model's";
    if (um_json_parse(&now, origin, strlen(origin), NULL) != UM_OK) return why;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strcmp(um_json_str(um_json_get(old, parts[i][0]), ""),
                   um_json_str(um_json_get(now, parts[i][0]), "")) != 0) {
            why = parts[i][1];
            break;
        }
    um_json_free(now);
    return um_arena_str(arena, why);
}

static um_status likelihood_read(um_kept *k, size_t i, const um_json *line, um_err *err)
{
    int64_t choice = um_json_int(um_json_get(line, "choice"), -1);
    int64_t tokens = um_json_int(um_json_get(line, "tokens"), 0);
    if (choice < 0 || choice >= k->task->items[i].n_options || tokens <= 0)
        return UM_FAIL(err, UM_E_DATA, "has no such option");
    k->likelihood[i][choice] =
        (um_kept_score){um_json_num(um_json_get(line, "score"), 0), (int)tokens};
    return UM_OK;
}

static um_status line_read(void *ctx, const um_json *line, const char *text, size_t n, long number,
                           um_err *err)
{
    kept_reading *r = ctx;
    um_kept *k = r->k;
    const char *kind = um_json_str(um_json_get(line, "kind"), "");
    if (r->other) return UM_OK;
    if (number == 1) {
        r->other = strlen(r->origin) != n || memcmp(text, r->origin, n) != 0;
        if (r->other) k->begun = difference(line, r->origin, k->arena);
        return UM_OK;
    }
    size_t i = um_item_index_find(&r->index, um_json_str(um_json_get(line, "id"), ""));
    if (i == UM_NO_ITEM) return UM_OK; /* an id that is not UTF-8: it is asked again */
    if (strcmp(kind, "likelihood") == 0) return likelihood_read(k, i, line, err);
    k->answer[i] = um_arena_str(k->arena, um_json_str(um_json_get(line, "answer"), ""));
    return UM_OK;
}

/* Cuts off a last line without its end: the run before was killed while it wrote. */
static um_status cut_torn(const char *path, um_err *err)
{
    um_file f = {0};
    UM_TRY(um_file_map(&f, path, err));
    size_t n = f.size, all = f.size;
    while (n > 0 && f.data[n - 1] != '\n') n--;
    um_file_unmap(&f);
    if (n < all && truncate(path, (off_t)n) != 0)
        return UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(errno));
    return UM_OK;
}

static void forget(um_kept *k)
{
    for (size_t i = 0; i < k->task->n; i++) {
        const um_eval_item *item = &k->task->items[i];
        k->answer[i] = k->failure[i] = NULL;
        if (item->n_options > 0)
            k->likelihood[i] =
                um_arena_zero(k->arena, (size_t)item->n_options * sizeof **k->likelihood);
    }
}

/* *whole: the file begins with origin. */
static um_status file_read(um_kept *k, const char *origin, bool *whole, um_err *err)
{
    kept_reading r = {.k = k, .origin = origin};
    *whole = false;
    if (!um_file_exists(k->path)) return UM_OK;
    UM_TRY(um_item_index_make(&r.index, k->task, k->arena, err));
    UM_TRY(cut_torn(k->path, err));
    um_status st = um_eval_lines(k->path, line_read, &r, err);
    if (st != UM_OK)
        return um_wrap(err, UM_E_DATA, "%s cannot be read (remove it to ask again)", k->path);
    um_file f = {0};
    UM_TRY(um_file_map(&f, k->path, err));
    *whole = f.size > 0 && !r.other;
    um_file_unmap(&f);
    return UM_OK;
}

um_status um_kept_open(um_kept *k, const char *path, const char *origin, const um_eval_task *t,
                       um_arena *arena, um_err *err)
{
    bool whole = false;
    *k = (um_kept){.task = t, .path = um_arena_str(arena, path), .begun = "", .arena = arena};
    k->answer = um_arena_zero(arena, (t->n + 1) * sizeof *k->answer);
    k->failure = um_arena_zero(arena, (t->n + 1) * sizeof *k->failure);
    k->likelihood = um_arena_zero(arena, (t->n + 1) * sizeof *k->likelihood);
    forget(k);
    UM_TRY(um_file_mkdirs(um_path_dir(arena, path), err));
    UM_TRY(file_read(k, origin, &whole, err));
    if (!whole) forget(k);
    if (k->begun[0] != '\0' && rename(path, um_arena_fmt(arena, "%s.old", path)) != 0)
        return UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(errno));
    k->out = fopen(path, whole ? "ae" : "we");
    if (k->out == NULL) return UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(errno));
    if (!whole) fprintf(k->out, "%s\n", origin);
    return UM_OK;
}

/* --- adding --- */

static um_status line_add(um_kept *k, um_text *line, um_err *err)
{
    um_text_add(line, "}\n", 2);
    errno = 0;
    bool written = fwrite(line->s, 1, line->n, k->out) == line->n && fflush(k->out) == 0;
    um_text_free(line);
    if (written) return UM_OK;
    return UM_FAIL(err, UM_E_IO, "%s: %s", k->path, strerror(errno != 0 ? errno : EIO));
}

um_status um_kept_answer(um_kept *k, size_t item, const char *answer, um_err *err)
{
    um_text line = {0};
    k->answer[item] = um_arena_str(k->arena, answer);
    um_text_fmt(&line, "{\"kind\":\"result\",\"id\":");
    um_text_json(&line, k->task->items[item].id);
    um_text_fmt(&line, ",\"answer\":");
    um_text_json(&line, answer);
    return line_add(k, &line, err);
}

um_status um_kept_likelihood(um_kept *k, size_t item, int choice, um_kept_score score, um_err *err)
{
    um_text line = {0};
    UM_CHECK(choice >= 0 && choice < k->task->items[item].n_options);
    k->likelihood[item][choice] = score;
    um_text_fmt(&line, "{\"kind\":\"likelihood\",\"id\":");
    um_text_json(&line, k->task->items[item].id);
    um_text_fmt(&line, ",\"choice\":%d,\"score\":%.17g,\"tokens\":%d", choice, score.sum,
                score.tokens);
    return line_add(k, &line, err);
}

void um_kept_failure(um_kept *k, size_t item, const char *why)
{
    if (k->failure[item] == NULL) k->failure[item] = um_arena_str(k->arena, why);
}

bool um_kept_scored(const um_kept *k, size_t item)
{
    int n = k->task->items[item].n_options, known = 0;
    for (int i = 0; i < n; i++) known += k->likelihood[item][i].tokens > 0;
    return n > 0 && known == n;
}

um_status um_kept_close(um_kept *k, um_err *err)
{
    if (k->out == NULL) return UM_OK;
    errno = 0;
    bool written = fflush(k->out) == 0 && fsync(fileno(k->out)) == 0;
    int why = errno;
    if (fclose(k->out) != 0 && written) {
        written = false;
        why = errno;
    }
    k->out = NULL;
    return written ? UM_OK : UM_FAIL(err, UM_E_IO, "%s: %s", k->path, strerror(why));
}

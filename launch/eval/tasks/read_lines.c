/* Questions a line: POPE's, our own form, and training samples. */
#include "launch/eval/tasks/eval_formats.h"
#include "router/request/request.h"

#include <string.h>

/* The file that is being read. */
typedef struct lines {
    um_eval_task *t;
    const um_eval_source *from;
} lines;

/* --- POPE --- */

static um_status pope_line(void *ctx, const um_json *q, const char *text, size_t n, long number,
                           um_err *err)
{
    lines *l = ctx;
    um_arena *arena = l->t->arena;
    const char *label = um_json_str(um_json_get(q, "label"), ""),
               *image = um_json_str(um_json_get(q, "image"), "");
    (void)text;
    (void)n;
    if (image[0] == '\0') return UM_FAIL(err, UM_E_DATA, "want {\"image\", \"text\", \"label\"}");
    if (strcmp(label, "yes") != 0 && strcmp(label, "no") != 0) {
        l->t->left_out++;
        return UM_OK;
    }
    um_eval_item *item = um_eval_item_add(l->t);
    item->id = um_eval_text(um_json_get(q, "question_id"), arena);
    if (item->id[0] == '\0') item->id = um_arena_fmt(arena, "%ld", number);
    item->question = um_eval_text(um_json_get(q, "text"), arena);
    um_eval_medium_add(l->t, item, UM_IMAGE, um_eval_media_path(l->from, image, arena));
    um_eval_ref_add(l->t, item, label);
    return UM_OK;
}

um_status um_read_pope(um_eval_task *t, const um_eval_source *from, um_err *err)
{
    lines l = {t, from};
    return um_eval_lines(from->questions, pope_line, &l, err);
}

/* --- what stands in a request --- */

/* {"image": PATH}, {"video": [FRAME, ...]}: a part of a message. */
static void medium_write(um_text *out, const um_item *item)
{
    um_text_fmt(out, "{\"%s\":%s", um_modality_name(item->modality), item->frames ? "[" : "");
    for (int i = 0; i < item->n; i++) {
        if (i > 0) um_text_fmt(out, ",");
        um_text_json(out, item->paths[i]);
    }
    um_text_fmt(out, "%s}", item->frames ? "]" : "");
}

static void text_write(um_text *out, const char *text, bool *first)
{
    um_text_fmt(out, *first ? "" : ",");
    *first = false;
    um_text_json(out, text);
}

/* The first n turns of a request as messages, media where they stand; also lists the media in item, unless it is NULL. */
static const char *messages_of(um_eval_task *t, um_eval_item *item, const um_request *r, int n)
{
    um_text out = {0};
    um_text_fmt(&out, "[");
    if (r->system != NULL) {
        um_text_fmt(&out, "{\"role\":\"system\",\"content\":");
        um_text_json(&out, r->system);
        um_text_fmt(&out, "},");
    }
    for (int i = 0; i < n; i++) {
        const um_turn *turn = &r->turns[i];
        bool first = true;
        um_text_fmt(&out, "%s{\"role\":\"%s\",\"content\":[", i > 0 ? "," : "",
                    turn->human ? "user" : "assistant");
        for (int k = 0; k < turn->n; k++) {
            if (turn->parts[k].text != NULL) {
                text_write(&out, turn->parts[k].text, &first);
                continue;
            }
            const um_item *medium = &r->items[turn->parts[k].item];
            um_text_fmt(&out, first ? "" : ",");
            first = false;
            medium_write(&out, medium);
            if (item != NULL) um_eval_medium_add(t, item, medium->modality, medium->paths[0]);
        }
        um_text_fmt(&out, "]}");
    }
    um_text_fmt(&out, "]");
    const char *messages = um_arena_strn(t->arena, out.s, out.n);
    um_text_free(&out);
    return messages;
}

/* Content that stands in the file itself would be lost: messages name files only. */
static um_status files_only(const um_request *r, um_err *err)
{
    for (int i = 0; i < r->n_items; i++)
        for (int k = 0; k < r->items[i].n; k++)
            if (r->items[i].data != NULL && r->items[i].data[k].bytes != NULL)
                return UM_FAIL(err, UM_E_DATA, "media must be files here");
    return UM_OK;
}

static const char *turn_text(const um_turn *turn, um_arena *arena)
{
    const char *all = "";
    for (int k = 0; k < turn->n; k++)
        if (turn->parts[k].text != NULL)
            all = um_arena_fmt(arena, "%s%s", all, turn->parts[k].text);
    return all;
}

/* --- training samples --- */

static um_status sample_item(lines *l, um_eval_item *item, const char *text, size_t n, long number,
                             um_err *err)
{
    um_request r;
    um_request_source from = {.json = text,
                              .n = n,
                              .bytes = n,
                              .folder = l->from->media_folder,
                              .number = (uint64_t)number,
                              .answered = true};
    UM_TRY(um_request_parse(&r, &from, l->t->arena, err));
    UM_TRY(files_only(&r, err));
    int last = r.n_turns - 1;
    if (last < 1 || r.turns[last].human || r.turns[last].n == 0)
        return UM_FAIL(err, UM_E_DATA, "has no answer at its end");
    item->messages = messages_of(l->t, item, &r, last);
    item->id = r.id;
    item->question = turn_text(&r.turns[last - 1], l->t->arena);
    um_eval_ref_add(l->t, item, turn_text(&r.turns[last], l->t->arena));
    return UM_OK;
}

/* --- our own form --- */

static const char *const media_keys[] = {"image", "speech", "voice",
                                         "sound", "video",  "video_audio"};

/* The request {"prompt": question, media} of a line, so that placeholders mean what they mean everywhere. */
static um_status question_parse(lines *l, um_request *r, const um_json *q, const char *question,
                                um_err *err)
{
    const um_json *media = um_json_get(q, "media") != NULL ? um_json_get(q, "media") : q;
    um_text json = {0};
    um_text_fmt(&json, "{\"prompt\":");
    um_text_json(&json, question);
    for (size_t i = 0; i < sizeof media_keys / sizeof *media_keys; i++) {
        const um_json *value = um_json_get(media, media_keys[i]);
        if (value == NULL) continue;
        um_text_fmt(&json, ",\"%s\":%s", media_keys[i], um_json_compact(value, l->t->arena));
    }
    um_text_fmt(&json, "}");
    um_request_source from = {
        .json = json.s, .n = json.n, .bytes = json.n, .folder = l->from->media_folder, .number = 1};
    um_status st = um_request_parse(r, &from, l->t->arena, err);
    um_text_free(&json);
    return st == UM_OK ? files_only(r, err) : st;
}

/* A text or a list of texts. */
static void texts_add(um_eval_task *t, um_eval_item *item, const um_json *j,
                      void (*add)(um_eval_task *t, um_eval_item *item, const char *text))
{
    bool list = um_json_kind_of(j) == UM_JSON_ARRAY;
    for (size_t i = 0; i < (list ? um_json_size(j) : j != NULL); i++)
        add(t, item, um_eval_text(list ? um_json_at(j, i) : j, t->arena));
}

/* The option that "answer" means: a letter, an option's text, or a number from 0. */
static int option_of(const um_eval_item *item, const um_json *answer)
{
    const char *text = um_json_str(answer, "");
    if (um_json_kind_of(answer) == UM_JSON_INT) return (int)um_json_int(answer, -1);
    for (int i = 0; i < item->n_options; i++)
        if (strcmp(item->options[i], text) == 0) return i;
    return um_eval_letter(text);
}

static const um_json *answers_of(const um_json *q)
{
    const um_json *several = um_json_get(q, "answers");
    return several != NULL ? several : um_json_get(q, "answer");
}

/* An answer that is there and says nothing, as in test splits: null, "" or []. */
static bool answer_is_blank(const um_json *q)
{
    const um_json *j = answers_of(q);
    um_json_kind kind = um_json_kind_of(j);
    if (kind == UM_JSON_ARRAY) return um_json_size(j) == 0;
    return kind == UM_JSON_NULL || (kind == UM_JSON_STRING && um_json_str(j, "")[0] == '\0');
}

/* An empty text is no answer: no answer at all would be as good. */
static void ref_add(um_eval_task *t, um_eval_item *item, const char *text)
{
    if (text[0] != '\0') um_eval_ref_add(t, item, text);
}

static um_status answers_read(lines *l, um_eval_item *item, const um_json *q, um_err *err)
{
    const um_json *answer = um_json_get(q, "answer"), *key = um_json_get(q, "key");
    texts_add(l->t, item, um_json_get(q, "options"), um_eval_option_add);
    if (item->n_options > 0) return um_eval_right_set(l->t, item, option_of(item, answer), err);
    if (l->t->metric == UM_METRIC_KEY) texts_add(l->t, item, key, ref_add);
    /* the answer itself is right whatever the key is */
    texts_add(l->t, item, answers_of(q), ref_add);
    return item->n_refs > 0 ? UM_OK : UM_FAIL(err, UM_E_DATA, "has no answer");
}

static const char *text_of(const um_json *q, const char *key, const char *other, um_arena *arena)
{
    const um_json *j = um_json_get(q, key);
    return um_eval_text(j != NULL ? j : um_json_get(q, other), arena);
}

static um_status question_item(lines *l, um_eval_item *item, const um_json *q, long number,
                               um_err *err)
{
    um_arena *arena = l->t->arena;
    um_request r;
    if (um_json_kind_of(um_json_get(q, "question")) != UM_JSON_STRING)
        return UM_FAIL(
            err, UM_E_DATA,
            "want {\"question\": TEXT, \"answer\": TEXT, ...} or a sample with conversations");
    item->id = text_of(q, "id", "question_id", arena);
    if (item->id[0] == '\0') item->id = um_arena_fmt(arena, "%ld", number);
    item->question = um_eval_text(um_json_get(q, "question"), arena);
    item->context = um_eval_text(um_json_get(q, "context"), arena);
    UM_TRY(answers_read(l, item, q, err));
    UM_TRY(question_parse(l, &r, q, um_eval_prompt(item, UM_METRIC_KEY, arena), err));
    item->messages = messages_of(l->t, item, &r, 1);
    if (item->n_options == 0) return UM_OK;
    um_eval_item open = {.question = item->question, .context = item->context};
    UM_TRY(question_parse(l, &r, q, um_eval_prompt(&open, UM_METRIC_KEY, arena), err));
    item->open_messages = messages_of(l->t, NULL, &r, 1);
    return UM_OK;
}

static um_status own_line(void *ctx, const um_json *q, const char *text, size_t n, long number,
                          um_err *err)
{
    lines *l = ctx;
    bool sample = um_json_get(q, "conversations") != NULL || um_json_get(q, "messages") != NULL;
    if (l->t->n == 0 && l->from->metric[0] == '\0') /* the first line says how the file is scored */
        l->t->metric = um_json_get(q, "options") != NULL ? UM_METRIC_CHOICE
                       : um_json_get(q, "key") != NULL   ? UM_METRIC_KEY
                                                         : UM_METRIC_EXACT;
    if (!sample && answer_is_blank(q)) {
        l->t->left_out++;
        return UM_OK;
    }
    um_eval_item *item = um_eval_item_add(l->t);
    item->group = text_of(q, "group", "task", l->t->arena);
    item->modality = um_eval_text(um_json_get(q, "modality"), l->t->arena);
    item->speaker = um_eval_text(um_json_get(q, "speaker"), l->t->arena);
    item->split = um_eval_text(um_json_get(q, "split"), l->t->arena);
    return sample ? sample_item(l, item, text, n, number, err)
                  : question_item(l, item, q, number, err);
}

um_status um_read_eval_lines(um_eval_task *t, const um_eval_source *from, um_err *err)
{
    lines l = {t, from};
    return um_eval_lines(from->questions, own_line, &l, err);
}

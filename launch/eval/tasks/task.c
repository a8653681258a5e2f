/* See task.h. */
#include "launch/eval/tasks/task.h"

#include <string.h>

static const char *const metric_names[UM_EVAL_METRICS] = {"exact",  "key", "vqa", "choice",
                                                          "yes-no", "f1",  "wer", "cider"};

const char *um_eval_metric_name(um_eval_metric metric)
{
    UM_ASSERT(metric < UM_EVAL_METRICS);
    return metric_names[metric];
}

um_eval_metric um_eval_metric_of(const char *name)
{
    int m = 0;
    while (m < UM_EVAL_METRICS && strcmp(name, metric_names[m]) != 0) m++;
    return (um_eval_metric)m;
}

/* --- building --- */

/* A list of n elements of the arena with room for one more: grown by doubling. */
static void *list_grow(um_arena *arena, const void *old, size_t n, size_t size)
{
    if ((n & (n - 1)) != 0)
        return (void *)(uintptr_t)old; /* neither 0 nor a power of two: has room */
    void *list = um_arena_alloc(arena, (n == 0 ? 1 : 2 * n) * size);
    if (n > 0) memcpy(list, old, n * size);
    return list;
}

um_eval_item *um_eval_item_add(um_eval_task *t)
{
    t->items = list_grow(t->arena, t->items, t->n, sizeof *t->items);
    t->items[t->n] = (um_eval_item){.id = "",
                                    .question = "",
                                    .context = "",
                                    .group = "",
                                    .modality = "",
                                    .speaker = "",
                                    .split = "",
                                    .right = -1};
    return &t->items[t->n++];
}

void um_eval_ref_add(um_eval_task *t, um_eval_item *item, const char *text)
{
    item->refs = list_grow(t->arena, item->refs, (size_t)item->n_refs, sizeof *item->refs);
    item->refs[item->n_refs++] = um_arena_str(t->arena, text);
}

void um_eval_option_add(um_eval_task *t, um_eval_item *item, const char *text)
{
    item->options =
        list_grow(t->arena, item->options, (size_t)item->n_options, sizeof *item->options);
    item->options[item->n_options++] = um_arena_str(t->arena, text);
}

void um_eval_medium_add(um_eval_task *t, um_eval_item *item, um_modality modality,
                        const char *source)
{
    item->media = list_grow(t->arena, item->media, (size_t)item->n_media, sizeof *item->media);
    item->media[item->n_media++] = (um_eval_medium){modality, um_arena_str(t->arena, source)};
}

um_status um_eval_right_set(um_eval_task *t, um_eval_item *item, int right, um_err *err)
{
    if (right < 0 || right >= item->n_options)
        return UM_FAIL(err, UM_E_DATA, "question %s: the answer is none of its %d options",
                       item->id, item->n_options);
    if (item->n_options < 2 || item->n_options > UM_EVAL_OPTIONS)
        return UM_FAIL(err, UM_E_DATA, "question %s: %d options, want 2 to %d", item->id,
                       item->n_options, UM_EVAL_OPTIONS);
    for (int i = 0; i < item->n_options; i++)
        if (item->options[i][strspn(item->options[i], " \t\r\n")] == '\0')
            return UM_FAIL(err, UM_E_DATA, "question %s: option %c is empty", item->id, 'A' + i);
    item->right = right;
    um_eval_ref_add(t, item, item->options[right]);
    return UM_OK;
}

/* --- asking --- */

const char *um_eval_modality(const um_eval_item *item, um_arena *arena)
{
    const char *all = "";
    if (item->modality[0] != '\0') return item->modality;
    for (int m = UM_IMAGE; m < UM_MODALITIES; m++) {
        bool there = false;
        for (int i = 0; i < item->n_media; i++)
            there = there || item->media[i].modality == (um_modality)m;
        if (there)
            all = um_arena_fmt(arena, "%s%s%s", all, all[0] != '\0' ? "+" : "",
                               um_modality_name((um_modality)m));
    }
    return all[0] != '\0' ? all : um_modality_name(UM_TEXT);
}

static void line_add(um_text *out, const char *text)
{
    if (text[0] != '\0') um_text_fmt(out, "%s%s", out->n > 0 ? "\n" : "", text);
}

char *um_eval_prompt(const um_eval_item *item, um_eval_metric metric, um_arena *arena)
{
    um_text out = {0};
    um_text_add(&out, "", 0);
    line_add(&out, item->context);
    line_add(&out, item->question);
    for (int i = 0; i < item->n_options; i++)
        um_text_fmt(&out, "%s%c. %s", out.n > 0 ? "\n" : "", 'A' + i, item->options[i]);
    if (metric == UM_METRIC_CHOICE)
        line_add(&out, "Answer with the option's letter from the given choices directly.");
    else if (metric == UM_METRIC_EXACT || metric == UM_METRIC_VQA || metric == UM_METRIC_YES_NO)
        line_add(&out, "Answer the question using a single word or phrase.");
    char *s = um_arena_strn(arena, out.s, out.n);
    um_text_free(&out);
    return s;
}

/* The media, each on a line of its own, then the text. */
static void prompt_write(um_text *out, const um_eval_item *item, const char *text)
{
    um_text_fmt(out, ",\"prompt\":[");
    for (int i = 0; i < item->n_media; i++) {
        um_text_fmt(out, "{\"%s\":", um_modality_name(item->media[i].modality));
        um_text_json(out, item->media[i].source);
        um_text_fmt(out, "},\"\\n\",");
    }
    um_text_json(out, text);
    um_text_fmt(out, "]");
}

void um_eval_score_request(um_text *out, const um_eval_item *item, int choice)
{
    static const char blanks[] = " \t\r\n";
    um_arena arena;
    um_eval_item open = *item;
    um_arena_init(&arena, "question", 4096);
    const char *option = item->options[choice] + strspn(item->options[choice], blanks);
    size_t n = strlen(option);
    while (n > 0 && strchr(blanks, option[n - 1]) != NULL) n--;
    open.n_options = 0;
    um_text_fmt(out, "{\"id\":");
    um_text_json(out, item->id);
    if (item->messages != NULL)
        um_text_fmt(out, ",\"messages\":%s",
                    item->open_messages != NULL ? item->open_messages : item->messages);
    else
        prompt_write(out, item, um_eval_prompt(&open, UM_METRIC_KEY, &arena));
    um_text_fmt(out, ",\"score\":");
    um_text_json(out, um_arena_strn(&arena, option, n));
    um_text_fmt(out, "}\n");
    um_arena_free(&arena);
}

void um_eval_request(um_text *out, const um_eval_item *item, um_eval_metric metric,
                     int max_new_tokens)
{
    um_arena arena;
    um_arena_init(&arena, "question", 4096);
    um_text_fmt(out, "{\"id\":");
    um_text_json(out, item->id);
    if (item->messages != NULL)
        um_text_fmt(out, ",\"messages\":%s", item->messages);
    else
        prompt_write(out, item, um_eval_prompt(item, metric, &arena));
    um_arena_free(&arena);
    um_text_fmt(out, ",\"max_new_tokens\":%d,\"temperature\":0}\n", max_new_tokens);
}

/* See placeholder.h. */
#include "router/request/placeholder.h"

#include "core/base/json.h"

#include <string.h>

/* How the kinds are spelled in texts. <audio> is the original's word for both of the last two. */
static const struct {
    const char *mark;
    um_modality modality;
    bool either; /* speech first, then sound */
} marks[] = {
    {"<image>", UM_IMAGE, false},   {"<video>", UM_VIDEO, false}, {"<audio>", UM_SPEECH, true},
    {"<speech>", UM_SPEECH, false}, {"<sound>", UM_SOUND, false},
};
_Static_assert(sizeof marks / sizeof marks[0] == UM_PLACEHOLDERS, "um_media_set.seen");

static const char *kind_name(um_modality m, int n)
{
    static const char *const one[UM_MODALITIES] = {"text", "image", "speech file", "sound file",
                                                   "video"},
                             *const many[UM_MODALITIES] = {"texts", "images", "speech files",
                                                           "sound files", "videos"};
    return n == 1 ? one[m] : many[m];
}

const char *um_media_placeholder(um_modality modality)
{
    return modality == UM_IMAGE ? "<image>" : modality == UM_VIDEO ? "<video>" : "<audio>";
}

/* Grown by doubling, in an arena. */
um_item *um_media_list_add(um_media_list *l, um_arena *arena)
{
    if ((l->n & (l->n - 1)) == 0) { /* 0 or a power of two: full */
        um_item *old = l->items;
        l->items = um_arena_alloc(arena, (size_t)(l->n == 0 ? 1 : 2 * l->n) * sizeof *l->items);
        if (l->n > 0) memcpy(l->items, old, (size_t)l->n * sizeof *old);
    }
    return &l->items[l->n++];
}

/* --- turns --- */

/* Parts of one turn, grown by doubling. */
static um_content_part *part_add(um_turn *t, um_arena *arena)
{
    if ((t->n & (t->n - 1)) == 0) {
        um_content_part *old = t->parts;
        t->parts = um_arena_alloc(arena, (size_t)(t->n == 0 ? 1 : 2 * t->n) * sizeof *t->parts);
        if (t->n > 0) memcpy(t->parts, old, (size_t)t->n * sizeof *old);
    }
    return &t->parts[t->n++];
}

void um_turn_text(um_media_set *m, um_turn *t, const char *text, size_t n)
{
    if (n > 0) *part_add(t, m->arena) = (um_content_part){.text = um_arena_strn(m->arena, text, n)};
}

static void item_add(um_media_set *m, um_turn *t, const um_item *item)
{
    *part_add(t, m->arena) = (um_content_part){.item = m->used.n};
    *um_media_list_add(&m->used, m->arena) = *item;
}

/* The sound track stands before its video, as the training samples of the reference have them (spec 1.1). */
um_status um_turn_item(um_media_set *m, um_turn *t, const um_item *item, const char *track,
                       um_err *err)
{
    if (track != NULL && item->modality == UM_VIDEO) {
        um_item sound = *item;
        if (item->frames)
            return UM_FAIL(err, UM_E_DATA,
                           "%s: frames have no sound track; leave video_audio out, or give the "
                           "video file",
                           item->paths[0]);
        sound.modality = strcmp(track, "speech") == 0 ? UM_SPEECH : UM_SOUND;
        sound.track = true;
        item_add(m, t, &sound);
        um_turn_text(m, t, "\n", 1);
    }
    item_add(m, t, item);
    return UM_OK;
}

/* --- placeholders --- */

/* The medium of a mark, or NULL when there are no more. */
static const um_item *item_next(um_media_set *m, int mark)
{
    um_media_list *l = &m->kind[marks[mark].modality];
    if (marks[mark].either && l->next == l->n) l = &m->kind[UM_SOUND];
    return l->next < l->n ? &l->items[l->next++] : NULL;
}

/* The first placeholder in text; NULL when there is none. */
static const char *find_mark(const char *text, int *mark)
{
    for (const char *at = strchr(text, '<'); at != NULL; at = strchr(at + 1, '<'))
        for (int k = 0; k < UM_PLACEHOLDERS; k++)
            if (strncmp(at, marks[k].mark, strlen(marks[k].mark)) == 0) {
                *mark = k;
                return at;
            }
    return NULL;
}

um_status um_placeholder_cut(um_media_set *m, um_turn *turn, const char *text, um_err *err)
{
    for (;;) {
        int mark = 0;
        const char *at = find_mark(text, &mark);
        um_turn_text(m, turn, text, at != NULL ? (size_t)(at - text) : strlen(text));
        if (at == NULL) return UM_OK;
        const um_item *item = item_next(m, mark);
        m->seen[mark]++;
        if (item == NULL)
            m->lacking = true; /* um_placeholder_check says so, when it knows how many there are */
        else
            UM_TRY(um_turn_item(m, turn, item, m->track, err));
        text = at + strlen(marks[mark].mark);
    }
}

const char *um_placeholder_front(const um_media_set *m, const char *text)
{
    static const int order[] = {0, 3, 4, 1}; /* image, speech, sound, video (spec 1.1) */
    bool audio = strstr(text, "<audio>") != NULL;
    um_text out = {0};
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        const char *mark = marks[order[i]].mark;
        um_modality modality = marks[order[i]].modality;
        bool said = strstr(text, mark) != NULL ||
                    (audio && (modality == UM_SPEECH || modality == UM_SOUND));
        for (int k = 0; !said && k < m->kind[modality].n; k++) um_text_fmt(&out, "%s\n", mark);
    }
    um_text_add(&out, text, strlen(text));
    const char *s = um_arena_strn(m->arena, out.s, out.n);
    um_text_free(&out);
    return s;
}

static um_status mismatch(const char *mark, int seen, int given, const char *what, um_err *err)
{
    return UM_FAIL(err, UM_E_DATA,
                   "%d %s placeholder%s, but %d %s given: the numbers must match (in a list of "
                   "parts, %s is plain text)",
                   seen, mark, seen == 1 ? "" : "s", given, what, mark);
}

um_status um_placeholder_check(const um_media_set *m, um_err *err)
{
    const um_media_list *speech = &m->kind[UM_SPEECH], *sound = &m->kind[UM_SOUND];
    bool used = speech->next == speech->n && sound->next == sound->n;
    for (int i = 0; i < UM_PLACEHOLDERS; i++) {
        um_modality k = marks[i].modality;
        const um_media_list *l = &m->kind[k];
        bool vision = k == UM_IMAGE || k == UM_VIDEO;
        if (vision ? m->seen[i] != l->n : !marks[i].either && m->seen[i] > l->n)
            return mismatch(marks[i].mark, m->seen[i], l->n, kind_name(k, l->n), err);
    }
    if (m->lacking || !used) {
        int seen = 0, given = speech->n + sound->n;
        for (int i = 0; i < UM_PLACEHOLDERS; i++)
            if (marks[i].modality == UM_SPEECH || marks[i].modality == UM_SOUND) seen += m->seen[i];
        return mismatch("<audio>", seen, given, given == 1 ? "audio file" : "audio files", err);
    }
    if (m->track != NULL && m->kind[UM_VIDEO].n == 0)
        return UM_FAIL(err, UM_E_DATA, "video_audio: no video given");
    return UM_OK;
}

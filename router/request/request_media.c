/* See request_media.h. */
#include "router/request/request_media.h"

#include "core/base/file.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* How the kinds are spelled in texts. <audio> is the original's word for both of the last two. */
static const struct {
    const char *mark;
    um_modality modality;
    bool either; /* speech first, then sound */
} marks[] = {
    {"<image>", UM_IMAGE, false},   {"<video>", UM_VIDEO, false}, {"<audio>", UM_SPEECH, true},
    {"<speech>", UM_SPEECH, false}, {"<sound>", UM_SOUND, false},
};
enum { MARKS = UM_MARKS };
_Static_assert(sizeof marks / sizeof marks[0] == MARKS, "um_request_media.seen");

static const struct {
    const char *key;
    um_modality modality;
} keys[] = {{"image", UM_IMAGE},
            {"speech", UM_SPEECH},
            {"voice", UM_SPEECH},
            {"sound", UM_SOUND},
            {"video", UM_VIDEO}};
enum { KEYS = sizeof keys / sizeof keys[0] };

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

/* --- lists of media --- */

/* Grown by doubling, in an arena. */
static um_item *list_add(um_media_list *l, um_arena *arena)
{
    if ((l->n & (l->n - 1)) == 0) { /* 0 or a power of two: full */
        um_item *old = l->items;
        l->items = um_arena_alloc(arena, (size_t)(l->n == 0 ? 1 : 2 * l->n) * sizeof *l->items);
        if (l->n > 0) memcpy(l->items, old, (size_t)l->n * sizeof *old);
    }
    return &l->items[l->n++];
}

static um_status path_take(const um_request_media *m, const char **out, const um_json *j,
                           const char *where, size_t i, um_err *err)
{
    const char *path = um_json_str(j, NULL);
    if (path == NULL || path[0] == '\0')
        return UM_FAIL(err, UM_E_DATA, "%s[%zu]: want a path", where, i);
    *out = um_path_join(m->arena, m->folder, path);
    return UM_OK;
}

/* An item of files j[0..n), or of the one file j. */
static um_status item_take(const um_request_media *m, um_item *out, um_modality modality,
                           const um_json *j, const char *where, um_err *err)
{
    bool one = um_json_kind_of(j) == UM_JSON_STRING;
    size_t n = one ? 1 : um_json_size(j);
    if (!one && (um_json_kind_of(j) != UM_JSON_ARRAY || n == 0))
        return UM_FAIL(err, UM_E_DATA, "%s: want a path or a list of paths", where);
    if (n > UM_MEDIA_MAX)
        return UM_FAIL(err, UM_E_DATA, "%s: %zu items, at most %d", where, n, UM_MEDIA_MAX);
    um_item item = {.modality = modality,
                    .paths = um_arena_alloc(m->arena, n * sizeof *item.paths),
                    .n = (int)n,
                    .frames = modality == UM_VIDEO && !one};
    for (size_t i = 0; i < n; i++)
        UM_TRY(path_take(m, &item.paths[i], one ? j : um_json_at(j, i), where, i, err));
    *out = item;
    return UM_OK;
}

static bool is_image_path(const char *path)
{
    static const char *const ends[] = {".png", ".jpg", ".jpeg", ".webp"};
    size_t n = strlen(path);
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        size_t k = strlen(ends[i]);
        if (n > k && strcasecmp(path + n - k, ends[i]) == 0) return true;
    }
    return false;
}

/* The original writes a video as the list of its frames. */
static bool is_frames(const um_json *list)
{
    size_t n = um_json_size(list);
    for (size_t i = 0; i < n; i++) {
        const char *path = um_json_str(um_json_at(list, i), "");
        if (!is_image_path(path)) return false;
    }
    return n > 0;
}

static um_status kind_read(um_request_media *m, const um_json *j, const char *key,
                           um_modality modality, um_err *err)
{
    um_media_list *l = &m->kind[modality];
    um_json_kind kind = um_json_kind_of(j);
    if (kind == UM_JSON_NONE || kind == UM_JSON_NULL) return UM_OK;
    if (kind != UM_JSON_STRING && kind != UM_JSON_ARRAY)
        return UM_FAIL(err, UM_E_DATA, "%s: want a path or a list of paths", key);
    if (kind == UM_JSON_STRING || (modality == UM_VIDEO && is_frames(j)))
        return item_take(m, list_add(l, m->arena), modality, j, key, err);
    size_t n = um_json_size(j);
    if ((size_t)l->n + n > UM_MEDIA_MAX)
        return UM_FAIL(err, UM_E_DATA, "%s: %zu items, at most %d", key, n, UM_MEDIA_MAX);
    for (size_t i = 0; i < n; i++) {
        const um_json *one = um_json_at(j, i);
        bool video = modality == UM_VIDEO && um_json_kind_of(one) == UM_JSON_ARRAY;
        um_item item = {0};
        if (!video && um_json_str(one, "")[0] == '\0')
            return UM_FAIL(err, UM_E_DATA, "%s[%zu]: want a path", key, i);
        UM_TRY(item_take(m, &item, modality, one, key, err));
        *list_add(l, m->arena) = item;
    }
    return UM_OK;
}

/* "speech" or "sound". */
static um_status track_read(const char **out, const um_json *j, const char *key, um_err *err)
{
    const char *word = um_json_str(j, "");
    um_json_kind kind = um_json_kind_of(j);
    if (kind == UM_JSON_NONE || kind == UM_JSON_NULL) return UM_OK;
    if (strcmp(word, "speech") == 0)
        *out = "speech";
    else if (strcmp(word, "sound") == 0)
        *out = "sound";
    else
        return UM_FAIL(err, UM_E_DATA, "%s: want \"speech\" or \"sound\"", key);
    return UM_OK;
}

um_status um_request_media_read(um_request_media *m, const um_json *object, um_err *err)
{
    for (int i = 0; i < KEYS; i++)
        UM_TRY(kind_read(m, um_json_get(object, keys[i].key), keys[i].key, keys[i].modality, err));
    return track_read(&m->track, um_json_get(object, "video_audio"), "video_audio", err);
}

/* --- turns --- */

/* Pieces of one turn, grown by doubling. */
static um_content_part *piece_add(um_turn *t, um_arena *arena)
{
    if ((t->n & (t->n - 1)) == 0) {
        um_content_part *old = t->parts;
        t->parts = um_arena_alloc(arena, (size_t)(t->n == 0 ? 1 : 2 * t->n) * sizeof *t->parts);
        if (t->n > 0) memcpy(t->parts, old, (size_t)t->n * sizeof *old);
    }
    return &t->parts[t->n++];
}

static void text_add(um_request_media *m, um_turn *t, const char *text, size_t n)
{
    if (n > 0)
        *piece_add(t, m->arena) = (um_content_part){.text = um_arena_strn(m->arena, text, n)};
}

static void item_add(um_request_media *m, um_turn *t, const um_item *item)
{
    *piece_add(t, m->arena) = (um_content_part){.item = m->used.n};
    *list_add(&m->used, m->arena) = *item;
}

/* A video, and before it, when asked for, its sound track, as the training samples of the reference have them (spec 1.1). */
static um_status video_add(um_request_media *m, um_turn *t, const um_item *video, const char *track,
                           um_err *err)
{
    if (track != NULL) {
        um_item sound = *video;
        if (video->frames)
            return UM_FAIL(err, UM_E_DATA,
                           "%s: frames have no sound track; leave video_audio out, or give the "
                           "video file",
                           video->paths[0]);
        sound.modality = strcmp(track, "speech") == 0 ? UM_SPEECH : UM_SOUND;
        sound.track = true;
        item_add(m, t, &sound);
        text_add(m, t, "\n", 1);
    }
    item_add(m, t, video);
    return UM_OK;
}

/* The medium of a mark, or NULL when there are no more. */
static const um_item *item_next(um_request_media *m, int mark)
{
    um_media_list *l = &m->kind[marks[mark].modality];
    if (marks[mark].either && l->next == l->n) l = &m->kind[UM_SOUND];
    return l->next < l->n ? &l->items[l->next++] : NULL;
}

/* The first placeholder in text; NULL when there is none. */
static const char *find_mark(const char *text, int *mark)
{
    for (const char *at = strchr(text, '<'); at != NULL; at = strchr(at + 1, '<'))
        for (int k = 0; k < MARKS; k++)
            if (strncmp(at, marks[k].mark, strlen(marks[k].mark)) == 0) {
                *mark = k;
                return at;
            }
    return NULL;
}

um_status um_request_media_cut(um_request_media *m, um_turn *turn, const char *text, um_err *err)
{
    for (;;) {
        int mark = 0;
        const char *at = find_mark(text, &mark);
        text_add(m, turn, text, at != NULL ? (size_t)(at - text) : strlen(text));
        if (at == NULL) return UM_OK;
        const um_item *item = item_next(m, mark);
        m->seen[mark]++;
        if (item == NULL)
            m->lacking =
                true; /* um_request_media_check says so, when it knows how many there are */
        else if (item->modality == UM_VIDEO)
            UM_TRY(video_add(m, turn, item, m->track, err));
        else
            item_add(m, turn, item);
        text = at + strlen(marks[mark].mark);
    }
}

/* {"image": PATH}, {"video": PATH or [FRAME, ...], "audio": "speech"}, {"text": TEXT}. */
static um_status part_take(um_request_media *m, um_turn *turn, const um_json *part,
                           const char *where, um_err *err)
{
    const um_json *text = um_json_get(part, "text"), *audio = um_json_get(part, "audio");
    size_t members = um_json_size(part);
    if (text != NULL && members == 1 && um_json_kind_of(text) == UM_JSON_STRING) {
        text_add(m, turn, um_json_str(text, ""), strlen(um_json_str(text, "")));
        return UM_OK;
    }
    for (int i = 0; i < KEYS; i++) {
        const um_json *j = um_json_get(part, keys[i].key);
        bool video = keys[i].modality == UM_VIDEO, list = um_json_kind_of(j) == UM_JSON_ARRAY;
        if (j == NULL || members != (audio != NULL && video ? 2u : 1u)) continue;
        um_item item = {0};
        const char *track = NULL;
        if (list && !video)
            return UM_FAIL(err, UM_E_DATA, "%s.%s: want a path", where, keys[i].key);
        UM_TRY(
            um_wrap(err, item_take(m, &item, keys[i].modality, j, keys[i].key, err), "%s", where));
        UM_TRY(um_wrap(err, track_read(&track, audio, "audio", err), "%s", where));
        if (video) return video_add(m, turn, &item, track, err);
        item_add(m, turn, &item);
        return UM_OK;
    }
    return UM_FAIL(err, UM_E_DATA,
                   "%s: want a text, {\"text\": TEXT} or one of {\"image\": PATH}, {\"speech\": "
                   "PATH}, {\"sound\": PATH}, {\"video\": PATH or list of frames}",
                   where);
}

um_status um_request_media_parts(um_request_media *m, um_turn *turn, const um_json *parts,
                                 const char *where, um_err *err)
{
    size_t n = um_json_size(parts);
    if (n > UM_MEDIA_MAX)
        return UM_FAIL(err, UM_E_DATA, "%s: %zu parts, at most %d", where, n, UM_MEDIA_MAX);
    for (size_t i = 0; i < n; i++) {
        const um_json *part = um_json_at(parts, i);
        const char *text = um_json_str(part, NULL);
        char here[160];
        snprintf(here, sizeof here, "%.120s[%zu]", where, i);
        if (text != NULL)
            text_add(m, turn, text, strlen(text));
        else
            UM_TRY(part_take(m, turn, part, here, err));
    }
    return UM_OK;
}

const char *um_request_media_fronted(const um_request_media *m, const char *text)
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
    um_text_fmt(&out, "%s", text);
    const char *s = um_arena_str(m->arena, out.s == NULL ? "" : out.s);
    um_text_free(&out);
    return s;
}

static um_status mismatch(const char *mark, int seen, int given, const char *what, um_err *err)
{
    return UM_FAIL(
        err, UM_E_DATA,
        "%d %s placeholder%s, but %d %s given: every %s in the text needs one, and every "
        "one its %s (in a prompt of parts, %s is text)",
        seen, mark, seen == 1 ? "" : "s", given, what, mark, mark, mark);
}

um_status um_request_media_check(const um_request_media *m, um_err *err)
{
    const um_media_list *speech = &m->kind[UM_SPEECH], *sound = &m->kind[UM_SOUND];
    bool used = speech->next == speech->n && sound->next == sound->n;
    for (int i = 0; i < MARKS; i++) {
        um_modality k = marks[i].modality;
        const um_media_list *l = &m->kind[k];
        bool vision = k == UM_IMAGE || k == UM_VIDEO;
        if (vision ? m->seen[i] != l->n : !marks[i].either && m->seen[i] > l->n)
            return mismatch(marks[i].mark, m->seen[i], l->n, kind_name(k, l->n), err);
    }
    if (m->lacking || !used) {
        int seen = 0, given = speech->n + sound->n;
        for (int i = 0; i < MARKS; i++)
            if (marks[i].modality == UM_SPEECH || marks[i].modality == UM_SOUND) seen += m->seen[i];
        return mismatch("<audio>", seen, given, given == 1 ? "audio file" : "audio files", err);
    }
    if (m->track != NULL && m->kind[UM_VIDEO].n == 0)
        return UM_FAIL(err, UM_E_DATA, "video_audio: no video given");
    return UM_OK;
}

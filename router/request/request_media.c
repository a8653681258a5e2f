/* See request_media.h. */
#include "router/request/request_media.h"

#include "router/request/media_source.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *key;
    um_modality modality;
} keys[] = {{"image", UM_IMAGE},
            {"speech", UM_SPEECH},
            {"voice", UM_SPEECH},
            {"sound", UM_SOUND},
            {"video", UM_VIDEO}};
enum { KEYS = sizeof keys / sizeof keys[0] };

const char *const um_media_keys[UM_MEDIA_KEYS] = {"image", "speech", "voice",
                                                  "sound", "video",  "video_audio"};

/* Absent, null, "" and [] all say that there is no medium, as data files do. */
static bool is_empty(const um_json *j)
{
    um_json_kind kind = um_json_kind_of(j);
    if (kind == UM_JSON_STRING) return um_json_str(j, "")[0] == '\0';
    return kind == UM_JSON_NONE || kind == UM_JSON_NULL ||
           (kind == UM_JSON_ARRAY && um_json_size(j) == 0);
}

/* Key and position, as messages name them: "image[2]", or "image" when i < 0. */
static const char *named(char out[200], const char *where, int i)
{
    if (i < 0)
        snprintf(out, 200, "%.180s", where);
    else
        snprintf(out, 200, "%.180s[%d]", where, i);
    return out;
}

/* File number i of an item: j, which stands at where. */
static um_status file_take(um_item *item, int i, const um_json *j, const char *folder,
                           const char *where, um_arena *arena, um_err *err)
{
    const char *text = um_json_str(j, "");
    if (text[0] == '\0') return UM_FAIL(err, UM_E_DATA, "%s: want a path", where);
    return um_media_source(&item->paths[i], &item->data[i], text, folder, where, arena, err);
}

static um_item item_room(um_modality modality, int n, um_arena *arena)
{
    return (um_item){.modality = modality,
                     .paths = um_arena_alloc(arena, (size_t)n * sizeof(char *)),
                     .data = um_arena_zero(arena, (size_t)n * sizeof(um_media_data)),
                     .n = n};
}

/* An item of the files j[0..n), the frames of a video, or of the one file j. */
static um_status item_take(um_item *out, um_modality modality, const um_json *j, const char *folder,
                           const char *where, um_arena *arena, um_err *err)
{
    bool list = um_json_kind_of(j) == UM_JSON_ARRAY;
    size_t n = list ? um_json_size(j) : 1;
    char here[200];
    if (n == 0 || (!list && um_json_kind_of(j) != UM_JSON_STRING))
        return UM_FAIL(err, UM_E_DATA, "%s: want a path or a list of paths", where);
    if (n > UM_MEDIA_MAX)
        return UM_FAIL(err, UM_E_DATA, "%s: %zu items, at most %d", where, n, UM_MEDIA_MAX);
    um_item item = item_room(modality, (int)n, arena);
    item.frames = list;
    for (int i = 0; i < (int)n; i++)
        UM_TRY(file_take(&item, i, list ? um_json_at(j, (size_t)i) : j, folder,
                         named(here, where, list ? i : -1), arena, err));
    *out = item;
    return UM_OK;
}

/* The original writes a video as the list of its frames. */
static bool is_frames(const um_json *list)
{
    size_t n = um_json_size(list);
    for (size_t i = 0; i < n; i++)
        if (!um_media_is_image(um_json_str(um_json_at(list, i), ""))) return false;
    return n > 0;
}

/* What a flat key holds: nothing, one item, or a list of items (for videos also a list of frames). */
static um_status kind_read(um_media_set *m, const um_json *j, const char *key, um_modality modality,
                           const char *folder, um_err *err)
{
    um_media_list *l = &m->kind[modality];
    um_json_kind kind = um_json_kind_of(j);
    size_t n = um_json_size(j), empty = 0;
    if (is_empty(j)) return UM_OK;
    if (kind != UM_JSON_STRING && kind != UM_JSON_ARRAY)
        return UM_FAIL(err, UM_E_DATA, "%s: want a path or a list of paths", key);
    if (kind == UM_JSON_STRING || (modality == UM_VIDEO && is_frames(j)))
        return item_take(um_media_list_add(l, m->arena), modality, j, folder, key, m->arena, err);
    if ((size_t)l->n + n > UM_MEDIA_MAX)
        return UM_FAIL(err, UM_E_DATA, "%s: %zu items, at most %d", key, n, UM_MEDIA_MAX);
    for (size_t i = 0; i < n; i++) empty += is_empty(um_json_at(j, i));
    for (size_t i = 0; i < n && empty < n;
         i++) { /* a list of nothing but "" and null is empty too */
        const um_json *one = um_json_at(j, i);
        um_item item = {0};
        char here[200];
        if (um_json_kind_of(one) != UM_JSON_STRING &&
            (modality != UM_VIDEO || um_json_kind_of(one) != UM_JSON_ARRAY))
            return UM_FAIL(err, UM_E_DATA, "%s: want a path", named(here, key, (int)i));
        UM_TRY(item_take(&item, modality, one, folder, named(here, key, (int)i), m->arena, err));
        *um_media_list_add(l, m->arena) = item;
    }
    return UM_OK;
}

/* "speech" or "sound". */
static um_status track_read(const char **out, const um_json *j, const char *key, um_err *err)
{
    const char *word = um_json_str(j, "?");
    if (is_empty(j)) return UM_OK;
    if (strcmp(word, "speech") == 0)
        *out = "speech";
    else if (strcmp(word, "sound") == 0)
        *out = "sound";
    else
        return UM_FAIL(err, UM_E_DATA, "%s: want \"speech\" or \"sound\"", key);
    return UM_OK;
}

um_status um_request_media_read(um_media_set *m, const um_json *object, const char *folder,
                                um_err *err)
{
    for (int i = 0; i < KEYS; i++) {
        bool sound = m->voice_is_sound && strcmp(keys[i].key, "voice") == 0;
        UM_TRY(kind_read(m, um_json_get(object, keys[i].key), keys[i].key,
                         sound ? UM_SOUND : keys[i].modality, folder, err));
    }
    return track_read(&m->track, um_json_get(object, "video_audio"), "video_audio", err);
}

/* --- parts --- */

static um_status one_item(um_media_set *m, um_turn *turn, um_modality modality, const um_json *j,
                          const um_json *audio, const char *folder, const char *where, um_err *err)
{
    um_item item = {0};
    const char *track = NULL;
    if (um_json_kind_of(j) == UM_JSON_ARRAY && modality != UM_VIDEO)
        return UM_FAIL(err, UM_E_DATA, "%s: want a path", where);
    UM_TRY(item_take(&item, modality, j, folder, where, m->arena, err));
    UM_TRY(um_wrap(err, track_read(&track, audio, "audio", err), "%s", where));
    return um_turn_item(m, turn, &item, track, err);
}

/* Parts that name their type, as OpenAI's API and those after it write them: {"type": "image_url", "image_url": {"url": URL}}. */
static const struct {
    const char *type, *key, *inner; /* the value is part[key], or part[key][inner] */
    um_modality modality;           /* UM_TEXT: a text */
} types[] = {
    {"text", "text", NULL, UM_TEXT},
    {"input_text", "text", NULL, UM_TEXT},
    {"output_text", "text", NULL, UM_TEXT},
    {"image_url", "image_url", "url", UM_IMAGE},
    {"input_image", "image_url", "url", UM_IMAGE},
    {"image", "image", NULL, UM_IMAGE},
    {"audio_url", "audio_url", "url", UM_SPEECH},
    {"audio", "audio", NULL, UM_SPEECH},
    {"speech", "speech", NULL, UM_SPEECH},
    {"sound", "sound", NULL, UM_SOUND},
    {"video_url", "video_url", "url", UM_VIDEO},
    {"video", "video", NULL, UM_VIDEO},
};
enum { TYPES = sizeof types / sizeof types[0] };

/* {"type": "input_audio", "input_audio": {"data": BASE64, "format": "wav"}} */
static um_status input_audio(um_media_set *m, um_turn *turn, const um_json *part, const char *where,
                             um_err *err)
{
    const char *text = um_json_str(um_json_get(um_json_get(part, "input_audio"), "data"), NULL);
    um_item item = item_room(UM_SPEECH, 1, m->arena);
    char here[200];
    snprintf(here, sizeof here, "%.150s.input_audio.data", where);
    if (text == NULL) return UM_FAIL(err, UM_E_DATA, "%s: want the audio file as base64", here);
    item.paths[0] = um_arena_fmt(m->arena, "%s (given as base64)", here);
    UM_TRY(um_base64_decode(&item.data[0], text, strlen(text), here, m->arena, err));
    return um_turn_item(m, turn, &item, NULL, err);
}

static um_status typed_part(um_media_set *m, um_turn *turn, const um_json *part, const char *type,
                            const char *folder, const char *where, um_err *err)
{
    char here[200];
    if (strcmp(type, "input_audio") == 0) return input_audio(m, turn, part, where, err);
    for (int i = 0; i < TYPES; i++) {
        if (strcmp(type, types[i].type) != 0) continue;
        const um_json *value = um_json_get(part, types[i].key);
        if (types[i].inner != NULL && um_json_kind_of(value) == UM_JSON_OBJECT)
            value = um_json_get(value, types[i].inner);
        snprintf(here, sizeof here, "%.150s.%s", where, types[i].key);
        if (types[i].modality != UM_TEXT)
            return one_item(m, turn, types[i].modality, value, NULL, folder, here, err);
        const char *text = um_json_str(value, NULL);
        if (text == NULL) return UM_FAIL(err, UM_E_DATA, "%s: want a text", here);
        um_turn_text(m, turn, text, strlen(text));
        return UM_OK;
    }
    return UM_FAIL(err, UM_E_DATA,
                   "%s: part of type \"%.60s\", known are text, image_url, input_audio, audio_url, "
                   "video_url, image, speech, sound and video",
                   where, type);
}

/* {"image": PATH}, {"video": PATH or [FRAME, ...], "audio": "speech"}, {"text": TEXT}. */
static um_status part_take(um_media_set *m, um_turn *turn, const um_json *part, const char *folder,
                           const char *where, um_err *err)
{
    const um_json *text = um_json_get(part, "text"), *audio = um_json_get(part, "audio");
    const char *type = um_json_str(um_json_get(part, "type"), NULL);
    size_t members = um_json_size(part);
    if (type != NULL) return typed_part(m, turn, part, type, folder, where, err);
    if (text != NULL && members == 1 && um_json_kind_of(text) == UM_JSON_STRING) {
        um_turn_text(m, turn, um_json_str(text, ""), strlen(um_json_str(text, "")));
        return UM_OK;
    }
    for (int i = 0; i < KEYS; i++) {
        const um_json *j = um_json_get(part, keys[i].key);
        bool video = keys[i].modality == UM_VIDEO;
        char here[200];
        if (j == NULL || members != (audio != NULL && video ? 2u : 1u)) continue;
        snprintf(here, sizeof here, "%.150s.%s", where, keys[i].key);
        return one_item(m, turn, keys[i].modality, j, audio, folder, here, err);
    }
    return UM_FAIL(err, UM_E_DATA,
                   "%s: want a text, {\"text\": TEXT} or one of {\"image\": PATH}, {\"speech\": "
                   "PATH}, {\"sound\": PATH}, {\"video\": PATH or list of frames}",
                   where);
}

um_status um_request_media_parts(um_media_set *m, um_turn *turn, const um_json *parts,
                                 const char *folder, const char *where, um_err *err)
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
            um_turn_text(m, turn, text, strlen(text));
        else
            UM_TRY(part_take(m, turn, part, folder, here, err));
    }
    return UM_OK;
}

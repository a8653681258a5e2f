/* See requests.h. */
#include "launch/job/requests.h"

#include "core/base/file.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_LIMIT = 256 << 20 };

static void write_value(um_text *to, const um_json *j)
{
    const char *key = NULL;
    bool object = um_json_kind_of(j) == UM_JSON_OBJECT;
    switch (um_json_kind_of(j)) {
    case UM_JSON_OBJECT:
    case UM_JSON_ARRAY:
        um_text_add(to, object ? "{" : "[", 1);
        for (size_t i = 0; i < um_json_size(j); i++) {
            const um_json *item = object ? um_json_member(j, i, &key) : um_json_at(j, i);
            if (i > 0) um_text_add(to, ",", 1);
            if (object) um_text_json(to, key);
            if (object) um_text_add(to, ":", 1);
            write_value(to, item);
        }
        um_text_add(to, object ? "}" : "]", 1);
        break;
    case UM_JSON_STRING:
        um_text_json(to, um_json_str(j, ""));
        break;
    case UM_JSON_INT:
        um_text_fmt(to, "%" PRId64, um_json_int(j, 0));
        break;
    case UM_JSON_REAL:
        um_text_fmt(to, "%.17g", um_json_num(j, 0));
        break;
    case UM_JSON_BOOL:
        um_text_fmt(to, "%s", um_json_bool(j, false) ? "true" : "false");
        break;
    case UM_JSON_NULL:
    case UM_JSON_NONE:
        um_text_add(to, "null", 4);
        break;
    }
}

/* A media value: a path, a list of paths, or for videos a list of lists. Anything else goes on as it is, for the router to refuse. */
static void write_media(um_text *to, const um_json *media, const char *folder, um_arena *arena)
{
    if (um_json_kind_of(media) == UM_JSON_STRING) {
        um_text_json(to, um_path_join(arena, folder, um_json_str(media, "")));
    } else if (um_json_kind_of(media) == UM_JSON_ARRAY) {
        um_text_add(to, "[", 1);
        for (size_t i = 0; i < um_json_size(media); i++) {
            if (i > 0) um_text_add(to, ",", 1);
            write_media(to, um_json_at(media, i), folder, arena);
        }
        um_text_add(to, "]", 1);
    } else {
        write_value(to, media);
    }
}

static bool is_media(const char *key)
{
    static const char *const names[] = {"image", "video", "voice", "speech", "sound"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(key, names[i]) == 0) return true;
    return false;
}

static void write_object(um_text *to, const um_json *object, const char *folder, um_arena *arena);

/* A list whose objects have media paths in them: the parts of a prompt, or turns with such parts. */
static void write_list(um_text *to, const um_json *list, const char *folder, um_arena *arena)
{
    um_text_add(to, "[", 1);
    for (size_t i = 0; i < um_json_size(list); i++) {
        const um_json *item = um_json_at(list, i);
        if (i > 0) um_text_add(to, ",", 1);
        if (um_json_kind_of(item) == UM_JSON_OBJECT)
            write_object(to, item, folder, arena);
        else
            write_value(to, item);
    }
    um_text_add(to, "]", 1);
}

/* The keys whose lists are looked into: a prompt of parts, turns, and a turn's value of parts. */
static bool is_parts(const char *key, const um_json *value)
{
    return um_json_kind_of(value) == UM_JSON_ARRAY &&
           (strcmp(key, "prompt") == 0 || strcmp(key, "conversations") == 0 ||
            strcmp(key, "value") == 0);
}

/* The members of a request or of its sample, each behind a comma but the first; *n counts them over both calls. */
static void write_members(um_text *to, const um_json *object, int *n, const char *folder,
                          um_arena *arena)
{
    for (size_t i = 0; i < um_json_size(object); i++) {
        const char *key = NULL;
        const um_json *value = um_json_member(object, i, &key);
        if ((*n)++ > 0) um_text_add(to, ",", 1);
        um_text_json(to, key);
        um_text_add(to, ":", 1);
        if (is_media(key)) {
            write_media(to, value, folder, arena);
        } else if (strcmp(key, "sample") == 0 && um_json_kind_of(value) == UM_JSON_OBJECT) {
            write_object(to, value, folder, arena);
        } else if (is_parts(key, value)) {
            write_list(to, value, folder, arena);
        } else {
            write_value(to, value);
        }
    }
}

static void write_object(um_text *to, const um_json *object, const char *folder, um_arena *arena)
{
    int n = 0;
    um_text_add(to, "{", 1);
    write_members(to, object, &n, folder, arena);
    um_text_add(to, "}", 1);
}

/* One request of a file, with its number for a name when it has none. What is in it is the router's to judge. */
static um_status write_request(um_text *to, const um_json *request, int number, const char *folder,
                               um_arena *arena, um_err *err)
{
    int n = 0;
    if (um_json_kind_of(request) != UM_JSON_OBJECT)
        return UM_FAIL(err, UM_E_DATA, "not a JSON object");
    um_text_add(to, "{", 1);
    if (um_json_get(request, "id") == NULL) {
        um_text_fmt(to, "\"id\":\"%d\"", number);
        n++;
    }
    write_members(to, request, &n, folder, arena);
    um_text_add(to, "}\n", 2);
    return UM_OK;
}

static um_status write_file(um_text *to, int *count, const char *path, um_arena *arena, um_err *err)
{
    char folder[PATH_MAX];
    bool input = strcmp(path, "-") == 0;
    const char *name = input ? "standard input" : path;
    uint8_t *data = NULL;
    size_t size = 0;
    UM_TRY(um_wrap(err, um_file_read(&data, &size, path, FILE_LIMIT, arena, err), "requests"));
    if (realpath(input ? "." : um_path_dir(arena, path), folder) == NULL)
        return UM_FAIL(err, UM_E_IO, "%s: %s", name, strerror(errno));
    int number = 0;
    const char *end = (const char *)data + size;
    for (const char *line = (const char *)data; line < end; number++) {
        const char *nl = memchr(line, '\n', (size_t)(end - line)), *stop = nl != NULL ? nl : end;
        if (strspn(line, " \t\r") < (size_t)(stop - line)) {
            um_json *request = NULL;
            um_status st = um_json_parse(&request, line, (size_t)(stop - line), err);
            if (st == UM_OK) st = write_request(to, request, *count, folder, arena, err);
            um_json_free(request);
            if (st != UM_OK) {
                um_wrap(err, st, "%s:%d", name, number + 1);
                return UM_E_DATA;
            }
            ++*count;
        }
        line = stop + 1;
    }
    if (*count == 0) return UM_FAIL(err, UM_E_DATA, "%s: no request in it", name);
    return UM_OK;
}

static um_status write_files(um_text *to, const char *key, const um_list *files, um_err *err)
{
    char path[PATH_MAX];
    for (int i = 0; i < files->n; i++) {
        if (realpath(files->item[i], path) == NULL)
            return UM_FAIL(err, UM_E_DATA, "--%s %s: %s", key, files->item[i], strerror(errno));
        if (i == 0) um_text_fmt(to, ",\"%s\":[", key);
        if (i > 0) um_text_add(to, ",", 1);
        um_text_json(to, path);
    }
    if (files->n > 0) um_text_add(to, "]", 1);
    return UM_OK;
}

static um_status write_prompt(um_text *to, const um_config *cfg, um_err *err)
{
    um_text_fmt(to, "{\"id\":\"0\",\"prompt\":");
    um_text_json(to, cfg->prompt);
    UM_TRY(write_files(to, "image", &cfg->image, err));
    UM_TRY(write_files(to, "video", &cfg->video, err));
    UM_TRY(write_files(to, "speech", &cfg->speech, err));
    UM_TRY(write_files(to, "sound", &cfg->sound, err));
    if (cfg->video_audio[0] != '\0') um_text_fmt(to, ",\"video_audio\":\"%s\"", cfg->video_audio);
    um_text_add(to, "}\n", 2);
    return UM_OK;
}

um_status um_requests_build(um_text *out, int *count, const um_config *cfg, um_arena *arena,
                            um_err *err)
{
    *count = 0;
    if (cfg->requests[0] != '\0') return write_file(out, count, cfg->requests, arena, err);
    *count = 1;
    return write_prompt(out, cfg, err);
}

/* See data_list.h. */
#include "router/data/data_list.h"

#include "core/base/file.h"

#include <stdlib.h>
#include <string.h>

static um_status read_one(um_data_file *out, const char *word, const char *option, um_arena *arena,
                          um_err *err)
{
    const char *colon = strrchr(word, ':');
    *out = (um_data_file){word, 1};
    if (colon == NULL || um_file_exists(word)) {
        if (um_file_exists(word)) return UM_OK;
        return UM_FAIL(err, UM_E_USAGE, "%s: there is no file %s", option, word);
    }
    char *end = NULL;
    out->path = um_arena_strn(arena, word, (size_t)(colon - word));
    out->weight = strtod(colon + 1, &end);
    if (end == colon + 1 || *end != '\0' || !(out->weight > 0 && out->weight < 1e6))
        return UM_FAIL(err, UM_E_USAGE,
                       "%s: %s: the weight behind the colon must be a number above 0", option,
                       word);
    if (!um_file_exists(out->path))
        return UM_FAIL(err, UM_E_USAGE, "%s: there is no file %s", option, out->path);
    return UM_OK;
}

um_status um_data_list_read(um_data_file **files, int *n_files, const char *const *words, int n,
                            const char *option, um_arena *arena, um_err *err)
{
    um_data_file *list = um_arena_alloc(arena, UM_DATA_FILES_MAX * sizeof *list);
    *n_files = 0;
    for (int i = 0; i < n; i++)
        for (const char *at = words[i]; *at != '\0';) {
            size_t len = um_file_exists(at) ? strlen(at) : strcspn(at, ",");
            if (*n_files == UM_DATA_FILES_MAX)
                return UM_FAIL(err, UM_E_LIMIT, "%s: more than %d files", option,
                               UM_DATA_FILES_MAX);
            if (len > 0)
                UM_TRY(read_one(&list[(*n_files)++], um_arena_strn(arena, at, len), option, arena,
                                err));
            at += len + (at[len] == ',');
        }
    if (*n_files == 0) return UM_FAIL(err, UM_E_USAGE, "%s FILE is missing", option);
    *files = list;
    return UM_OK;
}

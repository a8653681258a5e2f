/* See copy.h. */
#include "launch/model_dir/copy.h"

#include "core/base/file.h"

um_status um_copy_small_file(const char *to, const char *from, um_arena *arena, um_err *err)
{
    uint8_t *data;
    size_t size;
    um_mark m = um_arena_mark(arena);
    um_status st = um_file_read(&data, &size, from, UM_SMALL_FILE_MAX, arena, err);
    if (st == UM_OK) st = um_file_write(to, data, size, err);
    um_arena_reset(arena, m);
    return st;
}

um_status um_copy_model_files(const char *to, const char *first, const char *second,
                              um_arena *arena, um_err *err)
{
    static const char *const name[] = {"tokenizer.model",         "tokenizer_config.json",
                                       "special_tokens_map.json", "added_tokens.json",
                                       "tokenizer.json",          "generation_config.json"};
    const char *dirs[] = {first, second};
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        bool found = false;
        for (int d = 0; d < 2 && !found; d++) {
            if (dirs[d][0] == '\0') continue;
            const char *from = um_path_join(arena, dirs[d], name[i]);
            found = um_file_exists(from);
            if (found)
                UM_TRY(um_copy_small_file(um_path_join(arena, to, name[i]), from, arena, err));
        }
        if (!found && i == 0)
            return UM_FAIL(err, UM_E_MODEL, "tokenizer.model is neither in %s nor in %s", dirs[0],
                           dirs[1]);
    }
    return UM_OK;
}

um_status um_copy_tower_files(const char *to, const char *from, um_arena *arena, um_err *err)
{
    static const char *const name[] = {"config.json", "preprocessor_config.json"};
    for (int i = 0; i < 2; i++) {
        const char *path = um_path_join(arena, from, name[i]);
        bool needed = i == 0;
        if (!needed && !um_file_exists(path)) continue; /* um_model_read says when it is needed */
        UM_TRY(um_copy_small_file(um_path_join(arena, to, name[i]), path, arena, err));
    }
    return UM_OK;
}

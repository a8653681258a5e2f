/* See model.h: checks whether a path is a model directory, before its files are read. */
#include "core/model/model.h"

#include "core/base/file.h"
#include "core/base/file_trouble.h"
#include "core/base/text.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* A folder inside dir that contains a config.json: one level below, or in snapshots/, where the Hugging Face cache stores models. ""
 * when it does not find one. */
static const char *model_below(const char *dir, um_arena *arena)
{
    const char *found = "";
    DIR *d = opendir(dir);
    for (struct dirent *e; d != NULL && found[0] == '\0' && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.') continue;
        const char *path = um_arena_fmt(arena, "%s/%s", dir, e->d_name);
        if (um_file_exists(um_arena_fmt(arena, "%s/config.json", path)))
            found = path;
        else if (strcmp(e->d_name, "snapshots") == 0)
            found = model_below(path, arena);
    }
    if (d != NULL) closedir(d);
    return found;
}

static um_status no_config(const char *dir, um_err *err)
{
    um_arena scratch;
    um_arena_init(&scratch, "model folder", 4096);
    const char *below = model_below(dir, &scratch);
    um_status st =
        UM_FAIL(err, UM_E_MODEL, "%s: not a model directory: there is no config.json in it%s%s%s",
                dir, below[0] != '\0' ? "; did you mean " : "", below, below[0] != '\0' ? "?" : "");
    um_arena_free(&scratch);
    return st;
}

um_status um_model_folder_check(const char *dir, um_err *err)
{
    struct stat sb;
    char config[4096];
    if (stat(dir, &sb) != 0)
        return UM_FAIL(err, UM_E_MODEL, "model directory %s: %s", dir, strerror(errno));
    if (!S_ISDIR(sb.st_mode))
        return UM_FAIL(err, UM_E_MODEL,
                       "%s is a file; a model is a folder with config.json, safetensors and "
                       "tokenizer.model%s",
                       dir, um_ends_with(dir, ".gguf") ? " (GGUF files cannot be read)" : "");
    snprintf(config, sizeof config, "%s/config.json", dir);
    if (um_file_named(config)) return UM_OK; /* reading it later shows whether it is readable */
    if (errno == EACCES) return UM_FAIL(err, UM_E_MODEL, "%s: %s", dir, strerror(errno));
    return no_config(dir, err);
}

um_status um_model_tokenizer_check(const char *dir, um_err *err)
{
    um_arena scratch;
    um_file f = {0};
    char why[UM_TROUBLE_TEXT];
    um_arena_init(&scratch, "tokenizer path", 4096);
    const char *path = um_path_join(&scratch, dir, "tokenizer.model");
    um_status st = UM_OK;
    if (!um_file_named(path)) {
        bool fast = um_file_exists(um_path_join(&scratch, dir, "tokenizer.json"));
        st = UM_FAIL(err, UM_E_MODEL,
                     "%s is missing%s: download it too (the SentencePiece file of the release)",
                     path, fast ? "; tokenizer.json cannot stand in for it" : "");
    } else {
        st = um_file_map(&f, path, err);
    }
    if (st == UM_OK && um_file_trouble(why, f.data, f.size))
        st = UM_FAIL(err, UM_E_MODEL, "%s: %s", path, why);
    um_file_unmap(&f);
    um_arena_free(&scratch);
    return um_model_fault(st);
}

/* See training_file.h. */
#include "core/train/training_file.h"

#include "core/base/file.h"

enum { FILE_LIMIT = 256 << 20 };

static const char start_name[] = "trainable_start.safetensors";

static um_status wrong(const um_training_file *f, const char *what, um_err *err)
{
    return UM_FAIL(err, UM_E_DATA, "training file %s: %s", f->path, what);
}

static um_status check(um_training_file *f, um_err *err)
{
    const um_json *adamw = um_json_get(f->root, "adamw"),
                  *batches = um_json_get(f->root, "batches");
    if (um_json_kind_of(f->root) != UM_JSON_OBJECT) return wrong(f, "no JSON object", err);
    if (um_json_size(um_json_get(f->root, "samples")) == 0)
        return wrong(f, "\"samples\" is missing or empty", err);
    if (um_json_kind_of(batches) != UM_JSON_ARRAY || um_json_size(batches) == 0)
        return wrong(f, "\"batches\" is missing or empty", err);
    f->batches = (int)um_json_size(batches);
    f->steps = um_json_int(um_json_get(adamw, "steps"), 0);
    if (f->steps < 0 || f->steps > 1000000)
        return wrong(f, "\"adamw.steps\": want 0..1000000", err);
    if (um_json_kind_of(um_json_get(f->root, "aux")) == UM_JSON_OBJECT)
        f->aux = um_json_get(f->root, "aux");
    return UM_OK;
}

um_status um_training_file_open(um_training_file *out, const char *path, um_arena *arena,
                                um_err *err)
{
    um_training_file f = {.path = um_arena_str(arena, path)};
    f.folder = um_path_dir(arena, path);
    if (um_json_load(&f.root, path, FILE_LIMIT, err) != UM_OK) return UM_E_DATA;
    um_status st = check(&f, err);
    if (st == UM_OK)
        *out = f;
    else
        um_json_free(f.root);
    return st;
}

void um_training_file_close(um_training_file *f)
{
    um_json_free(f->root);
    *f = (um_training_file){0};
}

um_status um_training_file_batch(const um_training_file *f, int batch, const um_json **samples,
                                 const int **index, int *n, um_arena *arena, um_err *err)
{
    const um_json *all = um_json_get(f->root, "samples"),
                  *of = um_json_at(um_json_get(f->root, "batches"), (size_t)batch);
    const int count = (int)um_json_size(of);
    int *list = um_arena_alloc(arena, (size_t)(count + 1) * sizeof *list);
    if (count == 0) return wrong(f, "a batch without samples", err);
    for (int i = 0; i < count; i++) {
        int64_t k = um_json_int(um_json_at(of, (size_t)i), -1);
        if (k < 0 || k >= (int64_t)um_json_size(all))
            return wrong(f, "a batch names a sample that there is not", err);
        list[i] = (int)k;
    }
    *samples = all;
    *index = list;
    *n = count;
    return UM_OK;
}

um_status um_training_file_options(const um_training_file *f, um_config *cfg, um_arena *arena,
                                   um_err *err)
{
    const um_json *lora = um_json_get(f->root, "lora"), *adamw = um_json_get(f->root, "adamw"),
                  *betas = um_json_get(adamw, "betas");
    const char *model = um_json_str(um_json_get(f->root, "model"), "");
    if (cfg->model[0] == '\0' && model[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE, "%s names no \"model\": give --model DIR", f->path);
    if (cfg->model[0] == '\0') cfg->model = um_path_join(arena, f->folder, model);
    cfg->train = true;
    cfg->train_start = um_path_join(arena, f->folder, start_name);
    if (!um_file_exists(cfg->train_start))
        return UM_FAIL(err, UM_E_DATA, "training file %s: %s is missing beside it", f->path,
                       start_name);
    cfg->lora_alpha = um_json_num(um_json_get(lora, "alpha"), 16);
    cfg->lora_dropout = um_json_num(um_json_get(lora, "dropout"), 0);
    cfg->lr = um_json_num(um_json_get(adamw, "lr"), 1e-3);
    cfg->adam_beta1 = um_json_num(um_json_at(betas, 0), 0.9);
    cfg->adam_beta2 = um_json_num(um_json_at(betas, 1), 0.999);
    cfg->adam_epsilon = um_json_num(um_json_get(adamw, "eps"), 1e-8);
    cfg->weight_decay = um_json_num(um_json_get(adamw, "weight_decay"), 0);
    cfg->clip = um_json_num(um_json_get(adamw, "clip"), 0);
    cfg->schedule = um_json_str(um_json_get(adamw, "schedule"), "constant");
    cfg->schedule = um_arena_str(arena, cfg->schedule);
    cfg->warmup = 0;
    return UM_OK;
}

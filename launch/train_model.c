/* unimoe train: settles what trains and where, runs the job, and makes the model directory at the end. See launch/command.h. */
#include "launch/command.h"

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/train/saved.h"
#include "core/train/select.h"
#include "launch/model_dir/copy.h"
#include "launch/train/check_data.h"
#include "launch/train/export.h"
#include "launch/train/training_job.h"
#include "router/data/data_list.h"
#include "router/data/dataset.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Ranks may start in other folders: the files of the list become absolute, with their weights. */
static um_status settle_data(um_list *list, const char *option, um_arena *arena, um_err *err)
{
    um_data_file *files = NULL;
    int n = 0;
    UM_TRY(um_data_list_read(&files, &n, list->item, list->n, option, arena, err));
    if (n > UM_MAX_FILES)
        return UM_FAIL(err, UM_E_LIMIT, "%s: %d files, at most %d", option, n, UM_MAX_FILES);
    list->n = 0;
    for (int i = 0; i < n; i++) {
        UM_TRY(um_absolute(&files[i].path, option, UM_E_DATA, arena, err));
        list->item[list->n++] = um_arena_fmt(arena, "%s:%.17g", files[i].path, files[i].weight);
    }
    return UM_OK;
}

/* Where the run goes on: the checkpoint's folder in cfg->resume, or "" for a new run. */
static um_status settle_resume(um_config *cfg, um_arena *arena, um_err *err)
{
    const char *newest = NULL;
    um_saved s = {0};
    int lock = -1;
    if (strcmp(cfg->resume, "auto") == 0) {
        UM_TRY(um_saved_lock(&lock, cfg->out, err)); /* a job that is ending may save until then */
        const um_status st = um_saved_newest(&newest, cfg->out, arena, err);
        if (lock >= 0) close(lock);
        UM_TRY(st);
        cfg->resume = newest == NULL ? "" : newest;
        fprintf(stderr, newest == NULL ? "no checkpoint in %s: a new run\n" : "going on from %s\n",
                newest == NULL ? cfg->out : newest);
        return UM_OK;
    }
    if (cfg->resume[0] != '\0') {
        UM_TRY(um_saved_open(&s, cfg->resume, true, err));
        um_saved_close(&s);
        return um_absolute(&cfg->resume, "--resume", UM_E_DATA, arena, err);
    }
    if (um_file_exists(um_path_join(arena, cfg->out, "trainer_log.jsonl")))
        return UM_FAIL(err, UM_E_USAGE,
                       "--out %s has a run in it: --resume auto goes on with it; else give another "
                       "folder",
                       cfg->out);
    return UM_OK;
}

static um_status settle_paths(um_config *cfg, um_arena *arena, um_err *err)
{
    char path[PATH_MAX];
    if (cfg->model[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE, "the model is missing: unimoe train MODEL --data FILE");
    if (cfg->out[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE, "--out is missing: the folder of the run");
    UM_TRY(settle_data(&cfg->data, "--data", arena, err));
    if (cfg->eval_data.n > 0) UM_TRY(settle_data(&cfg->eval_data, "--eval-data", arena, err));
    if (cfg->batch < cfg->micro_batch) cfg->micro_batch = cfg->batch;
    if (um_file_mkdirs(cfg->out, err) != UM_OK)
        return um_wrap(err, UM_E_USAGE, "--out %s", cfg->out);
    UM_TRY(um_absolute(&cfg->out, "--out", UM_E_USAGE, arena, err));
    if (realpath(cfg->model, path) != NULL && strcmp(path, cfg->out) == 0)
        return UM_FAIL(err, UM_E_USAGE, "--out %s is the model itself: give another folder",
                       cfg->out);
    if (access(cfg->out, W_OK) != 0)
        return UM_FAIL(err, UM_E_USAGE, "--out %s: %s", cfg->out, strerror(errno));
    UM_TRY(um_absolute(&cfg->media_folder, "--media-folder", UM_E_USAGE, arena, err));
    return settle_resume(cfg, arena, err);
}

/* How much is trained on: the longest sample as it is estimated without a tokeniser, and how many have each modality. */
static um_status load_of(um_training_load *out, const um_config *cfg, const um_model *m,
                         um_arena *arena, um_err *err)
{
    um_data_file *files = NULL;
    um_dataset *ds = NULL;
    int n = 0;
    um_dataset_how how = {.maker = {.model = m, .max_ids = (int)cfg->max_length}};
    um_training_load load = {0};
    if (cfg->media_folder[0] != '\0') how.media_folder = cfg->media_folder;
    UM_TRY(um_data_list_read(&files, &n, cfg->data.item, cfg->data.n, "--data", arena, err));
    UM_TRY(um_wrap(err, um_dataset_open(&ds, files, n, &how, err), "--data"));
    load.samples = (int64_t)um_dataset_size(ds);
    for (size_t i = 0; i < um_dataset_size(ds); i++) {
        const um_data_entry *e = um_dataset_entry(ds, i);
        if (e->length > load.longest) load.longest = e->length;
        load.media[UM_IMAGE] += (e->kinds & UM_KIND_IMAGE) != 0;
        load.media[UM_VIDEO] += (e->kinds & UM_KIND_VIDEO) != 0;
        load.media[UM_SPEECH] += (e->kinds & UM_KIND_AUDIO) != 0; /* or it is sound */
        load.media[UM_SOUND] += (e->kinds & UM_KIND_AUDIO) != 0;
    }
    um_dataset_close(ds);
    *out = load;
    return UM_OK;
}

/* Mistakes in what trains, and in what it is trained on, are found before a job is started. */
static um_status check_choice(um_training_load *load, const um_config *cfg, um_arena *arena,
                              um_err *err)
{
    um_checkpoint c;
    um_select s = {0};
    const um_towers towers = {cfg->vision_tower, cfg->speech_tower, cfg->sound_tower};
    UM_TRY(um_checkpoint_open(&c, cfg->model, &towers, err));
    um_status st = um_select_open(&s, cfg, &c.model, arena, err);
    if (st == UM_OK) st = um_select_check(&s, err);
    if (st == UM_OK) st = load_of(load, cfg, &c.model, arena, err);
    um_select_close(&s);
    um_checkpoint_close(&c);
    return st;
}

static void summary_print(FILE *to, const um_config *cfg, const um_train_outcome *out,
                          um_arena *arena)
{
    const bool adapter = strcmp(cfg->save, "adapter") == 0;
    const char *loss = out->last.step > 0 ? um_arena_fmt(arena, ", loss %.4f", out->last.loss) : "";
    const char *expert = um_path_join(arena, cfg->out, UM_EXPERT_STEM ".safetensors");
    const char *skipped = out->skipped > 0
                              ? um_arena_fmt(arena, ", %" PRIu64 " of them skipped", out->skipped)
                              : "",
               *lost = out->lost > 0
                           ? um_arena_fmt(arena, ", samples left out: %" PRIu64, out->lost)
                           : "";
    fprintf(to, "%" PRIu64 " steps%s%s%s; %s%s\n", out->steps, skipped, loss, lost,
            um_arena_fmt(arena, adapter ? "the adapter is in %s/adapter" : "the model is in %s",
                         cfg->out),
            strcmp(cfg->stage, "2") == 0 && um_file_exists(expert)
                ? um_arena_fmt(arena, ", its expert in %s", expert)
                : "");
}

static um_status run(um_config *cfg, um_arena *arena, um_err *err)
{
    um_job job = {0};
    um_train_outcome out;
    UM_TRY(settle_paths(cfg, arena, err));
    um_training_load load;
    UM_TRY(check_choice(&load, cfg, arena, err));
    cfg->train = true;
    UM_TRY(um_prepare_training(&job, cfg, &load, arena, err));
    if (job.argc == 0) return UM_OK; /* --dry-run */
    UM_TRY(um_train_job_run(&out, &job, cfg, stderr, cfg->quiet, err));
    UM_TRY(um_export(cfg, um_saved_folder(cfg->out, out.steps, arena), err));
    if (!cfg->quiet) summary_print(stderr, cfg, &out, arena);
    return UM_OK;
}

/* --check-data: the files of --data, and of --eval-data if there are any; needs no --out. */
static um_status check_data(const um_config *cfg, um_arena *arena, um_err *err)
{
    const um_list *lists[] = {&cfg->data, &cfg->eval_data};
    static const char *const options[] = {"--data", "--eval-data"};
    um_data_file *files[2] = {NULL}, *all = NULL;
    int n[2] = {0};
    if (cfg->model[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE,
                       "the model is missing: unimoe train MODEL --data FILE --check-data");
    for (int i = 0; i < 2; i++)
        if (i == 0 || lists[i]->n > 0)
            UM_TRY(um_data_list_read(&files[i], &n[i], lists[i]->item, lists[i]->n, options[i],
                                     arena, err));
    all = um_arena_alloc(arena, (size_t)(n[0] + n[1]) * sizeof *all);
    for (int i = 0; i < n[0] + n[1]; i++) all[i] = i < n[0] ? files[0][i] : files[1][i - n[0]];
    return um_check_data(cfg, all, n[0] + n[1], stdout, err);
}

um_status um_train(const um_config *given, um_err *err)
{
    um_config cfg = *given;
    um_arena arena;
    um_arena_init(&arena, "train", 1 << 16);
    um_status st = cfg.check_data ? check_data(&cfg, &arena, err) : run(&cfg, &arena, err);
    um_arena_free(&arena);
    return st;
}

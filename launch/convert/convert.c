/* See convert.h. Writes the directory as OUT.tmp.PID, opens and checks it like any model, and renames it to OUT last. */
#include "launch/convert/convert.h"

#include "core/base/file.h"
#include "core/nn/checkpoint.h"
#include "launch/convert/convert_job.h"
#include "launch/model_dir/audit.h"
#include "launch/model_dir/copy.h"
#include "launch/model_dir/interrupt.h"
#include "launch/model_dir/manifest.h"
#include "launch/model_dir/tree.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- checking the result --- */

static void keep_line(void *ctx, const char *line)
{
    um_convert *cv = ctx;
    um_text_fmt(&cv->problems, "%s\n", line);
}

um_status um_convert_audit(um_convert *cv, um_err *err)
{
    um_checkpoint c;
    um_audit a;
    UM_TRY(um_checkpoint_open(&c, cv->tmp, NULL, err));
    um_status st = um_audit_run(&c, &a, keep_line, cv, err);
    if (st == UM_OK && a.missing + a.misshapen + a.unexpected > 0)
        st = UM_FAIL(err, UM_E_MODEL,
                     "the directory does not pass its check: %" PRId64 " tensors missing, %" PRId64
                     " of another shape, %" PRId64 " unexpected",
                     a.missing, a.misshapen, a.unexpected);
    cv->model.variant = um_arena_str(&cv->arena, c.model.variant);
    um_checkpoint_close(&c);
    return st;
}

/* --- the steps --- */

static um_status gather(um_convert *cv, um_err *err)
{
    UM_TRY(um_convert_config_open(cv, err));
    UM_TRY(um_convert_assemble(cv, err));
    UM_TRY(um_convert_towers(cv, err));
    UM_TRY(um_convert_adapter_open(cv, err));
    UM_TRY(um_convert_unread(cv, err));
    um_convert_resolve(cv);
    return UM_OK;
}

static um_status make_folder(const char *path, um_err *err)
{
    if (mkdir(path, 0755) == 0) return UM_OK;
    return UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(errno));
}

static um_status plan(um_convert *cv, um_err *err)
{
    UM_TRY(um_convert_tower_files(cv, err));
    UM_TRY(um_convert_config_write(cv, err));
    UM_TRY(um_model_read(&cv->model, cv->tmp, NULL, &cv->arena, err));
    UM_TRY(um_convert_check(cv, err));
    return um_convert_adapter_match(cv, err);
}

static const char *source_text(um_convert *cv)
{
    const um_config *cfg = cv->cfg;
    const char *part[][2] = {{"base", cfg->base},
                             {"tuned", cfg->tuned},
                             {"expert files", cfg->expert_files},
                             {"vision tower", cv->tower[UM_SET_VISION]},
                             {"speech tower", cv->tower[UM_SET_SPEECH]},
                             {"sound tower", cv->tower[UM_SET_SOUND]}};
    const char *s = "unimoe " UM_VERSION " convert";
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        if (part[i][1] != NULL && part[i][1][0] != '\0')
            s = um_arena_fmt(&cv->arena, "%s; %s %s", s, part[i][0], part[i][1]);
    }
    return s;
}

um_status um_convert_finish(um_convert *cv, const char *source, um_err *err)
{
    const char *out = cv->cfg->out;
    UM_TRY(um_manifest_write(cv->tmp, source, err));
    um_file_sync_folder(cv->tmp);
    if (rename(cv->tmp, out) != 0) return UM_FAIL(err, UM_E_IO, "%s: %s", out, strerror(errno));
    um_file_sync_folder(um_path_dir(&cv->arena, out));
    return UM_OK;
}

static um_status import(um_convert *cv, um_err *err)
{
    UM_TRY(gather(cv, err));
    UM_TRY(make_folder(cv->tmp, err));
    UM_TRY(plan(cv, err));
    if (cv->cfg->dry_run) return UM_OK;
    UM_TRY(um_convert_weights(cv, err));
    UM_TRY(um_convert_adapter_keep(cv, err));
    UM_TRY(um_copy_model_files(cv->tmp, cv->cfg->tuned, cv->cfg->base, &cv->arena, err));
    UM_TRY(um_convert_audit(cv, err));
    UM_TRY(um_convert_report(cv, err));
    return um_convert_finish(cv, source_text(cv), err);
}

static um_status write_out(um_convert *cv, um_err *err)
{
    UM_TRY(strcmp(cv->cfg->to, "peft") == 0 ? um_convert_to_peft(cv, err)
                                            : um_convert_to_hf(cv, err));
    if (cv->cfg->dry_run) return UM_OK;
    UM_TRY(um_convert_report(cv, err));
    return um_convert_finish(cv,
                             um_arena_fmt(&cv->arena, "unimoe %s convert --to %s; model %s",
                                          UM_VERSION, cv->cfg->to, cv->cfg->model),
                             err);
}

/* The model as every other command opens it: um_checkpoint_open resolves what only the tensors show. */
static um_status export(um_convert *cv, um_err *err)
{
    um_checkpoint c;
    const um_config *cfg = cv->cfg;
    um_towers towers = {cfg->vision_tower, cfg->speech_tower, cfg->sound_tower};
    UM_TRY(um_checkpoint_open(&c, cfg->model, &towers, err));
    cv->model = c.model;
    um_status st = make_folder(cv->tmp, err);
    if (st == UM_OK) st = write_out(cv, err);
    cv->model.variant = um_arena_str(&cv->arena, c.model.variant);
    um_checkpoint_close(&c);
    return st;
}

/* --- the run --- */

static um_status usage_check(const um_config *cfg, um_err *err)
{
    if (cfg->out[0] == '\0') return UM_FAIL(err, UM_E_USAGE, "say what to make with --out DIR");
    if (um_file_exists(cfg->out))
        return UM_FAIL(err, UM_E_USAGE, "%s: is there already: choose another --out, or delete it",
                       cfg->out);
    bool back = cfg->to[0] != '\0';
    if (back && cfg->base[0] != '\0')
        return UM_FAIL(err, UM_E_USAGE,
                       "--base makes a model, --to writes one out: give one of them");
    if (back && cfg->model[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE, "say which model to write out with --model DIR");
    if (!back && cfg->base[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE,
                       "say what to convert with --base DIR, or --model DIR --to WORD");
    return UM_OK;
}

static const char *without_slash(um_arena *arena, const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    return um_arena_strn(arena, path, n);
}

void um_convert_open(um_convert *cv, const um_config *cfg, FILE *out)
{
    *cv = (um_convert){.cfg = cfg, .out = out};
    um_arena_init(&cv->arena, "convert", 1 << 16);
    um_sources_open(&cv->src);
    for (int id = 0; id < UM_FOLDERS; id++) cv->folder[id].name = "";
    cv->tmp = um_arena_fmt(&cv->arena, "%s.tmp.%ld", cfg->out, (long)getpid());
}

void um_convert_close(um_convert *cv, um_status st)
{
    um_progress_end(&cv->progress);
    if (st != UM_OK || cv->cfg->dry_run) um_tree_remove(cv->tmp);
    for (int id = 0; id < UM_FOLDERS; id++) um_free(cv->folder[id].claim);
    um_text_free(&cv->problems);
    um_text_free(&cv->notes);
    um_json_free(cv->config);
    um_sources_close(&cv->src);
    um_arena_free(&cv->arena);
}

um_status um_convert_run(const um_config *cfg, FILE *out, um_err *err)
{
    um_arena arena;
    um_convert cv;
    um_config c = *cfg;
    um_arena_init(&arena, "convert options", 4096);
    c.out = without_slash(&arena, cfg->out);
    um_status st = usage_check(&c, err);
    if (st == UM_OK) {
        um_interrupt interrupt;
        um_convert_open(&cv, &c, out);
        um_interrupt_begin(&interrupt);
        st = c.to[0] != '\0' ? export(&cv, err) : import(&cv, err);
        if (st == UM_OK || cv.problems.n > 0) um_convert_summary(&cv);
        um_convert_close(&cv, st);
        um_interrupt_end(&interrupt);
    }
    um_arena_free(&arena);
    return st;
}

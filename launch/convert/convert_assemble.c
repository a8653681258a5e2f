/* Assembles the language model's tensors from the files of a release, in the order of spec 7.4. See convert_job.h. */
#include "launch/convert/convert_job.h"

#include "core/base/file.h"
#include "launch/model_dir/tree.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS_MAX = 4096 };

/* --- claims --- */

void um_convert_claim(um_convert *cv, int id, const char *name, um_source_tensor *t, um_stage stage)
{
    um_folder *s = &cv->folder[id];
    if (s->n == s->cap) {
        s->cap = s->cap == 0 ? 1024 : s->cap * 2;
        s->claim = um_realloc(s->claim, s->cap * sizeof *s->claim);
    }
    s->claim[s->n] = (um_claim){.name = name, .t = t, .stage = stage, .order = s->n};
    s->n++;
}

static int claim_cmp(const void *a, const void *b)
{
    const um_claim *p = a, *q = b;
    int c = strcmp(p->name, q->name);
    if (c != 0) return c;
    if (p->stage != q->stage) return p->stage < q->stage ? -1 : 1;
    return p->order < q->order ? -1 : p->order > q->order;
}

void um_convert_resolve(um_convert *cv)
{
    for (int id = 0; id < UM_FOLDERS; id++) {
        um_folder *s = &cv->folder[id];
        size_t n = 0;
        if (s->n > 0) qsort(s->claim, s->n, sizeof *s->claim, claim_cmp);
        for (size_t i = 0; i < s->n; i++) {
            if (i + 1 < s->n && strcmp(s->claim[i].name, s->claim[i + 1].name) == 0) {
                s->claim[i].t->unused =
                    um_arena_fmt(&cv->arena, "replaced by %s", s->claim[i + 1].t->file);
                continue;
            }
            s->claim[n++] = s->claim[i];
        }
        s->n = n;
    }
}

static int name_cmp(const void *a, const void *b)
{
    return strcmp(((const um_claim *)a)->name, ((const um_claim *)b)->name);
}

um_claim *um_convert_find(const um_convert *cv, int id, const char *name)
{
    const um_folder *s = &cv->folder[id];
    um_claim key = {.name = name};
    return s->n == 0 ? NULL : bsearch(&key, s->claim, s->n, sizeof *s->claim, name_cmp);
}

const char *um_convert_bare(const char *name)
{
    static const char peft[] = "base_model.model.";
    return strncmp(name, peft, sizeof peft - 1) == 0 ? name + sizeof peft - 1 : name;
}

static void claim_all(um_convert *cv, const um_source_list *list, um_stage stage)
{
    for (size_t i = 0; list != NULL && i < list->n; i++)
        um_convert_claim(cv, UM_SET_LLM, um_convert_bare(list->item[i].name), &list->item[i],
                         stage);
}

/* Claims every tensor of STEM.bin or STEM.safetensors in dir under its own name, when that file exists. */
static um_status claim_file(um_convert *cv, const char *dir, const char *stem, um_stage stage,
                            um_err *err)
{
    const um_source_list *list;
    if (dir[0] == '\0') return UM_OK;
    UM_TRY(um_source_find(&cv->src, &list, dir, stem, err));
    claim_all(cv, list, stage);
    return UM_OK;
}

/* --- the base folder --- */

/* mm_projector.bin: only the part of a name after "mm_projector." counts (spec 7.2). */
static um_status claim_projector(um_convert *cv, um_err *err)
{
    static const char key[] = "mm_projector.";
    const um_source_list *list;
    UM_TRY(um_source_find(&cv->src, &list, cv->cfg->base, "mm_projector", err));
    for (size_t i = 0; list != NULL && i < list->n; i++) {
        const char *rest = strstr(list->item[i].name, key);
        if (rest == NULL) {
            list->item[i].unused = "no tensor of mm_projector";
            continue;
        }
        um_convert_claim(cv, UM_SET_LLM, um_arena_fmt(&cv->arena, "model.%s", rest), &list->item[i],
                         UM_STAGE_BASE_PARTS);
    }
    return UM_OK;
}

static um_status claim_base(um_convert *cv, um_err *err)
{
    const um_source_list *list;
    const char *dir = cv->cfg->base;
    UM_TRY(um_source_find(&cv->src, &list, dir, NULL, err));
    if (list == NULL)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: no weights: neither model.safetensors nor pytorch_model.bin nor an "
                       "index of shards is there",
                       dir);
    claim_all(cv, list, UM_STAGE_BASE);
    UM_TRY(claim_projector(cv, err));
    return claim_file(cv, dir, "mm_audio_aligner", UM_STAGE_BASE_PARTS, err);
}

/* --- the experts of 8e --- */

typedef struct slots {
    int n;                       /* files found */
    const char *path[SLOTS_MAX]; /* of file r */
    const um_source_list *list[SLOTS_MAX];
} slots;

/* Returns r of "{r}_mlp_experts.bin" or .safetensors, -1 for other names. */
static int slot_of(const char *file)
{
    char *end = NULL;
    if (file[0] < '0' || file[0] > '9') return -1;
    long r = strtol(file, &end, 10);
    bool ours =
        strcmp(end, "_mlp_experts.bin") == 0 || strcmp(end, "_mlp_experts.safetensors") == 0;
    return ours && r < SLOTS_MAX ? (int)r : -1;
}

static um_status slots_find(um_convert *cv, slots *s, um_err *err)
{
    const char *dir = cv->cfg->tuned;
    if (dir[0] == '\0') return UM_OK;
    DIR *d = opendir(dir);
    if (d == NULL) return UM_FAIL(err, UM_E_IO, "%s: %s", dir, strerror(errno));
    um_status st = UM_OK;
    for (struct dirent *e; st == UM_OK && (e = readdir(d)) != NULL;) {
        int r = slot_of(e->d_name);
        if (r < 0) continue;
        if (s->path[r] != NULL) {
            const char *a = strrchr(s->path[r], '/') + 1, *b = e->d_name;
            bool swap = strcmp(a, b) > 0; /* the message is independent of the listing's order */
            st = UM_FAIL(err, UM_E_MODEL, "%s: %s and %s are both the experts of slot %d: keep one",
                         dir, swap ? b : a, swap ? a : b, r);
        }
        s->path[r] = um_path_join(&cv->arena, dir, e->d_name);
        s->n++;
    }
    closedir(d);
    for (int r = 0; st == UM_OK && r < s->n; r++) {
        if (s->path[r] == NULL)
            st = UM_FAIL(err, UM_E_MODEL,
                         "%s: %d files of experts, but there is no %d_mlp_experts.bin", dir, s->n,
                         r);
    }
    return st;
}

/* Reads the number after "deepspeed_experts." and returns what follows its dot; NULL when the tensor does not belong to an expert. */
static const char *local_of(const char *name, int *local)
{
    static const char key[] = ".deepspeed_experts.";
    const char *at = strstr(name, key);
    char *end = NULL;
    if (at == NULL || at[sizeof key - 1] < '0' || at[sizeof key - 1] > '9') return NULL;
    long v = strtol(at + sizeof key - 1, &end, 10);
    if (*end != '.' || v >= SLOTS_MAX) return NULL;
    *local = (int)v;
    return end + 1;
}

/* Counts the experts in one file: their local numbers are 0..n-1, or there is one expert with any number. All experts must have
 * the same number of tensors. */
static um_status locals_count(const um_source_list *list, const char *path, int *n, int *first,
                              um_err *err)
{
    size_t *count = um_zalloc(SLOTS_MAX * sizeof *count);
    int least = SLOTS_MAX, most = -1, local = 0;
    um_status st = UM_OK;
    for (size_t i = 0; i < list->n && st == UM_OK; i++) {
        if (local_of(list->item[i].name, &local) == NULL) {
            st = UM_FAIL(err, UM_E_MODEL, "%s: tensor %.400s belongs to no expert", path,
                         list->item[i].name);
            break;
        }
        count[local]++;
        least = local < least ? local : least;
        most = local > most ? local : most;
    }
    if (st == UM_OK && most < 0) st = UM_FAIL(err, UM_E_MODEL, "%s: no tensors", path);
    for (int e = least; e <= most && st == UM_OK; e++) {
        if (count[e] != count[least])
            st = UM_FAIL(err, UM_E_MODEL, "%s: expert %d has %zu tensors, expert %d has %zu", path,
                         least, count[least], e, count[e]);
    }
    *n = most - least + 1;
    *first = least;
    um_free(count);
    return st;
}

/* File r was written by rank r of a training run with n experts per rank: its expert {local} is expert r * n + local of the model
 * (spec 4.6, 12 #26). */
static um_status slot_claim(um_convert *cv, const slots *s, int r, int n, int first, um_err *err)
{
    const um_source_list *list = s->list[r];
    if (first != 0 && !(n == 1 && first == r))
        return UM_FAIL(err, UM_E_MODEL, "%s: its expert has the number %d, want 0", s->path[r],
                       first);
    if (list->n != s->list[0]->n)
        return UM_FAIL(err, UM_E_MODEL, "%s has %zu tensors, %s has %zu: the numbers must be equal",
                       s->path[r], list->n, s->path[0], s->list[0]->n);
    for (size_t i = 0; i < list->n; i++) {
        int local = 0;
        const char *name = um_convert_bare(list->item[i].name), *rest = local_of(name, &local);
        int before = (int)(strstr(name, ".deepspeed_experts.") - name);
        um_convert_claim(cv, UM_SET_LLM,
                         um_arena_fmt(&cv->arena, "%.*s.deepspeed_experts.%d.%s", before, name,
                                      r * n + local - first, rest),
                         &list->item[i], UM_STAGE_SLOTS);
    }
    return UM_OK;
}

static um_status claim_slots(um_convert *cv, int64_t experts, um_err *err)
{
    slots *s = um_arena_zero(&cv->arena, sizeof *s);
    UM_TRY(slots_find(cv, s, err));
    int each = 0;
    for (int r = 0; r < s->n; r++) {
        int n, first;
        UM_TRY(um_source_file(&cv->src, &s->list[r], s->path[r], err));
        UM_TRY(locals_count(s->list[r], s->path[r], &n, &first, err));
        if (r == 0) each = n;
        if (n != each)
            return UM_FAIL(err, UM_E_MODEL, "%s holds %d experts, %s holds %d", s->path[r], n,
                           s->path[0], each);
        UM_TRY(slot_claim(cv, s, r, n, first, err));
    }
    if (s->n > 0 && (int64_t)s->n * each != experts)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: num_experts: %lld, but %s has %d files of %d experts each",
                       cv->config_path, (long long)experts, cv->cfg->tuned, s->n, each);
    return UM_OK;
}

/* The file of the expert folder that each slot starts from (spec 6.2). */
static const char *const slot_file[8] = {"mlp_audiocap", "mlp_basev", "mlp_base", "mlp_base1",
                                         "mlp_base4",    "mlp_base7", "mlp_base", "mlp_base7"};

/* Claims model.layers.N.mlp.P_proj.weight as the weight of slot e. */
static um_status overlay(um_convert *cv, const um_source_list *list, int e, um_err *err)
{
    static const char mlp[] = ".mlp.";
    for (size_t i = 0; i < list->n; i++) {
        const char *name = um_convert_bare(list->item[i].name), *at = strstr(name, mlp);
        if (at == NULL)
            return UM_FAIL(err, UM_E_MODEL, "%s: tensor %.400s belongs to no MLP",
                           list->item[i].file, name);
        um_convert_claim(cv, UM_SET_LLM,
                         um_arena_fmt(&cv->arena,
                                      "%.*s.mlp.deepspeed_moe.experts.deepspeed_experts.%d.%s",
                                      (int)(at - name), name, e, at + sizeof mlp - 1),
                         &list->item[i], UM_STAGE_EXPERTS);
    }
    return UM_OK;
}

static um_status claim_experts(um_convert *cv, int64_t experts, um_err *err)
{
    const char *dir = cv->cfg->expert_files;
    const um_source_list *list[8];
    if (dir[0] == '\0') return UM_OK;
    if (experts != 8)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: num_experts: %lld, but --expert-files are those of 8 experts",
                       cv->config_path, (long long)experts);
    for (int e = 0; e < 8; e++) {
        int same = 0;
        while (strcmp(slot_file[same], slot_file[e]) != 0) same++;
        if (same < e)
            list[e] = list[same];
        else
            UM_TRY(um_source_find(&cv->src, &list[e], dir, slot_file[e], err));
        if (list[e] == NULL)
            return UM_FAIL(err, UM_E_MODEL, "%s/%s.bin: not there; it is the base of expert %d",
                           dir, slot_file[e], e);
        UM_TRY(overlay(cv, list[e], e, err));
    }
    return UM_OK;
}

/* --- assembly --- */

/* Notes the weight files in a source folder that no rule reads: the user may expect them to be read. */
static um_status note_unread(um_convert *cv, const char *dir, um_err *err)
{
    static const char *const ending[] = {".bin", ".pt", ".pth", ".safetensors"};
    um_names names = {0};
    if (dir[0] == '\0') return UM_OK;
    UM_TRY(um_tree_list(&names, dir, &cv->arena, err));
    for (size_t i = 0; i < names.n; i++) {
        const char *dot = strrchr(names.name[i], '.');
        bool weights = false;
        for (int k = 0; k < 4 && dot != NULL; k++) weights = weights || strcmp(dot, ending[k]) == 0;
        if (!weights || strchr(names.name[i], '/') != NULL) continue;
        if (!um_source_opened(&cv->src, um_path_join(&cv->arena, dir, names.name[i])))
            um_convert_note(cv, "not read: %s of %s", names.name[i], dir);
    }
    return UM_OK;
}

um_status um_convert_unread(um_convert *cv, um_err *err)
{
    UM_TRY(note_unread(cv, cv->cfg->base, err));
    UM_TRY(note_unread(cv, cv->cfg->tuned, err));
    return note_unread(cv, cv->cfg->expert_files, err);
}

um_status um_convert_assemble(um_convert *cv, um_err *err)
{
    const char *tuned = cv->cfg->tuned;
    UM_TRY(claim_base(cv, err));
    if (cv->gshard) {
        int64_t experts = um_json_int(um_json_get(cv->config, "num_experts"), 0);
        UM_TRY(claim_slots(cv, experts, err));
        UM_TRY(claim_experts(cv, experts, err));
    } else if (cv->cfg->expert_files[0] != '\0') {
        return UM_FAIL(err, UM_E_USAGE,
                       "--expert-files belong to an 8-expert model, but %s describes another",
                       cv->config_path);
    }
    UM_TRY(claim_file(cv, tuned, "non_lora_trainables", UM_STAGE_TRAINED, err));
    UM_TRY(claim_file(cv, tuned, "mlp_gates", cv->gshard ? UM_STAGE_GATES_8E : UM_STAGE_GATES_4E,
                      err));
    if (cv->gshard) UM_TRY(claim_file(cv, tuned, "fm_adapter", UM_STAGE_FM, err));
    return claim_file(cv, tuned, "mm_audio_aligner", UM_STAGE_ALIGNER, err);
}

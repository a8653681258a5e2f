/* Writes the weights piece by piece: at most one piece and one LoRA are in memory. See convert_job.h. */
#include "launch/convert/convert_job.h"

#include "core/base/file.h"
#include "core/base/rng.h"
#include "launch/model_dir/copy.h"
#include "launch/model_dir/interrupt.h"
#include "launch/model_dir/peft.h"
#include "launch/model_dir/shards.h"

#include <math.h>
#include <string.h>
#include <sys/statvfs.h>

enum { PIECE = 1 << 20 };

/* One folder's tensors, and buffers for one piece. */
typedef struct job {
    um_convert *cv;
    um_claim **claim; /* for each tensor of list */
    um_tensor *list;
    size_t n;
    float *values, *noise; /* [PIECE] */
    uint8_t *bytes;        /* [PIECE] of up to 8 bytes */
} job;

/* Writes one piece of n values from j->bytes. */
static um_status put(job *j, um_tensors_writer *w, um_dtype dtype, size_t n, um_err *err)
{
    size_t bytes = n * um_dtype_size(dtype);
    UM_TRY(um_interrupt_check(err));
    UM_TRY(um_tensors_writer_add(w, j->bytes, bytes, err));
    um_progress_add(&j->cv->progress, (int64_t)bytes);
    return UM_OK;
}

static um_status give(job *j, um_tensors_writer *w, um_dtype dtype, size_t n, um_err *err)
{
    um_from_f32(j->bytes, dtype, j->values, n);
    return put(j, w, dtype, n, err);
}

/* Copies the values unchanged, or converted to another float type. */
static um_status copy_tensor(job *j, um_tensors_writer *w, const um_source_tensor *t,
                             um_dtype dtype, um_err *err)
{
    for (size_t at = 0; at < t->values;) {
        size_t n = t->values - at < PIECE ? t->values - at : PIECE;
        if (dtype == t->dtype) {
            um_source_read(j->bytes, t, at, n);
            UM_TRY(put(j, w, dtype, n, err));
        } else {
            um_source_read_f32(j->values, t, at, n);
            UM_TRY(give(j, w, dtype, n, err));
        }
        at += n;
    }
    return UM_OK;
}

/* Writes W + scale B A, one row of W at a time. */
static um_status merge_tensor(job *j, um_tensors_writer *w, const um_claim *c, um_dtype dtype,
                              um_err *err)
{
    um_arena scratch;
    size_t out = (size_t)c->t->shape[0], in = (size_t)c->t->shape[1], r = (size_t)c->a->shape[0];
    um_arena_init(&scratch, "lora", 1 << 16);
    float *a = um_arena_f32(&scratch, r, in), *b = um_arena_f32(&scratch, out, r),
          *row = um_arena_f32(&scratch, 1, in), *sum = um_arena_f32(&scratch, 1, in);
    um_source_read_f32(a, c->a, 0, r * in);
    um_source_read_f32(b, c->b, 0, out * r);
    um_status st = UM_OK;
    for (size_t i = 0; i < out && st == UM_OK; i++) {
        um_source_read_f32(row, c->t, i * in, in);
        um_peft_merge_row(row, sum, a, b + i * r, r, in, (float)j->cv->adapter.scale);
        for (size_t at = 0; at < in && st == UM_OK;) {
            size_t n = in - at < PIECE ? in - at : PIECE;
            memcpy(j->values, row + at, n * sizeof *row);
            st = give(j, w, dtype, n, err);
            at += n;
        }
    }
    um_arena_free(&scratch);
    return st;
}

/* The standard deviation of a tensor's values around 0, added up in their order. */
static double spread_of(job *j, const um_source_tensor *t)
{
    double sum = 0;
    if (t->data == NULL) return 1.0;
    for (size_t at = 0; at < t->values;) {
        size_t n = t->values - at < PIECE ? t->values - at : PIECE;
        um_source_read_f32(j->values, t, at, n);
        for (size_t i = 0; i < n; i++) sum += (double)j->values[i] * (double)j->values[i];
        at += n;
    }
    return t->values == 0 ? 0.0 : sqrt(sum / (double)t->values);
}

/* Writes W + noise, or what is drawn for a tensor without values, with the same bits on every machine. */
static um_status noisy_tensor(job *j, um_tensors_writer *w, const um_claim *c, um_dtype dtype,
                              um_err *err)
{
    const um_source_tensor *t = c->t;
    const float std = (float)(c->noise * spread_of(j, t));
    um_rng rng = um_rng_seed(c->noise_seed, um_rng_stream(c->name));
    for (size_t at = 0; at < t->values;) {
        size_t n = t->values - at < PIECE ? t->values - at : PIECE;
        um_rng_normal_f32(&rng, j->noise, n, std);
        memset(j->values, 0, n * sizeof *j->values);
        if (t->data != NULL) um_source_read_f32(j->values, t, at, n);
        for (size_t i = 0; i < n; i++) j->values[i] += j->noise[i];
        UM_TRY(give(j, w, dtype, n, err));
        at += n;
    }
    return UM_OK;
}

static um_status write_one(void *ctx, size_t i, um_tensors_writer *w, um_err *err)
{
    job *j = ctx;
    const um_claim *c = j->claim[i];
    um_dtype dtype = j->list[i].dtype;
    const bool drawn = c->noise > 0 || c->t->data == NULL;
    um_status st = c->a != NULL ? merge_tensor(j, w, c, dtype, err)
                   : drawn      ? noisy_tensor(j, w, c, dtype, err)
                                : copy_tensor(j, w, c->t, dtype, err);
    um_source_forget(c->t);
    return um_wrap(err, st, "tensor %.400s", c->name);
}

/* The type that a tensor is stored in: tensors of towers and of integers keep theirs. */
static um_dtype dtype_of(const um_convert *cv, int id, const um_source_tensor *t)
{
    const char *want = cv->cfg->weights;
    if (id != UM_SET_LLM || strcmp(want, "auto") == 0 || !um_source_is_float(t)) return t->dtype;
    return strcmp(want, "bf16") == 0 ? UM_BF16 : UM_F32;
}

static void job_add(job *j, um_claim *c, int id)
{
    um_tensor *t = &j->list[j->n];
    *t = (um_tensor){.name = c->name, .dtype = dtype_of(j->cv, id, c->t), .rank = c->t->rank};
    memcpy(t->shape, c->t->shape, sizeof t->shape);
    t->bytes = c->t->values * um_dtype_size(t->dtype);
    if (c->a != NULL && t->dtype != UM_F32 && t->dtype != UM_F64) j->cv->rounded++;
    j->claim[j->n++] = c;
}

static size_t job_fill(job *j, um_convert *cv, int id)
{
    um_folder *s = &cv->folder[id];
    size_t bytes = 0;
    *j = (job){.cv = cv,
               .claim = um_arena_alloc(&cv->arena, s->n * sizeof *j->claim),
               .list = um_arena_alloc(&cv->arena, s->n * sizeof *j->list)};
    for (size_t i = 0; i < s->n; i++) {
        if (!s->claim[i].wanted) continue;
        job_add(j, &s->claim[i], id);
        bytes += j->list[j->n - 1].bytes;
    }
    return bytes;
}

/* Reports a disk that is too small before hours of writing, not after. */
static um_status room_check(const um_convert *cv, size_t bytes, um_err *err)
{
    struct statvfs fs;
    if (statvfs(cv->tmp, &fs) != 0) return UM_OK;
    double room = (double)fs.f_bavail * (double)fs.f_frsize;
    if (room >= (double)bytes) return UM_OK;
    return UM_FAIL(err, UM_E_IO, "%s: the model needs %.3f GB, %.3f GB are free there", cv->tmp,
                   (double)bytes / 1e9, room / 1e9);
}

um_status um_convert_weights(um_convert *cv, um_err *err)
{
    job j[UM_FOLDERS];
    size_t bytes = 0;
    for (int id = 0; id < UM_FOLDERS; id++) bytes += job_fill(&j[id], cv, (int)id);
    UM_TRY(room_check(cv, bytes, err));
    float *values = um_arena_f32(&cv->arena, 1, PIECE), *noise = um_arena_f32(&cv->arena, 1, PIECE);
    uint8_t *raw = um_arena_alloc(&cv->arena, (size_t)PIECE * 8);
    um_progress_begin(&cv->progress, stderr, "writing weights", UM_PROGRESS_BYTES, (int64_t)bytes);
    for (int id = UM_FOLDERS; id-- > 0;) {
        const char *dir = um_arena_fmt(&cv->arena, "%s/%s", cv->tmp, cv->folder[id].name);
        if (j[id].n == 0) continue;
        j[id].values = values;
        j[id].noise = noise;
        j[id].bytes = raw;
        UM_TRY(
            um_shards_write(dir, j[id].list, j[id].n, cv->cfg->shard_size, write_one, &j[id], err));
    }
    um_progress_end(&cv->progress);
    if (cv->rounded > 0)
        um_convert_note(cv,
                        "%lld weights with a LoRA merged into them are rounded to 16 bits; "
                        "--weights f32 keeps all of it, --adapter keep leaves it apart",
                        (long long)cv->rounded);
    cv->written = (int64_t)bytes;
    return UM_OK;
}

um_status um_convert_copy(um_convert *cv, const char *from, const char *name, um_err *err)
{
    return um_copy_small_file(um_path_join(&cv->arena, cv->tmp, name), from, &cv->arena, err);
}

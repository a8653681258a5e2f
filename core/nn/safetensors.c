/* See safetensors.h. A set consists of its mapped files and one list of tensors sorted by name. Only headers are read here; the data
 * pages of a checkpoint are first read when a tensor is loaded. */
#include "core/nn/safetensors.h"

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/base/file_trouble.h"
#include "core/base/json.h"
#include "core/base/text.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    HEADER_MAX = UM_TENSORS_HEADER_MAX,
    INDEX_MAX = 1 << 30, /* bytes: the format has no limit, and many experts need a long index */
    SHARDS_MAX = 65536,
    PRINT_SAMPLES = 256, /* of a file's data, spread evenly, and the bytes of each */
    PRINT_BYTES = 64,
};

typedef struct shard {
    const char *path;
    const char *name; /* as the index spells it */
    um_file map;
} shard;

struct um_tensors {
    um_arena arena; /* names, paths, list */
    const char *path;
    shard *shards;
    int files;
    um_tensor *list; /* sorted by name */
    size_t n;
};

/* The tensors of one file while it is being checked. */
typedef struct parsed {
    um_tensor *list;
    size_t *from; /* offset of each in the data */
    size_t n;
} parsed;

/* --- one file --- */

static um_status shape_parse(um_tensor *t, const um_json *shape, um_err *err)
{
    if (um_json_kind_of(shape) != UM_JSON_ARRAY)
        return UM_FAIL(err, UM_E_CORRUPT, "shape is not a list");
    size_t rank = um_json_size(shape), bits = (size_t)um_dtype_bits(t->dtype), most = bits;
    if (rank > UM_MAX_DIMS) {
        return UM_FAIL(err, UM_E_CORRUPT, "%zu dimensions, allowed 0..%d", rank, UM_MAX_DIMS);
    }
    for (size_t i = 0; i < rank; i++) {
        int64_t d = um_json_int(um_json_at(shape, i), -1);
        if (d < 0)
            return UM_FAIL(err, UM_E_CORRUPT,
                           "dimension %zu of its shape is not a whole number from 0 up", i);
        /* even when a dimension is 0, the product of the others must not overflow */
        if (!um_mul_ok(&most, most, d > 0 ? (size_t)d : 1)) {
            return UM_FAIL(err, UM_E_CORRUPT, "its shape has too many values to count");
        }
        bits *= (size_t)d;
        t->shape[i] = d;
    }
    if (bits % 8 != 0) return UM_FAIL(err, UM_E_CORRUPT, "its values do not fill whole bytes");
    t->rank = (int)rank;
    t->bytes = bits / 8;
    return UM_OK;
}

static um_status offsets_parse(size_t *from, const um_tensor *t, const um_json *offsets,
                               um_err *err)
{
    int64_t a = um_json_int(um_json_at(offsets, 0), -1),
            b = um_json_int(um_json_at(offsets, 1), -1);
    if (um_json_kind_of(offsets) != UM_JSON_ARRAY || um_json_size(offsets) != 2 || a < 0 || b < a) {
        return UM_FAIL(err, UM_E_CORRUPT, "data_offsets is not [from, to] with 0 <= from <= to");
    }
    if ((size_t)(b - a) != t->bytes) {
        char shape[96];
        um_shape_text(shape, t->rank, t->shape);
        return UM_FAIL(err, UM_E_CORRUPT, "data_offsets hold %" PRId64 " bytes, %s %s needs %zu",
                       b - a, um_dtype_name(t->dtype), shape, t->bytes);
    }
    *from = (size_t)a;
    return UM_OK;
}

static um_status tensor_parse(um_tensor *t, size_t *from, const um_json *entry, um_err *err)
{
    if (um_json_kind_of(entry) != UM_JSON_OBJECT)
        return UM_FAIL(err, UM_E_CORRUPT, "its entry is not an object");
    const char *dtype = um_json_str(um_json_get(entry, "dtype"), NULL);
    if (dtype == NULL) return UM_FAIL(err, UM_E_CORRUPT, "dtype is missing or not a string");
    int type = um_dtype_from_name(dtype);
    if (type < 0) return UM_FAIL(err, UM_E_CORRUPT, "dtype \"%.32s\" is not known", dtype);
    t->dtype = (um_dtype)type;
    UM_TRY(shape_parse(t, um_json_get(entry, "shape"), err));
    return offsets_parse(from, t, um_json_get(entry, "data_offsets"), err);
}

/* __metadata__ is not used here, so its values may be of any type; null means that it is empty. */
static um_status metadata_check(const um_json *metadata, um_err *err)
{
    um_json_kind kind = um_json_kind_of(metadata);
    if (kind == UM_JSON_OBJECT || kind == UM_JSON_NULL) return UM_OK;
    return UM_FAIL(err, UM_E_CORRUPT, "__metadata__ is not an object");
}

/* An (offset, index) pair, for visiting tensors in the order of their data. */
typedef struct place {
    size_t from;
    size_t i;
} place;

static int place_cmp(const void *a, const void *b)
{
    const place *p = a, *q = b;
    if (p->from != q->from) return p->from < q->from ? -1 : 1;
    return p->i < q->i ? -1 : p->i > q->i;
}

static um_status cut_off(size_t found, size_t wanted, um_err *err)
{
    return UM_FAIL(err, UM_E_CORRUPT,
                   "the file is cut off: %zu bytes, %zu wanted (%.1f %%): download it again", found,
                   wanted, 100.0 * (double)found / (double)wanted);
}

/* The tensors must cover the data exactly: without overlaps, gaps or trailing bytes. Tensors without bytes may be anywhere. */
static um_status coverage_check(const parsed *p, size_t data_at, size_t file_size,
                                um_arena *scratch, um_err *err)
{
    size_t data_size = file_size - data_at;
    place *at = um_arena_alloc(scratch, p->n * sizeof *at);
    size_t m = 0, end = 0;
    const char *before = NULL;
    for (size_t i = 0; i < p->n; i++) {
        if (p->list[i].bytes > 0) at[m++] = (place){p->from[i], i};
    }
    qsort(at, m, sizeof *at, place_cmp);
    for (size_t i = 0; i < m; i++) {
        const um_tensor *t = &p->list[at[i].i];
        if (at[i].from < end) {
            return UM_FAIL(err, UM_E_CORRUPT, "tensors %s and %s overlap", before, t->name);
        }
        if (at[i].from > end) {
            return UM_FAIL(err, UM_E_CORRUPT, "%zu bytes before tensor %s belong to no tensor",
                           at[i].from - end, t->name);
        }
        end +=
            t->bytes; /* no overflow: each is at most INT64_MAX and begins where the last ended */
        before = t->name;
    }
    if (end == data_size) return UM_OK;
    if (end > data_size) return cut_off(file_size, data_at + end, err);
    return UM_FAIL(err, UM_E_CORRUPT,
                   "the last %zu bytes belong to no tensor: the file is not whole, or not the one "
                   "that was written",
                   data_size - end);
}

/* out lives in scratch, its names in arena. */
static um_status entries_parse(parsed *out, const um_json *root, const shard *file, size_t data_at,
                               um_arena *scratch, um_arena *arena, um_err *err)
{
    size_t room = um_json_size(root);
    parsed p = {um_arena_zero(scratch, room * sizeof *p.list),
                um_arena_alloc(scratch, room * sizeof *p.from), 0};
    const char *key;
    void *iter = NULL;
    for (const um_json *v; (v = um_json_next(root, &iter, &key)) != NULL;) {
        if (strcmp(key, "__metadata__") == 0) {
            UM_TRY(metadata_check(v, err));
            continue;
        }
        um_tensor *t = &p.list[p.n];
        UM_TRY(um_wrap(err, tensor_parse(t, &p.from[p.n], v, err), "tensor %.400s", key));
        t->name = um_arena_str(arena, key);
        p.n++;
    }
    UM_TRY(coverage_check(&p, data_at, file->map.size, scratch, err));
    for (size_t i = 0; i < p.n; i++) /* a tensor without bytes may have any offset */
        p.list[i].data = file->map.data + (p.list[i].bytes > 0 ? data_at + p.from[i] : data_at);
    *out = p;
    return UM_OK;
}

/* Reports a file that does not begin like safetensors, in terms of what a download may have left instead. */
static um_status not_safetensors(const um_file *f, um_err *err)
{
    char why[UM_TROUBLE_TEXT];
    if (um_file_trouble(why, f->data, f->size)) return UM_FAIL(err, UM_E_CORRUPT, "%s", why);
    return UM_FAIL(err, UM_E_CORRUPT,
                   "not a safetensors file: it begins neither with the length of a header (at most "
                   "%d bytes) nor with the header's {",
                   HEADER_MAX);
}

static um_status header_parse(parsed *out, const shard *file, um_arena *scratch, um_arena *arena,
                              um_err *err)
{
    const um_file *f = &file->map;
    if (f->size < 8) {
        char why[UM_TROUBLE_TEXT];
        if (um_file_trouble(why, f->data, f->size)) return UM_FAIL(err, UM_E_CORRUPT, "%s", why);
        return UM_FAIL(err, UM_E_CORRUPT,
                       "%zu bytes, a safetensors file has at least 8: download it again", f->size);
    }
    uint64_t n = um_get_u64(f->data);
    if (n > HEADER_MAX || n == 0 || (f->size > 8 && f->data[8] != '{'))
        return not_safetensors(f, err);
    if (n > f->size - 8) return cut_off(f->size, 8 + (size_t)n, err);
    um_json *root = NULL;
    UM_TRY(um_wrap(err, um_json_parse(&root, f->data + 8, (size_t)n, err), "header"));
    um_status st = entries_parse(out, root, file, 8 + (size_t)n, scratch, arena, err);
    um_json_free(root);
    return st;
}

/* --- the set --- */

static int name_cmp(const void *a, const void *b)
{
    return strcmp(((const um_tensor *)a)->name, ((const um_tensor *)b)->name);
}

/* Appends the tensors of shard i to the list, whose capacity is *cap. */
static void shard_append(um_tensors *s, int i, const parsed *p, size_t *cap)
{
    if (s->n + p->n > *cap) {
        *cap = (s->n + p->n) * 2;
        s->list = um_realloc(s->list, *cap * sizeof *s->list);
    }
    for (size_t k = 0; k < p->n; k++) {
        s->list[s->n] = p->list[k];
        s->list[s->n++].file = i;
    }
}

/* Model caches store files by checksum, with folders of symbolic links to them. */
static um_status link_broken(const char *path, um_err *err)
{
    char target[512];
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n > 0 ? n : 0] = '\0';
    return UM_FAIL(
        err, UM_E_MODEL,
        "%s: a symbolic link to %s, which does not exist: download it again, or copy the "
        "folder of the cache with its links resolved (cp -rL)",
        path, target);
}

static um_status shard_open(um_tensors *s, int i, size_t *cap, um_err *err)
{
    shard *file = &s->shards[i];
    if (um_file_named(file->path) && !um_file_exists(file->path) && errno == ENOENT)
        return link_broken(file->path, err);
    UM_TRY(um_file_map(&file->map, file->path, err));
    parsed p = {0};
    um_arena scratch;
    um_arena_init(&scratch, "safetensors header", 1 << 16);
    um_status st = header_parse(&p, file, &scratch, &s->arena, err);
    if (st == UM_OK) shard_append(s, i, &p, cap);
    um_arena_free(&scratch);
    return um_wrap(err, st, "%s", file->path);
}

/* Sorts the tensors by name and removes duplicates. Of a tensor that is in several shards, the copy in the shard that the index names
 * is used; transformers sometimes writes shared weights twice. */
static um_status sort_list(um_tensors *s, const um_json *map, um_err *err)
{
    size_t m = 0;
    if (s->n > 0) qsort(s->list, s->n, sizeof *s->list, name_cmp);
    for (size_t i = 0; i < s->n; i++) {
        um_tensor *last = m > 0 ? &s->list[m - 1] : NULL;
        const um_tensor *t = &s->list[i];
        if (last == NULL || strcmp(last->name, t->name) != 0) {
            s->list[m++] = *t;
            continue;
        }
        const char *owner = um_json_str(um_json_get(map, t->name), "");
        if (strcmp(owner, s->shards[t->file].name) == 0) {
            *last = *t;
        } else if (strcmp(owner, s->shards[last->file].name) != 0) {
            return UM_FAIL(err, UM_E_CORRUPT,
                           "tensor %.400s is in %s and in %s, and the index names neither", t->name,
                           s->shards[last->file].name, s->shards[t->file].name);
        }
    }
    s->n = m;
    return UM_OK;
}

static um_status shards_open(um_tensors *s, const um_json *map, um_err *err)
{
    size_t cap = 0;
    for (int i = 0; i < s->files; i++) UM_TRY(shard_open(s, i, &cap, err));
    return sort_list(s, map, err);
}

/* --- the index --- */

static int text_cmp(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* True for a path below the index's folder: neither absolute nor leading out of it. */
static bool is_below(const char *name)
{
    for (const char *at = name;; at++) {
        size_t n = strcspn(at, "/");
        if (n == 0 || (n == 1 && at[0] == '.') || (n == 2 && at[0] == '.' && at[1] == '.'))
            return false;
        at += n;
        if (*at == '\0') return true;
    }
}

static um_status shard_missing(const um_json *map, const char *name, um_err *err)
{
    size_t tensors = 0;
    const char *key;
    void *iter = NULL;
    for (const um_json *v; (v = um_json_next(map, &iter, &key)) != NULL;)
        tensors += strcmp(um_json_str(v, ""), name) == 0;
    return UM_FAIL(err, UM_E_MODEL,
                   "%s is missing, and %zu of its %zu tensors are in it: download that file too",
                   name, tensors, um_json_size(map));
}

/* Sets the distinct file names of a weight_map, sorted, as the shards of the set. */
static um_status index_shards(um_tensors *s, const um_json *map, const char *dir, um_err *err)
{
    size_t n = um_json_size(map), m = 0;
    if (um_json_kind_of(map) != UM_JSON_OBJECT || n == 0) {
        return UM_FAIL(err, UM_E_CORRUPT, "weight_map is missing, empty or not an object");
    }
    const char **names = um_arena_alloc(&s->arena, n * sizeof *names), *key;
    void *iter = NULL;
    for (const um_json *v; (v = um_json_next(map, &iter, &key)) != NULL;) {
        const char *name = um_json_str(v, "");
        if (!is_below(name)) {
            return UM_FAIL(err, UM_E_CORRUPT,
                           "weight_map of tensor %.400s: \"%.64s\", allowed the name of a file in "
                           "this folder or in one below it",
                           key, name);
        }
        names[m++] = name;
    }
    qsort(names, n, sizeof *names, text_cmp);
    s->shards = um_arena_zero(&s->arena, n * sizeof *s->shards);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && strcmp(names[i], names[i - 1]) == 0) continue;
        if (s->files == SHARDS_MAX)
            return UM_FAIL(err, UM_E_LIMIT, "weight_map names more than %d files", SHARDS_MAX);
        shard *file = &s->shards[s->files++];
        file->path = um_path_join(&s->arena, dir, names[i]);
        file->name = um_arena_str(&s->arena, names[i]);
        if (!um_file_named(file->path)) return shard_missing(map, names[i], err);
    }
    return UM_OK;
}

/* Checks that each tensor is in the file that the index names. */
static um_status index_check(const um_tensors *s, const um_json *map, um_err *err)
{
    const char *key;
    void *iter = NULL;
    for (const um_json *v; (v = um_json_next(map, &iter, &key)) != NULL;) {
        const char *want = um_json_str(v, "");
        const um_tensor *t = um_tensors_find(s, key);
        if (t == NULL || strcmp(s->shards[t->file].name, want) != 0) {
            return UM_FAIL(err, UM_E_CORRUPT,
                           "the index says that tensor %.400s is in %.64s, but that file does not "
                           "contain it",
                           key, want);
        }
    }
    return UM_OK;
}

static um_status index_open(um_tensors *s, const char *index, const char *dir, um_err *err)
{
    um_json *root = NULL;
    UM_TRY(um_json_load_loose(&root, index, INDEX_MAX, err));
    const um_json *map = um_json_get(root, "weight_map");
    um_status st = um_wrap(err, index_shards(s, map, dir, err), "%s", index);
    if (st == UM_OK) st = shards_open(s, map, err);
    if (st == UM_OK) st = um_wrap(err, index_check(s, map, err), "%s", index);
    um_json_free(root);
    return st;
}

/* --- a folder --- */

/* What a folder without weights contains instead, for the message: files that hint at an unfinished download or a conversion. */
typedef struct leftovers {
    char partial[256], shard[256], other[256], pickle[256]; /* the first name of each kind, or "" */
} leftovers;

static void remember(char out[256], const char *name)
{
    if (out[0] == '\0') snprintf(out, 256, "%s", name);
}

static bool is_partial(const char *name)
{
    static const char *const ends[] = {".incomplete", ".part",     ".partial", ".crdownload",
                                       ".aria2",      ".download", ".tmp",     ".lock"};
    if (strstr(name, "safetensors") == NULL) return false;
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (um_ends_with(name, ends[i])) return true;
    return strstr(name, ".safetensors.tmp.") != NULL;
}

static void leftovers_find(leftovers *l, const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        const char *name = e->d_name;
        if (is_partial(name))
            remember(l->partial, name);
        else if (um_ends_with(name, ".safetensors"))
            remember(strstr(name, "-of-") != NULL ? l->shard : l->other, name);
        else if (um_ends_with(name, ".bin") || um_ends_with(name, ".pth") ||
                 um_ends_with(name, ".pt"))
            remember(l->pickle, name);
    }
    if (d != NULL) closedir(d);
}

static um_status no_weights(const char *dir, um_err *err)
{
    leftovers l = {0};
    char why[640] = "";
    leftovers_find(&l, dir);
    if (l.partial[0] != '\0')
        snprintf(why, sizeof why, "; %s is a download that is not complete: download it again",
                 l.partial);
    else if (l.shard[0] != '\0')
        snprintf(why, sizeof why,
                 "; %s is there, but not the index of the shards: download "
                 "model.safetensors.index.json too",
                 l.shard);
    else if (l.other[0] != '\0')
        snprintf(why, sizeof why, "; %s is there, under a name that is not looked for", l.other);
    else if (l.pickle[0] != '\0')
        snprintf(why, sizeof why,
                 "; PyTorch files such as %s must be converted first: unimoe convert", l.pickle);
    return UM_FAIL(err, UM_E_MODEL,
                   "%s: neither model.safetensors nor model.safetensors.index.json is there%s", dir,
                   why);
}

static bool is_folder(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}

static um_status set_open(um_tensors *s, const char *path, um_err *err)
{
    const char *file = path;
    s->path = um_arena_str(&s->arena, path);
    if (is_folder(path)) {
        const char *index = um_path_join(&s->arena, path, "model.safetensors.index.json");
        file = um_path_join(&s->arena, path, "model.safetensors");
        if (!um_file_named(file) && um_file_named(index)) return index_open(s, index, path, err);
        if (!um_file_named(file)) return no_weights(path, err);
    }
    s->shards = um_arena_zero(&s->arena, sizeof *s->shards);
    s->shards[0].path = um_arena_str(&s->arena, file);
    s->shards[0].name = s->shards[0].path;
    s->files = 1;
    return shards_open(s, NULL, err);
}

um_status um_tensors_open(um_tensors **out, const char *path, um_err *err)
{
    um_tensors *s = um_zalloc(sizeof *s);
    um_arena_init(&s->arena, "safetensors", 1 << 16);
    um_status st = set_open(s, path, err);
    if (st == UM_OK)
        *out = s;
    else
        um_tensors_close(s);
    return st;
}

um_tensors *um_tensors_describe(const um_tensor *list, size_t n, const char *path)
{
    um_tensors *s = um_zalloc(sizeof *s);
    um_arena_init(&s->arena, "safetensors", 1 << 16);
    s->path = um_arena_str(&s->arena, path);
    s->list = n == 0 ? NULL : um_zalloc(n * sizeof *s->list);
    s->n = n;
    for (size_t i = 0; i < n; i++) {
        s->list[i] = list[i];
        s->list[i].name = um_arena_str(&s->arena, list[i].name);
        s->list[i].data = NULL;
    }
    if (n > 0) qsort(s->list, n, sizeof *s->list, name_cmp);
    return s;
}

void um_tensors_close(um_tensors *s)
{
    if (s == NULL) return;
    for (int i = 0; i < s->files; i++) um_file_unmap(&s->shards[i].map);
    um_free(s->list);
    um_arena_free(&s->arena);
    um_free(s);
}

size_t um_tensors_count(const um_tensors *s) { return s->n; }

const um_tensor *um_tensors_at(const um_tensors *s, size_t i)
{
    UM_ASSERT(i < s->n);
    return &s->list[i];
}

const um_tensor *um_tensors_find(const um_tensors *s, const char *name)
{
    um_tensor key = {.name = name};
    return s->n == 0 ? NULL : bsearch(&key, s->list, s->n, sizeof *s->list, name_cmp);
}

static bool is_float(um_dtype t)
{
    return t == UM_F32 || t == UM_BF16 || t == UM_F16 || t == UM_F64;
}

static bool shape_fits(const um_tensor *t, int rank, const int64_t *shape)
{
    if (t->rank != rank) return false;
    for (int i = 0; i < rank; i++) {
        if (shape[i] != -1 && shape[i] != t->shape[i]) return false;
    }
    return true;
}

um_status um_tensors_want(const um_tensors *s, const um_tensor **out, const char *name, int rank,
                          const int64_t *shape, um_err *err)
{
    const um_tensor *t = um_tensors_find(s, name);
    if (t == NULL) return UM_FAIL(err, UM_E_MODEL, "tensor %s: missing in %s", name, s->path);
    if (!shape_fits(t, rank, shape)) {
        char found[96], want[96];
        um_shape_text(found, t->rank, t->shape);
        um_shape_text(want, rank, shape);
        return UM_FAIL(err, UM_E_MODEL, "tensor %s in %s: shape %s, want %s", name, s->path, found,
                       want);
    }
    if (!is_float(t->dtype)) {
        return UM_FAIL(err, UM_E_MODEL, "tensor %s in %s: dtype %s, want F32, BF16, F16 or F64",
                       name, s->path, um_dtype_name(t->dtype));
    }
    *out = t;
    return UM_OK;
}

void um_tensors_forget(const um_tensors *s, const um_tensor *t)
{
    const um_file *f = &s->shards[t->file].map;
    um_file_forget(f, (size_t)(t->data - f->data), t->bytes);
}

const char *um_tensors_path(const um_tensors *s) { return s->path; }

int um_tensors_files(const um_tensors *s) { return s->files; }

const char *um_tensors_file(const um_tensors *s, int i) { return s->shards[i].path; }

/* FNV-1a over 64-bit words, the last one padded with zeros. */
static uint64_t mix(uint64_t h, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i += 8) {
        uint8_t word[8] = {0};
        memcpy(word, p + i, n - i < 8 ? n - i : 8);
        h = (h ^ um_get_u64(word)) * 0x100000001B3u;
        h ^= h >> 29; /* a multiplication alone does not propagate high bits downwards */
    }
    return h;
}

uint64_t um_tensors_print(const um_tensors *s, int i)
{
    const um_file *f = &s->shards[i].map;
    uint8_t size[8];
    um_put_u64(size, (uint64_t)f->size);
    uint64_t h = mix(0xCBF29CE484222325u, size, sizeof size);
    size_t data = 8 + (size_t)um_get_u64(f->data), left = f->size - data;
    h = mix(h, f->data, data);
    if (left <= (size_t)PRINT_SAMPLES * PRINT_BYTES) return mix(h, f->data + data, left);
    for (size_t k = 0; k < PRINT_SAMPLES; k++) { /* includes the first and the last bytes */
        size_t at = (left - PRINT_BYTES) * k / (PRINT_SAMPLES - 1);
        h = mix(h, f->data + data + at, PRINT_BYTES);
    }
    um_file_forget(f, 0, f->size);
    return h;
}

void um_tensor_to_f32(float *out, const um_tensor *t)
{
    UM_ASSERT(is_float(t->dtype));
    um_to_f32(out, t->data, t->dtype, t->bytes / um_dtype_size(t->dtype));
}

size_t um_tensor_values(const um_tensor *t)
{
    return t->bytes * 8 /
           (size_t)um_dtype_bits(
               t->dtype); /* at most 2^61 bytes, so the number of bits does not overflow */
}

void um_shape_text(char out[96], int rank, const int64_t *shape)
{
    size_t n = (size_t)snprintf(out, 96, "[");
    for (int i = 0; i < rank && n < 96; i++) {
        n += (size_t)snprintf(out + n, 96 - n, "%s%" PRId64, i > 0 ? "," : "", shape[i]);
    }
    if (n < 96) snprintf(out + n, 96 - n, "]");
}

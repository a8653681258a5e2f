/* See tensor_source.h. */
#include "launch/torch/tensor_source.h"

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/text.h"

#include <stdlib.h>
#include <string.h>

enum { INDEX_MAX = 100000000, SHARDS_MAX = 65536, GATHER = 4096 };

void um_sources_open(um_sources *s)
{
    *s = (um_sources){0};
    um_arena_init(&s->arena, "sources", 1 << 16);
}

void um_sources_close(um_sources *s)
{
    for (size_t i = 0; i < s->sets; i++) um_tensors_close(s->set[i]);
    for (size_t i = 0; i < s->torches; i++) um_torch_close(s->torch[i]);
    um_free(s->set);
    um_free(s->torch);
    um_free(s->list);
    um_free(s->path);
    um_arena_free(&s->arena);
    *s = (um_sources){0};
}

static um_source_list *list_new(um_sources *s, size_t n)
{
    um_source_list *list = um_arena_zero(&s->arena, sizeof *list);
    list->item = um_arena_zero(&s->arena, n * sizeof *list->item);
    list->n = n;
    s->list = um_realloc(s->list, (s->lists + 1) * sizeof *s->list);
    s->list[s->lists++] = list;
    return list;
}

/* --- one tensor --- */

/* The stride of a dimension of size 1 does not matter, and an empty tensor has no order. */
static void measure(um_source_tensor *t)
{
    int64_t step = 1;
    t->dense = true;
    t->values = 1;
    for (int i = t->rank; i-- > 0;) {
        t->dense = t->dense && (t->shape[i] == 1 || t->stride[i] == step);
        step *= t->shape[i];
        t->values *= (size_t)t->shape[i];
    }
    t->dense = t->dense || t->values == 0;
}

static void from_set(um_source_tensor *out, const um_tensor *t, const um_tensors *set,
                     const char *file)
{
    *out = (um_source_tensor){.name = t->name,
                              .file = file,
                              .dtype = t->dtype,
                              .rank = t->rank,
                              .data = t->data,
                              .set = set};
    int64_t step = 1;
    for (int i = t->rank; i-- > 0;) {
        out->shape[i] = t->shape[i];
        out->stride[i] = step;
        step *= t->shape[i];
    }
    measure(out);
}

um_source_tensor *um_source_described(um_sources *s, const char *name, const char *file,
                                      um_dtype dtype, int rank, const int64_t *shape)
{
    UM_ASSERT(rank <= UM_MAX_DIMS);
    um_tensor t = {.name = name, .dtype = dtype, .rank = rank};
    um_source_list *list = list_new(s, 1);
    for (int i = 0; i < rank; i++) t.shape[i] = shape[i];
    from_set(&list->item[0], &t, NULL, file);
    return &list->item[0];
}

static um_status from_torch(um_source_tensor *out, const char *name, const um_value *v,
                            const um_torch *f, const char *file, um_err *err)
{
    *out = (um_source_tensor){
        .name = name, .file = file, .dtype = v->storage->dtype, .rank = v->rank, .torch = f};
    for (int i = 0; i < v->rank; i++) {
        out->shape[i] = v->shape[i];
        out->stride[i] = v->stride[i];
    }
    measure(out);
    return um_wrap(err, um_torch_data(f, &out->data, v, err), "%s: tensor %.400s", file, name);
}

static int name_cmp(const void *a, const void *b)
{
    return strcmp(((const um_source_tensor *)a)->name, ((const um_source_tensor *)b)->name);
}

um_source_tensor *um_source_get(const um_source_list *list, const char *name)
{
    um_source_tensor key = {.name = name};
    if (list == NULL || list->n == 0) return NULL;
    return bsearch(&key, list->item, list->n, sizeof *list->item, name_cmp);
}

static um_status list_sort(um_source_list *list, um_err *err)
{
    if (list->n > 0) qsort(list->item, list->n, sizeof *list->item, name_cmp);
    for (size_t i = 1; i < list->n; i++) {
        const um_source_tensor *a = &list->item[i - 1], *b = &list->item[i];
        if (strcmp(a->name, b->name) == 0)
            return UM_FAIL(err, UM_E_CORRUPT, "tensor %.400s is in %s and in %s", a->name, a->file,
                           b->file);
    }
    return UM_OK;
}

/* --- one file --- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

static void remember(um_sources *s, const char *path)
{
    s->path = um_realloc(s->path, (s->paths + 1) * sizeof *s->path);
    s->path[s->paths++] = um_arena_str(&s->arena, path);
}

bool um_source_opened(const um_sources *s, const char *path)
{
    for (size_t i = 0; i < s->paths; i++) {
        if (strcmp(s->path[i], path) == 0) return true;
    }
    return false;
}

um_status um_source_torch(um_sources *s, const um_torch **out, const char *path, um_err *err)
{
    um_torch *f = NULL;
    UM_TRY(um_model_fault(um_torch_open(&f, path, err)));
    remember(s, path);
    s->torch = um_realloc(s->torch, (s->torches + 1) * sizeof *s->torch);
    s->torch[s->torches++] = f;
    *out = f;
    return UM_OK;
}

um_status um_source_dict(um_sources *s, const um_source_list **out, const um_torch *f,
                         const um_value *dict, const char *file, um_err *err)
{
    size_t n = 0, at = 0;
    if (dict == NULL || dict->kind != UM_VALUE_DICT)
        return UM_FAIL(err, UM_E_DATA, "%s: the saved object is not a dict of tensors", file);
    for (size_t i = 0; i < dict->n; i++) n += dict->item[2 * i + 1]->kind == UM_VALUE_TENSOR;
    um_source_list *list = list_new(s, n);
    for (size_t i = 0; i < dict->n; i++) {
        const um_value *key = dict->item[2 * i], *v = dict->item[2 * i + 1];
        if (v->kind != UM_VALUE_TENSOR) continue;
        if (key->kind != UM_VALUE_TEXT)
            return UM_FAIL(err, UM_E_DATA, "%s: a tensor's name is not text", file);
        UM_TRY(from_torch(&list->item[at++], key->text, v, f, file, err));
    }
    UM_TRY(list_sort(list, err));
    *out = list;
    return UM_OK;
}

/* Training programs may store the tensors one level down, under one of these names. */
static const um_value *state_of(const um_value *root)
{
    static const char *const key[] = {"state_dict", "module", "model"};
    for (size_t i = 0; root->kind == UM_VALUE_DICT && i < root->n; i++) {
        if (root->item[2 * i + 1]->kind == UM_VALUE_TENSOR) return root;
    }
    for (int i = 0; i < 3; i++) {
        const um_value *inner = um_value_get(root, key[i]);
        if (inner != NULL && inner->kind == UM_VALUE_DICT) return inner;
    }
    return root;
}

static um_status safetensors_file(um_sources *s, const um_source_list **out, const char *path,
                                  um_err *err)
{
    um_tensors *set = NULL;
    UM_TRY(um_tensors_open(&set, path, err));
    remember(s, path);
    s->set = um_realloc(s->set, (s->sets + 1) * sizeof *s->set);
    s->set[s->sets++] = set;
    um_source_list *list = list_new(s, um_tensors_count(set));
    const char *file = um_arena_str(&s->arena, base_name(path));
    for (size_t i = 0; i < list->n; i++) from_set(&list->item[i], um_tensors_at(set, i), set, file);
    *out = list;
    return UM_OK;
}

um_status um_source_file(um_sources *s, const um_source_list **out, const char *path, um_err *err)
{
    const um_torch *f;
    if (um_ends_with(path, ".safetensors"))
        return um_model_fault(safetensors_file(s, out, path, err));
    UM_TRY(um_source_torch(s, &f, path, err));
    return um_model_fault(um_source_dict(s, out, f, state_of(um_torch_root(f)),
                                         um_arena_str(&s->arena, base_name(path)), err));
}

/* --- shards --- */

static int text_cmp(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct files of a weight_map, sorted. */
static um_status shard_names(um_sources *s, const char ***out, size_t *n, const um_json *map,
                             um_err *err)
{
    size_t all = um_json_size(map), m = 0, k = 0;
    if (um_json_kind_of(map) != UM_JSON_OBJECT || all == 0)
        return UM_FAIL(err, UM_E_CORRUPT, "weight_map is missing, empty or not an object");
    const char **names = um_arena_alloc(&s->arena, all * sizeof *names), *key;
    void *iter = NULL;
    for (const um_json *v; (v = um_json_next(map, &iter, &key)) != NULL;) {
        const char *name = um_json_str(v, "");
        if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL)
            return UM_FAIL(err, UM_E_CORRUPT, "weight_map of tensor %.400s names no file beside it",
                           key);
        names[m++] = um_arena_str(&s->arena, name);
    }
    qsort(names, m, sizeof *names, text_cmp);
    for (size_t i = 0; i < m; i++) {
        if (k == 0 || strcmp(names[i], names[k - 1]) != 0) names[k++] = names[i];
    }
    if (k > SHARDS_MAX)
        return UM_FAIL(err, UM_E_LIMIT, "weight_map names more than %d files", SHARDS_MAX);
    *out = names;
    *n = k;
    return UM_OK;
}

static um_status index_check(const um_source_list *list, const um_json *map, um_err *err)
{
    const char *key;
    void *iter = NULL;
    for (const um_json *v; (v = um_json_next(map, &iter, &key)) != NULL;) {
        const um_source_tensor *t = um_source_get(list, key);
        if (t == NULL || strcmp(t->file, um_json_str(v, "")) != 0)
            return UM_FAIL(err, UM_E_CORRUPT,
                           "the index says that tensor %.400s is in %.64s, but that file does not "
                           "contain it",
                           key, um_json_str(v, ""));
    }
    return UM_OK;
}

/* Makes one list of the tensors of all shards, which replaces the lists of the single files. */
static um_status shards_join(um_sources *s, const um_source_list **out, const char *dir,
                             const um_json *map, um_err *err)
{
    const char **name = NULL;
    size_t n = 0, total = 0, first = s->lists, at = 0;
    UM_TRY(shard_names(s, &name, &n, map, err));
    for (size_t i = 0; i < n; i++) {
        const um_source_list *one;
        const char *path = um_path_join(&s->arena, dir, name[i]);
        if (!um_file_named(path))
            return UM_FAIL(err, UM_E_MODEL, "%s is missing: download that file too", name[i]);
        UM_TRY(um_source_file(s, &one, path, err));
        total += one->n;
    }
    um_source_list *all = list_new(s, total);
    for (size_t i = first; i + 1 < s->lists; i++) {
        const um_source_list *one = s->list[i];
        if (one->n > 0) memcpy(all->item + at, one->item, one->n * sizeof *one->item);
        at += one->n;
    }
    s->list[first] = all;
    s->lists = first + 1;
    UM_TRY(list_sort(all, err));
    UM_TRY(index_check(all, map, err));
    *out = all;
    return UM_OK;
}

static um_status index_open(um_sources *s, const um_source_list **out, const char *dir,
                            const char *index, um_err *err)
{
    um_json *root = NULL;
    UM_TRY(um_model_fault(um_json_load_loose(&root, index, INDEX_MAX, err)));
    um_status st = shards_join(s, out, dir, um_json_get(root, "weight_map"), err);
    um_json_free(root);
    return um_model_fault(um_wrap(err, st, "%s", index));
}

um_status um_source_find(um_sources *s, const um_source_list **out, const char *dir,
                         const char *stem, um_err *err)
{
    static const char *const ending[] = {".safetensors", ".bin"};
    const char *const stems[] = {stem != NULL ? stem : "model",
                                 stem != NULL ? stem : "pytorch_model"};
    *out = NULL;
    for (int i = 0; i < 2; i++) {
        const char *file = um_arena_fmt(&s->arena, "%s/%s%s", dir, stems[i], ending[i]);
        const char *index = um_arena_fmt(&s->arena, "%s.index.json", file);
        if (um_file_named(file)) return um_source_file(s, out, file, err);
        if (um_file_named(index)) return index_open(s, out, dir, index, err);
    }
    return UM_OK;
}

/* --- values --- */

bool um_source_is_float(const um_source_tensor *t)
{
    return t->dtype == UM_F32 || t->dtype == UM_BF16 || t->dtype == UM_F16 || t->dtype == UM_F64;
}

/* Copies the values of a tensor that is not dense one by one, with a counter for each dimension. */
static void gather(uint8_t *out, const um_source_tensor *t, size_t from, size_t n)
{
    size_t size = um_dtype_size(t->dtype), left = from;
    int64_t at[UM_MAX_DIMS] = {0}, offset = 0;
    for (int i = t->rank; i-- > 0;) {
        at[i] = (int64_t)(left % (size_t)t->shape[i]);
        left /= (size_t)t->shape[i];
        offset += at[i] * t->stride[i];
    }
    for (size_t k = 0; k < n; k++) {
        memcpy(out + k * size, t->data + (size_t)offset * size, size);
        for (int i = t->rank; i-- > 0;) {
            offset += t->stride[i];
            if (++at[i] < t->shape[i]) break;
            offset -= at[i] * t->stride[i];
            at[i] = 0;
        }
    }
}

void um_source_read(void *out, const um_source_tensor *t, size_t from, size_t n)
{
    size_t size = um_dtype_size(t->dtype);
    UM_ASSERT(from <= t->values && n <= t->values - from);
    if (n == 0) return;
    if (t->dense)
        memcpy(out, t->data + from * size, n * size);
    else
        gather(out, t, from, n);
}

void um_source_read_f32(float *out, const um_source_tensor *t, size_t from, size_t n)
{
    uint8_t raw[GATHER * 8];
    UM_ASSERT(um_source_is_float(t));
    for (size_t k = 0; k < n;) {
        size_t some = n - k < GATHER ? n - k : GATHER;
        um_source_read(raw, t, from + k, some);
        um_to_f32(out + k, raw, t->dtype, some);
        k += some;
    }
}

void um_source_forget(const um_source_tensor *t)
{
    if (!t->dense || t->data == NULL) return;
    size_t bytes = t->values * um_dtype_size(t->dtype);
    if (t->torch != NULL) {
        um_torch_forget(t->torch, t->data, bytes);
        return;
    }
    const um_tensor *in_set = um_tensors_find(t->set, t->name);
    if (in_set != NULL) um_tensors_forget(t->set, in_set);
}

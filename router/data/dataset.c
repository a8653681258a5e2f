/* See dataset.h. */
#include "router/data/dataset.h"

#include "router/data/data_file.h"

/* With its files open. */
struct um_dataset {
    um_dataset_how how;
    um_data_file *files;     /* [n_files], with paths of our own */
    um_data_reader *readers; /* [n_files] */
    const char **folders;    /* [n_files] */
    int n_files;
    um_data_entry *entries; /* [n] */
    size_t n, cap;
    size_t left_out;
    const char *faults[UM_DATA_FAULTS_KEPT];
    char digest[UM_SHA256_HEX];
    um_arena arena, scratch; /* scratch: of opening */
};

/* --- opening --- */

/* The file that is being read. */
typedef struct indexing {
    um_dataset *ds;
    int file;
} indexing;

static void entry_add(um_dataset *ds, const um_data_entry *e)
{
    if (ds->n == ds->cap) {
        ds->cap = ds->cap == 0 ? 1024 : 2 * ds->cap;
        ds->entries = um_realloc(ds->entries, ds->cap * sizeof *ds->entries);
    }
    ds->entries[ds->n++] = *e;
}

static void fault_add(um_dataset *ds, const char *where, const char *why)
{
    if (ds->left_out < UM_DATA_FAULTS_KEPT)
        ds->faults[ds->left_out] = um_arena_fmt(&ds->arena, "%s: %s", where, why);
    ds->left_out++;
}

static um_request_source source_of(const um_dataset *ds, int file, const um_json_item *item)
{
    return (um_request_source){.json = item->text,
                               .n = item->n,
                               .bytes = item->bytes,
                               .folder = ds->folders[file],
                               .number = item->number,
                               .element = item->element};
}

static um_status item_index(void *ctx, const um_json_item *item, um_err *err)
{
    const indexing *in = ctx;
    um_dataset *ds = in->ds;
    um_sample_maker maker = ds->how.maker;
    um_data_sample s = {0};
    um_err why = {0};
    maker.tokenizer = NULL; /* a pass over millions of samples has no time for ids */
    if (ds->n >= UINT32_MAX || item->number > INT32_MAX)
        return UM_FAIL(err, UM_E_DATA, "%s: too many samples, at most %u in all",
                       ds->files[in->file].path, UINT32_MAX);
    um_mark mark = um_arena_mark(&ds->scratch);
    um_request_source from = source_of(ds, in->file, item);
    um_status st = um_sample_make(&s, &maker, &from, ds->files[in->file].path, &ds->scratch, &why);
    if (st == UM_OK)
        entry_add(ds, &(um_data_entry){
                          .at = item->at,
                          .bytes = (uint32_t)item->n,
                          .number = (uint32_t)item->number,
                          .length = (uint32_t)(s.length < UINT32_MAX ? s.length : UINT32_MAX),
                          .file = (uint16_t)in->file,
                          .kinds = (uint8_t)s.kinds,
                          .element = item->element});
    else
        fault_add(ds, s.where, why.msg);
    um_arena_reset(&ds->scratch, mark);
    return UM_OK;
}

static um_status files_check(const um_data_file *files, int n, um_err *err)
{
    if (n < 1 || n > UM_DATA_FILES_MAX)
        return UM_FAIL(err, UM_E_USAGE, "%d data files, allowed 1..%d", n, UM_DATA_FILES_MAX);
    for (int i = 0; i < n; i++)
        if (!(files[i].weight >= UM_DATA_WEIGHT_MIN && files[i].weight <= UM_DATA_WEIGHT_MAX))
            return UM_FAIL(err, UM_E_USAGE, "%s: weight %g, allowed %g..%g", files[i].path,
                           files[i].weight, UM_DATA_WEIGHT_MIN, UM_DATA_WEIGHT_MAX);
    return UM_OK;
}

/* A file without one sample that can be used is a mistake of whoever names it. */
static um_status file_index(um_dataset *ds, int i, um_sha256 *digest, um_err *err)
{
    indexing in = {ds, i};
    size_t n = ds->n, left_out = ds->left_out;
    const char *path = ds->files[i].path;
    UM_TRY(um_data_reader_open(&ds->readers[i], path, err));
    ds->folders[i] = um_data_folder(&ds->how, path, &ds->arena);
    UM_TRY(um_data_reader_all(&ds->readers[i], &ds->how, digest, item_index, &in, err));
    um_sha256_update(digest, &ds->files[i].weight, sizeof ds->files[i].weight);
    um_sha256_update(digest, &ds->readers[i].size, sizeof ds->readers[i].size);
    if (ds->n > n) return UM_OK;
    if (ds->left_out == left_out) return UM_FAIL(err, UM_E_DATA, "%s: has no samples", path);
    const char *first = left_out < UM_DATA_FAULTS_KEPT ? ds->faults[left_out] : NULL;
    return UM_FAIL(err, UM_E_DATA, "%s: not one of its %zu samples can be used%s%s", path,
                   ds->left_out - left_out, first != NULL ? "; the first: " : "",
                   first != NULL ? first : "");
}

um_status um_dataset_open(um_dataset **out, const um_data_file *files, int n_files,
                          const um_dataset_how *how, um_err *err)
{
    um_sha256 digest;
    UM_TRY(files_check(files, n_files, err));
    um_dataset *ds = um_zalloc(sizeof *ds);
    um_arena_init(&ds->arena, "data", 4096);
    um_arena_init(&ds->scratch, "data", 1 << 16);
    ds->how = *how;
    ds->n_files = n_files;
    ds->files = um_arena_zero(&ds->arena, (size_t)n_files * sizeof *ds->files);
    ds->readers = um_arena_zero(&ds->arena, (size_t)n_files * sizeof *ds->readers);
    ds->folders = um_arena_zero(&ds->arena, (size_t)n_files * sizeof *ds->folders);
    um_sha256_init(&digest);
    um_status st = UM_OK;
    for (int i = 0; i < n_files && st == UM_OK; i++) {
        ds->files[i] = (um_data_file){um_arena_str(&ds->arena, files[i].path), files[i].weight};
        st = file_index(ds, i, &digest, err);
    }
    if (st == UM_OK)
        st = um_sha256_final(&digest, ds->digest, err);
    else
        um_sha256_drop(&digest);
    um_arena_free(&ds->scratch);
    if (st == UM_OK)
        *out = ds;
    else
        um_dataset_close(ds);
    return st;
}

void um_dataset_close(um_dataset *ds)
{
    if (ds == NULL) return;
    for (int i = 0; i < ds->n_files; i++) um_data_reader_close(&ds->readers[i]);
    um_free(ds->entries);
    um_arena_free(&ds->arena);
    um_free(ds);
}

/* --- use --- */

size_t um_dataset_size(const um_dataset *ds) { return ds->n; }

const um_data_entry *um_dataset_entry(const um_dataset *ds, size_t i)
{
    UM_CHECK(i < ds->n);
    return &ds->entries[i];
}

const um_data_file *um_dataset_files(const um_dataset *ds, int *n)
{
    *n = ds->n_files;
    return ds->files;
}

size_t um_dataset_left_out(const um_dataset *ds) { return ds->left_out; }

const char *um_dataset_fault(const um_dataset *ds, size_t i)
{
    return i < ds->left_out && i < UM_DATA_FAULTS_KEPT ? ds->faults[i] : NULL;
}

const char *um_dataset_digest(const um_dataset *ds) { return ds->digest; }

um_status um_dataset_sample(const um_dataset *ds, size_t i, um_data_sample *out, um_arena *arena,
                            um_err *err)
{
    const um_data_entry *e = um_dataset_entry(ds, i);
    char *text = NULL;
    UM_TRY(um_data_reader_text(&ds->readers[e->file], &text, e->at, e->bytes, arena, err));
    um_json_item item = {
        .text = text, .n = e->bytes, .bytes = e->bytes, .number = e->number, .element = e->element};
    um_request_source from = source_of(ds, e->file, &item);
    um_data_sample s = {0};
    um_status st = um_sample_make(&s, &ds->how.maker, &from, ds->files[e->file].path, arena, err);
    if (st != UM_OK) return um_wrap(err, st, "%s", s.where);
    *out = s;
    return UM_OK;
}

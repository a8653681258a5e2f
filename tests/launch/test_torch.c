/* torch.save files: the corpus that torch itself wrote, and ZIP files as torch writes past 4 GB. */
#include "core/base/bytes.h"
#include "launch/torch/tensor_source.h"
#include "launch/torch/zip.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#define CORPUS UM_TEST_DATA "/corpus/torch/"

/* The files of the corpus have no extension, as fuzzers name them. */
static const um_source_list *open_corpus(um_sources *s, const char *name)
{
    const um_torch *f = NULL;
    const um_source_list *list = NULL;
    um_err err = {0};
    char path[512];
    snprintf(path, sizeof path, "%s%s", CORPUS, name);
    um_sources_open(s);
    if (um_source_torch(s, &f, path, &err) != UM_OK) fail_msg("%s", err.msg);
    if (um_source_dict(s, &list, f, um_torch_root(f), name, &err) != UM_OK) fail_msg("%s", err.msg);
    return list;
}

static void reads(const um_source_list *list, const char *name, const float *want, size_t n)
{
    float got[16] = {0};
    const um_source_tensor *t = um_source_get(list, name);
    assert_non_null(t);
    assert_int_equal(t->values, n);
    um_source_read_f32(got, t, 0, n);
    assert_memory_equal(got, want, n * sizeof *want);
    for (size_t i = 0; i < n; i++) { /* from anywhere */
        um_source_read_f32(got, t, i, 1);
        assert_true(got[0] == want[i]);
    }
}

static void any_order_of_memory(void **state)
{
    (void)state;
    static const float a[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
                       turned[] = {0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11}, row[] = {4, 5, 6, 7},
                       corner[] = {6, 7, 10, 11};
    um_sources s;
    const um_source_list *list = open_corpus(&s, "state");
    assert_int_equal(list->n, 4);
    reads(list, "a", a, 12);
    reads(list, "a_turned", turned, 12);
    reads(list, "row", row, 4);
    reads(list, "corner", corner, 4);
    assert_true(um_source_get(list, "a")->dense && !um_source_get(list, "a_turned")->dense);
    assert_int_equal(um_source_get(list, "a_turned")->shape[0], 4);
    assert_null(um_source_get(list, "b"));
    um_sources_close(&s);
}

static void all_types(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        um_dtype dtype;
    } types[] = {{"torch.float32", UM_F32}, {"torch.float16", UM_F16}, {"torch.bfloat16", UM_BF16},
                 {"torch.float64", UM_F64}, {"torch.int64", UM_I64},   {"torch.int32", UM_I32},
                 {"torch.int16", UM_I16},   {"torch.int8", UM_I8},     {"torch.uint8", UM_U8},
                 {"torch.bool", UM_BOOL}};
    static const float want[] = {1, 0, 3};
    um_sources s;
    const um_source_list *list = open_corpus(&s, "types");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const um_source_tensor *t = um_source_get(list, types[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, types[i].dtype);
        if (um_source_is_float(t)) reads(list, types[i].name, want, 3);
    }
    um_sources_close(&s);
}

static void odd_shapes(void **state)
{
    (void)state;
    static const float scalar[] = {2.5f}, ones[] = {1, 1, 1, 1}, sevens[] = {7, 7, 7};
    um_sources s;
    const um_source_list *list = open_corpus(&s, "odd");
    reads(list, "scalar", scalar, 1);
    reads(list, "wide", ones, 4);
    reads(list, "spread", sevens, 3);
    reads(list, "parameter", ones, 2);
    reads(list, "empty", ones, 0);
    um_sources_close(&s);
}

static void plain_values(void **state)
{
    (void)state;
    um_torch *f = NULL;
    um_err err = {0};
    assert_int_equal(um_torch_open(&f, CORPUS "beats", &err), UM_OK);
    const um_value *cfg = um_value_get(um_torch_root(f), "cfg");
    assert_int_equal(um_value_get(cfg, "encoder_layers")->number, 2);
    assert_true(um_value_get(cfg, "deep_norm")->flag);
    assert_true(um_value_get(cfg, "dropout")->real == 0.05);
    assert_string_equal(um_value_get(cfg, "activation_fn")->text, "gelu");
    assert_int_equal(um_value_get(cfg, "none")->kind, UM_VALUE_NONE);
    const um_value *list = um_value_get(cfg, "list");
    static const int64_t want[] = {1, -2, 300, 70000, INT64_C(1) << 40};
    assert_int_equal(list->n, 5);
    for (size_t i = 0; i < 5; i++) assert_true(list->item[i]->number == want[i]);
    assert_int_equal(um_value_get(cfg, "tuple")->n, 4);
    assert_null(um_value_get(cfg, "nothing"));
    um_torch_close(f);
}

/* --- zip64 --- */

typedef struct maker {
    uint8_t bytes[512];
    size_t n;
} maker;

static uint8_t *more(maker *m, const char *sign, size_t bytes)
{
    uint8_t *p = m->bytes + m->n;
    memset(p, 0, bytes);
    if (sign != NULL) memcpy(p, sign, 4);
    m->n += bytes;
    return p;
}

/* One entry "x" with the bytes "hello", every size and offset in the 64-bit records, as past 4 GB. */
static void make_zip64(maker *m)
{
    m->n = 0;
    uint8_t *p = more(m, "PK\3\4", 30);
    um_put_u16(p + 26, 1);
    memcpy(more(m, NULL, 6), "xhello", 6);
    size_t directory = m->n;
    p = more(m, "PK\1\2", 46);
    um_put_u32(p + 20, UINT32_MAX);
    um_put_u32(p + 24, UINT32_MAX);
    um_put_u16(p + 28, 1);
    um_put_u16(p + 30, 28);
    um_put_u32(p + 42, UINT32_MAX);
    memcpy(more(m, NULL, 1), "x", 1);
    p = more(m, NULL, 28);
    um_put_u16(p, 1);
    um_put_u16(p + 2, 24);
    um_put_u64(p + 4, 5);
    um_put_u64(p + 12, 5);
    size_t end64 = m->n;
    p = more(m, "PK\6\6", 56);
    um_put_u64(p + 32, 1);
    um_put_u64(p + 40, end64 - directory);
    um_put_u64(p + 48, directory);
    p = more(m, "PK\6\7", 20);
    um_put_u64(p + 8, end64);
    p = more(m, "PK\5\6", 22);
    memset(p + 8, 0xff, 12);
}

static void zip64(void **state)
{
    (void)state;
    maker m;
    um_zip z = {0};
    um_arena arena;
    um_err err = {0};
    make_zip64(&m);
    um_arena_init(&arena, "zip", 4096);
    if (um_zip_read(&z, m.bytes, m.n, &arena, &err) != UM_OK) fail_msg("%s", err.msg);
    const um_zip_entry *e = um_zip_find(&z, "x");
    assert_non_null(e);
    assert_int_equal(e->size, 5);
    assert_memory_equal(e->data, "hello", 5);
    for (size_t cut = 0; cut < m.n; cut++) /* no proper prefix of it is a ZIP file */
        assert_int_not_equal(um_zip_read(&z, m.bytes, cut, &arena, &err), UM_OK);
    um_put_u64(m.bytes + 36 + 47 + 4, 4000); /* the entry's size: past the file */
    assert_int_equal(um_zip_read(&z, m.bytes, m.n, &arena, &err), UM_E_CORRUPT);
    um_arena_free(&arena);
}

/* A stored tensor may not lie outside its storage, nor a storage outside its entry. */
static void nothing_outside_is_read(void **state)
{
    (void)state;
    static const struct {
        const char *pickle;
        size_t size;
        const char *words;
    } bad[] = {
#define TENSOR(offset, n)                                                                          \
    "\x80\x02"                                                                                     \
    "ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"                \
    "X\1\0\0\0"                                                                                    \
    "0X\3\0\0\0cpuK\4tQ" offset n "\x85K\1\x85\x89}tR."
        {TENSOR("K\0", "K\5"), sizeof TENSOR("K\0", "K\5") - 1, "outside its storage"},
        {TENSOR("K\3", "K\2"), sizeof TENSOR("K\3", "K\2") - 1, "outside its storage"},
        {TENSOR("J\xff\xff\xff\xff", "K\1"), sizeof TENSOR("J\xff\xff\xff\xff", "K\1") - 1,
         "not described"},
    };
    um_arena arena;
    um_arena_init(&arena, "pickle", 4096);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const um_value *root = NULL;
        um_err err = {0};
        assert_int_not_equal(
            um_pickle_read(&root, (const uint8_t *)bad[i].pickle, bad[i].size, &arena, &err),
            UM_OK);
        if (strstr(err.msg, bad[i].words) == NULL) fail_msg("%s", err.msg);
    }
    um_err err = {0};
    const um_value *root = NULL;
    static const char good[] = TENSOR("K\0", "K\4");
    if (um_pickle_read(&root, (const uint8_t *)good, sizeof good - 1, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(root->kind, UM_VALUE_TENSOR);
    um_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_order_of_memory),
        cmocka_unit_test(all_types),
        cmocka_unit_test(odd_shapes),
        cmocka_unit_test(plain_values),
        cmocka_unit_test(zip64),
        cmocka_unit_test(nothing_outside_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

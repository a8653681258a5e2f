/* core/nn/safetensors.h: which files are accepted, which are refused and with which message, and what is written. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/nn/safetensors.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *at(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

/* The bytes of a file: length, header, `data` bytes 0, 1, 2, ... */
static size_t file_bytes(uint8_t *out, const char *header, size_t data)
{
    size_t n = strlen(header);
    um_put_u64(out, n);
    memcpy(out + 8, header, n);
    for (size_t i = 0; i < data; i++) out[8 + n + i] = (uint8_t)i;
    return 8 + n + data;
}

static void put(const char *name, const char *header, size_t data)
{
    static uint8_t bytes[65536];
    folder_write(dir, name, bytes, file_bytes(bytes, header, data));
}

static um_status open_as(um_tensors **s, const char *header, size_t data, um_err *err)
{
    put("a.safetensors", header, data);
    return um_tensors_open(s, at("a.safetensors"), err);
}

static void refused(const char *header, size_t data, const char *word)
{
    um_tensors *s = NULL;
    um_err err = {0};
    if (open_as(&s, header, data, &err) != UM_E_CORRUPT) fail_msg("taken: %s", header);
    has(&err, "a.safetensors: ");
    has(&err, word);
    assert_null(s);
}

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}"
#define B "\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[16,22]}"

static void test_good(void **state)
{
    (void)state;
    um_tensors *s = NULL;
    um_err err = {0};
    const char *header = "{\"__metadata__\":{\"format\":\"pt\"}," B "," A
                         ",\"c\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[22,30]}}   ";
    assert_int_equal(open_as(&s, header, 30, &err), UM_OK);
    assert_int_equal(um_tensors_count(s), 3);
    assert_string_equal(um_tensors_at(s, 0)->name, "a");
    assert_string_equal(um_tensors_at(s, 2)->name, "c");
    const um_tensor *b = um_tensors_find(s, "b");
    assert_int_equal(b->dtype, UM_BF16);
    assert_int_equal(b->rank, 1);
    assert_int_equal(b->shape[0], 3);
    assert_int_equal(b->bytes, 6);
    assert_int_equal(b->data[0], 16);
    assert_int_equal(um_tensors_find(s, "c")->rank, 0);
    assert_null(um_tensors_find(s, "d"));
    assert_non_null(strstr(um_tensors_path(s), "a.safetensors"));
    um_tensors_forget(s, b);
    assert_int_equal(b->data[5], 21); /* still readable */
    um_tensors_close(s);
    um_tensors_close(NULL);
}

/* Files that the safetensors library reads too. */
static void test_tolerated(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
    } good[] = {
        {"{\"__metadata__\":null," A "}", 16},
        {"{\"__metadata__\":{\"format\":\"pt\",\"epoch\":3,\"x\":null,\"y\":[1]}," A "}", 16},
        {"{" A "}                    ", 16},
        {"{" A "}\n\t ", 16},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16],\"more\":{\"x\":1}}}",
         16},
        {"{" A ",\"z\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 16},
        {"{" A ",\"z\":{\"dtype\":\"F32\",\"shape\":[4,0],\"data_offsets\":[8,8]}}", 16},
        {"{" A ",\"z\":{\"dtype\":\"BF16\",\"shape\":[0],\"data_offsets\":[16,16]}}", 16},
        {"{\"z\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}," A "}", 16},
        {"{" A ",\"s\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[16,24]}}", 24},
        {"{\"s\":{\"dtype\":\"BOOL\",\"shape\":[],\"data_offsets\":[16,17]}," A "}", 17},
        {"{" A ",\"f\":{\"dtype\":\"F8_E4M3\",\"shape\":[3],\"data_offsets\":[16,19]}}", 19},
        {"{" A ",\"f\":{\"dtype\":\"F8_E5M2\",\"shape\":[3],\"data_offsets\":[16,19]}}", 19},
        {"{" A ",\"f\":{\"dtype\":\"F8_E8M0\",\"shape\":[3],\"data_offsets\":[16,19]}}", 19},
        {"{" A ",\"f\":{\"dtype\":\"U16\",\"shape\":[3],\"data_offsets\":[16,22]}}", 22},
        {"{" A ",\"f\":{\"dtype\":\"U32\",\"shape\":[1],\"data_offsets\":[16,20]}}", 20},
        {"{" A ",\"f\":{\"dtype\":\"U64\",\"shape\":[1],\"data_offsets\":[16,24]}}", 24},
        {"{" A ",\"f\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[16,24]}}", 24},
        {"{" A ",\"f\":{\"dtype\":\"F4\",\"shape\":[3,2],\"data_offsets\":[16,19]}}", 19},
        {"{" A ",\"f\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[16,19]}}", 19},
        {"{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[1,17]}}",
         17}, /* values that no address aligns */
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        um_tensors *s = NULL;
        um_err err = {0};
        const um_tensor *t = NULL;
        if (open_as(&s, good[i].header, good[i].data, &err) != UM_OK)
            fail_msg("%s: %s", good[i].header, err.msg);
        assert_int_equal(um_tensors_want(s, &t, "a", 2, (int64_t[]){2, 2}, &err), UM_OK);
        assert_int_equal(um_tensor_values(t), 4);
        float values[4];
        um_tensor_to_f32(values, t);
        um_tensors_close(s);
    }
    /* such a type is refused where the tensor is wanted */
    um_tensors *s = NULL;
    um_err err = {0};
    const um_tensor *t = NULL;
    assert_int_equal(open_as(&s,
                             "{\"f\":{\"dtype\":\"F8_E4M3\",\"shape\":[3],\"data_offsets\":[0,3]}}",
                             3, &err),
                     UM_OK);
    assert_int_equal(um_tensors_want(s, &t, "f", 1, (int64_t[]){3}, &err), UM_E_MODEL);
    has(&err, "dtype F8_E4M3, want F32, BF16, F16 or F64");
    um_tensors_close(s);
}

/* What failed downloads leave under the name of a safetensors file. */
static void test_other_files(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *word;
    } other[] = {
        {"", "the file is empty: download it again"},
        {"version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 5290000000\n",
         "a Git LFS pointer, not the file itself (5290000000 bytes): run `git lfs pull`"},
        {"version https://git-lfs.github.com/spec/v1\r\noid sha256:4665\r\nsize 12\r\n",
         "git lfs pull"},
        {"<!DOCTYPE html>\n<html class=\"\">", "a web page"},
        {"\n  <html><head>", "a web page"},
        {"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>", "a web page"},
        {"Entry not found", "a message, not the file itself (\"Entry not found\")"},
        {"Access to model x is restricted.\nLog in.", "(\"Access to model x is restricted.\")"},
        {"{\"error\":\"Repository not found\"}", "a message"},
        {"GGUF\003", "GGUF file"},
        {"PK\003\004 zip", "a PyTorch or zip file under this name"},
        {"\x80\002}q\001.....", "a PyTorch (pickle) file"},
        {"\x1f\x8b\b gzip", "compressed with gzip"},
        {"short", "a message"},
        {"\xff\xd8\xff", "3 bytes, a safetensors file has at least 8"},
        {"\xff\xd8\xff\xe0 JFIF and so on", "not a safetensors file"},
    };
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        um_tensors *s = NULL;
        um_err err = {0};
        folder_write(dir, "a.safetensors", other[i].bytes, strlen(other[i].bytes));
        assert_int_equal(um_tensors_open(&s, at("a.safetensors"), &err), UM_E_CORRUPT);
        has(&err, "a.safetensors: ");
        has(&err, other[i].word);
    }
}

static void test_want(void **state)
{
    (void)state;
    um_tensors *s = NULL;
    um_err err = {0};
    const um_tensor *t = NULL;
    assert_int_equal(
        open_as(&s, "{" A ",\"i\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[16,20]}}", 20,
                &err),
        UM_OK);
    assert_int_equal(um_tensors_want(s, &t, "a", 2, (int64_t[]){2, 2}, &err), UM_OK);
    assert_int_equal(um_tensors_want(s, &t, "a", 2, (int64_t[]){-1, 2}, &err), UM_OK);
    assert_string_equal(t->name, "a");
    t = NULL;
    assert_int_equal(um_tensors_want(s, &t, "none", 1, (int64_t[]){2}, &err), UM_E_MODEL);
    has(&err, "tensor none: missing in ");
    has(&err, "a.safetensors");
    assert_int_equal(um_tensors_want(s, &t, "a", 2, (int64_t[]){2, 3}, &err), UM_E_MODEL);
    has(&err, "tensor a in ");
    has(&err, "shape [2,2], want [2,3]");
    assert_int_equal(um_tensors_want(s, &t, "a", 1, (int64_t[]){4}, &err), UM_E_MODEL);
    assert_int_equal(um_tensors_want(s, &t, "i", 1, (int64_t[]){1}, &err), UM_E_MODEL);
    has(&err, "dtype I32");
    assert_null(t);
    um_tensors_close(s);
}

static void test_bad_headers(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *word;
    } bad[] = {
        {"", 0, "begins with zeros"},
        {"[]", 0, "not a safetensors file"},
        {" {}", 0, "not a safetensors file"},
        {"{", 0, "not JSON"},
        {"{" A "," A "}", 16, "duplicate"},
        {"{\"__metadata__\":[]}", 0, "__metadata__ is not an object"},
        {"{\"__metadata__\":\"pt\"}", 0, "__metadata__ is not an object"},
        {"{\"a\":[]}", 0, "tensor a: its entry is not an object"},
        {"{\"a\":{}}", 0, "tensor a: dtype is missing"},
        {"{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "dtype is missing or not a string"},
        {"{\"a\":{\"dtype\":\"F7\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "dtype \"F7\" is not known"},
        {"{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "dtype \"f32\" is not known"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "shape is not a list"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4,
         "shape is not a list"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "dimension 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1.0],\"data_offsets\":[0,4]}}", 4, "dimension 1"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]}}", 4, "dimension 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
         "9 dimensions, allowed 0..8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}", 4,
         "too many values"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0,
         "too many values"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]}}",
         0, "too many values"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,0]}}", 0,
         "not JSON"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets is not [from, to]"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4,
         "data_offsets is not [from, to]"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 8,
         "data_offsets is not [from, to]"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4,
         "data_offsets is not [from, to]"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4,
         "data_offsets is not [from, to]"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{\"from\":0}}}", 4,
         "data_offsets is not [from, to]"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8,
         "hold 8 bytes, F32 [1] needs 4"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7,
         "cut off: 69 bytes, 70 wanted (98.6 %): download it again"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9223372036854775803,"
         "9223372036854775807]}}",
         4, "bytes before tensor a"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2,
         "do not fill whole bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
         "4 bytes before tensor a belong to no tensor"},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}", 16,
         "tensors a and b overlap"},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", 16,
         "overlap"},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[20,24]}}", 24,
         "4 bytes before tensor b"},
        {"{" A "}", 17, "the last 1 bytes belong to no tensor"},
        {"{}", 1, "the last 1 bytes"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused(bad[i].header, bad[i].data, bad[i].word);
}

static void test_nesting(void **state)
{
    (void)state;
    um_text t = {0};
    um_text_fmt(&t, "{\"a\":");
    for (int i = 0; i < 20000; i++) um_text_add(&t, "[", 1);
    refused(t.s, 0, "depth");
    um_text_free(&t);
}

static void test_lying_lengths(void **state)
{
    (void)state;
    static const uint64_t lies[] = {
        UINT64_MAX, UINT64_C(1) << 63, UINT64_MAX - 7, 100000001, 100000000, 100, 0};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        uint8_t bytes[128];
        size_t n = file_bytes(bytes, "{" A "}", 16);
        um_tensors *s = NULL;
        um_err err = {0};
        um_put_u64(bytes, lies[i]);
        folder_write(dir, "a.safetensors", bytes, n);
        assert_int_equal(um_tensors_open(&s, at("a.safetensors"), &err), UM_E_CORRUPT);
        has(&err, "a.safetensors");
    }
}

/* A truncated file is refused, wherever it was cut. */
static void test_cut(void **state)
{
    (void)state;
    uint8_t bytes[512];
    size_t n = file_bytes(bytes, "{" A "," B "}", 22);
    for (size_t cut = 0; cut < n; cut++) {
        um_tensors *s = NULL;
        um_err err = {0};
        folder_write(dir, "a.safetensors", bytes, cut);
        if (um_tensors_open(&s, at("a.safetensors"), &err) != UM_E_CORRUPT)
            fail_msg("taken when cut at %zu", cut);
        has(&err, "a.safetensors");
    }
}

/* An accepted file must be complete: sizes that fit, data inside the file, all of it covered. */
static void check_whole(const um_tensors *s, size_t data)
{
    size_t sum = 0, bits = 0;
    for (size_t i = 0; i < um_tensors_count(s); i++) {
        const um_tensor *t = um_tensors_at(s, i);
        size_t want = um_dtype_size(t->dtype);
        for (int k = 0; k < t->rank; k++) want *= (size_t)t->shape[k];
        assert_int_equal(want, t->bytes);
        for (size_t k = 0; k < t->bytes; k++)
            bits += t->data[k]; /* a sanitizer sees reads outside the mapping */
        sum += t->bytes;
    }
    assert_int_equal(sum, data);
    assert_int_equal(bits, data * (data - 1) / 2); /* the bytes 0, 1, 2, ... each once */
}

static void test_flips(void **state)
{
    (void)state;
    uint8_t bytes[512];
    size_t n = file_bytes(bytes, "{" A "," B "}", 22), taken = 0;
    for (size_t i = 0; i < n - 22; i++) {
        for (int bit = 0; bit < 8; bit++) {
            um_tensors *s = NULL;
            um_err err = {0};
            bytes[i] ^= (uint8_t)(1 << bit);
            folder_write(dir, "a.safetensors", bytes, n);
            um_status st = um_tensors_open(&s, at("a.safetensors"), &err);
            if (st == UM_OK) {
                check_whole(s, 22);
                taken++;
            } else {
                assert_int_equal(st, UM_E_CORRUPT);
                has(&err, "a.safetensors");
            }
            um_tensors_close(s);
            bytes[i] ^= (uint8_t)(1 << bit);
        }
    }
    assert_true(taken > 0 && taken < 100); /* another name, or another type of the same size */
}

static void test_no_pages_read(void **state)
{
    (void)state;
    enum { DATA = 64 << 20 };
    char header[128];
    snprintf(header, sizeof header,
             "{\"a\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[0,%d]}}", DATA, DATA);
    put("big.safetensors", header, 0);
    assert_int_equal(truncate(at("big.safetensors"), (off_t)(8 + strlen(header) + DATA)), 0);
    um_tensors *s = NULL;
    um_err err = {0};
    assert_int_equal(um_tensors_open(&s, at("big.safetensors"), &err), UM_OK);
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = DATA / page, cached = 0;
    unsigned char *in = um_zalloc(pages);
    uintptr_t from = ((uintptr_t)um_tensors_at(s, 0)->data + page - 1) / page * page;
    assert_int_equal(mincore((void *)from, DATA - page, in), 0);
    for (size_t i = 0; i < pages; i++) cached += in[i] & 1;
    assert_true(cached < pages / 4); /* the kernel may read a little ahead */
    um_free(in);
    um_tensors_close(s);
}

/* --- sharded --- */

static void put_index(const char *map)
{
    char text[512];
    snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":22},\"weight_map\":%s}", map);
    folder_text(dir, "set/model.safetensors.index.json", text);
}

static um_status set_open(um_tensors **s, um_err *err)
{
    *s = NULL;
    return um_tensors_open(s, at("set"), err);
}

static void set_refused(const char *map, um_status want, const char *word)
{
    um_tensors *s;
    um_err err = {0};
    put_index(map);
    if (set_open(&s, &err) != want) fail_msg("%s: %s", map, err.msg);
    has(&err, word);
}

static void test_sharded(void **state)
{
    (void)state;
    um_tensors *s;
    um_err err = {0};
    put("set/one.safetensors", "{" A "}", 16);
    put("set/two.safetensors", "{\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[0,6]}}",
        6);
    put_index("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}");
    if (set_open(&s, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(um_tensors_count(s), 2);
    assert_int_not_equal(um_tensors_find(s, "a")->file, um_tensors_find(s, "b")->file);
    assert_int_equal(um_tensors_find(s, "b")->data[5], 5);
    um_tensors_close(s);
    set_refused("{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}", UM_E_CORRUPT,
                "tensor b is in one.safetensors, but that file does not contain it");
    set_refused("{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}", UM_E_CORRUPT,
                "tensor a is in two.safetensors, but that file does not");
    set_refused("{\"a\":\"one.safetensors\",\"z\":\"two.safetensors\"}", UM_E_CORRUPT, "tensor z");
    set_refused("{\"a\":\"../a.safetensors\"}", UM_E_CORRUPT,
                "tensor a: \"../a.safetensors\", allowed the name of a file");
    set_refused("{\"a\":\"/one.safetensors\"}", UM_E_CORRUPT, "allowed the name of a file");
    set_refused("{\"a\":\"..\"}", UM_E_CORRUPT, "allowed the name of a file");
    set_refused("{\"a\":7}", UM_E_CORRUPT, "allowed the name of a file");
    set_refused("{}", UM_E_CORRUPT, "weight_map is missing");
    set_refused("[]", UM_E_CORRUPT, "weight_map is missing");
    set_refused("{\"a\":\"sub/../../one.safetensors\"}", UM_E_CORRUPT,
                "allowed the name of a file");
    set_refused("{\"a\":\"sub//one.safetensors\"}", UM_E_CORRUPT, "allowed the name of a file");
    set_refused("{\"a\":\"\"}", UM_E_CORRUPT, "allowed the name of a file");
    set_refused("{\"a\":\"one.safetensors\",\"c\":\"none.safetensors\",\"d\":\"none.safetensors\"}",
                UM_E_MODEL, "none.safetensors is missing, and 2 of its 3 tensors are in it");
    /* shards below, and a tensor in two of them: the one that the index names */
    folder_text(dir, "set/readme", "x");
    assert_int_equal(mkdir(at("set/sub"), 0755), 0);
    put("three.safetensors",
        "{\"c\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
        "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[4,5]}}",
        5);
    char below[600];
    snprintf(below, sizeof below, "%s/set/sub/three.safetensors", dir);
    assert_int_equal(rename(at("three.safetensors"), below), 0);
    put_index("{\"a\":\"one.safetensors\",\"c\":\"sub/three.safetensors\"}");
    if (set_open(&s, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(um_tensors_count(s), 2);
    assert_int_equal(um_tensors_find(s, "a")->dtype, UM_F32);
    um_tensors_close(s);
    put_index("{\"a\":\"sub/three.safetensors\",\"c\":\"sub/three.safetensors\",\"a\":\"sub/"
              "three.safetensors\"}");
    if (set_open(&s, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(um_tensors_find(s, "a")->dtype, UM_U8);
    um_tensors_close(s);
    put("set/four.safetensors", "{" A "," B "}", 22);
    set_refused("{\"b\":\"four.safetensors\",\"c\":\"sub/three.safetensors\"}", UM_E_CORRUPT,
                "tensor a is in four.safetensors and in sub/three.safetensors, and the index names "
                "neither");
    put("set/two.safetensors", "{", 0);
    set_refused("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}", UM_E_CORRUPT,
                "two.safetensors: header: not JSON");
}

static void test_folder_without(void **state)
{
    (void)state;
    um_tensors *s = NULL;
    um_err err = {0};
    folder_text(dir, "none/readme", "x");
    assert_int_equal(um_tensors_open(&s, at("none"), &err), UM_E_MODEL);
    has(&err, "none: neither model.safetensors nor model.safetensors.index.json");
    assert_null(strstr(err.msg, ".bin"));
    folder_text(dir, "none/pytorch_model.bin", "x");
    assert_int_equal(um_tensors_open(&s, at("none"), &err), UM_E_MODEL);
    has(&err, "PyTorch files such as pytorch_model.bin must be converted first");
    folder_text(dir, "none/adapter_model.safetensors", "x");
    assert_int_equal(um_tensors_open(&s, at("none"), &err), UM_E_MODEL);
    has(&err, "adapter_model.safetensors is there, under a name that is not looked for");
    folder_text(dir, "none/model-00001-of-00002.safetensors", "x");
    assert_int_equal(um_tensors_open(&s, at("none"), &err), UM_E_MODEL);
    has(&err, "model-00001-of-00002.safetensors is there, but not the index");
    folder_text(dir, "none/model.safetensors.incomplete", "x");
    assert_int_equal(um_tensors_open(&s, at("none"), &err), UM_E_MODEL);
    has(&err, "model.safetensors.incomplete is a download that is not complete");
    assert_int_equal(symlink("../../blobs/4711", at("none/model.safetensors")), 0);
    assert_int_equal(um_tensors_open(&s, at("none"), &err), UM_E_MODEL);
    has(&err, "none/model.safetensors: a symbolic link to ../../blobs/4711, which does not exist");
    assert_int_equal(unlink(at("none/model.safetensors")), 0);
    assert_int_equal(symlink("model.safetensors", at("none/model.safetensors")), 0);
    assert_int_equal(um_tensors_open(&s, at("none"), &err), UM_E_IO);
    has(&err, "leads back to itself");
    assert_int_equal(unlink(at("none/model.safetensors")), 0);
    assert_int_equal(mkdir(at("none/model.safetensors"), 0755), 0);
    assert_int_equal(um_tensors_open(&s, at("none"), &err), UM_E_IO);
    has(&err, "a folder, not a file");
    assert_int_equal(um_tensors_open(&s, at("nowhere"), &err), UM_E_IO);
    has(&err, "nowhere");
    assert_null(s);
}

/* --- writing --- */

static const uint8_t data_bytes[24] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12,
                                       13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24};
static const um_tensor to_write[] = {
    {.name = "z \"quoted\"\n",
     .dtype = UM_F32,
     .rank = 2,
     .shape = {2, 2},
     .data = data_bytes,
     .bytes = 16},
    {.name = "odd", .dtype = UM_U8, .rank = 1, .shape = {3}, .data = data_bytes + 16, .bytes = 3},
    {.name = "empty",
     .dtype = UM_F32,
     .rank = 3,
     .shape = {4, 0, 2},
     .data = data_bytes,
     .bytes = 0},
    {.name = "scalar", .dtype = UM_BF16, .rank = 0, .data = data_bytes + 19, .bytes = 2},
};
static const char *const metadata[] = {"format", "pt", "seed", "7", NULL};

static void same_file(const char *a, const char *b)
{
    uint8_t *p, *q;
    size_t n, m;
    char first[512];
    snprintf(first, sizeof first, "%s", at(a));
    assert_int_equal(um_file_read(&p, &n, first, 1 << 20, &arena, NULL), UM_OK);
    assert_int_equal(um_file_read(&q, &m, at(b), 1 << 20, &arena, NULL), UM_OK);
    assert_int_equal(n, m);
    assert_memory_equal(p, q, n);
}

static void test_write(void **state)
{
    (void)state;
    um_err err = {0};
    um_tensors *s = NULL;
    assert_int_equal(um_tensors_write(at("w.safetensors"), to_write, 4, metadata, &err), UM_OK);
    assert_int_equal(um_tensors_write(at("v.safetensors"), to_write, 4, metadata, &err), UM_OK);
    same_file("w.safetensors", "v.safetensors");
    assert_int_equal(um_tensors_open(&s, at("w.safetensors"), &err), UM_OK);
    assert_int_equal(um_tensors_count(s), 4);
    for (size_t i = 0; i < 4; i++) {
        const um_tensor *want = &to_write[i], *t = um_tensors_find(s, want->name);
        assert_non_null(t);
        assert_int_equal(t->dtype, want->dtype);
        assert_int_equal(t->rank, want->rank);
        assert_int_equal(t->bytes, want->bytes);
        for (int k = 0; k < t->rank; k++) assert_int_equal(t->shape[k], want->shape[k]);
        if (t->bytes > 0) assert_memory_equal(t->data, want->data, t->bytes);
    }
    assert_int_equal((uintptr_t)um_tensors_find(s, to_write[0].name)->data % 8, 0);
    um_tensors_close(s);
    assert_int_equal(um_tensors_write(at("w.safetensors"), NULL, 0, NULL, &err),
                     UM_OK); /* replaces the old one */
    assert_int_equal(um_tensors_open(&s, at("w.safetensors"), &err), UM_OK);
    assert_int_equal(um_tensors_count(s), 0);
    um_tensors_close(s);
    assert_int_equal(um_tensors_write(at("no/such/w.safetensors"), to_write, 4, NULL, &err),
                     UM_E_IO);
    has(&err, "no/such");
    um_tensor wrong = to_write[0];
    wrong.bytes = 12;
    assert_int_equal(um_tensors_write(at("x.safetensors"), &wrong, 1, NULL, &err), UM_E_LIMIT);
    assert_false(um_file_exists(at("x.safetensors")));
}

static int files_in_dir(void)
{
    int n = 0;
    DIR *d = opendir(dir);
    while (readdir(d) != NULL) n++;
    closedir(d);
    return n;
}

static void test_stream(void **state)
{
    (void)state;
    um_err err = {0};
    um_tensors_writer *w = NULL;
    assert_int_equal(um_tensors_write(at("w.safetensors"), to_write, 4, metadata, &err), UM_OK);
    assert_int_equal(um_tensors_writer_open(&w, at("s.safetensors"), to_write, 4, metadata, &err),
                     UM_OK);
    for (size_t i = 0; i < 21; i++)
        assert_int_equal(um_tensors_writer_add(w, data_bytes + i, 1, &err), UM_OK);
    assert_int_equal(um_tensors_writer_add(w, data_bytes, 1, &err), UM_E_LIMIT);
    assert_false(um_file_exists(at("s.safetensors")));
    assert_int_equal(um_tensors_writer_finish(w, &err), UM_OK);
    um_tensors_writer_close(w);
    same_file("w.safetensors", "s.safetensors");

    int before = files_in_dir();
    assert_int_equal(um_tensors_writer_open(&w, at("t.safetensors"), to_write, 4, metadata, &err),
                     UM_OK);
    assert_int_equal(um_tensors_writer_add(w, data_bytes, 20, &err), UM_OK);
    assert_int_equal(um_tensors_writer_finish(w, &err), UM_E_LIMIT);
    has(&err, "20 bytes of data given, the header promises 21");
    um_tensors_writer_close(w);
    assert_int_equal(files_in_dir(), before); /* nothing is left */
    um_tensors_writer_close(NULL);
}

static void test_numbers(void **state)
{
    (void)state;
    float values[4] = {1.0f, -2.5f, 0.0f, 3e38f}, out[4];
    uint16_t half[3] = {0x3F80, 0xC020, 0x0001};
    um_tensor list[] = {
        {.name = "byte",
         .dtype = UM_U8,
         .rank = 1,
         .shape = {1},
         .data = data_bytes,
         .bytes = 1}, /* shifts the others */
        {.name = "f32",
         .dtype = UM_F32,
         .rank = 2,
         .shape = {2, 2},
         .data = (uint8_t *)values,
         .bytes = 16},
        {.name = "bf16",
         .dtype = UM_BF16,
         .rank = 1,
         .shape = {3},
         .data = (uint8_t *)half,
         .bytes = 6},
    };
    um_err err = {0};
    um_tensors *s = NULL;
    assert_int_equal(um_tensors_write(at("n.safetensors"), list, 3, NULL, &err), UM_OK);
    assert_int_equal(um_tensors_open(&s, at("n.safetensors"), &err), UM_OK);
    assert_int_not_equal((uintptr_t)um_tensors_find(s, "f32")->data % 4, 0);
    um_tensor_to_f32(out, um_tensors_find(s, "f32"));
    assert_memory_equal(out, values, sizeof values);
    um_tensor_to_f32(out, um_tensors_find(s, "bf16"));
    assert_true(out[0] == 1.0f && out[1] == -2.5f && um_f32_bits(out[2]) == 0x10000);
    um_tensors_close(s);
}

static void test_shape_text(void **state)
{
    (void)state;
    char text[96];
    um_shape_text(text, 2, (int64_t[]){4, 64});
    assert_string_equal(text, "[4,64]");
    um_shape_text(text, 0, NULL);
    assert_string_equal(text, "[]");
    int64_t most[8];
    for (int i = 0; i < 8; i++) most[i] = INT64_MAX;
    um_shape_text(text, 8, most); /* too long for the buffer: truncated and terminated */
    assert_true(strlen(text) < sizeof text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),          cmocka_unit_test(test_want),
        cmocka_unit_test(test_tolerated),     cmocka_unit_test(test_other_files),
        cmocka_unit_test(test_bad_headers),   cmocka_unit_test(test_nesting),
        cmocka_unit_test(test_lying_lengths), cmocka_unit_test(test_cut),
        cmocka_unit_test(test_flips),         cmocka_unit_test(test_no_pages_read),
        cmocka_unit_test(test_sharded),       cmocka_unit_test(test_folder_without),
        cmocka_unit_test(test_write),         cmocka_unit_test(test_stream),
        cmocka_unit_test(test_numbers),       cmocka_unit_test(test_shape_text),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}

/* The tokenizer: every awkward text of the golden data, the golden answers, and files that are not models. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "router/request/prompt.h"
#include "router/request/placeholder.h"
#include "tests/support/fixture.h"
#include "tests/support/test_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static um_tokenizer *open_model(const char *model)
{
    um_tokenizer *t = NULL;
    um_err err = {0};
    if (um_tokenizer_open(&t, golden_path(&arena, "models/%s", model), &err) != UM_OK)
        fail_msg("%s", err.msg);
    return t;
}

/* text with every U+E000 as with; *n is the length. */
static char *replaced(const char *text, const char *with, size_t with_n, size_t *n)
{
    char *out = um_arena_alloc(&arena, strlen(text) + 1);
    size_t at = 0;
    while (*text != '\0') {
        if (memcmp(text, "\xee\x80\x80", strnlen(text, 3)) == 0) {
            memcpy(out + at, with, with_n);
            at += with_n;
            text += 3;
        } else {
            out[at++] = *text++;
        }
    }
    out[at] = '\0';
    *n = at;
    return out;
}

static bool has_placeholder(const char *text)
{
    return strstr(text, "<image>") != NULL || strstr(text, "<audio>") != NULL ||
           strstr(text, "<video>") != NULL;
}

static int32_t *ids_of(const um_json *list, int *n)
{
    *n = (int)um_json_size(list);
    int32_t *ids = um_arena_i32(&arena, (size_t)*n);
    for (int i = 0; i < *n; i++) ids[i] = (int32_t)um_json_int(um_json_at(list, (size_t)i), -1);
    return ids;
}

/* A text with as many media as it wants: its parts, each encoded alone, with the ids of the media between (spec 1.3). */
static void cut_encodes(const um_tokenizer *t, const char *text, const int32_t *want, int n_want)
{
    um_media_set media = {.arena = &arena};
    um_turn turn = {0};
    um_err err = {0};
    um_item item = {0};
    for (int k = UM_IMAGE; k < UM_MODALITIES; k++) {
        media.kind[k] = (um_media_list){.items = um_arena_zero(&arena, 8 * sizeof item), .n = 8};
        for (int i = 0; i < 8; i++) media.kind[k].items[i].modality = (um_modality)k;
    }
    assert_int_equal(um_placeholder_cut(&media, &turn, text, &err), UM_OK);
    int32_t *all = um_arena_i32(&arena, (size_t)n_want + 64);
    int n = 0, parts = 0;
    const char *open = ""; /* the text since the last medium */
    for (int i = 0; i <= turn.n; i++) {
        if (i < turn.n && turn.parts[i].text != NULL) {
            open = turn.parts[i].text;
            continue;
        }
        int32_t *ids = NULL;
        int m = 0, skip = parts++ == 0 ? 0 : 1;
        assert_int_equal(um_tokenizer_encode(t, open, strlen(open), &ids, &m, &arena, &err), UM_OK);
        for (int k = skip; k < m && n < n_want + 32; k++) all[n++] = ids[k];
        if (i < turn.n) all[n++] = um_prompt_id(media.used.items[turn.parts[i].item].modality);
        open = "";
    }
    ids_equal(text, all, n, want, n_want);
}

/* Texts without placeholders go through the tokenizer and, when they hold no zero byte, through the prompt's splitting too. */
static void row_encodes(const um_tokenizer *t, const char *text, const int32_t *want, int n_want)
{
    int32_t *ids = NULL;
    int n = 0;
    size_t bytes = 0;
    um_err err = {0};
    const char *exact = replaced(text, "", 1, &bytes);
    if (!has_placeholder(text)) {
        assert_int_equal(um_tokenizer_encode(t, exact, bytes, &ids, &n, &arena, &err), UM_OK);
        ids_equal(text, ids, n, want, n_want);
    }
    if (strlen(exact) < bytes) return;
    cut_encodes(t, text, want, n_want);
}

static void test_golden_rows(void **state)
{
    (void)state;
    um_tokenizer *t = open_model("s4");
    um_json *root = golden_json(golden_path(&arena, "tokens/tokens.json"));
    const um_json *rows = um_json_get(root, "rows");
    for (size_t i = 0; i < um_json_size(rows); i++) {
        const um_json *row = um_json_at(rows, i);
        const char *text = um_json_str(um_json_get(row, "text"), NULL);
        const char *decoded = um_json_str(um_json_get(row, "decoded"), NULL);
        int n = 0;
        size_t bytes = 0;
        int32_t *ids = ids_of(um_json_get(row, "ids"), &n);
        row_encodes(t, text, ids, n);
        /* a C string cannot contain a zero byte */
        assert_string_equal(um_tokenizer_decode(t, ids, n, &arena),
                            replaced(decoded, "\xef\xbf\xbd", 3, &bytes));
    }
    assert_int_equal(um_json_size(rows), 36);
    um_json_free(root);
    um_tokenizer_close(t);
}

static void answer_decodes(const um_tokenizer *t, const char *model, const char *name)
{
    int n = 0;
    size_t bytes = 0;
    um_json *request = golden_json(golden_path(&arena, "cases/%s/%s/request.json", model, name));
    const char *answer = um_json_str(um_json_get(request, "answer"), NULL);
    int32_t *ids = golden_ids(golden_path(&arena, "cases/%s/%s/expected.safetensors", model, name),
                              "greedy_ids", &n, &arena);
    assert_string_equal(um_tokenizer_decode(t, ids, n, &arena),
                        replaced(answer, "\xef\xbf\xbd", 3, &bytes));
    um_json_free(request);
}

static void test_golden_answers(void **state)
{
    (void)state;
    static const char *const models[] = {"s4", "s4i", "s8", "s8fm"};
    static const char *const cases[] = {"text", "image", "turns", "audio", "video", "mixed"};
    int seen = 0;
    for (size_t m = 0; m < 4; m++) {
        um_tokenizer *t = open_model(models[m]);
        assert_int_equal(um_tokenizer_vocab(t), 400);
        for (size_t c = 0; c < 6; c++) {
            if (!um_file_exists(
                    golden_path(&arena, "cases/%s/%s/request.json", models[m], cases[c])))
                continue;
            answer_decodes(t, models[m], cases[c]);
            seen++;
        }
        um_tokenizer_close(t);
    }
    assert_int_equal(seen, 20);
}

/* 243 162 155 131 are the bytes of U+1F600; each byte of an incomplete sequence becomes one U+FFFD. */
static void test_decode_odd_ids(void **state)
{
    (void)state;
    um_tokenizer *t = open_model("s4");
    const int32_t whole[] = {243, 162, 155, 131},
                  none[] = {0, 1, 2, -200, -300, 400, INT32_MAX, INT32_MIN};
    const int32_t spaces[] = {365, 13, 12, 31 + 3, 373, 369, 365, 197, 163, 229, 131, 171, 365};
    assert_string_equal(um_tokenizer_decode(t, whole, 4, &arena), "\xf0\x9f\x98\x80");
    assert_string_equal(um_tokenizer_decode(t, whole, 3, &arena),
                        "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    assert_string_equal(um_tokenizer_decode(t, whole + 1, 1, &arena), "\xef\xbf\xbd");
    assert_string_equal(um_tokenizer_decode(t, none, 8, &arena), "");
    assert_string_equal(um_tokenizer_decode(t, whole, 0, &arena), "");
    /* blank, newline, tab, U+001F | hi | blank, U+00A0, U+2028, blank */
    assert_string_equal(um_tokenizer_decode(t, spaces, 13, &arena), "hi");
    um_tokenizer_close(t);
}

/* Bytes that are not UTF-8 are not an error: they are encoded as U+FFFD. */
static void test_encode_bad_bytes(void **state)
{
    (void)state;
    um_tokenizer *t = open_model("s4");
    int32_t *bad = NULL, *good = NULL;
    int n_bad = 0, n_good = 0;
    um_err err = {0};
    assert_int_equal(um_tokenizer_encode(t,
                                         "a\xff"
                                         "b",
                                         3, &bad, &n_bad, &arena, &err),
                     UM_OK);
    assert_int_equal(um_tokenizer_encode(t,
                                         "a\xef\xbf\xbd"
                                         "b",
                                         5, &good, &n_good, &arena, &err),
                     UM_OK);
    ids_equal("a byte FF", bad, n_bad, good, n_good);
    um_tokenizer_close(t);
}

/* A special piece is found at the very end and directly after another; text that only resembles one stays text. */
static void test_specials(void **state)
{
    (void)state;
    um_tokenizer *t = open_model("s4");
    const struct {
        const char *text;
        int n;
        int32_t ids[6];
    } rows[] = {{"<s></s><unk>", 4, {1, 1, 2, 0}},
                {"hi</s>", 5, {1, 365, 373, 369, 2}},
                {"</s>hi", 5, {1, 2, 365, 373, 369}}};
    for (size_t i = 0; i < 3; i++) {
        int32_t *ids = NULL;
        int n = 0;
        assert_int_equal(
            um_tokenizer_encode(t, rows[i].text, strlen(rows[i].text), &ids, &n, &arena, NULL),
            UM_OK);
        ids_equal(rows[i].text, ids, n, rows[i].ids, rows[i].n);
    }
    static const char *const plain[] = {"</s", "<S>", "< s>", "</s >", "<unk", "<"};
    for (size_t i = 0; i < 6; i++) {
        int32_t *ids = NULL;
        int n = 0;
        assert_int_equal(um_tokenizer_encode(t, plain[i], strlen(plain[i]), &ids, &n, &arena, NULL),
                         UM_OK);
        for (int k = 1; k < n; k++) assert_true(ids[k] > 2);
    }
    um_tokenizer_close(t);
}

/* Writes tokenizer.model into a folder of its own and opens it. */
static um_status open_bytes(const void *data, size_t n, um_err *err)
{
    char folder[] = "/tmp/unimoe-tokenizer-XXXXXX";
    um_tokenizer *t = NULL;
    if (mkdtemp(folder) == NULL) fail_msg("mkdtemp failed");
    char *path = um_path_join(&arena, folder, "tokenizer.model");
    assert_int_equal(um_file_write(path, data, n, err), UM_OK);
    um_status st = um_tokenizer_open(&t, folder, err);
    um_tokenizer_close(t);
    unlink(path);
    rmdir(folder);
    return st;
}

static void test_no_model(void **state)
{
    (void)state;
    um_err err = {0};
    um_tokenizer *t = NULL;
    assert_int_equal(um_tokenizer_open(&t, "/nowhere", &err), UM_E_MODEL);
    assert_non_null(strstr(err.msg, "/nowhere/tokenizer.model"));
    assert_null(t);
    um_tokenizer_close(NULL);
    const char *const bad[] = {"", "{\"model\": {\"type\": \"BPE\"}}", "\x0a\xff\xff\xff\xff\x7f",
                               "\x00\x00\x00"};
    const size_t size[] = {0, 26, 6, 3};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(open_bytes(bad[i], size[i], &err), UM_E_MODEL);
        assert_non_null(strstr(err.msg, "tokenizer.model"));
    }
}

/* Truncated anywhere, or with a byte changed: an error that names the file or a model that is still consistent, never a crash. */
static void test_damaged_model(void **state)
{
    (void)state;
    uint8_t *data = NULL;
    size_t size = 0;
    int refused = 0;
    um_err err = {0};
    assert_int_equal(um_file_read(&data, &size, golden_path(&arena, "models/s4/tokenizer.model"),
                                  1 << 24, &arena, &err),
                     UM_OK);
    for (size_t cut = 0; cut < size; cut += 1 + cut / 16) {
        um_status st = open_bytes(data, cut, &err);
        assert_true(st == UM_OK || st == UM_E_MODEL);
        if (st != UM_OK) assert_non_null(strstr(err.msg, "tokenizer.model"));
        refused += st != UM_OK;
    }
    assert_true(refused > 10);
    for (size_t at = 0; at < size; at += 1 + at / 8) {
        data[at] ^= 0x55;
        um_status st = open_bytes(data, size, &err);
        assert_true(st == UM_OK || st == UM_E_MODEL);
        data[at] ^= 0x55;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_rows),    cmocka_unit_test(test_golden_answers),
        cmocka_unit_test(test_decode_odd_ids), cmocka_unit_test(test_encode_bad_bytes),
        cmocka_unit_test(test_specials),       cmocka_unit_test(test_no_model),
        cmocka_unit_test(test_damaged_model),
    };
    return cmocka_run_group_tests(tests, arena_setup, arena_teardown);
}

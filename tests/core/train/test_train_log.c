/* The log of a training: records and loads are read back; a run that goes on leaves each step once in every file of its log. */
#include "core/train/log/train_log.h"
#include "tests/support/fixture.h"

#include "core/base/bytes.h"
#include "core/base/file.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmocka.h>

static um_err err;

static void ok(um_status st)
{
    if (st != UM_OK) fail_msg("%s", err.msg);
}

static um_train_record record(uint64_t step)
{
    um_train_record r = {.step = step,
                         .steps = 9,
                         .loss = 1.25,
                         .cross_entropy = 1.0,
                         .norm = INFINITY,
                         .lr = 1e-3,
                         .targets = 17,
                         .media = "image",
                         .skipped = step == 2 ? "the \"norm\" is high, of late" : NULL,
                         .eval_loss = NAN};
    for (int m = 0; m < UM_MODALITIES; m++) r.by_modality[m] = m == UM_IMAGE ? 0.5 : NAN;
    return r;
}

/* --- loads --- */

enum { LAYERS = 3, E = 4 };
static const uint8_t moe[LAYERS] = {1, 0, 1};
static const um_model model = {.layers = LAYERS, .moe_layer = moe, .moe_layers = 2, .experts = E};

/* Layer 0: text 8 8 8 8; layer 2: text 0 6 2 0, image 0 2 6 0. */
static void loads(um_expert_load *out)
{
    uint64_t *rows = um_arena_zero(&arena, um_expert_load_cells(&model) * sizeof *rows);
    uint64_t *second = rows + UM_MODALITIES * E;
    for (int e = 0; e < E; e++) rows[UM_TEXT * E + e] = 8;
    second[UM_TEXT * E + 1] = second[UM_IMAGE * E + 2] = 6;
    second[UM_TEXT * E + 2] = second[UM_IMAGE * E + 1] = 2;
    um_expert_load_of(out, &model, rows, &arena);
}

static void loads_as_figures(void **state)
{
    um_expert_load l;
    (void)state;
    loads(&l);
    assert_int_equal(um_expert_load_cells(&model), 2 * UM_MODALITIES * E);
    assert_int_equal(l.layers, 2);
    assert_int_equal(l.layer[1].layer, 2);
    assert_true(l.layer[0].max_over_mean == 1 && l.layer[1].max_over_mean == 2);
    assert_true(fabs(l.layer[0].entropy - 1) < 1e-12);   /* even */
    assert_true(fabs(l.layer[1].entropy - 0.5) < 1e-12); /* two of four, evenly: log 2 / log 4 */
    assert_int_equal(l.layer[1].idle, 2);
    assert_null(l.layer[0].rows[UM_IMAGE]);
    assert_true(um_expert_load_max_over_mean(&l) == 2);
    assert_true(fabs(um_expert_load_entropy(&l) - 0.75) < 1e-12);
    assert_int_equal(um_expert_load_idle(&l), 2);
    /* a step without rows, and a model of too many experts to count */
    uint64_t *none = um_arena_zero(&arena, um_expert_load_cells(&model) * sizeof *none);
    um_expert_load_of(&l, &model, none, &arena);
    assert_true(isnan(um_expert_load_max_over_mean(&l)) && isnan(um_expert_load_entropy(&l)));
    um_model huge = model;
    huge.experts = UM_LOAD_CELLS / 5;
    assert_int_equal(um_expert_load_cells(&huge), 0);
    huge.experts = 0;
    assert_int_equal(um_expert_load_cells(&huge), 0);
}

static void records_are_read_back(void **state)
{
    um_text t = {0}, line = {0};
    um_json *j = NULL;
    um_train_record r = record(2), back;
    (void)state;
    loads(&r.load);
    um_record_json(&t, &r);
    assert_int_equal(um_json_parse(&j, t.s, t.n, &err), UM_OK);
    assert_true(um_record_read(&back, j));
    assert_int_equal(back.step, 2);
    assert_int_equal(back.targets, 17);
    assert_true(back.loss == 1.25 && back.by_modality[UM_IMAGE] == 0.5 && isnan(back.norm));
    assert_true(isnan(back.by_modality[UM_TEXT]) && isnan(back.eval_loss));
    assert_string_equal(back.skipped, r.skipped);
    um_record_line(&line, &back);
    assert_non_null(strstr(line.s, "step 2/9  loss 1.2500"));
    assert_non_null(strstr(line.s, "skipped: the \"norm\" is high"));
    um_expert_load_read(&back.load, um_json_get(j, "load"), &arena);
    assert_int_equal(back.load.layers, 2);
    assert_int_equal(back.load.experts, E);
    assert_int_equal(back.load.layer[1].rows[UM_IMAGE][2], 6);
    assert_null(back.load.layer[0].rows[UM_IMAGE]);
    assert_true(back.load.layer[1].max_over_mean == 2);
    um_json_free(j);
    /* lists of another length are not taken for the experts' */
    const char *odd = "[{\"layer\":0,\"text\":[1,2],\"image\":[1,2,3]},7]";
    assert_int_equal(um_json_parse(&j, odd, strlen(odd), &err), UM_OK);
    um_expert_load_read(&back.load, j, &arena);
    assert_int_equal(back.load.layers, 2);
    assert_int_equal(back.load.experts, 2);
    assert_null(back.load.layer[0].rows[UM_IMAGE]);
    um_json_free(j);
    um_text_free(&t);
    um_text_free(&line);
}

/* --- the files --- */

static const char *text_of(const char *name)
{
    uint8_t *text = NULL;
    size_t n = 0;
    ok(um_file_read(&text, &n, um_path_join(&arena, dir, name), 1 << 20, &arena, &err));
    return (const char *)text;
}

static int count_of(const char *text, const char *word)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, word)) != NULL; p += strlen(word)) n++;
    return n;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The event files, in the order of their names; returns how many. */
static int event_files(const char *name[8])
{
    DIR *d = opendir(um_path_join(&arena, dir, "tensorboard"));
    int n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL && n < 8;)
        if (e->d_name[0] != '.') name[n++] = um_arena_fmt(&arena, "tensorboard/%s", e->d_name);
    closedir(d);
    qsort(name, (size_t)n, sizeof *name, by_name);
    return n;
}

/* Bytes of the messages in an event file, and how many whole records it has. A message of a step's START is 15 bytes long. */
static int records_of(const char *name, uint64_t first[8])
{
    uint8_t *text = NULL;
    size_t n = 0, at = 0;
    int k = 0;
    ok(um_file_read(&text, &n, um_path_join(&arena, dir, name), 1 << 20, &arena, &err));
    for (; at + 16 <= n; k++) {
        const uint64_t len = um_get_u64(text + at);
        if (len > n - at - 16) break;
        if (k < 8) first[k] = len;
        at += (size_t)len + 16;
    }
    assert_int_equal(at, n);
    return k;
}

static void add(um_train_log *l, uint64_t from, uint64_t to)
{
    for (uint64_t s = from; s <= to; s++) {
        um_train_record r = record(s);
        if (s != 1) loads(&r.load);
        ok(um_train_log_add(l, &r, &err));
    }
}

/* A run that goes on from step 2 makes record 3 again; what a killed run left of a line is no record. */
static void the_log_goes_on_where_the_run_does(void **state)
{
    (void)state;
    um_train_log *l = NULL;
    const char *file[8];
    uint64_t len[8];
    ok(um_train_log_open(&l, dir, 0, &err));
    add(l, 1, 4);
    um_train_log_close(l);
    int fd = open(um_path_join(&arena, dir, "trainer_log.jsonl"), O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, "{\"kind\":\"st", 11), 11);
    close(fd);
    fd = open(um_path_join(&arena, dir, "trainer_log.csv"), O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, "5,", 2), 2);
    close(fd);
    const char *whole = text_of("trainer_log.csv");
    ok(um_train_log_open(&l, dir, 2, &err));
    assert_int_equal(count_of(text_of("trainer_log.jsonl"), "\n"), 2);
    assert_int_equal(count_of(text_of("trainer_log.csv"), "\r\n"), 3);
    add(l, 3, 4);
    um_train_log_close(l);
    const char *lines = text_of("trainer_log.jsonl"), *table = text_of("trainer_log.csv");
    assert_int_equal(count_of(lines, "\n"), 4);
    assert_int_equal(lines[strlen(lines) - 1], '\n');
    assert_int_equal(count_of(lines, "\"step\":3,"), 1);
    assert_int_equal(count_of(lines, "\"load\":[{\"layer\":0,"), 3);
    /* the same table as before, without what was left of a row */
    assert_int_equal(strlen(table), strlen(whole) - 2);
    assert_memory_equal(table, whole, strlen(table));
    assert_int_equal(count_of(table, "\"the \"\"norm\"\" is high, of late\""), 1);
    assert_non_null(strstr(table, "\r\n2,9,0,image,1.25,1,0.001,,0,0,0,0,,0.5,,,,"));
    assert_non_null(strstr(table, ",2,0.75,2,,\r\n"));
    /* two lives: each file begins with a version and with the start of a session */
    assert_int_equal(event_files(file), 2);
    assert_int_equal(records_of(file[0], len), 2 + 4);
    assert_int_equal(records_of(file[1], len), 2 + 2);
    assert_int_equal(len[0], 24);
    assert_int_equal(len[1], 15);
    const char *second =
        text_of(file[1]); /* message 1: wall time 9 bytes, then step 3 and status START */
    assert_memory_equal(second + 24 + 16 + 12 + 9, "\x10\x03\x3a\x02\x08\x01", 6);
}

/* A new run leaves nothing of one that was there. */
static void a_new_run_begins_anew(void **state)
{
    (void)state;
    um_train_log *l = NULL;
    for (int run = 0; run < 2; run++) {
        ok(um_train_log_open(&l, dir, 0, &err));
        add(l, 1, 2);
        um_train_log_close(l);
    }
    assert_int_equal(count_of(text_of("trainer_log.jsonl"), "\n"), 2);
    assert_int_equal(count_of(text_of("trainer_log.csv"), "\r\n"), 3);
}

/* What a full disk has taken of a record is cut off, and a later one follows the last whole one. */
static void a_record_is_written_whole_or_not(void **state)
{
    (void)state;
    um_train_log *l = NULL;
    struct rlimit was, small;
    ok(um_train_log_open(&l, dir, 0, &err));
    add(l, 1, 2);
    const char *before = text_of("trainer_log.jsonl");
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    small = was;
    small.rlim_cur = strlen(before) + 20;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    um_train_record r = record(3);
    um_status st = um_train_log_add(l, &r, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    assert_int_equal(st, UM_E_IO);
    has(&err, "trainer_log.jsonl");
    assert_string_equal(text_of("trainer_log.jsonl"), before);
    add(l, 4, 4);
    um_train_log_close(l);
    assert_int_equal(count_of(text_of("trainer_log.jsonl"), "\n"), 3);
    assert_int_equal(count_of(text_of("trainer_log.csv"), "\r\n"), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(loads_as_figures, arena_setup, arena_teardown),
        cmocka_unit_test_setup_teardown(records_are_read_back, arena_setup, arena_teardown),
        cmocka_unit_test_setup_teardown(the_log_goes_on_where_the_run_does, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(a_new_run_begins_anew, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(a_record_is_written_whole_or_not, folder_setup,
                                        folder_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

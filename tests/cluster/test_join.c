/* Joining: ranks that read other weights than router 0 are named before anything is loaded, also when all shapes agree. */
#include "tests/cluster/cluster.h"

#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/comm/exchange.h"
#include "expert_worker/expert.h"
#include "tests/support/folder.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define MODEL UM_TEST_DATA "/golden/models/s4/"

enum { EXPERT = 1, ENCODER = 3 }; /* ranks of a job with two expert ranks */

/* A copy of the model; change is called with the bytes of its weight file. */
typedef void (*change_fn)(uint8_t *file, size_t n);

static char *model_copy(change_fn change)
{
    const char *same[] = {"config.json", "tokenizer.model", "generation_config.json",
                          "vision_tower", "audio_tower"};
    um_arena arena;
    um_err err = {0};
    uint8_t *file = NULL;
    size_t n = 0;
    char *dir = folder_make();
    um_arena_init(&arena, "test", 1 << 16);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s%s", MODEL, same[i]);
        if (um_file_exists(path)) folder_link(dir, same[i], path);
    }
    assert_int_equal(
        um_file_read(&file, &n, MODEL "model.safetensors", (size_t)1 << 30, &arena, &err), UM_OK);
    change(file, n);
    folder_write(dir, "model.safetensors", file, n);
    um_arena_free(&arena);
    return dir;
}

static size_t data_at(const uint8_t *file) { return 8 + (size_t)um_get_u64(file); }

static void nothing(uint8_t *file, size_t n)
{
    (void)file;
    (void)n;
}

/* Another fine-tune: all values differ, no shape does. */
static void all_values(uint8_t *file, size_t n)
{
    for (size_t i = data_at(file); i < n; i++) file[i] ^= 1;
}

/* A quarter of the file, as when only some layers were trained. */
static void some_values(uint8_t *file, size_t n)
{
    size_t from = data_at(file), bytes = (n - from) / 4;
    for (size_t i = from + bytes; i < from + 2 * bytes; i++) file[i] ^= 1;
}

static void first_value(uint8_t *file, size_t n)
{
    (void)n;
    file[data_at(file)] ^= 1;
}

static void last_value(uint8_t *file, size_t n) { file[n - 1] ^= 1; }

/* Two tensors of the same shape with their names exchanged. */
static void header_only(uint8_t *file, size_t n)
{
    (void)n;
    char *a = strstr((char *)file + 8, "k_proj"), *b = strstr((char *)file + 8, "v_proj");
    assert_true(a != NULL && b != NULL);
    *a = 'v';
    *b = 'k';
}

static um_status run_with(change_fn change, int rank, char *text, size_t size)
{
    cluster c;
    char *dir = model_copy(change);
    cluster_init(&c, MODEL);
    c.cfg.requests = "/dev/null";
    c.cfg.experts = 2;
    c.other_model = dir;
    c.other_rank = rank;
    um_status st = cluster_run(&c);
    snprintf(text, size, "%s", c.err[0].msg);
    if (st != UM_OK) {
        assert_int_equal(c.status[0], UM_E_MODEL);
        assert_false(c.follows[0]);
        assert_true(c.follows[2]);
    }
    cluster_free(&c);
    folder_remove(dir);
    um_free(dir);
    return st;
}

static void other_weights_of_the_same_shapes_are_found(void **state)
{
    (void)state;
    const change_fn changes[] = {all_values, some_values, first_value, last_value, header_only};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        char text[1024];
        assert_int_equal(run_with(changes[i], EXPERT, text, sizeof text), UM_E_MODEL);
        if (strstr(text, "expert/0 (rank 1") == NULL || strstr(text, "model.safetensors") == NULL)
            fail_msg("change %zu: %s", i, text);
        assert_int_equal(run_with(changes[i], ENCODER, text, sizeof text), UM_E_MODEL);
        assert_non_null(strstr(text, "encoder/0 (rank 3"));
    }
}

static void a_copy_elsewhere_is_the_same(void **state)
{
    (void)state;
    char text[1024];
    assert_int_equal(run_with(nothing, EXPERT, text, sizeof text), UM_OK);
}

typedef struct played {
    const um_config *cfg;
    um_comm *comm;
    um_status st;
    um_err err;
} played;

static void *expert_main(void *p)
{
    played *a = p;
    a->st = um_expert_run(a->cfg, a->comm, &a->err);
    um_comm_close(a->comm, a->st);
    return NULL;
}

/* A router 0 whose job config holds this placement, played by the test, and a true expert rank that is told so. */
static void told(Um__Placement *place, const char *words)
{
    const um_role roles[] = {UM_ROLE_ROUTER, UM_ROLE_EXPERT, UM_ROLE_EXPERT};
    um_comm *comm[3];
    um_err err = {0};
    um_link link;
    um_inbound in = {0};
    cluster c;
    played expert;
    pthread_t thread;
    cluster_init(&c, MODEL);
    assert_int_equal(um_comm_inproc_open(comm, roles, 3, &err), UM_OK);
    expert = (played){.cfg = &c.cfg, .comm = comm[1]};
    um_link_open(&link, comm[0]);
    assert_int_equal(um_link_watch(&link, 20000, &err), UM_OK);
    assert_int_equal(pthread_create(&thread, NULL, expert_main, &expert), 0);
    assert_int_equal(um_link_next(&link, &in, 60000000, &err), UM_OK);
    assert_int_equal(in.frame.kind, UM_KIND_HELLO);
    um_link_release(&link, &in);
    Um__RankInfo info = UM__RANK_INFO__INIT, *infos[] = {&info, &info, &info};
    Um__JobConfig job = UM__JOB_CONFIG__INIT;
    job.epoch = 1;
    job.n_ranks = 3;
    job.ranks = infos;
    job.wire = (char *)(uintptr_t) "f32";
    job.codec = (char *)(uintptr_t) "none";
    job.credit_bytes = 1 << 20;
    job.deadline_ms = 20000;
    job.placement = place;
    assert_int_equal(um_link_control(&link, 1, UM_KIND_CONFIG, &job.base, &err), UM_OK);
    pthread_join(thread, NULL);
    assert_int_equal(expert.st, UM_E_CORRUPT);
    if (strstr(expert.err.msg, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", expert.err.msg, words);
    um_link_close(&link);
    for (int r = 0; r < 3; r++)
        if (r != 1) um_comm_close(comm[r], UM_OK);
}

/* Ranks take the placement as told, so a wrong one must not get past them. The model has 4 experts in 3 layers. */
static void a_placement_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    uint32_t owner[] = {0, 1, 0, 1, 1}, count[] = {1, 1, 1, 2};
    Um__ExpertOwners list = UM__EXPERT_OWNERS__INIT, *lists[] = {&list, &list};
    Um__Placement p = UM__PLACEMENT__INIT;
    told(NULL, "places no experts");
    p.experts = 4;
    p.n_layers = 2;
    p.layers = lists;
    told(&p, "4 experts in lists of 2 layers");
    p.n_layers = 1;
    p.experts = 5;
    told(&p, "5 experts in lists of 1 layers");
    p.experts = 4;
    list.owner = owner;
    list.n_owner = 3;
    told(&p, "3 owners are too few");
    list.n_owner = 5;
    told(&p, "5 owners, 4 belong to experts");
    list.count = count;
    list.n_count = 3;
    told(&p, "numbers of owners of 3 experts");
    list.n_count = 4;
    told(&p, "the ranks of expert 3 of layer 0 do not ascend");
    owner[4] = UINT32_MAX;
    told(&p, "expert 3 of layer 0 is on expert rank -1 of 2");
    count[3] = UINT32_MAX;
    told(&p, "5 owners are too few");
    count[3] = 2;
    owner[3] = 0;
    owner[4] = 1;
    count[0] = 0;
    count[1] = 2;
    told(&p, "expert 0 of layer 0 has no owner");
}

/* For every --credit from the smallest to the largest, a chunk that fits it also fits into the largest frame. */
static void every_credit_gives_chunks_that_can_be_sent(void **state)
{
    (void)state;
    um_role roles[] = {UM_ROLE_ROUTER, UM_ROLE_EXPERT};
    um_comm *comm[2];
    um_err err = {0};
    um_link link;
    assert_int_equal(um_comm_inproc_open(comm, roles, 2, &err), UM_OK);
    um_link_open(&link, comm[0]);
    const int D[] = {1, 64, 1024, 4096}, K[] = {1, 2, 8, 64};
    for (int wire = 0; wire < 2; wire++)
        for (uint64_t credit = 65536; credit <= (uint64_t)1 << 40; credit *= 2)
            for (int i = 0; i < 16; i++) {
                int d = D[i / 4], k = K[i % 4], rows = 0;
                link.wire = wire == 0 ? UM_F32 : UM_BF16;
                link.credit = credit;
                size_t size = um_dtype_size(link.wire), row = (size_t)d * size;
                um_status st = um_exchange_max_rows(&link, d, k, &rows, &err);
                if (row * (size_t)k > credit) {
                    assert_int_equal(st, UM_E_USAGE);
                    assert_non_null(strstr(err.msg, "too small for a single token"));
                    continue;
                }
                assert_int_equal(st, UM_OK);
                size_t pairs = (size_t)rows * (size_t)k;
                assert_true(rows >= 1 && pairs * row <= credit);
                assert_true(um_codec_bound(link.wire, pairs * (size_t)d) + UM_FRAME_HEADER <=
                            UM_FRAME_MAX);
                assert_true(um_codec_bound(link.wire, (size_t)rows * (size_t)d) + pairs * 8 +
                                UM_FRAME_HEADER <=
                            UM_FRAME_MAX);
            }
    um_link_close(&link);
    um_comm_close(comm[0], UM_OK);
    um_comm_close(comm[1], UM_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_weights_of_the_same_shapes_are_found),
        cmocka_unit_test(a_copy_elsewhere_is_the_same),
        cmocka_unit_test(a_placement_that_does_not_fit_is_refused),
        cmocka_unit_test(every_credit_gives_chunks_that_can_be_sent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

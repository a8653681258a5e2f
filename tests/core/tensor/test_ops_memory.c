/* The ops that move values: copies, casts, transposes, rows to and from the host, sums over rows. On the CPU's table and on the guarded
 * one, at sizes around the vectors and large enough for several threads, against loops on the host, bit for bit. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/bytes.h"
#include "core/base/rng.h"
#include "tests/support/guarded_ops.h"

#include <string.h>

static const int sizes[][2] = {{1, 1}, {3, 5}, {2, 16}, {17, 33}, {31, 64}, {300, 517}};
enum { SIZES = sizeof sizes / sizeof *sizes };

/* Everything of one case: x [T,D] on both sides, y of T*D sentinels and a gap on the device. */
typedef struct setup {
    um_dev *d;
    um_arena host, device;
    int T, D;
    size_t n;
    float *x, *want, *got;
    const float *dev_x;
    float *dev_y;
} setup;

enum { GAP = 3 };
static const float SENTINEL = -12345.5f;

static void setup_make(setup *s, um_dev *d, const int size[2])
{
    *s = (setup){.d = d, .T = size[0], .D = size[1]};
    s->n = (size_t)s->T * (size_t)s->D;
    um_arena_init(&s->host, "host", 1 << 16);
    um_dev_arena(&s->device, d, "device", 1 << 16);
    s->x = um_arena_f32(&s->host, 1, s->n);
    s->want = um_arena_f32(&s->host, 1, s->n + GAP);
    s->got = um_arena_f32(&s->host, 1, s->n + GAP);
    um_rng rng = um_rng_seed(4, s->n);
    um_rng_normal_f32(&rng, s->x, s->n, 2.0f);
    for (size_t i = 0; i < s->n + GAP; i++) s->want[i] = SENTINEL;
    s->dev_x = um_dev_put_f32(d, &s->device, s->x, s->n);
    s->dev_y = um_dev_put_f32(d, &s->device, s->want, s->n + GAP);
}

static void compare(setup *s, const char *op)
{
    s->d->ops->get(s->d, s->got, s->dev_y, (s->n + GAP) * sizeof *s->got);
    if (memcmp(s->got, s->want, (s->n + GAP) * sizeof *s->got) != 0)
        fail_msg("%s of %d x %d, %s, %d threads: other values", op, s->T, s->D, s->d->ops->name,
                 s->d->threads);
    for (size_t i = 0; i < s->n + GAP; i++) s->want[i] = SENTINEL;
    s->d->ops->put(s->d, s->dev_y, s->want, (s->n + GAP) * sizeof *s->want);
}

static void copies(setup *s)
{
    const um_ops *ops = s->d->ops;
    memcpy(s->want, s->x, s->n * sizeof *s->x);
    ops->copy(s->d, s->dev_y, s->dev_x, s->n * sizeof *s->x);
    compare(s, "copy");
    for (size_t i = 0; i < s->n; i++) s->want[i] = 0.25f;
    ops->fill(s->d, s->dev_y, 0.25f, s->n);
    compare(s, "fill");
    const int half = (s->D + 1) / 2; /* the left columns, rows apart */
    for (int t = 0; t < s->T; t++)
        memcpy(s->want + t * s->D, s->x + t * s->D, (size_t)half * sizeof *s->x);
    ops->copy_2d(s->d, s->dev_y, s->D, s->dev_x, s->D, s->T, half);
    compare(s, "copy_2d");
    for (int t = 0; t < s->T; t++) memcpy(s->want + t * s->D, s->x, (size_t)s->D * sizeof *s->x);
    ops->copy_2d(s->d, s->dev_y, s->D, s->dev_x, 0, s->T, s->D);
    compare(s, "copy_2d of one row");
    for (int t = 0; t < s->T; t++)
        for (int c = 0; c < s->D; c++) s->want[c * s->T + t] = s->x[t * s->D + c];
    ops->transpose(s->d, s->dev_y, s->dev_x, s->T, s->D);
    compare(s, "transpose");
}

static void arithmetic(setup *s)
{
    const um_ops *ops = s->d->ops;
    ops->copy(s->d, s->dev_y, s->dev_x, s->n * sizeof *s->x);
    for (size_t i = 0; i < s->n; i++) s->want[i] = s->x[i] / 3.0f;
    ops->divide(s->d, s->dev_y, 3.0f, s->n);
    compare(s, "divide");
    for (int t = 0; t < s->T; t++) /* added to what is there, rows in order */
        for (int c = 0; c < s->D; c++) s->want[c] += s->x[t * s->D + c];
    ops->sum_rows(s->d, s->dev_y, s->dev_x, s->T, s->D);
    compare(s, "sum_rows");
}

static void casts(setup *s)
{
    const um_ops *ops = s->d->ops;
    for (um_dtype type = UM_F32; type <= UM_F16; type++) {
        void *small = um_arena_alloc(&s->device, s->n * sizeof(float)),
             *host = um_arena_alloc(&s->host, s->n * sizeof(float)),
             *back = um_arena_alloc(&s->host, s->n * sizeof(float));
        const size_t bytes = s->n * um_dtype_size(type);
        um_from_f32(host, type, s->x, s->n);
        ops->cast(s->d, small, type, s->dev_x, UM_F32, s->n);
        ops->get(s->d, back, small, bytes);
        assert_memory_equal(back, host, bytes);
        um_to_f32(s->want, host, type, s->n);
        ops->cast(s->d, s->dev_y, UM_F32, small, type, s->n);
        compare(s, "cast");
        um_to_f32(s->want, host, type, s->n);
        ops->rows_in(s->d, s->dev_y, host, type, s->n);
        compare(s, "rows_in");
        ops->rows_out(s->d, back, type, s->dev_x, NULL, s->T, s->D);
        assert_memory_equal(back, host, bytes);
        /* between two small types, by way of f32 */
        const um_dtype other = type == UM_BF16 ? UM_F16 : UM_BF16;
        void *second = um_arena_alloc(&s->device, s->n * sizeof(float));
        um_to_f32(s->got, host, type, s->n);
        um_from_f32(host, other, s->got, s->n);
        ops->cast(s->d, second, other, small, type, s->n);
        ops->get(s->d, back, second, s->n * um_dtype_size(other));
        assert_memory_equal(back, host, s->n * um_dtype_size(other));
    }
}

/* A mixed order of the rows: scatter undoes gather, and rows_out takes the same rows. */
static void rows(setup *s)
{
    const um_ops *ops = s->d->ops;
    const size_t width = (size_t)s->D * sizeof *s->x;
    int32_t *index = um_arena_i32(&s->host, (size_t)s->T);
    for (int t = 0; t < s->T; t++) index[t] = s->T - 1 - t;
    const int32_t *dev_index = um_dev_put_i32(s->d, &s->device, index, (size_t)s->T);
    for (int t = 0; t < s->T; t++) memcpy(s->want + index[t] * s->D, s->x + t * s->D, width);
    ops->scatter(s->d, s->dev_y, s->dev_x, dev_index, s->T, s->D);
    compare(s, "scatter");
    for (int t = 0; t < s->T; t++) memcpy(s->want + t * s->D, s->x + index[t] * s->D, width);
    ops->gather(s->d, s->dev_y, s->dev_x, dev_index, s->T, s->D);
    compare(s, "gather");
    for (int t = 0; t < s->T; t++) memcpy(s->want + t * s->D, s->x + index[t] * s->D, width);
    ops->rows_out(s->d, s->got, UM_F32, s->dev_x, dev_index, s->T, s->D);
    assert_memory_equal(s->got, s->want, s->n * sizeof *s->got);
}

static void on_every_device(void (*check)(setup *s))
{
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++)
        for (int threads = 1; threads <= 3; threads++)
            for (int guarded = 0; guarded < 2; guarded++) {
                um_dev d;
                um_err err = {0};
                if ((guarded ? um_dev_open_guarded : um_dev_open_cpu)(&d, isa, threads, &err) !=
                    UM_OK)
                    continue;
                for (int i = 0; i < SIZES; i++) {
                    setup s;
                    setup_make(&s, &d, sizes[i]);
                    check(&s);
                    assert_int_equal(um_dev_sync(&d, &err), UM_OK);
                    um_arena_free(&s.device);
                    um_arena_free(&s.host);
                }
                if (guarded) um_dev_close_guarded(&d);
            }
}

static void values_are_copied(void **state)
{
    (void)state;
    on_every_device(copies);
}
static void values_are_divided_and_summed(void **state)
{
    (void)state;
    on_every_device(arithmetic);
}
static void types_change(void **state)
{
    (void)state;
    on_every_device(casts);
}
static void rows_move(void **state)
{
    (void)state;
    on_every_device(rows);
}

/* After a failure ops do nothing until it has been reported, once. */
static void a_failure_stays_until_it_is_reported(void **state)
{
    (void)state;
    um_dev d;
    um_err err = {0};
    float y[40] = {0}, host = 1.0f;
    assert_int_equal(um_dev_open_cpu(&d, UM_ISA_AUTO, 2, &err), UM_OK);
    um_dev_fail(&d, UM_E_MEMORY, "no room for %d rows", 3);
    um_dev_fail(&d, UM_E_IO, "a later one");
    d.ops->fill(&d, y, 1.0f, 40);
    d.ops->put(&d, y, &host, sizeof host);
    d.ops->add(&d, y, y, 40);
    assert_true(y[0] == 0.0f && y[39] == 0.0f);
    assert_int_equal(um_dev_sync(&d, &err), UM_E_MEMORY);
    assert_string_equal(err.msg, "no room for 3 rows");
    assert_int_equal(um_dev_sync(&d, &err), UM_OK);
    d.ops->fill(&d, y, 1.0f, 40);
    assert_true(y[39] == 1.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_copied),
        cmocka_unit_test(values_are_divided_and_summed),
        cmocka_unit_test(types_change),
        cmocka_unit_test(rows_move),
        cmocka_unit_test(a_failure_stays_until_it_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* See block_fixture.h. */
#include "tests/core/nn/block_fixture.h"

#include "tests/support/guarded_ops.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

bool guarded;
um_dev dev;
um_arena device, scratch;
um_lora lora = {.scratch = &scratch};

int block_setup(void **state)
{
    um_err err = {0};
    folder_setup(state);
    const um_status st = guarded ? um_dev_open_guarded(&dev, UM_ISA_AUTO, 2, &err)
                                 : um_dev_open_cpu(&dev, UM_ISA_AUTO, 2, &err);
    um_dev_arena(&device, &dev, "device", 1 << 16);
    um_dev_arena(&scratch, &dev, "scratch", 1 << 16);
    return st == UM_OK ? 0 : 1;
}

int block_teardown(void **state)
{
    um_arena_free(&scratch);
    um_arena_free(&device);
    if (guarded) um_dev_close_guarded(&dev);
    return folder_teardown(state);
}

void ok(um_status st, const um_err *err)
{
    if (st != UM_OK) fail_msg("%s", err->msg);
}

float *zeroed(size_t n)
{
    float *x = um_arena_f32(&device, 1, n);
    dev.ops->fill(&dev, x, 0.0f, n);
    return x;
}

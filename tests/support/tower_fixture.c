/* See tower_fixture.h. */
#include "tests/support/tower_fixture.h"

#include "tests/support/guarded_ops.h"
#include "tests/support/test_support.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

void tower_open(um_arena *host, um_arena *device, um_dev *dev, um_checkpoint *ck, const char *model,
                um_isa isa, int threads, bool guarded)
{
    um_err err = {0};
    um_arena_init(host, "test", 1 << 20);
    um_status st = guarded ? um_dev_open_guarded(dev, isa, threads, &err)
                           : um_dev_open_cpu(dev, isa, threads, &err);
    if (st == UM_OK) st = um_checkpoint_open(ck, golden_path(host, "models/%s", model), NULL, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    um_dev_arena(device, dev, "device", 1 << 20);
}

void tower_close(um_arena *host, um_arena *device, um_dev *dev, um_checkpoint *ck, bool guarded)
{
    um_checkpoint_close(ck);
    um_arena_free(device);
    um_arena_free(host);
    if (guarded) um_dev_close_guarded(dev);
}

/* See made_checkpoint.h. */
#include "tests/core/train/made_checkpoint.h"

#include "core/train/saved.h"
#include "tests/support/fixture.h"

#include "core/base/file.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

static void made(um_status st, const um_err *err)
{
    if (st != UM_OK) fail_msg("%s", err->msg);
}

const char *made_checkpoint(uint64_t step, float value)
{
    um_err err = {0};
    const char *folder = NULL;
    const um_tensor t = {.name = "master.x",
                         .dtype = UM_F32,
                         .rank = 1,
                         .shape = {1},
                         .data = (const uint8_t *)&value,
                         .bytes = sizeof value};
    um_saved_file file = {.name = "router.safetensors"};
    made(um_saved_begin(&folder, dir, step, &arena, &err), &err);
    made(um_tensors_write(um_path_join(&arena, folder, file.name), &t, 1, NULL, &err), &err);
    made(um_saved_measure(&file, folder, &err), &err);
    made(um_saved_commit(&folder, dir, step, &file, 1, "{\"step\":1}", &arena, &err), &err);
    return folder;
}

/* config.json: what is accepted has a finite list of tensors with positive sizes. The walk is cut short, since sizes within the
 * limits may still mean millions of tensors. */
#include "core/model/model.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_file.h"

static um_status look(void *ctx, const um_spec *spec, um_err *err)
{
    int *n = ctx;
    for (int i = 0; i < spec->rank; i++) UM_ASSERT(spec->shape[i] > 0);
    return ++*n < 2000 ? UM_OK : UM_FAIL(err, UM_E_STOPPED, "seen enough");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    um_arena arena;
    um_model m;
    um_err err = {0};
    int n = 0;
    um_arena_init(&arena, "fuzz", 4096);
    fuzz_file("config.json", data, size);
    if (um_model_read(&m, fuzz_folder(), NULL, &arena, &err) == UM_OK)
        (void)um_model_for_each_tensor(&m, look, &n, &err);
    else
        UM_ASSERT(err.msg[0] != 0);
    um_arena_free(&arena);
    return 0;
}

/* Pickles: an accepted one is a tree of plain values; a refusal says why. */
#include "launch/torch/pickle.h"
#include "tests/fuzz/fuzz.h"

/* Values may be shared and may contain themselves, so the walk is bounded. */
static size_t look(const um_value *v, int depth)
{
    size_t seen = 1;
    if (v->kind == UM_VALUE_TENSOR) UM_ASSERT(v->storage != NULL && v->rank <= UM_PICKLE_DIMS);
    if (v->kind == UM_VALUE_TEXT) UM_ASSERT(v->text != NULL);
    if (depth == 4) return seen;
    size_t items = v->kind == UM_VALUE_DICT ? 2 * v->n : v->kind == UM_VALUE_LIST ? v->n : 0;
    for (size_t i = 0; i < items && i < 64; i++) seen += look(v->item[i], depth + 1);
    return seen;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    um_arena arena;
    um_err err = {0};
    const um_value *root = NULL;
    um_arena_init(&arena, "fuzz", 1 << 12);
    um_status st = um_pickle_read(&root, data, size, &arena, &err);
    size_t seen = st == UM_OK ? look(root, 0) : 0;
    UM_ASSERT(st == UM_OK ? seen > 0 : err.msg[0] != 0 && root == NULL);
    (void)seen; /* the assert is gone in release builds */
    um_arena_free(&arena);
    return 0;
}

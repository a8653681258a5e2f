/* Images of all formats: an accepted image has all its pixels and is within the limit, turned or not. */
#include "encoder_worker/sandbox/images/image_file.h"
#include "tests/fuzz/fuzz.h"

enum { PIXELS_MAX = 1 << 18 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    um_arena arena;
    um_image p;
    um_err err = {0};
    um_arena_init(&arena, "fuzz", 4096);
    if (um_image_decode(&p, "fuzz", data, size, PIXELS_MAX, &arena, &err) == UM_OK) {
        volatile unsigned sum = 0;
        int64_t pixels = (int64_t)p.w * p.h;
        um_status turned = um_image_orient(&p, data, size, &arena, &err);
        UM_CHECK(turned == UM_OK && (int64_t)p.w * p.h == pixels);
        UM_CHECK(p.w > 0 && p.h > 0 && pixels <= PIXELS_MAX);
        for (size_t i = 0; i < (size_t)p.w * (size_t)p.h * 3; i++) sum += p.rgb[i];
        (void)sum;
    } else {
        UM_CHECK(err.msg[0] != 0);
    }
    um_arena_free(&arena);
    return 0;
}

/* Sound and videos: the first byte says which is wanted. An accepted wave is finite and within the limit, accepted frames have all
 * their pixels and are not more than asked for. Without the sandbox: a crash is to be seen. */
#include "encoder_worker/sandbox/video_read.h"
#include "encoder_worker/sandbox/wave_read.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>

enum { PIXELS_MAX = 1 << 16, SECONDS_MAX = 5, FRAMES = 4 };

/* libsndfile loses the headers of a Vorbis stream that do not fit together. Its process is given up after some seconds of work. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:vorbis_info_init\n"; }

static um_status take(void *ctx, const um_image *p, um_err *err)
{
    volatile unsigned sum = 0;
    int *n = ctx;
    (void)err;
    ++*n;
    UM_ASSERT(*n <= FRAMES);
    UM_ASSERT(p->w > 0 && p->h > 0 && (int64_t)p->w * p->h <= PIXELS_MAX);
    for (size_t i = 0; i < (size_t)p->w * (size_t)p->h * 3; i++) sum += p->rgb[i];
    (void)sum;
    return UM_OK;
}

static um_status wave(const uint8_t *data, size_t size, um_arena *arena, um_err *err)
{
    um_wave w = {0};
    UM_TRY(um_wave_read(&w, data, size, SECONDS_MAX, arena, err));
    UM_ASSERT(w.n > 0 && w.n <= (int64_t)SECONDS_MAX * UM_WAVE_RATE);
    for (int64_t i = 0; i < w.n; i++) UM_ASSERT(isfinite(w.samples[i]));
    return UM_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    um_arena arena;
    um_err err = {0};
    int n = 0;
    const um_video_limits limits = {.pixels = PIXELS_MAX, .seconds = SECONDS_MAX};
    if (size < 1) return 0;
    um_arena_init(&arena, "fuzz", 4096);
    um_status st = data[0] % 2 == 0
                       ? wave(data + 1, size - 1, &arena, &err)
                       : um_video_read(data + 1, size - 1, FRAMES, &limits, take, &n, &arena, &err);
    UM_ASSERT((st == UM_OK) == (err.msg[0] == 0));
    if (st == UM_OK && data[0] % 2 == 1) UM_ASSERT(n > 0);
    um_arena_free(&arena);
    return 0;
}

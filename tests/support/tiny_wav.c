/* See tiny_wav.h. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/tiny_wav.h"

#include "core/base/bytes.h"
#include "core/base/file.h"

#include <string.h>

um_wave tiny_wav(const char *name, um_arena *arena)
{
    uint8_t *b = NULL;
    size_t n = 0;
    um_err err = {0};
    const char *path = um_arena_fmt(arena, "%s/golden/media/%s", UM_TEST_DATA, name);
    if (um_file_read(&b, &n, path, 1 << 26, arena, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_true(n > 44 && memcmp(b, "RIFF", 4) == 0 && memcmp(b + 8, "WAVEfmt ", 8) == 0);
    assert_true(um_get_u16(b + 20) == 1 && um_get_u16(b + 22) == 1 && um_get_u16(b + 34) == 16);
    assert_int_equal(um_get_u32(b + 24), UM_WAVE_RATE);
    size_t at = 12;
    while (at + 8 <= n && memcmp(b + at, "data", 4) != 0) at += 8 + (size_t)um_get_u32(b + at + 4);
    assert_true(at + 8 <= n && at + 8 + um_get_u32(b + at + 4) <= n);
    um_wave w = {.n = um_get_u32(b + at + 4) / 2};
    w.samples = um_arena_f32(arena, 1, (size_t)w.n);
    for (int64_t i = 0; i < w.n; i++) {
        int v = um_get_u16(b + at + 8 + 2 * i);
        w.samples[i] = (float)(v < 32768 ? v : v - 65536) / 32768.0f;
    }
    return w;
}

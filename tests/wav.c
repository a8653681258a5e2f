/* See wav.h. RIFF: "RIFF" size "WAVE", then chunks of an id, a size and as many bytes, padded to an even number. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/wav.h"

#include "core/base/bytes.h"
#include "core/base/file.h"

#include <string.h>

enum { HEADER = 12, CHUNK = 8, FORMAT = 16, MOST = 1 << 24 };

/* The data of chunk id, NULL when there is none. */
static const uint8_t *chunk(const uint8_t *bytes, size_t n, const char *id, size_t *size)
{
    for (size_t at = HEADER; at + CHUNK <= n; at += CHUNK + *size + *size % 2) {
        *size = um_get_u32(bytes + at + 4);
        if (*size > n - at - CHUNK) return NULL;
        if (memcmp(bytes + at, id, 4) == 0) return bytes + at + CHUNK;
    }
    return NULL;
}

um_wave wav_read(const char *path, um_arena *arena)
{
    um_err err = {0};
    uint8_t *bytes = NULL;
    size_t n = 0, format_bytes = 0, data_bytes = 0;
    if (um_file_read(&bytes, &n, path, MOST, arena, &err) != UM_OK) fail_msg("%s", err.msg);
    if (n < HEADER || memcmp(bytes, "RIFF", 4) != 0 || memcmp(bytes + 8, "WAVE", 4) != 0)
        fail_msg("%s: no WAV file", path);
    const uint8_t *format = chunk(bytes, n, "fmt ", &format_bytes),
                  *data = chunk(bytes, n, "data", &data_bytes);
    if (format == NULL || format_bytes < FORMAT || data == NULL)
        fail_msg("%s: no format or no data", path);
    if (um_get_u16(format) != 1 || um_get_u16(format + 2) != 1 || um_get_u16(format + 14) != 16 ||
        um_get_u32(format + 4) != UM_WAVE_RATE)
        fail_msg("%s: not 16-bit samples, one channel, 16 kHz", path);
    um_wave w = {.samples = um_arena_f32(arena, 1, data_bytes / 2), .n = (int64_t)(data_bytes / 2)};
    for (size_t i = 0; i < data_bytes / 2; i++)
        w.samples[i] = (float)(int16_t)um_get_u16(data + 2 * i) / 32768.0f;
    return w;
}

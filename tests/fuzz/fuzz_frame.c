/* Frames. The first byte says whether the checksums are made right first, so that mutations get past them. What is accepted must
 * lie inside the buffer and give the same header when it is written again. */
#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "proto/frame.h"
#include "tests/fuzz/fuzz.h"

static void seal(uint8_t *buf, size_t size)
{
    if (size < UM_FRAME_HEADER) return;
    um_put_u32(buf, 0x31584d55); /* "UMX1" */
    um_put_u32(buf + 44, (uint32_t)(size - UM_FRAME_HEADER));
    um_put_u64(buf + 48, um_xxh3(buf + UM_FRAME_HEADER, size - UM_FRAME_HEADER));
    um_put_u32(buf + 60, um_crc32c(buf, 60));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    size_t n = size - 1;
    uint8_t *buf = um_zalloc(n), *again = um_zalloc(n + UM_FRAME_HEADER);
    memcpy(buf, data + 1, n);
    if (data[0] & 1) seal(buf, n);
    um_frame f;
    um_err err = {0};
    if (um_frame_get(&f, buf, n, &err) == UM_OK) {
        UM_ASSERT(f.payload == buf + UM_FRAME_HEADER && f.payload_bytes <= n - UM_FRAME_HEADER);
        UM_ASSERT(f.meta_bytes <= f.payload_bytes);
        memcpy(again + UM_FRAME_HEADER, f.payload, f.payload_bytes);
        um_frame_put(again, &f);
        UM_ASSERT(memcmp(again, buf, UM_FRAME_HEADER) == 0);
    } else {
        UM_ASSERT(err.msg[0] != 0);
    }
    um_free(buf);
    um_free(again);
    return 0;
}

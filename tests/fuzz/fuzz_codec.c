/* Codecs: {codec, dtype, u16 values, encoded bytes}. What decodes must survive a second encoding and decoding. */
#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "proto/codec.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4) return 0;
    um_codec_id id = (um_codec_id)(data[0] % UM_CODECS);
    um_dtype dtype = data[1] & 1 ? UM_F32 : UM_BF16;
    size_t n = um_get_u16(data + 2), bytes = n * (dtype == UM_F32 ? 4 : 2);
    um_codec *c;
    um_err err = {0};
    if (um_codec_open(&c, id, 0, &err) != UM_OK) return 0;
    uint8_t *values = um_zalloc(bytes), *again = um_zalloc(bytes),
            *coded = um_zalloc(um_codec_bound(dtype, n));
    if (um_codec_decode(c, id, values, dtype, n, data + 4, size - 4, &err) == UM_OK) {
        size_t used = um_codec_encode(c, coded, values, dtype, n);
        UM_ASSERT(used <= um_codec_bound(dtype, n));
        um_status st = um_codec_decode(c, id, again, dtype, n, coded, used, &err);
        UM_ASSERT(st == UM_OK && memcmp(values, again, bytes) == 0);
        (void)st;
    } else {
        UM_ASSERT(err.msg[0] != 0);
    }
    um_codec_close(c);
    um_free(values);
    um_free(again);
    um_free(coded);
    return 0;
}

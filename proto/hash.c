/* The two checksums of a frame: CRC-32C for the header, XXH3-64 for the payload. The door to xxHash, which is compiled in from its
 * header so that programs do not depend on the library. */
#include "proto/frame.h"

#include "core/base/bytes.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Reflected polynomial 0x82F63B78 (Castagnoli), four bits at a time: entry i is the remainder of the nibble i. */
static const uint32_t crc_nibble[16] = {
    0x00000000, 0x105EC76F, 0x20BD8EDE, 0x30E349B1, 0x417B1DBC, 0x5125DAD3, 0x61C69362, 0x7198540D,
    0x82F63B78, 0x92A8FC17, 0xA24BB5A6, 0xB21572C9, 0xC38D26C4, 0xD3D3E1AB, 0xE330A81A, 0xF36E6F75,
};

uint32_t um_crc32c_plain(const uint8_t *p, size_t n)
{
    uint32_t crc = 0xFFFFFFFF;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        crc = crc >> 4 ^ crc_nibble[crc & 15];
        crc = crc >> 4 ^ crc_nibble[crc & 15];
    }
    return ~crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(const uint8_t *p, size_t n)
{
    uint64_t crc = 0xFFFFFFFF;
    for (; n >= 8; p += 8, n -= 8) crc = _mm_crc32_u64(crc, um_get_u64(p));
    for (; n > 0; p++, n--) crc = _mm_crc32_u8((uint32_t)crc, *p);
    return ~(uint32_t)crc;
}
#endif

uint32_t um_crc32c(const uint8_t *p, size_t n)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) return crc32c_sse42(p, n);
#endif
    return um_crc32c_plain(p, n);
}

uint64_t um_xxh3(const void *p, size_t n) { return XXH3_64bits(p, n); }

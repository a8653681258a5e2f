/* See rng.h. */
#include "core/base/rng.h"

static uint64_t splitmix(uint64_t *x)
{
    uint64_t z = (*x += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

um_rng um_rng_seed(uint64_t seed, uint64_t stream)
{
    um_rng r;
    uint64_t x = seed, y = stream + 0x632BE59BD9B4E019u;
    x ^= splitmix(&y);
    for (int i = 0; i < 4; i++) r.s[i] = splitmix(&x);
    return r;
}

uint64_t um_rng_stream(const char *name)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (const char *c = name; *c != '\0'; c++) h = (h ^ (uint8_t)*c) * 0x100000001B3u;
    return h;
}

static uint64_t rotl(uint64_t x, int k) { return x << k | x >> (64 - k); }

uint64_t um_rng_u64(um_rng *r)
{
    uint64_t *s = r->s, result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

double um_rng_uniform(um_rng *r) { return (double)(um_rng_u64(r) >> 11) * 0x1p-53; }

double um_rng_open(um_rng *r) { return ((double)(um_rng_u64(r) >> 12) + 0.5) * 0x1p-52; }

uint64_t um_rng_below(um_rng *r, uint64_t n)
{
    uint64_t limit = UINT64_MAX - UINT64_MAX % n, x;
    do x = um_rng_u64(r);
    while (x >= limit);
    return x % n;
}

void um_rng_normal_f32(um_rng *r, float *out, uint64_t n, float std)
{
    for (uint64_t i = 0; i < n; i++) {
        int64_t sum = 0;
        for (int k = 0; k < 3; k++) {
            uint64_t u = um_rng_u64(r);
            sum += (int64_t)(u & 0xFFFF) + (int64_t)(u >> 16 & 0xFFFF) +
                   (int64_t)(u >> 32 & 0xFFFF) + (int64_t)(u >> 48);
        }
        /* twelve uniforms on 0..65535: mean 12 * 65535/2, variance 12 * (65536^2 - 1)/12 */
        out[i] = (float)((double)(sum - 6 * 65535) / 65536.0) * std;
    }
}

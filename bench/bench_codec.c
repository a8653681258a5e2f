/* Size and speed of the codecs of token batches, one core, buffers that stay warm.
 *
 * Data: rows of Gaussian values, every row with its own scale (as hidden states of different tokens have), or a file of raw
 * values. Each line names the limit that any code of single exponents has: sign and mantissa as they are, exponents at their
 * entropy. Speeds count the raw bytes, best of the repetitions. Every case is decoded and compared before it is timed. */
#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/rng.h"
#include "proto/codec.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { COLS = 1024, MOST_ROWS = 1024 };

static const char usage[] =
    "usage: bench_codec [--seconds S] [--json] [--input FILE TYPE] [--dump FILE TYPE]\n"
    "  --seconds S        time for each line, default 0.2; 0 runs each once\n"
    "  --json             a JSON array instead of tab-separated values\n"
    "  --input FILE TYPE  measure the values in FILE, TYPE f32 or bf16, instead of generated ones\n"
    "  --dump FILE TYPE   write the generated values to FILE and end, to try other programs on "
    "them: zstd -b3 FILE\n";

typedef struct options {
    double seconds;
    bool json;
    const char *input, *dump;
    um_dtype dtype;
} options;

typedef struct result {
    const char *codec;
    um_dtype dtype;
    int level;
    size_t n, raw, wire;
    double limit, encode, decode; /* ratio, bytes/s, bytes/s */
} result;

static size_t size_of(um_dtype t) { return t == UM_F32 ? 4 : 2; }
static const char *name_of(um_dtype t) { return t == UM_F32 ? "f32" : "bf16"; }

/* Scales from 1/4 to 4, even on a logarithmic axis. */
static void make_values(uint8_t *out, um_dtype t, size_t rows)
{
    um_rng r = um_rng_seed(20240521, 0);
    float row[COLS];
    for (size_t i = 0; i < rows; i++) {
        um_rng_normal_f32(&r, row, COLS, (float)exp2(4 * um_rng_uniform(&r) - 2));
        for (size_t k = 0; k < COLS; k++) {
            uint32_t u = um_f32_bits(row[k]);
            if (t == UM_F32)
                um_put_u32(out + 4 * (i * COLS + k), u);
            else
                um_put_u16(out + 2 * (i * COLS + k),
                           (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16));
        }
    }
}

static double ratio_limit(const uint8_t *v, um_dtype t, size_t n)
{
    size_t count[256] = {0}, size = size_of(t);
    for (size_t i = 0; i < n; i++) {
        const uint8_t *top = v + size * i + size - 2;
        count[(top[1] << 1 | top[0] >> 7) & 0xFF]++;
    }
    double bits = 0;
    for (int i = 0; i < 256; i++) {
        if (count[i] > 0) bits += (double)count[i] * log2((double)n / (double)count[i]);
    }
    return (double)(8 * size * n) / ((double)(8 * (size - 1) * n) + bits);
}

static um_status measure(result *r, const uint8_t *v, um_codec *c, double seconds, um_err *err)
{
    uint8_t *buf = um_alloc_aligned(um_codec_bound(r->dtype, r->n)),
            *back = um_alloc_aligned(r->raw);
    um_codec_id id = um_codec_id_of(c);
    int64_t best_in = INT64_MAX, best_out = INT64_MAX, end = um_now_ns() + (int64_t)(seconds * 1e9);
    um_status st;
    do {
        int64_t t0 = um_now_ns();
        r->wire = um_codec_encode(c, buf, v, r->dtype, r->n);
        int64_t t1 = um_now_ns();
        st = um_codec_decode(c, id, back, r->dtype, r->n, buf, r->wire, err);
        int64_t t2 = um_now_ns();
        if (t1 - t0 < best_in) best_in = t1 - t0;
        if (t2 - t1 < best_out) best_out = t2 - t1;
    } while (st == UM_OK && um_now_ns() < end);
    if (st == UM_OK && memcmp(v, back, r->raw) != 0) {
        st = UM_FAIL(err, UM_E_CORRUPT, "codec %s: decoded values differ", r->codec);
    }
    r->encode = (double)r->raw / ((double)(best_in > 0 ? best_in : 1) * 1e-9);
    r->decode = (double)r->raw / ((double)(best_out > 0 ? best_out : 1) * 1e-9);
    um_free(buf);
    um_free(back);
    return st;
}

static void print_result(const result *r, bool json, bool first)
{
    const char *form =
        json ? "%s{\"codec\": \"%s\", \"level\": %d, \"dtype\": \"%s\", \"values\": %zu, "
               "\"raw_bytes\": %zu, "
               "\"wire_bytes\": %zu, \"ratio\": %.4f, \"limit\": %.4f, \"encode_gbps\": %.3f, "
               "\"decode_gbps\": %.3f}"
             : "%s%s\t%d\t%s\t%zu\t%zu\t%zu\t%.4f\t%.4f\t%.3f\t%.3f\n";
    printf(form,
           !json   ? ""
           : first ? "[\n "
                   : ",\n ",
           r->codec, r->level, name_of(r->dtype), r->n, r->raw, r->wire,
           (double)r->raw / (double)r->wire, r->limit, r->encode * 1e-9, r->decode * 1e-9);
}

/* All codecs and some levels on the same n values. */
static um_status run_values(const uint8_t *v, um_dtype t, size_t n, const options *o, bool *first,
                            um_err *err)
{
    static const struct {
        um_codec_id id;
        int level;
    } cases[] = {{UM_CODEC_NONE, 0},
                 {UM_CODEC_ZSTD, 0},
                 {UM_CODEC_ZSTD, -100},
                 {UM_CODEC_ZSTD, 1},
                 {UM_CODEC_ZSTD, 3}};
    double limit = ratio_limit(v, t, n);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        um_codec *c = NULL;
        UM_TRY(um_codec_open(&c, cases[i].id, cases[i].level, err));
        result r = {.codec = um_codec_name(cases[i].id),
                    .level = cases[i].level,
                    .dtype = t,
                    .n = n,
                    .raw = n * size_of(t),
                    .limit = limit};
        um_status st = measure(&r, v, c, o->seconds, err);
        um_codec_close(c);
        if (st != UM_OK) return st;
        print_result(&r, o->json, *first);
        *first = false;
    }
    return UM_OK;
}

static um_status run_file(const options *o, bool *first, um_err *err)
{
    um_file f = {0};
    UM_TRY(um_file_map(&f, o->input, err));
    size_t n = f.size / size_of(o->dtype);
    um_status st =
        n > 0 ? run_values(f.data, o->dtype, n, o, first, err)
              : UM_FAIL(err, UM_E_DATA, "%s: holds no %s value", o->input, name_of(o->dtype));
    um_file_unmap(&f);
    return st;
}

static um_status run_generated(const options *o, bool *first, um_err *err)
{
    static const size_t rows[] = {1, 4, 16, 64, 256, MOST_ROWS};
    uint8_t *v = um_alloc_aligned((size_t)4 * MOST_ROWS * COLS);
    um_status st = UM_OK;
    for (int t = UM_BF16; t >= UM_F32 && st == UM_OK; t--) {
        make_values(v, (um_dtype)t, MOST_ROWS);
        for (size_t i = 0; i < sizeof rows / sizeof rows[0] && st == UM_OK; i++) {
            st = run_values(v, (um_dtype)t, rows[i] * COLS, o, first, err);
        }
    }
    um_free(v);
    return st;
}

static um_status dump(const options *o, um_err *err)
{
    size_t bytes = size_of(o->dtype) * MOST_ROWS * COLS;
    uint8_t *v = um_alloc_aligned(bytes);
    make_values(v, o->dtype, MOST_ROWS);
    um_status st = um_file_write(o->dump, v, bytes, err);
    um_free(v);
    return st;
}

/* FILE TYPE behind argv[i]; false when they are missing or no wire type. */
static bool take_file(const char **path, um_dtype *t, int argc, char **argv, int i)
{
    if (i + 2 >= argc || (strcmp(argv[i + 2], "f32") != 0 && strcmp(argv[i + 2], "bf16") != 0))
        return false;
    *path = argv[i + 1];
    *t = argv[i + 2][0] == 'f' ? UM_F32 : UM_BF16;
    return true;
}

static bool take_options(options *o, int argc, char **argv)
{
    *o = (options){.seconds = 0.2};
    for (int i = 1; i < argc; i++) {
        char *end = NULL;
        if (strcmp(argv[i], "--json") == 0) {
            o->json = true;
        } else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
            o->seconds = strtod(argv[++i], &end);
            if (*end != '\0' || !(o->seconds >= 0 && o->seconds < 3600)) return false;
        } else if (strcmp(argv[i], "--input") == 0 &&
                   take_file(&o->input, &o->dtype, argc, argv, i)) {
            i += 2;
        } else if (strcmp(argv[i], "--dump") == 0 &&
                   take_file(&o->dump, &o->dtype, argc, argv, i)) {
            i += 2;
        } else {
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    options o;
    um_err err = {0};
    bool first = true;
    if (!take_options(&o, argc, argv)) {
        fputs(usage, stderr);
        return um_exit_code(UM_E_USAGE);
    }
    um_status st;
    if (o.dump != NULL) {
        st = dump(&o, &err);
    } else {
        if (!o.json)
            puts("codec\tlevel\tdtype\tvalues\traw_bytes\twire_bytes\tratio\tlimit\tencode_"
                 "gbps\tdecode_gbps");
        st = o.input != NULL ? run_file(&o, &first, &err) : run_generated(&o, &first, &err);
        if (o.json) puts(first ? "[]" : "\n]");
    }
    if (st != UM_OK) fprintf(stderr, "bench_codec: %s\n", err.msg);
    return um_exit_code(st);
}

/* front_ends FILE OUT.safetensors: writes what the front ends compute from an audio file: wave [n], mel [3000,80] of its first 30 s, and
 * fbank [frames,128] of its whole length. test_front_ends.py compares them with other libraries. */
#include "core/nn/safetensors.h"
#include "core/base/file.h"
#include "encoder_worker/decode/decoder.h"
#include "encoder_worker/frontend/fbank.h"
#include "encoder_worker/frontend/mel.h"

#include <stdio.h>

static um_tensor tensor(const char *name, const float *data, int64_t rows, int64_t cols)
{
    um_tensor t = {.name = name, .dtype = UM_F32, .rank = cols > 0 ? 2 : 1};
    t.shape[0] = rows;
    t.shape[1] = cols;
    t.data = (const uint8_t *)data;
    t.bytes = (size_t)rows * (size_t)(cols > 0 ? cols : 1) * sizeof *data;
    return t;
}

static um_status run(const char *path, const char *out, um_arena *a, um_err *err)
{
    um_media_limits limits = {.pixels = 1, .seconds = 3600, .frames = 1, .wait_ms = 60000};
    um_decoder *decoder = NULL;
    uint8_t *bytes = NULL;
    size_t n = 0;
    um_wave w = {0};
    UM_TRY(um_file_read(&bytes, &n, path, (size_t)64 << 20, a, err));
    UM_TRY(um_decoder_open(&decoder, UM_DECODER, &limits, err));
    um_status st = um_decode_wave(decoder, &w, path, bytes, n, a, err);
    um_decoder_close(decoder);
    UM_TRY(st);
    um_mel m;
    um_fbank f;
    um_mel_init(&m, 80, 400, 160, UM_WAVE_WINDOW, UM_WAVE_RATE, a);
    um_fbank_init(&f, a);
    int64_t first = w.n < UM_WAVE_WINDOW ? w.n : UM_WAVE_WINDOW;
    int frames = um_fbank_frames(first);
    float *mel = um_arena_f32(a, (size_t)m.frames, 80),
          *fbank = um_arena_f32(a, (size_t)frames, UM_FBANK_BINS);
    um_mel_frames(mel, &m, w.samples, first, a);
    if (frames > 0) um_fbank_run(fbank, &f, frames, w.samples, first, a);
    um_tensor list[] = {tensor("fbank", fbank, frames, UM_FBANK_BINS),
                        tensor("mel", mel, m.frames, 80), tensor("wave", w.samples, w.n, 0)};
    return um_tensors_write(out, list, 3, NULL, err);
}

int main(int argc, char **argv)
{
    um_arena a;
    um_err err = {0};
    if (argc != 3) {
        fprintf(stderr, "usage: front_ends FILE OUT.safetensors\n");
        return 2;
    }
    um_arena_init(&a, "front ends", 1 << 20);
    um_status st = run(argv[1], argv[2], &a, &err);
    if (st != UM_OK) fprintf(stderr, "%s\n", err.msg);
    um_arena_free(&a);
    return st == UM_OK ? 0 : 1;
}

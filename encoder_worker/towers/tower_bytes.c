/* See tower_bytes.h. */
#include "encoder_worker/towers/tower_bytes.h"

#include "encoder_worker/frontend/fbank.h"
#include "encoder_worker/towers/beats.h"
#include "encoder_worker/towers/sound.h"
#include "encoder_worker/towers/speech.h"
#include "encoder_worker/towers/vision.h"

/* The front ends' own buffers for one frame, f64, and the alignment of what stands beside them. */
static size_t front_bytes(int n_fft) { return ((size_t)32 << 10) + 32 * (size_t)n_fft; }

/* The medium as the tower reads it, and how many rows it makes. */
typedef struct medium {
    size_t bytes, rows;
} medium;

static medium bind_image(const um_model *m, um_arena *host, um_arena *device, um_tower_point from,
                         bool keep)
{
    const size_t S = (size_t)m->vision.image_size;
    um_vision_acts a;
    um_vision_acts_bind(&a, host, device, &m->vision, m->dim, from, keep);
    return (medium){(size_t)m->vision.channels * S * S * sizeof(float),
                    (size_t)um_vision_rows(&m->vision)};
}

static medium bind_speech(const um_model *m, um_arena *host, um_arena *device, um_tower_point from,
                          bool keep)
{
    const size_t samples = (size_t)m->speech.rate * (size_t)m->speech.window_seconds;
    um_speech_acts_bind(host, device, &m->speech, m->dim, from, keep);
    return (medium){samples * sizeof(float) + front_bytes(m->speech.n_fft),
                    (size_t)m->speech.queries};
}

static medium bind_sound(const um_model *m, um_arena *host, um_arena *device, um_tower_point from,
                         bool keep)
{
    um_sound_acts_bind(host, device, &m->sound, m->dim, from, keep);
    return (medium){(size_t)um_beats_window(&m->sound) * sizeof(float) + front_bytes(UM_FBANK_FFT),
                    (size_t)m->sound.queries};
}

/* Binds the activations of a modality's tower; rows 0: the model has none. */
static medium bind_tower(const um_model *m, um_modality modality, um_arena *host, um_arena *device,
                         um_tower_point from, bool keep)
{
    const bool vision = modality == UM_IMAGE || modality == UM_VIDEO;
    if (vision && m->vision.present) return bind_image(m, host, device, from, keep);
    if (modality == UM_SPEECH && m->speech.present) return bind_speech(m, host, device, from, keep);
    if (modality == UM_SOUND && m->sound.present) return bind_sound(m, host, device, from, keep);
    return (medium){0};
}

size_t um_tower_kept_bytes(const um_model *m, um_modality modality, um_tower_point from)
{
    um_arena host, device;
    um_arena_init(&host, "measured", 1 << 16);
    um_arena_init_measure(&device, "measured");
    const medium one = bind_tower(m, modality, &host, &device, from, true);
    const size_t rows = one.rows * (size_t)m->dim * sizeof(float);
    const size_t bytes = one.rows > 0 ? host.used + device.peak + one.bytes + rows : 0;
    um_arena_free(&host);
    um_arena_free(&device);
    return bytes;
}

um_tower_bytes um_tower_bytes_of(const um_model *m, um_modality modality)
{
    um_arena host, beside, device; /* beside: on the host too, but nothing is written there */
    um_arena_init(&host, "measured", 0);
    um_arena_init_measure(&beside, "measured");
    um_arena_init_measure(&device, "measured");
    const medium one = bind_tower(m, modality, &host, &device, UM_AT_INPUT, false);
    if (one.rows > 0) {
        um_arena_alloc(&beside, one.bytes);
        um_arena_f32(&beside, one.rows, (size_t)m->dim);
        /* a video's frame, the sum of a block of frames, and that of all */
        for (int i = 0; i < (modality == UM_VIDEO ? 3 : 1); i++)
            um_arena_f32(&device, one.rows, (size_t)m->dim);
    }
    const um_tower_bytes b = {host.peak + beside.peak, device.peak};
    um_arena_free(&host);
    um_arena_free(&beside);
    um_arena_free(&device);
    return b;
}

/* Sizes of models by name, for `unimoe init --preset` and the benches, and their config files. */
#pragma once

#include "core/base/json.h"

typedef struct um_preset {
    const char *name, *what;
    int64_t params; /* of all tensors, including the towers; a test counts them */
    int dim, layers, heads, kv_heads, ffn_dim, vocab, positions;
    int experts, top_k, stride; /* stride 1: every layer has experts */
    bool gshard; /* the names and the gate of the 8-expert models, else of the 4-expert ones */
    struct {
        int dim, layers, heads, ffn_dim, image, patch; /* dim 0: no vision tower */
    } vision;
    struct {
        int dim, layers, heads, ffn_dim, dec_layers, dec_positions; /* dim 0: no speech tower */
    } speech;
    struct {
        int dim, layers, heads, ffn_dim, patch_dim, q_layers; /* dim 0: no sound tower */
    } sound;
} um_preset;

/* The preset of that name, or NULL. */
const um_preset *um_preset_find(const char *name);
/* The i-th preset, NULL past the last. */
const um_preset *um_preset_at(int i);

/* Writes config.json; dtype is a name such as "float32". */
void um_preset_config(um_text *t, const um_preset *p, const char *dtype);
/* Write config.json and preprocessor_config.json of the towers, which are in the folders vision_tower, speech_tower and
 * sound_tower. A preset with one audio tower uses the keys and names of the released models (mm_audio_tower), one with both uses
 * those of this program. BEATs has no preprocessor file. */
void um_preset_tower(um_text *t, const um_preset *p, const char *dtype);
void um_preset_preprocessor(um_text *t, const um_preset *p);
void um_preset_speech_tower(um_text *t, const um_preset *p, const char *dtype);
void um_preset_speech_preprocessor(um_text *t, const um_preset *p);
void um_preset_sound_tower(um_text *t, const um_preset *p, const char *dtype);

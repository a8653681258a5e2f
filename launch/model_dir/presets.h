/* Sizes of models by name, for `unimoe init --preset` and the benches, and their config files. */
#pragma once

#include "core/base/json.h"

typedef struct um_preset {
    const char *name, *what;
    int64_t params; /* of all tensors, those of the towers too; a test counts them */
    int dim, layers, heads, kv_heads, ffn_dim, vocab, positions;
    int experts, top_k, stride; /* stride 1: every layer has experts */
    bool gshard;                /* 8-expert names and gate, else those of the 4-expert models */
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

/* NULL when there is none of that name. */
const um_preset *um_preset_find(const char *name);
/* The i-th, NULL past the last. */
const um_preset *um_preset_at(int i);

/* config.json; dtype as "float32". */
void um_preset_config(um_text *t, const um_preset *p, const char *dtype);
/* config.json and preprocessor_config.json of the towers, which are in the folders vision_tower, speech_tower and sound_tower. A
 * preset with one audio tower has the released models' keys and names (mm_audio_tower), one with both has ours. BEATs has no
 * preprocessor file. */
void um_preset_tower(um_text *t, const um_preset *p, const char *dtype);
void um_preset_preprocessor(um_text *t, const um_preset *p);
void um_preset_speech_tower(um_text *t, const um_preset *p, const char *dtype);
void um_preset_speech_preprocessor(um_text *t, const um_preset *p);
void um_preset_sound_tower(um_text *t, const um_preset *p, const char *dtype);

/* Sizes of models by name, for `unimoe init --preset` and the benches, and their config files. */
#pragma once

#include "core/base/json.h"

typedef struct um_preset {
    const char *name, *what;
    int dim, layers, heads, kv_heads, ffn_dim, vocab, positions;
    int experts, top_k, stride; /* stride 1: every layer has experts */
    bool gshard;                /* 8-expert names and gate, else those of the 4-expert models */
    struct {
        int dim, layers, heads, ffn_dim, image, patch; /* dim 0: no vision tower */
    } vision;
} um_preset;

/* NULL when there is none of that name. */
const um_preset *um_preset_find(const char *name);
/* The i-th, NULL past the last. */
const um_preset *um_preset_at(int i);

/* config.json; dtype as "float32". */
void um_preset_config(um_text *t, const um_preset *p, const char *dtype);
/* config.json and preprocessor_config.json of the tower. */
void um_preset_tower(um_text *t, const um_preset *p, const char *dtype);
void um_preset_preprocessor(um_text *t, const um_preset *p);

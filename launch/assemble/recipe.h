/* What `unimoe assemble` is to make: the manifest, with what the command line adds.
 *
 *   {"base": DIR,
 *    "experts": [{"name": TEXT, "from": DIR or FILE, "sha256": HEX, "noise": X, "note": TEXT}, ...],
 *    "shared": [...],                       like experts; the dynamic gate has them
 *    "experts_per_token": K, "gate": WORD, "layers": WORDS, "seed": N, "noise": X,
 *    "connectors": {"image": DIR, "speech": DIR, "sound": DIR},
 *    "config": {KEY: VALUE, ...},           further keys of config.json
 *    "note": TEXT}
 *
 * Only base and experts are needed, and of an expert only from. Paths start at the manifest's folder. The order of experts is theirs in
 * the model: expert 0 comes first. from is an expert file (model.layers.N.mlp.{gate,up,down}_proj.weight, as stage 2 writes them and
 * releases have them), the folder of a dense model, or that of a stage-2 run with --save adapter, which has an expert file and whose
 * connectors are those of the base where it did not train them. */
#pragma once

#include "core/base/json.h"
#include "core/model/modality.h"
#include "core/model/model.h"
#include "core/options/config.h"

typedef struct um_ingredient {
    const char *name, *from; /* from: as it can be opened */
    const char *sha256;      /* of the file; "" = any */
    const char *note;
    double noise;
} um_ingredient;

typedef struct um_recipe {
    const char *manifest; /* "" with --upcycle */
    const char *base;
    um_ingredient *expert, *shared;
    int experts, shareds;
    int per_token;      /* 0: not said */
    const char *gate;   /* "": as the base's model_type says */
    const char *layers; /* as --moe-layers */
    uint64_t seed;
    const char *connector
        [UM_MODALITIES];   /* image, speech, sound: the folder of its model; NULL: the base */
    const um_json *config; /* of root, or NULL */
    um_json *root;
    const char *note;
} um_recipe;

/* Reads cfg->manifest, or makes the recipe of cfg->upcycle. Options that are given stand above the manifest. Strings live in arena.
 * UM_E_MODEL names the manifest, the key and what is allowed. */
um_status um_recipe_read(um_recipe *out, const um_config *cfg, um_arena *arena, um_err *err);
void um_recipe_free(um_recipe *r);

/* The layers that words name, out of `layers`: see --moe-layers. layer: [layers], 1 = experts. */
um_status um_recipe_layers(uint8_t *layer, int layers, const char *words, um_err *err);

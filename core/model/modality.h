/* Modalities: what a row stands for, and which encoder ranks read what. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

#include <stdint.h>

typedef enum um_modality {
    UM_TEXT,
    UM_IMAGE,
    UM_SPEECH,
    UM_SOUND,
    UM_VIDEO,
    UM_MODALITIES
} um_modality;
/* "text" "image" "speech" "sound" "video" */
const char *um_modality_name(um_modality modality);

/* The per-modality pre-projections of the gate (spec 4.4.3): speech and sound share one, fm_audio. */
typedef enum um_fm { UM_FM_TEXT, UM_FM_IMAGE, UM_FM_AUDIO, UM_FM_VIDEO, UM_FMS } um_fm;
um_fm um_fm_of(um_modality modality);

/* A set of modalities: bit 1 << um_modality. */
enum {
    UM_READS_VISION = 1 << UM_IMAGE | 1 << UM_VIDEO, /* share a tower */
    UM_READS_ALL = UM_READS_VISION | 1 << UM_SPEECH | 1 << UM_SOUND,
};

/* "all", or names with commas between: "image,speech". UM_E_USAGE names the unknown one and the nearest known. */
um_status um_modalities_parse(uint32_t *set, const char *text, um_err *err);

/* Encoder ranks that read the same. */
typedef struct um_encoder_group {
    int ranks;
    uint32_t set;
    const char *modalities; /* as --modalities takes it */
} um_encoder_group;
enum { UM_ENCODER_GROUPS = 16 };
typedef struct um_encoders {
    um_encoder_group group[UM_ENCODER_GROUPS];
    int n, ranks; /* groups, and ranks of all of them */
} um_encoders;

/* The value of --encoders: a number of ranks that read everything, or "image=1,speech=2,sound=1" (a group may read several:
 * "image+speech=2"). Videos are read by ranks of image unless a group names video. Strings live in arena. */
um_status um_encoders_parse(um_encoders *out, const char *text, um_arena *arena, um_err *err);

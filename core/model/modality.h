/* Modalities: what a row represents, and which encoder ranks read which modality. */
#pragma once

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

/* The values of --encoders and --modalities: which encoder ranks there are, and what each reads. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "core/model/modality.h"

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

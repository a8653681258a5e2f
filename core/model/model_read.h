/* Reading config files key by key. The reader remembers the first failure, so that a list of keys reads as a list; every message
 * is "FILE: key: value found, what is allowed". Only core/model/ includes this. */
#pragma once

#include "core/base/json.h"
#include "core/model/model.h"

typedef struct um_reader {
    const um_json *j; /* the object being read */
    const char *path; /* its file */
    um_arena *arena;  /* strings that stay */
    um_err *err;
    um_status st; /* the first failure; later reads do nothing */
} um_reader;

/* *out keeps its value when the key is absent or null, unless required. */
void um_take_int(um_reader *r, const char *key, bool required, int64_t min, int64_t max, int *out);
void um_take_f32(um_reader *r, const char *key, bool required, double min, double max, float *out);
void um_take_bool(um_reader *r, const char *key, bool *out);
void um_take_str(um_reader *r, const char *key, const char **out);
/* Writes the message behind "FILE: ", unless something failed before. */
void um_refuse(um_reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* true when the key is there and not null. */
bool um_given(const um_reader *r, const char *key);

/* Opens a config file: *root must be freed whatever the status. optional: a missing file is UM_OK with *root NULL. */
um_status um_reader_open(um_reader *r, um_json **root, const char *path, bool optional,
                         um_arena *arena, um_err *err);

/* "linear", or "mlpNx_gelu": N linear layers with GELU between them; an absent key is "linear". */
void um_take_projector(um_reader *r, const char *key, um_projector *proj, int *layers);
/* Refuses a bool that is not what the programs compute; an absent key means fallback. */
void um_take_fixed(um_reader *r, const char *key, bool fallback, bool wanted, const char *why);

/* Token ids of config.json (llm) and of dir/generation_config.json, and the sampling defaults of the latter. */
um_status um_model_read_generation(um_model *m, um_reader *llm, const char *dir);

/* The tower and connector parts: llm reads dir/config.json; tower overrides may be "" or NULL. */
um_status um_model_read_vision(um_vision_model *v, um_reader *llm, const char *dir,
                               const char *vision_tower);
um_status um_model_read_audio(um_speech_model *speech, um_sound_model *sound, um_reader *llm,
                              const char *dir, const um_towers *towers);

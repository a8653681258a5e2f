/* Reads config files key by key. The reader remembers the first failure, so that a caller can read a list of keys and check once; every
 * message is "FILE: key: value found, allowed values". Only core/model/ includes this. */
#pragma once

#include "core/base/json.h"
#include "core/model/model.h"

typedef struct um_reader {
    const um_json *j; /* the object being read */
    const char *path; /* its file */
    um_arena *arena;  /* for strings that outlive the reader */
    um_err *err;
    um_status st; /* the first failure; later reads do nothing */
} um_reader;

/* *out keeps its value when the key is absent or null, unless required. */
void um_take_int(um_reader *r, const char *key, bool required, int64_t min, int64_t max, int *out);
void um_take_f32(um_reader *r, const char *key, bool required, double min, double max, float *out);
void um_take_bool(um_reader *r, const char *key, bool *out);
void um_take_str(um_reader *r, const char *key, const char **out);
/* Writes the message after "FILE: ", unless an earlier read failed. */
void um_refuse(um_reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* true when the key is present and not null. */
bool um_given(const um_reader *r, const char *key);

/* Opens a config file: *root must be freed whatever the status. optional: a missing file is UM_OK with *root NULL. */
um_status um_reader_open(um_reader *r, um_json **root, const char *path, bool optional,
                         um_arena *arena, um_err *err);

/* "linear", or "mlpNx_gelu": N linear layers with GELU between them; an absent key is "linear". */
void um_take_projector(um_reader *r, const char *key, um_projector *proj, int *layers);
/* Refuses a bool whose value the programs do not support; an absent key means fallback. */
void um_take_fixed(um_reader *r, const char *key, bool fallback, bool wanted, const char *why);

/* Reads token ids from config.json (llm) and dir/generation_config.json, and the sampling defaults of the latter. */
um_status um_model_read_generation(um_model *m, um_reader *llm, const char *dir);

/* Reads the tower and connector parts: llm reads dir/config.json; tower overrides may be "" or NULL. */
um_status um_model_read_vision(um_vision_model *v, um_reader *llm, const char *dir,
                               const char *vision_tower);
um_status um_model_read_audio(um_speech_model *speech, um_sound_model *sound, um_reader *llm,
                              const char *dir, const um_towers *towers);

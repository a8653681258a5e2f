/* What the files of the converter share. Flow (spec 7.4): convert_assemble.c opens the sources and claims a name in the model for
 * each of their tensors, stage by stage; a later claim of a name replaces an earlier one. convert_towers.c does the same for the
 * towers, convert_adapter.c for PEFT adapters, convert_config.c writes config.json, convert_check.c compares the claims with what
 * the model wants, convert_write.c writes the weights, convert_report.c reports how every tensor was used. launch/assemble makes a
 * mixture of experts with the same claims. Only these include this. */
#pragma once

#include "core/options/config.h"
#include "core/base/json.h"
#include "core/base/progress.h"
#include "core/model/model.h"
#include "launch/model_dir/json_text.h"
#include "launch/torch/tensor_source.h"

#include <stdio.h>

/* The order of assembly. Adapters are merged into what was claimed before UM_STAGE_MERGE; later claims replace the result. */
typedef enum um_stage {
    UM_STAGE_BASE,
    UM_STAGE_BASE_PARTS, /* mm_projector and mm_audio_aligner of the base folder */
    UM_STAGE_SLOTS,      /* {e}_mlp_experts of the tuned folder */
    UM_STAGE_EXPERTS,    /* mlp_* of the expert folder */
    UM_STAGE_TRAINED,    /* non_lora_trainables */
    UM_STAGE_GATES_8E,
    UM_STAGE_FM,
    UM_STAGE_MERGE,
    UM_STAGE_ALIGNER,
    UM_STAGE_GATES_4E,
} um_stage;

typedef struct um_claim {
    const char *name; /* in the model */
    um_source_tensor *t;
    um_stage stage;
    size_t order;
    bool wanted;             /* is written to the directory */
    um_source_tensor *a, *b; /* LoRA to merge: a [r, in], b [out, r], f32 sum W + scale * (b a) */
    /* normal values to add: in standard deviations of t; where t has no values, the standard deviation around 0 */
    double noise;
    uint64_t noise_seed; /* with the name it gives each tensor its own stream */
} um_claim;

/* The folders that are written: one for each um_set, and in an export one for the tensors that no other program has a name for. */
enum { UM_FOLDER_REST = UM_SETS, UM_FOLDERS };

typedef struct um_folder {
    const char *name; /* path below the directory; "" is the directory itself */
    um_claim *claim;  /* after um_convert_resolve: sorted, one for each name */
    size_t n, cap;
} um_folder;

typedef struct um_adapter {
    const um_source_list *list; /* NULL: no adapter */
    const char *dir;
    double scale; /* alpha / r */
    int64_t r;
} um_adapter;

typedef struct um_convert {
    const um_config *cfg;
    FILE *out;
    um_arena arena;
    um_sources src;
    um_folder folder[UM_FOLDERS];
    um_adapter adapter;
    bool gshard; /* an 8-expert model: DeepSpeed's names */
    um_json *config;
    const char *config_path;
    const char *tower[UM_SETS]; /* source of each tower, NULL when the model has none */
    const char *key[UM_SETS];   /* key of the config that names it */
    const um_value *beats_cfg;  /* cfg of a BEATs .pt file */
    const char *tmp;            /* the directory while it is written */
    um_model model;
    um_text problems; /* a line for every wanted tensor that is missing or of another shape */
    um_text notes;    /* a line for everything the user should know */
    int64_t missing, misshapen, rounded;
    int64_t written; /* bytes of weights */
    um_progress progress;
} um_convert;

/* Common to import and export. open zeroes cv and binds it to cfg and out. finish writes the manifest and then renames the
 * directory. close leaves nothing behind after a failure. */
void um_convert_open(um_convert *cv, const um_config *cfg, FILE *out);
um_status um_convert_finish(um_convert *cv, const char *source, um_err *err);
void um_convert_close(um_convert *cv, um_status st);

void um_convert_note(um_convert *cv, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* assemble */
void um_convert_claim(um_convert *cv, int folder, const char *name, um_source_tensor *t,
                      um_stage stage);
um_claim *um_convert_find(const um_convert *cv, int folder, const char *name); /* after resolve */
/* The name without the prefix that PEFT adds. */
const char *um_convert_bare(const char *name);
um_status um_convert_assemble(um_convert *cv, um_err *err);
/* Notes the weight files in the source folders that were not opened. */
um_status um_convert_unread(um_convert *cv, um_err *err);
/* Sorts the claims; the last claim of each name stays, the others become unused. */
void um_convert_resolve(um_convert *cv);

/* towers: finds them and claims their tensors; writes their config files to tmp */
um_status um_convert_towers(um_convert *cv, um_err *err);
um_status um_convert_tower_files(um_convert *cv, um_err *err);

/* adapter */
um_status um_convert_adapter_open(um_convert *cv, um_err *err);
um_status um_convert_adapter_match(um_convert *cv, um_err *err);
um_status um_convert_adapter_keep(um_convert *cv, um_err *err);

/* config */
um_status um_convert_config_open(um_convert *cv, um_err *err);
um_status um_convert_config_write(um_convert *cv, um_err *err);
/* Adds the folders of the towers and the type of the weights to the edits, and writes cv->config with them into cv->tmp. */
um_status um_convert_config_save(um_convert *cv, um_edits *e, um_err *err);
/* The stride of a regular placement that starts at layer 0; 0 when it is not regular. moe: [layers] */
int64_t um_convert_stride(const uint8_t *moe, int64_t layers);

/* check */
um_status um_convert_check(um_convert *cv, um_err *err);
/* Marks every claim as used, or says why it is not: those of towers are all used, others when they are wanted. */
void um_convert_uses(um_convert *cv);
/* Opens the directory that was written, as any other program would, and compares it with what its model wants. */
um_status um_convert_audit(um_convert *cv, um_err *err);

/* write */
um_status um_convert_weights(um_convert *cv, um_err *err);
um_status um_convert_copy(um_convert *cv, const char *from, const char *name, um_err *err);

/* report */
um_status um_convert_report(um_convert *cv, um_err *err);
void um_convert_summary(um_convert *cv);

/* export: --model with --to peft or hf, into tmp, which exists */
um_status um_convert_to_peft(um_convert *cv, um_err *err);
um_status um_convert_to_hf(um_convert *cv, um_err *err);

/* Which parameters of a model train, and how: the presets of the three stages and of stage 0 (spec 5.2, 6.1), patterns of names, adapters.
 * Every rank decides by the same options, so that all agree without a message.
 *
 *   um_select_open ─► um_select_adapt ─► the rank loads its weights ─► um_select_begin
 *     from options      adapters beside      (linear.h ...)              masters, gradients, start values
 *                       the matrices
 *
 *   stage                     trains                                                          adapters (r, alpha)
 *     0  from nothing           everything                                                      none
 *     1  alignment              the connectors of --connector                                   none
 *     2  single-modality expert projectors                                                      MLPs (64, 16)
 *     3  tuning                 projectors, gates with pre-projection, a LoRA built into         attention, MLPs and experts (8, 16)
 *                               experts
 *   none                      what --train-what names                                         what --lora-what names
 *
 * --train-what adds, --freeze removes, both after the stage. A pattern without * fits each name that contains it; with *, which stands for
 * any text, it must fit the whole name. With --train-start exactly the tensors of that file train. Thread: any, once opened. */
#pragma once

#include "core/options/config.h"
#include "core/train/optimizer.h"

typedef struct um_patterns {
    const char **item; /* [n] */
    int n;
} um_patterns;

typedef struct um_lr_factor {
    const char *pattern;
    double factor;
} um_lr_factor;

typedef struct um_select {
    const um_model *model;
    int stage;      /* 0..3, or -1 */
    uint32_t parts; /* of stage 1: 1 << um_part of each connector */
    um_patterns what, freeze, lora;
    um_lr_factor *factor; /* [factors] */
    int factors;
    um_tensors *start;               /* --train-start, or NULL */
    double lr, dropout;              /* of --lr and --lora-dropout, or the stage's */
    um_optimizer_settings optimizer; /* made from the options; its ctx is this um_select */
    um_adapter_rules adapters;       /* r 0: none */
} um_select;

/* Reads what the options say. UM_E_USAGE names the option and what is allowed. m must outlive *out; strings live in arena. *out must
 * stay where it is: its settings point to it. */
um_status um_select_open(um_select *out, const um_config *cfg, const um_model *m, um_arena *arena,
                         um_err *err);
void um_select_close(um_select *s); /* accepts a zeroed one */
/* UM_E_USAGE when nothing of the whole model trains, or a pattern fits no tensor of it. For the command that the user started. */
um_status um_select_check(const um_select *s, um_err *err);

/* Adds the adapters to the rank's list; before anything is loaded. Sets ps->how so that a built-in LoRA that trains stays live. */
um_status um_select_adapt(const um_select *s, um_params *ps, um_err *err);
/* After loading: masters and gradients of what trains, and the values of --train-start. A rank may train nothing. */
um_status um_select_begin(const um_select *s, um_params *ps, um_err *err);

/* Whether a tensor trains; ctx is an um_select. */
bool um_select_trains(const void *ctx, const um_spec *s);
/* The media of which something trains on the way to their rows (a set, model/modality.h): their encoders keep activations and are sent
 * gradients. */
uint32_t um_select_modalities(const um_select *s);

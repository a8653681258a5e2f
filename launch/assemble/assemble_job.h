/* What the files of `unimoe assemble` share. Flow: recipe.c reads what is to be made; assemble_config.c writes config.json, of which the
 * model is read; assemble_sources.c finds a source for each of its tensors and claims it with the converter's claims
 * (launch/convert/convert_job.h), which then writes them; assemble_report.c says what came from where. Only assemble*.c include this. */
#pragma once

#include "core/base/sha256.h"
#include "core/nn/checkpoint.h"
#include "launch/assemble/recipe.h"
#include "launch/convert/convert_job.h"

/* Where experts come from: one for each file or folder, however many experts it becomes. */
typedef struct um_stock {
    const char *from;           /* as the recipe says */
    const um_source_list *list; /* its tensors */
    char sha256[UM_SHA256_HEX]; /* of the file; "" for a folder */
    char (
        *digest)[UM_SHA256_HEX]; /* [layers] of the values of an MLP, "" where it has no experts */
} um_stock;

typedef struct um_assembly {
    um_convert cv;
    um_recipe recipe;
    um_checkpoint base;
    uint8_t *moe_layer; /* [layers] */
    um_gate_style gate;
    double gate_std; /* of the values that gates begin with */
    um_dtype dtype;  /* of the base's backbone: that of new tensors */
    const um_source_list *base_list;
    um_stock *stock; /* [stocks] */
    int stocks;
    um_stock **expert, **shared; /* of each expert of the recipe */
    um_checkpoint
        connector[UM_MODALITIES]; /* models that connectors come from; llm NULL: the base */
    const um_source_list *connector_list[UM_MODALITIES];
    char first_problem[768];
} um_assembly;

/* config.json of the mixture, in cv.tmp, with the towers' folders of the converter once they have names. */
um_status um_assemble_config(um_assembly *a, um_err *err);

/* Opens what the recipe names. Checks the files' digests. */
um_status um_assemble_open(um_assembly *a, um_err *err);
/* Claims a source for every tensor of cv.model. UM_E_MODEL when some are missing or do not fit: cv.problems has a line for each. */
um_status um_assemble_claim(um_assembly *a, um_err *err);

/* Computes the digests of MLPs and warns of experts that are identical. */
um_status um_assemble_compare(um_assembly *a, um_err *err);
/* assembly.json: what the model was made of. */
um_status um_assemble_report(um_assembly *a, um_err *err);

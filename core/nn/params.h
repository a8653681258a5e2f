/* Parameters: the tensors of the model that one rank owns, as one list made from the model's own (um_model_for_each_selected), and what
 * is in device memory of each. Loaders ask for a parameter by its place in the model (part, slot, layer, index) and never for a name; the
 * same list will carry gradients, optimiser state and checkpoints.
 *
 *   um_params_open ─► um_linear_load, um_vector_load ... (linear.h) ─► forward ─► um_param_train ─► backward ─► um_params_repack
 *     names, shapes,     packed matrices and f32 vectors                master f32,     gradients +=   after a step of
 *     stored tensors     in device memory                               gradient                       the optimiser
 *
 * A matrix is packed in a um_weight: of one parameter, or of several with the same input, stacked. A vector (a bias, a norm, a table) is
 * f32 as it is. The embedding table is not loaded: its rows are read from the mapped file. Memory: structs in the host arena, values
 * in the device arena, both for the life of the list. Thread: the rank's. */
#pragma once

#include "core/nn/checkpoint.h"
#include "core/tensor/ops.h"

/* The type in which matrices are kept: as they are stored (f32, bf16 or f16), or converted. Vectors are always f32. */
typedef enum um_keep { UM_KEEP_STORED, UM_KEEP_F32, UM_KEEP_BF16 } um_keep;
um_keep um_keep_from_name(const char *name); /* "auto" "f32" "bf16", as --weights has them */
/* The type of a matrix that is stored as `stored`. */
um_dtype um_kept_dtype(um_keep keep, um_dtype stored);

bool um_lora_is_live(const char *name); /* "merge" "live", as --lora has them */

/* How and where parameters are loaded. */
typedef struct um_loading {
    um_dev *dev;
    um_arena *host, *device;
    um_keep keep;
    bool
        lora_live; /* a LoRA stays a branch beside its matrix; else it is merged into it (linear.h) */
} um_loading;

typedef struct um_param um_param;

/* A weight matrix as ops use it: one parameter [N,K], or several one above the other. */
typedef struct um_weight {
    um_matrix w;
    um_matrix transposed; /* W^T packed, made when backward asks for it (um_weight_transposed) */
    bool stale;           /* the master has changed since `transposed` was packed */
    bool changed;         /* the master has changed since w was packed */
    float *master, *grad; /* [N,K] row-major; NULL unless one of its parameters is trained */
    float *bias;          /* [N] or NULL */
    float *bias_grad;     /* [N]; NULL unless one of the biases is trained */
    um_param **part;      /* [parts] from the top */
    int parts;
    um_arena *device; /* for `transposed` */
} um_weight;

struct um_param {
    um_spec spec;            /* name and shape */
    const um_tensors *set;   /* the files that should have it */
    const um_tensor *stored; /* NULL: absent, which um_params_want reports */
    bool loaded;             /* a loader has asked for it */
    bool trained;
    bool derived; /* what was loaded is computed from the tensor: it cannot be trained */
    um_weight *
        weight; /* of a matrix or a bias: where it is packed; NULL until loaded, and for other vectors */
    int row;       /* its first row in weight */
    float *vector; /* [values] of a vector, device; NULL until loaded */
    float *master,
        *grad; /* [values] row-major f32, device, when trained; a vector is its own master */
};

typedef struct um_params {
    const um_checkpoint *ck;
    um_loading how;
    um_param *list; /* [n] in the order of the model's list */
    size_t n;
    uint32_t *table; /* [table_size] index + 1 by place, open addressing */
    size_t table_size;
} um_params;

/* Lists the selected tensors, without those that no rank computes with. Reads no data. ck must outlive *out. */
um_status um_params_open(um_params *out, const um_checkpoint *ck, const um_selection *sel,
                         const um_loading *how, um_err *err);
/* Makes the table of ps->list; um_params_open has done it. For lists that are made otherwise. Memory: the host arena. */
void um_params_index(um_params *ps);
/* The parameter at a place, or NULL. O(1). */
um_param *um_params_find(const um_params *ps, um_place at, um_leaf leaf);
/* The same for a loader, which needs it: checks that the files have it with its shape, and marks it as loaded. UM_E_MODEL names the
 * tensor, the wanted and the found shape. */
um_status um_params_want(um_params *ps, um_param **out, um_place at, um_leaf leaf, um_err *err);
/* Whether the files have the tensor. */
bool um_params_has(const um_params *ps, um_place at, um_leaf leaf);

size_t um_spec_values(const um_spec *s); /* the product of its shape */
bool um_spec_is_matrix(
    const um_spec *s); /* the weight of a linear layer, of a convolution or of a LoRA */
/* Bytes of device memory that the list takes when it is loaded, without what is computed from it. *mapped: bytes that stay in the mapped
 * files and are read from there. A tensor that the files do not have counts as f32. */
size_t um_params_bytes(const um_params *ps, size_t *mapped);

/* --- training --- */

/* Makes a loaded parameter trainable: its master is its tensor in f32, its gradient zero, both in `device`. The other parameters of a
 * stack get a master and a gradient with it but stay as they are. The matrix keeps its type: with bf16 weights the master is f32
 * and the matrix is its rounding. UM_E_USAGE when it is derived, not loaded, or merged with a LoRA. */
um_status um_param_train(um_param *p, um_dev *dev, um_arena *device, um_err *err);
/* After the optimiser has written the master. */
void um_param_changed(um_param *p);
/* Packs the matrices whose masters have changed. */
void um_params_repack(um_params *ps);
/* Sets the gradients of all trained parameters to zero. */
void um_params_zero_grads(um_params *ps);
/* W^T of a weight, trained or not, packed in its type: from the packed matrix, once after each change. */
const um_matrix *um_weight_transposed(um_dev *dev, um_weight *w);

/* Parameters: the tensors of the model that one rank owns, as one list made from the model's own (um_model_for_each_selected), and what
 * is in device memory of each. Loaders ask for a parameter by its place in the model (part, slot, layer, index) and never for a name; the
 * same list carries gradients, and what the optimiser and checkpoints keep.
 *
 *   um_params_open ─► (um_params_adapt) ─► um_linear_load ... ─► forward ─► um_params_train ─► backward ─► um_params_repack
 *     names, shapes,    adapters beside      packed matrices,                masters in f32,     gradients     after a step
 *     stored tensors    linear layers        f32 vectors                     ps->grads           +=            of the optimiser
 *
 * A matrix is packed in a um_weight: of one parameter, or of several with the same input, stacked. A vector (a bias, a norm, a table) is
 * f32 as it is. The embedding table is not loaded: its rows are read from the mapped file until it is trained. Memory: structs in the
 * host arena, values in the device arena, both for the life of the list. Thread: the rank's. */
#pragma once

#include "core/nn/checkpoint.h"
#include "core/tensor/ops.h"

/* The type in which matrices are kept: as they are stored (f32, bf16 or f16), or converted. Vectors are always f32. */
typedef enum um_keep { UM_KEEP_STORED, UM_KEEP_F32, UM_KEEP_BF16 } um_keep;
um_keep um_keep_from_name(const char *name); /* "auto" "f32" "bf16", as --weights has them */
/* The type of a matrix that is stored as `stored`. */
um_dtype um_kept_dtype(um_keep keep, um_dtype stored);

bool um_lora_is_live(const char *name); /* "merge" "live", as --lora has them */

/* Whether a tensor is to be trained. */
typedef bool (*um_trained_fn)(const void *ctx, const um_spec *s);

/* What live LoRA branches use while they run. The rank's own; it changes the fields between calls. */
typedef struct um_lora {
    um_arena *scratch; /* device memory for one call; a call leaves it as it was */
    /* share of the branch's inputs that are dropped where the branch is trained; 0: none */
    float dropout;
    /* of what is dropped: um_lora_seed of the micro-batch; every layer adds its own name */
    uint64_t seed;
} um_lora;
uint64_t um_lora_seed(uint64_t seed, uint64_t step, uint64_t batch);
/* The number of a name's own stream of random numbers (um_rng_seed). */
uint64_t um_name_stream(const char *name);

/* How and where parameters are loaded. */
typedef struct um_loading {
    um_dev *dev;
    um_arena *host, *device;
    um_keep keep;
    /* A LoRA that is part of the model stays a branch beside its matrix, for all of them; else only where it or its matrix will be trained,
     * and it is merged into the matrix elsewhere. Where there is an adapter too, it is merged always. */
    bool lora_live;
    um_trained_fn trained; /* what um_params_train will train; NULL: nothing */
    const void *trained_ctx;
    const um_lora *lora; /* outlives the list; may be NULL where no branch is live */
} um_loading;

/* Which linear layers get a LoRA adapter in PEFT's form: X.lora_A.weight [r,K] and X.lora_B.weight [N,r] beside X.weight [N,K]. Those
 * of the parts and slots, and those whose X.lora_A.weight is in the list of names (other names in the list are ignored). A layer is
 * then y = x W^T + b + alpha/r (drop(x) A^T) B^T. */
typedef struct um_adapter_rules {
    uint32_t parts; /* bits 1 << um_part */
    uint64_t slots; /* bits 1 << um_slot */
    const char *const *name;
    size_t names;
    int r;
    float alpha;
    /* A begins as He et al.'s uniform numbers (PEFT's), drawn by (seed, name) alone; B begins at zero */
    uint64_t seed;
} um_adapter_rules;

typedef struct um_param um_param;

/* A weight matrix as ops use it: one parameter [N,K], or several one above the other. */
typedef struct um_weight {
    um_matrix w;
    um_matrix transposed; /* W^T packed, made when backward asks for it (um_weight_transposed) */
    bool stale;           /* the master has changed since `transposed` was packed */
    bool changed;         /* the master has changed since w was packed */
    float *master;        /* [N,K] row-major; NULL unless one of its parameters is trained */
    float *bias;          /* [N] or NULL */
    um_param **part;      /* [parts] from the top */
    um_param **part_bias; /* [parts] NULL where there is none */
    int parts;
    um_arena *device; /* for `transposed` */
} um_weight;

struct um_param {
    um_spec spec;                    /* name and shape */
    const um_tensors *set;           /* the files that should have it */
    const um_tensor *stored;         /* NULL: absent, which um_params_want reports */
    const um_adapter_rules *adapter; /* of a factor of an adapter, which no file has; else NULL */
    um_dev *dev;
    bool begins;   /* no file has it, and it begins at zero (um_model.expert_bias_begins) */
    bool loaded;   /* a loader has asked for it */
    bool derived;  /* what was loaded is a sum with others: it cannot be trained */
    bool computed; /* what was loaded is computed from it, and again by its owner after each step */
    bool conv;     /* [N,C,taps] in the file, [N,taps,C] in memory */
    bool trained;
    bool touched; /* a backward pass has added to the gradient since um_params_zero_grads */
    /* of a matrix or a bias: where it is packed; NULL until loaded, and for other vectors */
    um_weight *weight;
    int row;              /* its first row in weight */
    float *vector;        /* [values] of a vector, device; NULL until loaded */
    float *master, *grad; /* [values] f32, device, when trained; a vector is its own master */
};

typedef struct um_params {
    const um_checkpoint *ck;
    um_loading how;
    um_param *list; /* [n] in the order of the model's list, an adapter behind its matrix */
    size_t n;
    uint32_t *table; /* [table_size] index + 1 by place, open addressing */
    size_t table_size;
    /* [n_grads] device: the gradients of the trained parameters, in the list's order, without gaps */
    float *grads;
    size_t n_grads;
} um_params;

/* Lists the selected tensors, without those that no rank computes with. Reads no data. ck must outlive *out. */
um_status um_params_open(um_params *out, const um_checkpoint *ck, const um_selection *sel,
                         const um_loading *how, um_err *err);
/* Makes the table of ps->list; um_params_open has done it. For lists that are made otherwise. Memory: the host arena. */
void um_params_index(um_params *ps);
/* Adds the factors of an adapter behind every matrix that the rules name. Once, before anything is loaded. UM_E_USAGE: a matrix has an
 * adapter and trains its own LoRA too. Memory: the host arena; rules and names are copied. */
um_status um_params_adapt(um_params *ps, const um_adapter_rules *rules, um_err *err);
/* The name of a factor ("lora_A" or "lora_B") of the adapter beside a weight X.weight; NULL when the tensor's name ends otherwise. */
const char *um_adapter_name(um_arena *arena, const um_spec *s, const char *factor);
/* The parameter at a place, or NULL. O(1). */
um_param *um_params_find(const um_params *ps, um_place at, um_leaf leaf);
/* The same for a loader, which needs it: checks that the files have it with its shape, and marks it as loaded. UM_E_MODEL names the
 * tensor, the wanted and the found shape. */
um_status um_params_want(um_params *ps, um_param **out, um_place at, um_leaf leaf, um_err *err);
/* Whether the files have the tensor, or it begins without them, as adapters do. */
bool um_params_has(const um_params *ps, um_place at, um_leaf leaf);
/* Whether the LoRA that the files have at a place is merged into its matrix when it is loaded. */
bool um_params_lora_merges(const um_params *ps, um_place at);

size_t um_spec_values(const um_spec *s); /* the product of its shape */
bool um_spec_is_matrix(
    const um_spec *s); /* the weight of a linear layer, of a convolution or of a LoRA */
/* Bytes of device memory that the list takes when it is loaded, without what is computed from it. *mapped: bytes that stay in the mapped
 * files and are read from there. A tensor that the files do not have counts as f32. */
size_t um_params_bytes(const um_params *ps, size_t *mapped);
/* The same of one parameter, mapped or not. */
size_t um_param_bytes(const um_params *ps, const um_param *p);

/* The values before training, as f32 in the file's layout, in host memory: what is stored, or how an adapter begins. */
void um_param_initial(const um_param *p, float *host);
/* A convolution's values from the file's layout to that in memory, both on the host. */
void um_param_permute(const um_param *p, float *to, const float *from);

/* --- training --- */

/* Makes the parameters trainable for which `trained` is true: each gets a master (its tensor in f32) and its part of ps->grads, which
 * is zero. Once, after loading. The other parameters of a stack get a master with them but stay as they are. A matrix keeps its type:
 * with bf16 weights the master is f32 and the matrix is its rounding. A table whose rows are read from the file moves into device memory.
 * Optional tensors that the files do not have are left out. UM_E_USAGE when one is not loaded, or merged with a LoRA. */
um_status um_params_train(um_params *ps, um_trained_fn trained, const void *ctx, um_err *err);
/* Sets the masters to the tensors of these names, and packs them. `values` may have other tensors too. UM_E_MODEL: one of the trained
 * parameters is missing or has another shape. */
um_status um_params_start(um_params *ps, const um_tensors *values, um_err *err);
/* After the optimiser has written the master. */
void um_param_changed(um_param *p);
/* Packs the matrices whose masters have changed. */
void um_params_repack(um_params *ps);
/* Sets the gradients of all trained parameters to zero, and `touched` to false. */
void um_params_zero_grads(um_params *ps);
/* Where a backward pass adds the gradient of p, which it now has `touched`; NULL when p is NULL or not trained. */
float *um_param_grad(um_param *p);

/* The values of a parameter, trained or not, in the file's layout, to and from host memory. Writing needs a trained one. */
void um_param_read(const um_param *p, float *host);
void um_param_write(um_param *p, const float *host);
/* The same for another vector of a trained parameter in device memory, such as its gradient or the optimiser's moments. */
void um_param_fetch(const um_param *p, float *host, const float *device);
void um_param_store(const um_param *p, float *device, const float *host);

/* W^T of a weight, trained or not, packed in its type: from the packed matrix, once after each change. */
const um_matrix *um_weight_transposed(um_dev *dev, um_weight *w);

/* The backbone: the language model without its routed experts: embedding, attention, norms, gates, shared experts, dense MLPs, head
 * (spec 4).
 *
 * A micro-batch is a list of rows: segments of one or several sequences, each at its own positions with its own pages of keys and values.
 * Prefill and decode use the same function. It writes a layer's activations into the um_acts that the caller binds: one for all
 * layers when serving, one for each layer when something is to go backwards.
 *
 * A pass is one micro-batch on its way through the layers. It stops wherever its rows are at the expert ranks, so that another pass can
 * use the router meanwhile:
 *
 *   um_pass_run   attention, gate, plan, dispatch ─► returns: rows are under way
 *   um_pass_run   shared experts, combine, next layer's attention ... dispatch ─► returns
 *   ...           after the last layer: done */
#pragma once

#include "core/comm/exchange.h"
#include "core/nn/attention.h"
#include "core/nn/dynamic.h"
#include "core/nn/embedding.h"
#include "core/nn/ffn.h"
#include "core/nn/gate.h"
#include "core/nn/norm.h"
#include "router/backbone/rope.h"
#include "router/backbone/routing.h"
#include "router/backbone/trace.h"

typedef struct um_layer {
    um_rmsnorm norm1, norm2; /* [D] */
    um_attention attention;
    bool moe;
    um_linear gate;       /* [E,D], dynamic style [R+Z+F,D]; f32 */
    um_param *gate_bias;  /* [E] added for the choice alone; NULL where the model has none */
    um_linear fm[UM_FMS]; /* gate pre-projection, spec 4.4.3; w.data NULL where the file has none */
    um_ffn dense;
    um_ffn *shared; /* [F] shared experts of the dynamic gate */
} um_layer;

typedef struct um_backbone {
    const um_model *model;
    um_embedding embedding; /* [V,D]; its rows are read from the mapped file unless it is trained */
    um_layer *blocks;       /* [layers] */
    um_rmsnorm norm;        /* [D] */
    um_linear head;         /* [V,D] */
    um_rope rope;
    size_t weight_bytes;
    const struct um_backward *backward; /* the backward pass that is adding gradients; NULL: none */
} um_backbone;

/* Loads everything that a router needs: ps lists the parts of UM_ROLE_ROUTER (um_role_parts). ps must outlive *out. */
um_status um_backbone_load(um_backbone *out, um_params *ps, um_err *err);
void um_backbone_close(um_backbone *t);

/* Copies row id of the embedding table to out[D], on the host. 0 <= id < vocab. */
void um_backbone_embed(const um_backbone *t, float *out, int32_t id);

/* Rows of one sequence in a micro-batch: row .. row+T-1. */
typedef struct um_segment {
    int row, T;
    um_trace *trace; /* records the segment's tensors; may be NULL */
    um_phase phase;  /* whether the rows are of the prompt or of a new token */
    int counted;     /* its first rows so many, whose routing was counted before (read again) */
} um_segment;

typedef struct um_batch {
    int T;
    float *
        h; /* device [T,D]: embeddings; the residual stream of all layers unless they keep theirs */
    const int32_t *pos;      /* device [T] */
    const uint8_t *modality; /* host [T] um_modality */
    const uint64_t *noise;   /* device [T] random stream numbers of gate noise, or NULL */
    uint64_t noise_seed;
    const int32_t
        *fm_row[UM_FMS]; /* device: the rows of each pre-projection's modality, fm_n of them */
    int fm_n[UM_FMS];
    um_segment *seg;     /* host [segs] */
    const um_span *span; /* host [segs]: the same rows, with their positions and pages */
    int segs;
    const um_kv *kv; /* host [layers] */
    const um_span *
        pad; /* host [pads]: pad rows of a sequence of training, pos 0: each sees all n positions of it and writes none */
    int pads;
    const int32_t *key_row,
        *pad_key_row; /* host [segs], [pads], for backward: the row that is position 0 of their sequence */
    /* device [last_n]: the rows whose output is wanted of the last layer, rising; NULL: all. See um_pass_rows. */
    const int32_t *last_row;
    int last_n;
    um_routing *routing; /* counts the gates' choices; may be NULL */
    uint64_t step;       /* number of this micro-batch, rising */
    uint32_t micro;      /* its place among those in flight */
} um_batch;

/* Fills fm_row and fm_n from modality. Memory: device, and scratch on the host, which is left as it was. */
void um_batch_modalities(um_batch *b, um_dev *dev, um_arena *device, um_arena *scratch);

/* The activations of one layer. All but plan and routed are device memory. */
typedef struct um_acts {
    float *in, *mid, *out; /* [T,D] residual stream before, between and after the layer's halves */
    float *ln1, *ln2;      /* [T,D] */
    float *rstd1, *rstd2;  /* [T] */
    um_attention_acts attention;
    float *last_heads; /* [T,H*hd] the heads of batch->last_row; in a last layer that is dense */
    float *gate_in;    /* [T,D]; ln2 itself without pre-projection */
    float *fm_in, *fm_out; /* [T,D] rows of one modality, with pre-projection */
    um_route route;        /* experts and weights, and logits */
    um_dynamic dynamic;    /* the dynamic gate; route is a view of it */
    um_dispatch_plan plan; /* host, with its tables on the device */
    int32_t *routed;       /* host [T,K]: route.experts */
    float *rows;           /* [T*K,D] the experts' answers, in the order of the plan's pairs */
    um_ffn_acts dense;     /* of the dense MLP */
    um_ffn_acts *shared;   /* host [F] */
    float *parts;          /* [1+F][T,D] routed sum and shared experts' rows */
    int32_t *part_index;   /* [T,1+F] */
    float *part_weight;    /* [T,1+F] */
    float *y;              /* [T,D] what the half adds to the residual stream */
} um_acts;

/* The shape of every layer's attention. */
um_attention_shape um_backbone_attention(const um_model *m);

/* Where activations are bound: host structs and tables, device memory. Both may be measuring arenas. */
typedef struct um_acts_arenas {
    um_arena *host, *device;
} um_acts_arenas;

/* Binds what one layer writes, for up to T rows at the residual stream in[T,D]. keep: mid and out have buffers of their own, as a backward
 * pass needs them; else they are `in`. The size depends on T, the model and keep alone. */
void um_acts_bind(um_acts *a, um_acts_arenas to, const um_model *m, int expert_ranks, float *in,
                  int T, bool keep);

/* What a backward pass computes again instead of finding it kept: nothing; what is inside MLPs and shared experts; all of a layer but its
 * input, its routing and its experts' rows. */
typedef enum um_recompute { UM_RECOMPUTE_NONE, UM_RECOMPUTE_FFN, UM_RECOMPUTE_LAYER } um_recompute;
um_recompute
um_recompute_from_name(const char *name); /* "none" "ffn" "layer", as --recompute has them */

/* Binds all layers for a backward pass: a [layers], each with an input, an output and a routing of its own. They share what ends with
 * its layer, and what is computed again (um_pass_again). */
void um_acts_bind_layers(um_acts *a, um_acts_arenas to, const um_model *m, int expert_ranks,
                         float *in, int T, um_recompute again);

/* Bytes of one micro-batch of T rows when serving: what um_acts_bind takes, and the residual stream. For plans of memory. */
size_t um_acts_bytes(const um_model *m, int expert_ranks, int T);

typedef struct um_pass {
    const um_backbone *backbone;
    um_batch *batch;
    um_acts *acts; /* [1], or [layers] when `keep` */
    bool keep;
    um_recompute recompute; /* what acts do not keep */
    um_exchange *exchange;
    um_dev *dev;
    um_arena *host, *device; /* scratch; left as they were by every call */
    um_lora *lora;           /* training: whose seed is set for this micro-batch; else NULL */
    uint64_t lora_seed;
    int layer; /* in work; model->layers: done */
    bool away; /* the rows of this layer are under way */
} um_pass;

/* Runs the pass until its rows are under way or it is done (um_pass_done). Waits for the answers that it needs. Group: the router and all
 * expert ranks; thread: main. */
um_status um_pass_run(um_pass *p, um_err *err);
static inline bool um_pass_done(const um_pass *p) { return p->layer == p->backbone->model->layers; }
/* Whether a layer computes, behind its attention, only the rows that batch->last_row names: the last one does when it is dense, since
 * nobody reads its other rows. They lie one behind the other then. (Experts see all rows, because their load is counted.) */
static inline bool um_pass_narrows(const um_pass *p, int layer)
{
    return p->batch->last_row != NULL && layer == p->backbone->model->layers - 1 &&
           !p->backbone->blocks[layer].moe;
}
/* The rows of a layer's second half and of its output. */
static inline int um_pass_rows(const um_pass *p, int layer)
{
    return um_pass_narrows(p, layer) ? p->batch->last_n : p->batch->T;
}
/* The last layer's output [um_pass_rows,D] (device) of a pass that is done. */
static inline const float *um_pass_out(const um_pass *p)
{
    return p->acts[p->keep ? p->layer - 1 : 0].out;
}

/* What LoRA branches drop from now on is drawn for this micro-batch. */
static inline void um_pass_seed(const um_pass *p)
{
    if (p->lora != NULL) p->lora->seed = p->lora_seed;
}

/* Under which a layer's rows are at the experts. */
um_exchange_key um_pass_key(const um_pass *p, int layer);

/* Computes again what a layer has not kept, with the same bits. */
um_status um_pass_again(const um_pass *p, int layer, um_err *err);

/* The MoE block of one layer by itself: acts.y = routed and shared experts of acts.ln2. */
um_status um_pass_moe(um_pass *p, int layer, um_acts *a, um_err *err);

/* Computes logits [n, V] of rows[n] (device) of h: final norm and head. out is host memory. */
um_status um_backbone_logits(const um_backbone *t, float *out, const float *h, const int32_t *rows,
                             int n, um_dev *dev, um_arena *device, um_err *err);

/* The backbone: the language model without its routed experts: embedding, attention, norms, gates, shared experts, dense MLPs, head
 * (spec 4).
 *
 * A micro-batch is a list of rows: segments of one or several sequences, each at its own positions with its own keys and values.
 * Prefill and decode use the same function. It writes a layer's activations into um_acts, which um_backbone_forward binds once for all
 * layers; um_acts_bind with keep gives a layer buffers of its own, as a backward pass would need them. */
#pragma once

#include "core/comm/exchange.h"
#include "core/nn/dynamic.h"
#include "core/nn/ffn.h"
#include "core/nn/gate.h"
#include "router/backbone/rope.h"
#include "router/backbone/routing.h"
#include "router/backbone/trace.h"

typedef struct um_layer {
    const float *norm1, *norm2; /* [D] */
    um_linear q, k, v, o;
    bool moe;
    um_linear gate;       /* [E,D], dynamic style [R+Z+F,D]; f32 */
    um_linear fm[UM_FMS]; /* gate pre-projection, spec 4.4.3; w.data NULL where the file has none */
    um_ffn dense;
    um_ffn *shared; /* [F] shared experts of the dynamic gate */
} um_layer;

typedef struct um_backbone {
    const um_model *model;
    const um_tensor *embed; /* [V,D], read row by row from the mapped file */
    um_layer *blocks;       /* [layers] */
    const float *norm;      /* [D] */
    um_linear head;         /* [V,D] */
    um_rope rope;
    size_t weight_bytes;
} um_backbone;

/* Loads everything that a router needs: ps lists the parts of UM_ROLE_ROUTER (um_role_parts). ps must outlive *out. */
um_status um_backbone_load(um_backbone *out, um_params *ps, um_err *err);
void um_backbone_close(um_backbone *t);

/* Copies row id of the embedding table to out[D]. 0 <= id < vocab. */
void um_backbone_embed(const um_backbone *t, float *out, int32_t id);

typedef struct um_segment {
    um_kv_flat *kv;  /* [layers] of its sequence */
    int row, T;      /* rows row .. row+T-1 of the batch are positions kv->n .. */
    um_trace *trace; /* records the segment's tensors; may be NULL */
    um_phase phase;  /* whether the rows are of the prompt or of a new token */
} um_segment;

typedef struct um_batch {
    int T;
    float *h;                /* [T,D] in: embeddings; out: the last layer's output */
    int32_t *pos;            /* [T] */
    const uint8_t *modality; /* [T] um_modality */
    const uint64_t *noise;   /* [T] random stream numbers of gate noise, or NULL */
    uint64_t noise_seed;
    um_segment *seg;
    int segs;
    um_routing *routing; /* counts the gates' choices; may be NULL */
    uint64_t step;       /* number of this micro-batch, increasing */
} um_batch;

/* The activations of one layer. */
typedef struct um_acts {
    float *in, *mid,
        *out; /* [T,D] residual stream: before, after attention, after the feed-forward block */
    float *ln1, *ln2;       /* [T,D] */
    float *rstd1, *rstd2;   /* [T] */
    float *q, *k, *v, *att; /* [T,H*hd], [T,Hkv*hd] twice, [T,H*hd] */
    float *lse;             /* [T,H] */
    float *gate_in;         /* [T,D]; equals ln2 when the layer does not have a pre-projection */
    um_route route;         /* with the dynamic gate: a view of dynamic's slots for the exchange */
    um_dynamic dynamic;
    um_ffn_acts dense;
    um_ffn_acts *shared; /* [F] */
    float *
        parts; /* [1+F][T,D] terms of an MoE block: the sum of the routed experts, then each shared expert */
    float *y; /* [T,D] output of a block before it is added */
} um_acts;
/* Binds one layer's buffers; in, mid and out share batch->h unless keep. The only place that defines their sizes. */
void um_acts_bind(um_acts *a, um_arena *arena, const um_model *m, const um_batch *b, bool keep);

/* a->y [T,D] = the MoE block of one layer for the rows a->ln2 [T,D]: the gate runs here, the routed experts on their ranks, the shared
 * ones here. Collective with the expert ranks: one exchange, keyed (b->step, layer). Thread: main. */
um_status um_backbone_moe_layer(const um_backbone *t, int layer, um_acts *a, const um_batch *b,
                                um_exchange *ex, um_dev *dev, um_arena *scratch, um_err *err);

/* Runs all layers; batch->h becomes the last layer's output. Collective with the expert ranks: every MoE layer is one exchange. Thread:
 * main. */
um_status um_backbone_forward(const um_backbone *t, um_batch *batch, um_exchange *ex, um_dev *dev,
                              um_arena *step, um_err *err);

/* Computes logits [n, V] of the given rows of h: final norm and head. */
void um_backbone_logits(const um_backbone *t, float *logits, const float *h, const int32_t *rows,
                        int n, um_dev *dev, um_arena *scratch);

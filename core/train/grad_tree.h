/* Sums of gradients over micro-batches, in an order that depends on their numbers alone: a binary tree. Node i of level l is the sum of the
 * micro-batches i*2^l .. (i+1)*2^l - 1; a node whose sibling is absent rises as it is.
 *
 *   level 2        0-3 ─────────┐
 *   level 1    0-1     2-3      4-5       6 rises
 *   level 0   0   1   2   3    4   5     6
 *
 * Micro-batches may come in any order and from any rank: a node waits for its sibling, and their sum has the same bits whichever is first.
 * A rank that adds b = 0, 1, 2 ... holds a vector for each bit of b at most, as a binary counter does.
 *
 * A vector is all gradients of a rank (um_params.grads): device memory. Beside it go the marks that say which parameters took part.
 * Thread: the rank's. */
#pragma once

#include "core/nn/params.h"

typedef struct um_grad_node {
    uint32_t level, index;
    float *sum;       /* device [values] */
    uint8_t *touched; /* host [params] 1: took part in a micro-batch below */
    float *own;       /* the node's memory, or NULL; sum is elsewhere when it is lent */
} um_grad_node;

typedef struct um_grad_tree um_grad_tree;

/* For vectors of `values` floats and marks of `params` parameters. */
um_grad_tree *um_grad_tree_open(um_dev *dev, size_t values, size_t params);
void um_grad_tree_close(um_grad_tree *t); /* accepts NULL */
/* Forgets all nodes; keeps their memory. */
void um_grad_tree_clear(um_grad_tree *t);

/* Memory for a node: no parameter is touched, sum is to be filled. Then um_grad_tree_put puts it into the tree, or um_grad_tree_drop takes
 * the memory back. */
um_grad_node um_grad_tree_new(um_grad_tree *t, uint32_t level, uint32_t index);
/* Whether the place of a node and of its descendants is empty, and no ancestor is there. */
bool um_grad_tree_fits(const um_grad_tree *t, uint32_t level, uint32_t index);
/* The node must fit. It and its sibling become their parent, and so on. */
void um_grad_tree_put(um_grad_tree *t, um_grad_node node);
void um_grad_tree_drop(um_grad_tree *t, um_grad_node node);
/* The nodes that there are, by rising micro-batch. */
int um_grad_tree_nodes(const um_grad_tree *t);
const um_grad_node *um_grad_tree_node(const um_grad_tree *t, int i);
/* Lets lone nodes rise until one is left, the sum of all; NULL when there is none. It stays in the tree. */
const um_grad_node *um_grad_tree_root(um_grad_tree *t);

/* Adds a copy of ps->grads as micro-batch b, with its marks, and sets the gradients to zero. */
void um_grad_tree_take(um_grad_tree *t, uint32_t b, um_params *ps);
/* The same for the last micro-batch of a step, without a copy: ps->grads are the node from now on, and only um_grad_tree_give may write
 * them until the tree is cleared. So a step of one micro-batch takes no memory beside the gradients. */
void um_grad_tree_lend(um_grad_tree *t, uint32_t b, um_params *ps);
/* Overwrites ps->grads and its marks with a node; node NULL: with zeros, and nothing took part. */
void um_grad_tree_give(const um_grad_node *node, um_params *ps);

/* Vectors of memory, beside the gradients themselves, that a tree takes for n micro-batches in rising order, the last of them lent. */
int um_grad_tree_vectors(uint32_t n);

/* Router r of R computes micro-batches *from .. *to - 1 of B. */
void um_grad_range(uint32_t B, int R, int r, uint32_t *from, uint32_t *to);

/* See grad_tree.h. */
#include "core/train/grad_tree.h"

#include "core/base/bytes.h"

#include <string.h>

struct um_grad_tree {
    um_dev *dev;
    size_t values, params;
    um_grad_node *node; /* [n], by rising micro-batch; behind them cap - n that only have memory */
    int n, cap;
    um_arena device;
};

um_grad_tree *um_grad_tree_open(um_dev *dev, size_t values, size_t params)
{
    um_grad_tree *t = um_zalloc(sizeof *t);
    *t = (um_grad_tree){.dev = dev, .values = values, .params = params};
    um_dev_arena(&t->device, dev, "sums of gradients", 1 << 16);
    return t;
}

void um_grad_tree_close(um_grad_tree *t)
{
    if (t == NULL) return;
    for (int i = 0; i < t->cap; i++) um_free(t->node[i].touched);
    um_free(t->node);
    um_arena_free(&t->device);
    um_free(t);
}

void um_grad_tree_clear(um_grad_tree *t) { t->n = 0; }
int um_grad_tree_nodes(const um_grad_tree *t) { return t->n; }
const um_grad_node *um_grad_tree_node(const um_grad_tree *t, int i) { return &t->node[i]; }

/* The first micro-batch below a node, and the first behind it. */
static uint64_t first_of(const um_grad_node *n) { return (uint64_t)n->index << n->level; }
static uint64_t end_of(const um_grad_node *n) { return first_of(n) + (1ull << n->level); }

bool um_grad_tree_fits(const um_grad_tree *t, uint32_t level, uint32_t index)
{
    const um_grad_node n = {.level = level, .index = index};
    for (int i = 0; i < t->n; i++)
        if (first_of(&n) < end_of(&t->node[i]) && first_of(&t->node[i]) < end_of(&n)) return false;
    return true;
}

/* Memory for one more node: its list is spare behind the others. */
static void spare_one(um_grad_tree *t)
{
    if (t->n < t->cap) return;
    t->node = um_realloc(t->node, ((size_t)t->cap + 1) * sizeof *t->node);
    t->node[t->cap++] = (um_grad_node){.touched = um_zalloc(t->params + 1)};
}

/* A node whose sum is not set. */
static um_grad_node node_new(um_grad_tree *t, uint32_t level, uint32_t index)
{
    spare_one(t);
    um_grad_node n = t->node[--t->cap];
    n.sum = NULL;
    n.level = level;
    n.index = index;
    memset(n.touched, 0, t->params);
    return n;
}

um_grad_node um_grad_tree_new(um_grad_tree *t, uint32_t level, uint32_t index)
{
    um_grad_node n = node_new(t, level, index);
    if (n.own == NULL) n.own = um_arena_f32(&t->device, 1, t->values);
    n.sum = n.own;
    return n;
}

void um_grad_tree_drop(um_grad_tree *t, um_grad_node node)
{
    t->node = um_realloc(t->node, ((size_t)t->cap + 1) * sizeof *t->node);
    t->node[t->cap++] = node;
}

/* Takes node i out; its memory is spare. */
static void remove_at(um_grad_tree *t, int i)
{
    um_grad_node gone = t->node[i];
    memmove(t->node + i, t->node + i + 1, (size_t)(t->n - i - 1) * sizeof *t->node);
    t->node[--t->n] = gone;
}

/* Adds node i + 1 to its sibling i, which becomes their parent. */
static void merge(um_grad_tree *t, int i)
{
    um_grad_node *left = &t->node[i], *right = &t->node[i + 1];
    if (t->values > 0) t->dev->ops->add(t->dev, left->sum, right->sum, t->values);
    for (size_t p = 0; p < t->params; p++) left->touched[p] |= right->touched[p];
    left->level++;
    left->index /= 2;
    remove_at(t, i + 1);
}

static bool siblings(const um_grad_node *a, const um_grad_node *b)
{
    return a->level == b->level && a->index % 2 == 0 && b->index == a->index + 1;
}

/* Node i has become new: it and its sibling become one, and so on. Returns where it is then. */
static int settle(um_grad_tree *t, int i)
{
    for (;;) {
        if (i + 1 < t->n && siblings(&t->node[i], &t->node[i + 1]))
            merge(t, i);
        else if (i > 0 && siblings(&t->node[i - 1], &t->node[i]))
            merge(t, --i);
        else
            return i;
    }
}

void um_grad_tree_put(um_grad_tree *t, um_grad_node node)
{
    int at = 0;
    UM_CHECK(um_grad_tree_fits(t, node.level, node.index));
    while (at < t->n && first_of(&t->node[at]) < first_of(&node)) at++;
    /* its memory came from behind the list, so there is room for it */
    t->node = um_realloc(t->node, ((size_t)t->cap + 1) * sizeof *t->node);
    memmove(t->node + at + 1, t->node + at, (size_t)(t->cap - at) * sizeof *t->node);
    t->node[at] = node;
    t->cap++;
    t->n++;
    settle(t, at);
}

const um_grad_node *um_grad_tree_root(um_grad_tree *t)
{
    for (uint32_t level = 0; t->n > 1; level++)
        for (int i = 0; i < t->n; i++) {
            if (t->node[i].level > level) continue;
            t->node[i].level++; /* its sibling is absent */
            t->node[i].index /= 2;
            i = settle(t, i);
        }
    return t->n == 0 ? NULL : &t->node[0];
}

/* --- the gradients of a list --- */

static void marks_copy(um_grad_node *n, const um_params *ps)
{
    for (size_t i = 0, at = 0; i < ps->n; i++)
        if (ps->list[i].trained) n->touched[at++] = ps->list[i].touched;
}

void um_grad_tree_take(um_grad_tree *t, uint32_t b, um_params *ps)
{
    um_grad_node n = um_grad_tree_new(t, 0, b);
    UM_CHECK(t->values == ps->n_grads);
    if (t->values > 0) t->dev->ops->copy(t->dev, n.sum, ps->grads, t->values * sizeof(float));
    marks_copy(&n, ps);
    um_grad_tree_put(t, n);
    um_params_zero_grads(ps);
}

void um_grad_tree_lend(um_grad_tree *t, uint32_t b, um_params *ps)
{
    um_grad_node n = node_new(t, 0, b);
    UM_CHECK(t->values == ps->n_grads);
    n.sum = ps->grads;
    marks_copy(&n, ps);
    um_grad_tree_put(t, n);
}

void um_grad_tree_give(const um_grad_node *node, um_params *ps)
{
    um_dev *dev = ps->how.dev;
    if (node == NULL) {
        um_params_zero_grads(ps);
        return;
    }
    if (ps->n_grads > 0 && node->sum != ps->grads)
        dev->ops->copy(dev, ps->grads, node->sum, ps->n_grads * sizeof(float));
    for (size_t i = 0, at = 0; i < ps->n; i++)
        if (ps->list[i].trained) ps->list[i].touched = node->touched[at++];
}

/* --- ranges --- */

void um_grad_range(uint32_t B, int R, int r, uint32_t *from, uint32_t *to)
{
    *from = (uint32_t)((uint64_t)B * (uint64_t)r / (uint64_t)R);
    *to = (uint32_t)((uint64_t)B * ((uint64_t)r + 1) / (uint64_t)R);
}

int um_grad_tree_vectors(uint32_t n)
{
    int most = 0;
    for (uint32_t b = n; b > 1; b = (b + 1) / 2) most++;
    return most;
}

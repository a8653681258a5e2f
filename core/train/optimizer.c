/* See optimizer.h. */
#include "core/train/optimizer.h"

#include "core/nn/gate.h"

typedef struct trained {
    um_param *param;
    size_t at; /* of its moments */
    um_optimizer_rule rule;
    uint64_t steps;
} trained;

struct um_optimizer {
    um_params *params;
    um_optimizer_settings how;
    trained *list; /* [n] */
    size_t n;
    um_arena device;
    float *m, *v; /* device [values] */
};

/* Biases, norms and other vectors do not decay. */
static um_optimizer_rule rule_for(const um_optimizer_settings *s, const um_spec *spec)
{
    const bool vector = spec->leaf == UM_LEAF_BIAS || spec->rank < 2;
    um_optimizer_rule rule = {.lr_factor = 1.0, .weight_decay = vector ? 0.0 : s->weight_decay};
    if (s->rule != NULL) s->rule(s->ctx, spec, &rule);
    return rule;
}

um_optimizer *um_optimizer_open(um_params *ps, const um_optimizer_settings *s)
{
    um_optimizer *o = um_zalloc(sizeof *o);
    um_dev *dev = ps->how.dev;
    size_t values = 0;
    *o = (um_optimizer){.params = ps, .how = *s};
    o->list = um_zalloc((ps->n + 1) * sizeof *o->list);
    for (size_t i = 0; i < ps->n; i++) {
        um_param *p = &ps->list[i];
        if (!p->trained) continue;
        o->list[o->n++] = (trained){.param = p, .at = values, .rule = rule_for(s, &p->spec)};
        values += um_spec_values(&p->spec);
    }
    um_dev_arena(&o->device, dev, "moments of the optimiser", 1 << 16);
    o->m = um_arena_f32(&o->device, 1, values);
    o->v = um_arena_f32(&o->device, 1, values);
    if (values == 0) return o;
    dev->ops->fill(dev, o->m, 0.0f, values);
    dev->ops->fill(dev, o->v, 0.0f, values);
    return o;
}

void um_optimizer_close(um_optimizer *o)
{
    if (o == NULL) return;
    um_arena_free(&o->device);
    um_free(o->list);
    um_free(o);
}

/* b^n with the same bits on every machine, which pow does not promise. */
static double power(double b, uint64_t n)
{
    double y = 1.0;
    for (; n > 0; n >>= 1, b *= b)
        if (n & 1) y *= b;
    return y;
}

static bool is_gate_bias(const um_param *p) { return p->spec.at.slot == UM_SLOT_GATE_BIAS; }

static void move_gate_bias(const um_optimizer *o, um_param *p)
{
    const size_t n = um_spec_values(&p->spec);
    um_arena host;
    um_arena_init(&host, "bias of a gate", 4 * n * sizeof(float));
    float *bias = um_arena_f32(&host, 1, n), *load = um_arena_f32(&host, 1, n);
    um_param_read(p, bias);
    um_param_fetch(p, load, p->grad);
    um_gate_bias_update(bias, load, (int)n, (float)o->how.gate_bias_rate);
    um_param_write(p, bias);
    um_arena_free(&host);
}

void um_optimizer_step(um_optimizer *o, double lr, double scale)
{
    um_dev *dev = o->params->how.dev;
    for (size_t i = 0; i < o->n; i++) {
        trained *t = &o->list[i];
        um_param *p = t->param;
        if (!p->touched || t->rule.lr_factor == 0.0) continue;
        t->steps++;
        if (is_gate_bias(p)) {
            move_gate_bias(o, p);
            continue;
        }
        const um_adamw how = {.lr = lr * t->rule.lr_factor,
                              .beta1 = o->how.beta1,
                              .beta2 = o->how.beta2,
                              .eps = o->how.eps,
                              .weight_decay = t->rule.weight_decay,
                              .scale = scale,
                              .bias1 = 1.0 - power(o->how.beta1, t->steps),
                              .bias2 = 1.0 - power(o->how.beta2, t->steps)};
        dev->ops->adamw(dev, p->master, p->grad, o->m + t->at, o->v + t->at,
                        um_spec_values(&p->spec), &how);
        um_param_changed(p);
    }
    um_params_repack(o->params);
}

size_t um_optimizer_params(const um_optimizer *o) { return o->n; }
um_param *um_optimizer_param(const um_optimizer *o, size_t i) { return o->list[i].param; }

void um_optimizer_squares(double *squares, const um_optimizer *o)
{
    um_dev *dev = o->params->how.dev;
    for (size_t i = 0; i < o->n; i++) {
        const um_param *p = o->list[i].param;
        squares[i] = 0;
        if (is_gate_bias(p)) continue;
        dev->ops->sum_squares(dev, &squares[i], p->grad, um_spec_values(&p->spec));
    }
}

void um_optimizer_read(const um_optimizer *o, size_t i, float *m, float *v, uint64_t *steps)
{
    const trained *t = &o->list[i];
    um_param_fetch(t->param, m, o->m + t->at);
    um_param_fetch(t->param, v, o->v + t->at);
    *steps = t->steps;
}

void um_optimizer_write(um_optimizer *o, size_t i, const float *m, const float *v, uint64_t steps)
{
    trained *t = &o->list[i];
    um_param_store(t->param, o->m + t->at, m);
    um_param_store(t->param, o->v + t->at, v);
    t->steps = steps;
}

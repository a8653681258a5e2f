/* AdamW (Loshchilov, Hutter 2019, arXiv 1711.05101) over the trained parameters of a rank, with torch.optim.AdamW's arithmetic: bias
 * correction, decay apart from the gradient, a count of steps for each parameter. A parameter that took no part in a step has no gradient
 * there: neither it, nor its moments, nor its count change.
 *
 * Moments are f32 in device memory, two vectors as long as um_params.grads. Thread: the rank's. */
#pragma once

#include "core/nn/params.h"

/* What holds for one parameter. */
typedef struct um_optimizer_rule {
    double lr_factor;    /* times the learning rate of the step; 0: it never changes */
    double weight_decay; /* 0: none */
} um_optimizer_rule;

typedef struct um_optimizer_settings {
    double beta1, beta2, eps, weight_decay;
    /* Of the gates' biases for the choice (UM_SLOT_GATE_BIAS), whose gradient is the rows of each expert: they move by so much a step,
     * up or down (um_gate_bias_update), and have no part in the norm. */
    double gate_bias_rate;
    /* NULL, or changes the rule that a parameter would have: factor 1, and weight_decay unless it is a bias or a vector. */
    void (*rule)(const void *ctx, const um_spec *s, um_optimizer_rule *rule);
    const void *ctx;
} um_optimizer_settings;

typedef struct um_optimizer um_optimizer;

/* For the parameters of ps that are trained now. ps must outlive it. */
um_optimizer *um_optimizer_open(um_params *ps, const um_optimizer_settings *s);
void um_optimizer_close(um_optimizer *o); /* accepts NULL */
/* One step for the gradients in ps: h = scale * gradient. Marks what changed (um_param_changed) and packs it. */
void um_optimizer_step(um_optimizer *o, double lr, double scale);

/* The trained parameters, in list order. */
size_t um_optimizer_params(const um_optimizer *o);
um_param *um_optimizer_param(const um_optimizer *o, size_t i);
/* The sums of the squares of their gradients, into squares (host) [um_optimizer_params]. Infinite or NaN where a value is. Waits. */
void um_optimizer_squares(double *squares, const um_optimizer *o);

/* What a checkpoint keeps of parameter i: first and second moment m, v (host, as many values as it has, in the file's layout), and the
 * number of its steps. */
void um_optimizer_read(const um_optimizer *o, size_t i, float *m, float *v, uint64_t *steps);
void um_optimizer_write(um_optimizer *o, size_t i, const float *m, const float *v, uint64_t steps);

/* See schedule.h. */
#include "core/train/schedule.h"

#include <math.h>
#include <string.h>

/* Below 1 a share of all steps, rounded up as transformers does; else steps. */
static uint64_t steps_of(double v, uint64_t steps)
{
    return (uint64_t)(v < 1 ? ceil(v * (double)steps) : v);
}

um_schedule um_schedule_of(const um_config *cfg, uint64_t steps)
{
    um_schedule s = {.kind = strcmp(cfg->schedule, "wsd") == 0        ? UM_WSD
                             : strcmp(cfg->schedule, "constant") == 0 ? UM_CONSTANT
                                                                      : UM_COSINE,
                     .steps = steps,
                     .warmup = steps_of(cfg->warmup, steps),
                     .decay = steps_of(cfg->decay, steps),
                     .last = cfg->min_lr};
    return s;
}

/* cos(pi x) for 0 <= x <= 1, with the same bits on every machine, which the C library's cos does not promise: it is the series of
 * -sin(pi (x - 1/2)). */
static double cos_pi(double x)
{
    const double pi = 3.14159265358979323846, y = pi * (x - 0.5), y2 = y * y;
    double sum = 1;
    for (int k = 23; k > 1; k -= 2) sum = 1 - y2 / (double)(k * (k - 1)) * sum;
    return x <= 0 ? 1 : -y * sum;
}

double um_schedule_share(const um_schedule *s, uint64_t step)
{
    uint64_t done = step - 1;
    if (done < s->warmup) return (double)done / (double)s->warmup;
    double rest = s->steps > s->warmup ? (double)(s->steps - s->warmup) : 1;
    double at = (double)(done - s->warmup) / rest;
    if (s->kind == UM_COSINE)
        return s->last + (1 - s->last) * (at >= 1 ? 0 : 0.5 * (1 + cos_pi(at)));
    if (s->kind == UM_CONSTANT || s->decay == 0 || done + s->decay < s->steps) return 1;
    double left = done >= s->steps ? 0 : (double)(s->steps - done) / (double)s->decay;
    return s->last + (1 - s->last) * left;
}

/* CIDEr-D (Vedantam, Zitnick, Parikh 2015): how much captions share with those of people, by n-grams of 1 to 4 words, each weighted by
 * how rare it is among the references of all media. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

typedef struct um_caption {
    const char *text;        /* the model's */
    const char *const *refs; /* [n] */
    int n;
} um_caption;

/* score[i] of each of n captions, 0 to 10, and the mean of them, which is what papers report (often times 100). The weights come from
 * these captions' own references, so that n must be large enough for rarity to mean something. UM_E_DATA when a caption has none. */
um_status um_cider(double *score, double *mean, const um_caption *captions, int n, um_err *err);

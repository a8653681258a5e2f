/* The coefficients of the auxiliary losses (spec 4.5): those of the options, else those of the model's config.json, where each term has a
 * switch and a coefficient. */
#pragma once

#include "core/base/json.h"
#include "core/options/config.h"
#include "router/backbone/aux_losses.h"

/* The name that the reference gives to a term: "aux_balance_loss"; NULL for one of ours. */
const char *um_aux_name(um_aux_term term);
/* more: keys that replace those of config.json, or NULL. A term that is switched off has coefficient 0 in *out, and its coefficient in
 * off[term] all the same, for whoever reports it. Lists live in arena. UM_E_USAGE: a term whose experts config.json does not name. */
um_status um_aux_read(um_aux *out, float off[UM_AUX_TERMS], const um_config *cfg, const um_model *m,
                      const um_json *more, um_arena *arena, um_err *err);

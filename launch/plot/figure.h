/* The figure that `unimoe plot routing` draws (spec 9.4; the paper's figures 4 and 5), as one SVG:
 *
 *   a  for each modality a heat-map, layer x expert: the share of that modality's assignments in the layer
 *   b  for each expert the share of each modality in its assignments
 *   c  for each layer how even the load is: the experts' shares, and 1/E
 * With a second run: the differences in percentage points. An assignment is one token in one slot of top-k. */
#pragma once

#include "launch/plot/routes.h"

/* b is NULL or the run that a is compared with. phase: all, prefill or decode, as given to um_routes_read. */
void um_figure_draw(um_text *svg, const um_routes *a, const um_routes *b, const char *phase);
/* The data of the figure as CSV: table (share, mix, load), layer, modality, expert, tokens, share; for two runs also other_tokens,
 * other_share and difference. Lines where nothing was counted are left out. */
void um_figure_table(um_text *csv, const um_routes *a, const um_routes *b);

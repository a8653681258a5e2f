/* The figure of a training (docs/LOGS.md), as one SVG:
 *
 *   a  the loss, and that of held-out samples          b  the loss of samples with each modality
 *   c  the norm of the gradient                        d  for each MoE layer the most loaded expert's rows, divided by the mean
 *   e  for each modality a heat-map, layer x expert: where its rows went in the last tenth of the steps
 *
 * d and e where the model has experts. Curves are running means. */
#pragma once

#include "launch/plot/run/run_log.h"

void um_run_figure_draw(um_text *svg, const um_run_log *l);

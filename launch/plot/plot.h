/* unimoe plot: images of what runs have counted. */
#pragma once

#include "core/options/config.h"

/* unimoe plot routing FILE.csv [--compare OTHER.csv] --out FILE.svg [--phase ...] [--csv TABLE.csv] */
um_status um_plot(const um_config *cfg, um_err *err);
/* The image of one routing file, all phases. */
um_status um_plot_routing(const char *csv, const char *svg, um_err *err);

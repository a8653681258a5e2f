/* Facts about this machine, for doctor. Sizes are bytes. */
#pragma once

#include <stdint.h>

void um_host_cpu_name(char out[96]);
/* CPUs that the control group grants, 0 = no limit. */
double um_host_cpu_quota(void);
int64_t um_host_shm_free(void);
/* -1 = unlimited. */
int64_t um_host_memlock(void);

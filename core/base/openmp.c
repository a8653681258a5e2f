/* See openmp.h. One of the two files that look at the environment (config.c is the other): here it is written for a library. */
#include "core/base/openmp.h"

#include <stdlib.h>
#include <unistd.h>

void um_openmp_init(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") != NULL || getenv("GOMP_SPINCOUNT") != NULL) return;
    if (setenv("GOMP_SPINCOUNT", "3000", 1) != 0 || setenv("OMP_WAIT_POLICY", "passive", 1) != 0)
        return;
    execv("/proc/self/exe", argv);
}

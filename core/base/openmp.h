/* How idle OpenMP threads wait. */
#pragma once

/* Idle threads of libgomp spin for milliseconds by default, and so take the core that a rank of another role needs. The runtime
 * reads its environment before main: unless the user has set OMP_WAIT_POLICY or GOMP_SPINCOUNT, this starts the program once
 * more with a short spin. Call it first thing in main of a program that computes. Returns when nothing is to be done. */
void um_openmp_init(char **argv);

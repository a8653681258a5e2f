/* How idle OpenMP threads wait. */
#pragma once

/* Idle threads of libgomp spin for milliseconds by default, and so occupy the core that a rank of another role needs. The runtime
 * reads its environment before main: unless the user has set OMP_WAIT_POLICY or GOMP_SPINCOUNT, this executes the program
 * again with a short spin. Call it first thing in main of a program that computes. Returns when no restart is needed. */
void um_openmp_init(char **argv);

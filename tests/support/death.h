/* Does a mistake end the program? */
#pragma once

#include <stdbool.h>

/* Calls f(arg) in a child, and returns whether it aborted there. Thread: the only one. */
bool aborts(void (*f)(void *), void *arg);

/* Values read from /proc: single entries, and the memory of the machine and of this process. Sizes are bytes. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* What follows key on the first line of the file that starts with it. */
bool um_proc_line(const char *path, const char *key, char *out, int size);
bool um_proc_number(const char *path, const char *key, int64_t *out);

/* The lesser of the machine's and the control group's; 0 = unknown. */
int64_t um_memory_available(void);
/* Resident set of this process: current and peak. */
void um_memory_self(uint64_t *now, uint64_t *peak);

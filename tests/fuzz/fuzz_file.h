/* Fuzz input for readers that want a file: a folder of its own in the temporary folder, removed at exit. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Writes data as a file of that name into the folder. The path lives until the next call. */
const char *fuzz_file(const char *name, const uint8_t *data, size_t size);
const char *fuzz_folder(void);

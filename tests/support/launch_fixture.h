/* The fixture of the launcher's tests: an arena, options at their defaults, an error, and a text for lines that were printed. */
#pragma once

#include "core/base/arena.h"
#include "core/base/text.h"
#include "core/options/config.h"

typedef struct launch_fixture {
    um_arena arena;
    um_config cfg;
    um_err err;
    um_text seen; /* the lines received, each with a newline */
} launch_fixture;

/* *state is the fixture. */
int launch_setup(void **state);
int launch_teardown(void **state);
/* Reads the flags of unimoe generate into f->cfg; they must be right. argv[0] is not looked at. */
void launch_options(launch_fixture *f, int argc, const char *const *argv);

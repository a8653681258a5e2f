/* The two fixtures of tests, as group setups for cmocka: an arena, or an arena with a folder of the test's own. Both belong to the one
 * test program that links this file. Also the check that a message names its cause. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

/* Usable between setup and teardown. dir is NULL unless the fixture is the one with a folder. */
extern um_arena arena;
extern char *dir;

int arena_setup(void **state);
int arena_teardown(void **state);

/* The arena and the folder; only errors are logged. */
int folder_setup(void **state);
int folder_teardown(void **state);

/* The test fails unless the text contains the word. */
void says(const char *text, const char *word);
/* The same for the message of an error. */
void has(const um_err *err, const char *word);

/* See fixture.h. */
#include "tests/support/fixture.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/log.h"
#include "tests/support/folder.h"

#include <string.h>

um_arena arena;
char *dir;

int arena_setup(void **state)
{
    (void)state;
    um_arena_init(&arena, "test", 1 << 16);
    return 0;
}

int arena_teardown(void **state)
{
    (void)state;
    um_arena_free(&arena);
    return 0;
}

int folder_setup(void **state)
{
    um_log_set_level(UM_LOG_ERROR);
    dir = folder_make();
    return arena_setup(state);
}

int folder_teardown(void **state)
{
    folder_remove(dir);
    um_free(dir);
    dir = NULL;
    return arena_teardown(state);
}

void says(const char *text, const char *word)
{
    if (strstr(text, word) == NULL) fail_msg("\"%s\" does not say \"%s\"", text, word);
}

void has(const um_err *err, const char *word) { says(err->msg, word); }

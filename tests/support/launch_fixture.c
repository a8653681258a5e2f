/* See launch_fixture.h. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/launch_fixture.h"

int launch_setup(void **state)
{
    launch_fixture *f = um_zalloc(sizeof *f);
    um_arena_init(&f->arena, "test", 1 << 14);
    um_config_default(&f->cfg);
    *state = f;
    return 0;
}

int launch_teardown(void **state)
{
    launch_fixture *f = *state;
    um_text_free(&f->seen);
    um_arena_free(&f->arena);
    um_free(f);
    return 0;
}

void launch_options(launch_fixture *f, int argc, const char *const *argv)
{
    const char *help = NULL;
    assert_int_equal(um_config_load(&f->cfg, UM_PROG_GENERATE, argc, (char **)(uintptr_t)argv,
                                    &f->arena, &help, &f->err),
                     UM_OK);
}

/* See decoder_fixture.h. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/decoder_fixture.h"
#include "tests/support/fixture.h"

um_decoder *decoder;

int decoder_setup(void **state, const um_media_limits *limits)
{
    um_err err = {0};
    arena_setup(state);
    if (um_decoder_open(&decoder, UM_DECODER, limits, &err) == UM_OK) return 0;
    print_error("%s\n", err.msg);
    return -1;
}

int decoder_teardown(void **state)
{
    um_decoder_close(decoder);
    return arena_teardown(state);
}

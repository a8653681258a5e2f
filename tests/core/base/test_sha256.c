/* SHA-256: the examples of FIPS 180-2 and its supplement, whole and in pieces. */
#include "core/base/sha256.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

static const char two_blocks[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";

static void known_sums(void **state)
{
    (void)state;
    static const struct {
        const char *text, *sum;
    } known[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {two_blocks, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char hex[UM_SHA256_HEX];
        um_err err = {0};
        assert_int_equal(um_sha256_of(hex, known[i].text, strlen(known[i].text), &err), UM_OK);
        assert_string_equal(hex, known[i].sum);
    }
}

static void pieces_are_the_whole(void **state)
{
    (void)state;
    char whole[UM_SHA256_HEX], pieces[UM_SHA256_HEX];
    um_sha256 h;
    assert_int_equal(um_sha256_of(whole, two_blocks, strlen(two_blocks), NULL), UM_OK);
    for (size_t cut = 0; cut <= strlen(two_blocks); cut++) {
        um_sha256_init(&h);
        um_sha256_update(&h, two_blocks, cut);
        um_sha256_update(&h, two_blocks + cut, strlen(two_blocks) - cut);
        assert_int_equal(um_sha256_final(&h, pieces, NULL), UM_OK);
        assert_string_equal(pieces, whole);
    }
    um_sha256_init(&h); /* given up: nothing leaks */
    um_sha256_drop(&h);
    um_sha256_drop(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_sums),
        cmocka_unit_test(pieces_are_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

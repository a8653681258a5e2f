/* golden_compare TRACE EXPECTED: within 1e-4 of each tensor's largest value. golden_compare --same A B: the same bytes. */
#include "tests/support/golden.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc == 3) return golden_matches(argv[1], argv[2], 1e-4) ? 0 : 1;
    if (argc == 4 && strcmp(argv[1], "--same") == 0)
        return golden_same_bits(argv[2], argv[3]) ? 0 : 1;
    fprintf(stderr, "usage: golden_compare TRACE EXPECTED | --same A B\n");
    return 2;
}

/* Routing files: an accepted file can be drawn, alone and minus itself, and its sums are consistent; a refusal says why. */
#include "launch/plot/figure.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_file.h"

#include <string.h>

static void draw(const um_routes *r)
{
    um_text one = {0}, two = {0}, table = {0};
    um_figure_draw(&one, r, NULL, "all");
    um_figure_draw(&two, r, r, "all");
    um_figure_table(&table, r, r);
    UM_ASSERT(strstr(one.s, "</svg>") != NULL && strstr(two.s, "</svg>") != NULL);
    UM_ASSERT(strncmp(table.s, "table,", 6) == 0);
    um_text_free(&one);
    um_text_free(&two);
    um_text_free(&table);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    um_arena arena;
    um_routes r;
    um_err err = {0};
    um_arena_init(&arena, "fuzz", 4096);
    const char *path = fuzz_file("run.csv", data, size);
    if (um_routes_read(&r, path, "all", &arena, &err) == UM_OK) {
        double kinds = 0;
        for (int m = 0; m < UM_MODALITIES; m++)
            kinds += um_routes_sum(&r, m, 0, r.moe_layers, 0, r.experts);
        UM_ASSERT(kinds > 0 && kinds == um_routes_sum(&r, -1, 0, r.moe_layers, 0, r.experts));
        UM_ASSERT(um_routes_alike(&r, &r, &err) == UM_OK);
        if (r.experts * (int64_t)r.moe_layers <= 10000) draw(&r); /* larger ones take their time */
    } else {
        UM_ASSERT(err.msg[0] != '\0');
    }
    um_arena_free(&arena);
    return 0;
}

/* Logs of trainings: an accepted one can be drawn, and its steps rise; a refusal says why. */
#include "launch/plot/run/run_figure.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_file.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    um_arena arena;
    um_run_log l;
    um_err err = {0};
    um_text table = {0}, svg = {0};
    um_arena_init(&arena, "fuzz", 4096);
    const char *path = fuzz_file("trainer_log.jsonl", data, size);
    if (um_run_log_read(&l, path, &table, &arena, &err) == UM_OK) {
        UM_ASSERT(l.n > 0 && strncmp(table.s, "step,", 5) == 0);
        for (size_t i = 1; i < l.n; i++) UM_ASSERT(l.step[i] > l.step[i - 1]);
        um_run_figure_draw(&svg, &l);
        UM_ASSERT(strstr(svg.s, "</svg>") != NULL && strstr(svg.s, "nan") == NULL);
    } else {
        UM_ASSERT(err.msg[0] != '\0');
    }
    um_text_free(&table);
    um_text_free(&svg);
    um_arena_free(&arena);
    return 0;
}

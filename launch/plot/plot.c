/* See plot.h. */
#include "launch/plot/plot.h"

#include "core/base/file.h"
#include "launch/plot/figure.h"

#include <string.h>

static um_status write_text(const char *path, const um_text *text, um_err *err)
{
    return um_wrap(err, um_file_write(path, text->s, text->n, err), "write");
}

/* other, out and table may be "". */
static um_status draw(const char *csv, const char *other, const char *phase, const char *out,
                      const char *table, um_err *err)
{
    um_arena arena;
    um_arena_init(&arena, "routing files", 1 << 20);
    um_routes a, b;
    um_text image = {0}, rows = {0};
    bool two = other[0] != '\0';
    um_status st = um_routes_read(&a, csv, phase, &arena, err);
    if (st == UM_OK && two) st = um_routes_read(&b, other, phase, &arena, err);
    if (st == UM_OK && two) st = um_routes_alike(&a, &b, err);
    if (st == UM_OK && out[0] != '\0') {
        um_figure_draw(&image, &a, two ? &b : NULL, phase);
        st = write_text(out, &image, err);
    }
    if (st == UM_OK && table[0] != '\0') {
        um_figure_table(&rows, &a, two ? &b : NULL);
        st = write_text(table, &rows, err);
    }
    um_text_free(&image);
    um_text_free(&rows);
    um_arena_free(&arena);
    return st;
}

um_status um_plot(const um_config *cfg, um_err *err)
{
    const char *what = cfg->args.n > 0 ? cfg->args.item[0] : "";
    if (what[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE,
                       "what to plot is missing: unimoe plot routing FILE.csv --out FILE.svg");
    if (strcmp(what, "routing") != 0)
        return UM_FAIL(err, UM_E_USAGE, "plot: %s, allowed: routing", what);
    if (cfg->args.n < 2)
        return UM_FAIL(err, UM_E_USAGE, "the counters are missing: unimoe plot routing FILE.csv");
    if (cfg->out[0] == '\0' && cfg->csv[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE, "--out is missing: the SVG to write (or --csv FILE)");
    return draw(cfg->args.item[1], cfg->compare, cfg->phase, cfg->out, cfg->csv, err);
}

um_status um_plot_routing(const char *csv, const char *svg, um_err *err)
{
    return um_wrap(err, draw(csv, "", "all", svg, "", err), "--routing");
}

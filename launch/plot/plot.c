/* See plot.h. */
#include "launch/plot/plot.h"

#include "core/base/file.h"
#include "core/base/text.h"
#include "launch/plot/figure.h"
#include "launch/plot/run/run_figure.h"

#include <string.h>
#include <strings.h>

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

um_status um_plot_format_of(um_plot_format *out, const char *flag, const char *path,
                            um_plot_format fallback, um_err *err)
{
    static const char *const images[] = {".png",  ".jpg", ".jpeg", ".pdf", ".gif",
                                         ".webp", ".eps", ".ps",   ".bmp", ".tiff"};
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
    const char *end = strrchr(name, '.');
    if (end == NULL || end == name || um_starts_with(path, "/dev/")) {
        *out = fallback;
        return UM_OK;
    }
    if (strcasecmp(end, ".svg") == 0 || strcasecmp(end, ".csv") == 0) {
        *out = strcasecmp(end, ".svg") == 0 ? UM_PLOT_SVG : UM_PLOT_CSV;
        return UM_OK;
    }
    bool image = false;
    for (size_t i = 0; i < sizeof images / sizeof images[0]; i++)
        image = image || strcasecmp(end, images[i]) == 0;
    return UM_FAIL(
        err, UM_E_USAGE,
        "%s %s: %s is not written, but SVG (.svg, an image that browsers show) or CSV (.csv)%s",
        flag, path, end, image ? "; rsvg-convert or a browser makes other images of an SVG" : "");
}

/* The endings of the file names select the formats; --csv is always the table. */
static um_status plot_names(const um_config *cfg, const char **svg, const char **table, um_err *err)
{
    um_plot_format format = UM_PLOT_SVG, csv = UM_PLOT_CSV;
    if (cfg->out[0] != '\0')
        UM_TRY(um_plot_format_of(&format, "--out", cfg->out, UM_PLOT_SVG, err));
    if (cfg->csv[0] != '\0') UM_TRY(um_plot_format_of(&csv, "--csv", cfg->csv, UM_PLOT_CSV, err));
    if (csv == UM_PLOT_SVG)
        return UM_FAIL(err, UM_E_USAGE, "--csv %s: the table is CSV; --out FILE.svg is the image",
                       cfg->csv);
    if (format == UM_PLOT_CSV && cfg->csv[0] != '\0')
        return UM_FAIL(err, UM_E_USAGE, "--out %s and --csv %s: both name the table", cfg->out,
                       cfg->csv);
    *svg = format == UM_PLOT_SVG ? cfg->out : "";
    *table = format == UM_PLOT_CSV ? cfg->out : cfg->csv;
    return UM_OK;
}

static um_status draw_run(const char *log, const char *out, const char *table, um_err *err)
{
    um_arena arena;
    um_run_log l;
    um_text image = {0}, rows = {0};
    um_arena_init(&arena, "log of a training", 1 << 16);
    um_status st = um_run_log_read(&l, log, table[0] != '\0' ? &rows : NULL, &arena, err);
    if (st == UM_OK && out[0] != '\0') {
        um_run_figure_draw(&image, &l);
        st = write_text(out, &image, err);
    }
    if (st == UM_OK && table[0] != '\0') st = write_text(table, &rows, err);
    um_text_free(&image);
    um_text_free(&rows);
    um_arena_free(&arena);
    return st;
}

/* --compare and --phase say what of counters is drawn. */
static um_status run_options(const um_config *cfg, um_err *err)
{
    const char *given = cfg->compare[0] != '\0'          ? "--compare"
                        : strcmp(cfg->phase, "all") != 0 ? "--phase"
                                                         : NULL;
    if (given == NULL) return UM_OK;
    return UM_FAIL(err, UM_E_USAGE, "plot training: %s is for plot routing", given);
}

um_status um_plot(const um_config *cfg, um_err *err)
{
    const char *svg = "", *table = "";
    const char *what = cfg->args.n > 0 ? cfg->args.item[0] : "";
    const bool training = strcmp(what, "training") == 0;
    if (what[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE,
                       "what to plot is missing: unimoe plot routing FILE.csv --out FILE.svg, or "
                       "unimoe plot training RUN --out FILE.svg");
    if (!training && strcmp(what, "routing") != 0)
        return UM_FAIL(err, UM_E_USAGE, "plot: %s, allowed: routing training", what);
    if (cfg->args.n < 2)
        return UM_FAIL(err, UM_E_USAGE,
                       training ? "the run is missing: unimoe plot training RUN"
                                : "the counters are missing: unimoe plot routing FILE.csv");
    if (training) UM_TRY(run_options(cfg, err));
    if (cfg->out[0] == '\0' && cfg->csv[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE, "--out is missing: the SVG to write (or --csv FILE)");
    UM_TRY(plot_names(cfg, &svg, &table, err));
    if (training) return draw_run(cfg->args.item[1], svg, table, err);
    return draw(cfg->args.item[1], cfg->compare, cfg->phase, svg, table, err);
}

um_status um_plot_training(const char *log, const char *svg, um_err *err)
{
    return draw_run(log, svg, "", err);
}

um_status um_plot_routing(const char *csv, const char *svg, um_err *err)
{
    return um_wrap(err, draw(csv, "", "all", svg, "", err), "--routing");
}

/* See figure.h. Titles, descriptions and the arrangement of the panels. */
#include "launch/plot/figure.h"

#include "launch/plot/figure_panels.h"

#include <inttypes.h>
#include <string.h>

enum { COLUMNS_MAX = 256, ROWS_MAX = 64 };

/* ---- text ---- */

static const char *names(um_figure *f, const bool *which)
{
    const char *s = "";
    for (int m = 0; m < UM_MODALITIES; m++)
        if (which[m])
            s = um_arena_fmt(&f->arena, "%s%s%s", s, s[0] ? ", " : "",
                             um_modality_name((um_modality)m));
    return s;
}

static const char *title(um_figure *f)
{
    const um_routes *a = f->a, *b = f->b;
    if (b == NULL)
        return um_arena_fmt(&f->arena, "Routing of %s",
                            um_panel_shortened(f, a->model[0] ? a->model : a->name, 80));
    bool alike = strcmp(a->name, b->name) == 0; /* the files have one name in two folders */
    return um_arena_fmt(&f->arena, "Routing of %s minus %s",
                        um_panel_shortened(f, alike ? a->path : a->name, 42),
                        um_panel_shortened(f, alike ? b->path : b->name, 42));
}

static const char *phase_words(const char *phase)
{
    return strcmp(phase, "prefill") == 0  ? "rows of prompts"
           : strcmp(phase, "decode") == 0 ? "rows of new tokens"
                                          : "rows of prompts and of new tokens";
}

static const char *run_words(um_figure *f, const um_routes *r)
{
    return um_arena_fmt(&f->arena, "%s%s%s assignments of %" PRId64 " request%s",
                        f->b == NULL ? "" : um_panel_shortened(f, r->name, 60),
                        f->b == NULL ? "" : ": ",
                        um_panel_grouped(f, um_routes_sum(r, -1, 0, r->moe_layers, 0, r->experts)),
                        r->requests, r->requests == 1 ? "" : "s");
}

static const char *subtitle(um_figure *f, const char *phase)
{
    const um_routes *a = f->a;
    const char *what =
        um_arena_fmt(&f->arena, "%s%s%d expert%s, top-%d, in %d of %d layers; %s", a->variant,
                     a->variant[0] ? ", " : "", a->experts, a->experts == 1 ? "" : "s", a->top_k,
                     a->moe_layers, a->layers, phase_words(phase));
    return f->b != NULL ? what : um_arena_fmt(&f->arena, "%s; %s", what, run_words(f, a));
}

/* ---- the figure ---- */

/* Modalities that only one of two runs has: there is nothing to subtract. */
static const char *left_out(um_figure *f)
{
    bool only_a[UM_MODALITIES], only_b[UM_MODALITIES];
    for (int m = 0; m < UM_MODALITIES; m++) {
        only_a[m] = f->b != NULL && f->a->seen[m] && !f->b->seen[m];
        only_b[m] = f->b != NULL && f->b->seen[m] && !f->a->seen[m];
    }
    const char *a = names(f, only_a), *b = names(f, only_b), *s = "";
    if (a[0])
        s = um_arena_fmt(&f->arena, "only in %s, left out of a and b: %s",
                         um_panel_shortened(f, f->a->name, 40), a);
    if (b[0])
        s = um_arena_fmt(&f->arena, "%s%sonly in %s, left out of a and b: %s", s, s[0] ? "; " : "",
                         um_panel_shortened(f, f->b->name, 40), b);
    return s;
}

static double panels(um_figure *f, double y)
{
    double h = 170;
    y = um_panel_share(f, y);
    if (f->cols.slots <= 16) {
        double w = (um_panel_inner - UM_PANEL_LEFT - 14) / 2;
        um_panel_mix(f, UM_PANEL_LEFT, y, w, h);
        um_panel_load(f, UM_PANEL_LEFT + w + UM_PANEL_LEFT + 14, y, w, h);
        return y + 32 + h + 44;
    }
    y = um_panel_mix(f, UM_PANEL_LEFT, y, um_panel_inner, h) + 32;
    um_panel_load(f, UM_PANEL_LEFT, y, um_panel_inner, h);
    return y + 32 + h + 44;
}

void um_figure_draw(um_text *svg, const um_routes *a, const um_routes *b, const char *phase)
{
    um_figure f = {.a = a,
                   .b = b,
                   .letter = "a",
                   .cols = um_bins_of(a->experts, COLUMNS_MAX),
                   .rows = um_bins_of(a->moe_layers, ROWS_MAX)};
    um_arena_init(&f.arena, "figure", 1 << 16);
    for (int m = 0; m < UM_MODALITIES; m++)
        if (a->seen[m] && (b == NULL || b->seen[m])) f.kind[f.kinds++] = m;
    const char *head = title(&f), *under = subtitle(&f, phase), *note = left_out(&f);
    um_panel_label(&f, 14, 28, 17, NULL, um_panel_black, true, head);
    um_panel_label(&f, 14, 47, 11.5, NULL, um_panel_grey, false, under);
    double y = 84;
    if (b != NULL) {
        um_panel_label(&f, 14, 63, 11.5, NULL, um_panel_grey, false, run_words(&f, a));
        um_panel_label(&f, 14, 79, 11.5, NULL, um_panel_grey, false, run_words(&f, b));
        if (note[0]) um_panel_label(&f, 14, 95, 11.5, NULL, um_panel_grey, false, note);
        y = note[0] ? 132 : 116;
    }
    double bottom = panels(&f, y);
    const char *desc = um_arena_fmt(
        &f.arena,
        "%s. Panel a: for each modality (%s) the %s of its assignments, layers down, experts "
        "across. Panel b: for each expert the %s of each modality. Panel c: for each layer the %s "
        "of each expert, and the even share.",
        under, names(&f, a->seen), b == NULL ? "share" : "change of the share",
        b == NULL ? "share" : "change of the share", b == NULL ? "load" : "change of the load");
    um_svg_document(svg, UM_PANEL_WIDTH, bottom, head, desc, &f.body);
    um_text_free(&f.body);
    um_arena_free(&f.arena);
}

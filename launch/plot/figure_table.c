/* See figure.h: the table behind the figure. */
#include "launch/plot/figure.h"

#include <stdio.h>
#include <string.h>

typedef struct cell {
    const char *table, *modality;
    int layer, expert; /* layer -1: all */
    double tokens[2], whole[2];
} cell;

static void table_line(um_text *csv, const cell *c, bool two)
{
    char layer[16] = "all";
    if (c->tokens[0] == 0 && (!two || c->tokens[1] == 0)) return;
    if (c->layer >= 0) snprintf(layer, sizeof layer, "%d", c->layer);
    double a = c->whole[0] > 0 ? c->tokens[0] / c->whole[0] : 0,
           b = c->whole[1] > 0 ? c->tokens[1] / c->whole[1] : 0;
    um_text_fmt(csv, "%s,%s,%s,%d,%.0f,%.9f", c->table, layer, c->modality, c->expert, c->tokens[0],
                a);
    if (two) um_text_fmt(csv, ",%.0f,%.9f,%.9f", c->tokens[1], b, a - b);
    um_text_fmt(csv, "\n");
}

/* One line for each expert: the tokens of kind in layers l0 <= l < l1, and the total that the table divides by. */
static void table_rows(um_text *csv, const um_routes *const run[2], const char *table, int kind,
                       int l0, int l1, int layer)
{
    const char *name = kind < 0 ? "all" : um_modality_name((um_modality)kind);
    bool mixed = strcmp(table, "mix") == 0;
    double whole[2] = {0};
    for (int i = 0; i < 2 && run[i] != NULL && !mixed; i++)
        whole[i] = um_routes_sum(run[i], kind, l0, l1, 0, run[i]->experts);
    for (int e = 0; e < run[0]->experts; e++) {
        cell c = {.table = table, .modality = name, .layer = layer, .expert = e};
        for (int i = 0; i < 2 && run[i] != NULL; i++) {
            c.tokens[i] = um_routes_sum(run[i], kind, l0, l1, e, e + 1);
            c.whole[i] = mixed ? um_routes_sum(run[i], -1, l0, l1, e, e + 1) : whole[i];
        }
        table_line(csv, &c, run[1] != NULL);
    }
}

void um_figure_table(um_text *csv, const um_routes *a, const um_routes *b)
{
    const um_routes *const run[2] = {a, b};
    um_text_fmt(csv, "table,layer,modality,expert,tokens,share%s\n",
                b != NULL ? ",other_tokens,other_share,difference" : "");
    for (int l = 0; l < a->moe_layers; l++)
        for (int m = 0; m < UM_MODALITIES; m++)
            if (a->seen[m] || (b != NULL && b->seen[m]))
                table_rows(csv, run, "share", m, l, l + 1, a->layer[l]);
    for (int m = 0; m < UM_MODALITIES; m++)
        if (a->seen[m] || (b != NULL && b->seen[m]))
            table_rows(csv, run, "mix", m, 0, a->moe_layers, -1);
    for (int l = 0; l < a->moe_layers; l++) table_rows(csv, run, "load", -1, l, l + 1, a->layer[l]);
}

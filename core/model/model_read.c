/* See model_read.h. */
#include "core/model/model_read.h"

#include "core/base/file.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { CONFIG_MAX = 1 << 24 }; /* bytes of a config file */

static void keep(um_reader *r, um_status st) { r->st = um_wrap(r->err, st, "%s", r->path); }

void um_take_int(um_reader *r, const char *key, bool required, int64_t min, int64_t max, int *out)
{
    int64_t v = *out;
    if (r->st != UM_OK) return;
    keep(r, um_json_read_int(r->j, key, required, min, max, &v, r->err));
    if (r->st == UM_OK) *out = (int)v;
}

void um_take_f32(um_reader *r, const char *key, bool required, double min, double max, float *out)
{
    double v = (double)*out;
    if (r->st != UM_OK) return;
    keep(r, um_json_read_num(r->j, key, required, min, max, &v, r->err));
    if (r->st == UM_OK) *out = (float)v;
}

void um_take_bool(um_reader *r, const char *key, bool *out)
{
    const um_json *v = um_json_get(r->j, key);
    if (r->st != UM_OK || !um_given(r, key)) return;
    if (um_json_kind_of(v) != UM_JSON_BOOL) um_refuse(r, "%s: allowed true and false", key);
    *out = um_json_bool(v, *out);
}

void um_take_str(um_reader *r, const char *key, const char **out)
{
    if (r->st == UM_OK) keep(r, um_json_read_str(r->j, key, false, out, r->arena, r->err));
}

void um_take_projector(um_reader *r, const char *key, um_projector *proj, int *layers)
{
    const char *type = "linear";
    int n = 0, end = 0;
    um_take_str(r, key, &type);
    *proj = UM_PROJ_LINEAR;
    *layers = 1;
    if (strcmp(type, "linear") == 0) return;
    if (sscanf(type, "mlp%2dx_gelu%n", &n, &end) == 1 && end > 0 && type[end] == '\0' && n >= 1 &&
        type[3] >= '0') {
        *proj = UM_PROJ_MLP;
        *layers = n;
    } else {
        um_refuse(r, "%s: \"%.64s\", allowed \"linear\" and \"mlpNx_gelu\" with N from 1 to 99",
                  key, type);
    }
}

void um_take_fixed(um_reader *r, const char *key, bool fallback, bool wanted, const char *why)
{
    bool is = fallback;
    um_take_bool(r, key, &is);
    if (is != wanted) {
        um_refuse(r, "%s: %s, allowed %s: %s", key, is ? "true" : "false",
                  wanted ? "true" : "false", why);
    }
}

void um_refuse(um_reader *r, const char *fmt, ...)
{
    if (r->st != UM_OK) return;
    char text[768];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    r->st = UM_FAIL(r->err, UM_E_MODEL, "%s: %s", r->path, text);
}

bool um_given(const um_reader *r, const char *key)
{
    um_json_kind kind = um_json_kind_of(um_json_get(r->j, key));
    return kind != UM_JSON_NONE && kind != UM_JSON_NULL;
}

um_status um_reader_open(um_reader *r, um_json **root, const char *path, bool optional,
                         um_arena *arena, um_err *err)
{
    *root = NULL;
    *r = (um_reader){.path = path, .arena = arena, .err = err};
    if (optional && !um_file_exists(path)) return UM_OK;
    if (um_json_load_loose(root, path, CONFIG_MAX, err) != UM_OK)
        return r->st = UM_E_MODEL; /* the message names the file */
    if (um_json_kind_of(*root) != UM_JSON_OBJECT) um_refuse(r, "not a JSON object");
    r->j = *root;
    return r->st;
}

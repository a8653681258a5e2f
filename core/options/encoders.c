/* See encoders.h. */
#include "core/options/encoders.h"

#include "core/base/nearest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ENCODERS_MAX = 4096 };

/* The bit of one name of n bytes; 0 when unknown. */
static uint32_t bit_of(const char *name, size_t n)
{
    for (int m = UM_IMAGE; m < UM_MODALITIES; m++)
        if (strlen(um_modality_name((um_modality)m)) == n &&
            strncmp(um_modality_name((um_modality)m), name, n) == 0)
            return 1u << m;
    return 0;
}

/* A list with one of `between` between the names. */
static um_status list_parse(uint32_t *set, const char *text, size_t n, const char *between,
                            um_err *err)
{
    uint32_t all = 0;
    if (n == 3 && strncmp(text, "all", 3) == 0) {
        *set = UM_READS_ALL;
        return UM_OK;
    }
    for (size_t at = 0, len; at <= n; at += len + 1) {
        for (len = 0; at + len < n && strchr(between, text[at + len]) == NULL;) len++;
        uint32_t bit = bit_of(text + at, len);
        if (bit == 0) {
            char word[32] = "";
            memcpy(word, text + at, len < sizeof word ? len : sizeof word - 1);
            const char *names[UM_MODALITIES];
            for (int m = UM_IMAGE; m < UM_MODALITIES; m++)
                names[m] = um_modality_name((um_modality)m);
            const char *near = um_nearest(word, names + UM_IMAGE, UM_MODALITIES - UM_IMAGE);
            return UM_FAIL(
                err, UM_E_USAGE,
                "\"%s\" is not a modality%s%s; known are image, speech, sound, video, all", word,
                near != NULL ? ", did you mean " : "", near != NULL ? near : "");
        }
        all |= bit;
    }
    *set = all;
    return UM_OK;
}

um_status um_modalities_parse(uint32_t *set, const char *text, um_err *err)
{
    return um_wrap(err, list_parse(set, text, strlen(text), ",+", err), "--modalities");
}

static const char *set_text(uint32_t set, um_arena *arena)
{
    const char *s = "";
    if (set == UM_READS_ALL) return "all";
    for (int m = UM_IMAGE; m < UM_MODALITIES; m++)
        if (set >> m & 1)
            s = um_arena_fmt(arena, "%s%s%s", s, s[0] != '\0' ? "," : "",
                             um_modality_name((um_modality)m));
    return s;
}

static um_status count_parse(int *out, const char *text, size_t n, um_err *err)
{
    char *end = NULL;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (n == 0 || end != text + n || errno != 0 || v < 0 || v > ENCODERS_MAX)
        return UM_FAIL(err, UM_E_USAGE, "\"%.*s\" is not a number of ranks from 0 to %d", (int)n,
                       text, ENCODERS_MAX);
    *out = (int)v;
    return UM_OK;
}

/* Videos go to the ranks of images, unless some rank is named for them. */
static void videos_place(um_encoders *e)
{
    uint32_t named = 0;
    for (int i = 0; i < e->n; i++) named |= e->group[i].set;
    if (named >> UM_VIDEO & 1) return;
    for (int i = 0; i < e->n; i++)
        if (e->group[i].set >> UM_IMAGE & 1) e->group[i].set |= 1u << UM_VIDEO;
}

static um_status groups_parse(um_encoders *e, const char *text, um_err *err)
{
    if (strchr(text, '=') == NULL) {
        e->n = 1;
        e->group[0].set = UM_READS_ALL;
        return count_parse(&e->group[0].ranks, text, strlen(text), err);
    }
    for (const char *at = text;; at++) {
        size_t len = strcspn(at, ","), name = 0;
        while (name < len && at[name] != '=') name++;
        if (name == len)
            return UM_FAIL(err, UM_E_USAGE, "\"%.*s\": want MODALITY=RANKS", (int)len, at);
        if (e->n == UM_ENCODER_GROUPS)
            return UM_FAIL(err, UM_E_USAGE, "more than %d groups", UM_ENCODER_GROUPS);
        um_encoder_group *g = &e->group[e->n++];
        UM_TRY(list_parse(&g->set, at, name, "+", err));
        UM_TRY(count_parse(&g->ranks, at + name + 1, len - name - 1, err));
        at += len;
        if (*at == '\0') return UM_OK;
    }
}

um_status um_encoders_parse(um_encoders *out, const char *text, um_arena *arena, um_err *err)
{
    um_encoders e = {0};
    um_status st = um_wrap(err, groups_parse(&e, text, err), "--encoders %.100s", text);
    if (st != UM_OK) return st;
    videos_place(&e);
    for (int i = 0; i < e.n; i++) {
        e.group[i].modalities = set_text(e.group[i].set, arena);
        e.ranks += e.group[i].ranks;
    }
    *out = e;
    return UM_OK;
}

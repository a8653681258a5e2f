/* Reading options: flags over environment over config file over the table's defaults. The table is in config_table.c,
 * everything that prints in config_print.c. See config.h. The only file that reads argv or the environment. */
#include "core/options/config.h"

#include "core/options/config_table.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/nearest.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

enum { FILE_LIMIT = 1 << 20 };

typedef struct reader {
    um_config *cfg;
    um_program who;
    um_arena *arena;
    um_err *err;
} reader;

/* ---- values ---- */

static bool is_one_of(const char *word, const char *choices)
{
    size_t n = strlen(word);
    if (strchr(word, ' ') != NULL) return false;
    for (const char *p = choices; n > 0 && (p = strstr(p, word)) != NULL; p += n) {
        bool starts = p == choices || p[-1] == ' ', ends = p[n] == ' ' || p[n] == '\0';
        if (starts && ends) return true;
    }
    return false;
}

static bool parse_bool(bool *out, const char *s)
{
    bool yes = is_one_of(s, "true yes on 1"), no = is_one_of(s, "false no off 0");
    if (yes || no) *out = yes;
    return yes || no;
}

static bool parse_int(int64_t *out, const char *s, bool size)
{
    char *end = NULL;
    errno = 0;
    int64_t v = strtoimax(s, &end, 10);
    if (end == s || errno == ERANGE || isspace((unsigned char)s[0])) return false;
    if (size && *end != '\0') {
        static const char units[] = "KMG";
        const char *unit = strchr(units, toupper((unsigned char)*end));
        if (unit == NULL || *unit == '\0') return false;
        if (__builtin_mul_overflow(v, INT64_C(1) << (10 * (unit - units + 1)), &v)) return false;
        end++;
    }
    if (*end != '\0') return false;
    *out = v;
    return true;
}

static bool parse_real(double *out, const char *s)
{
    char *end = NULL;
    double v = strtod(s, &end);
    if (end == s || *end != '\0' || isspace((unsigned char)s[0]) || v != v) return false;
    *out = v;
    return true;
}

/* Puts value into the option's field. False when the value is not allowed: nothing is changed then. */
static bool assign(um_config *cfg, const um_option *o, const char *value)
{
    void *at = (char *)cfg + o->offset;
    int64_t i = 0;
    double d = 0;
    um_list *list = at;
    switch (o->type) {
    case UM_OPT_BOOL:
        return parse_bool(at, value);
    case UM_OPT_INT:
    case UM_OPT_SIZE:
        if (!parse_int(&i, value, o->type == UM_OPT_SIZE) || i < o->min || i > o->max) return false;
        *(int64_t *)at = i;
        return true;
    case UM_OPT_REAL:
        if (!parse_real(&d, value) || d < (double)o->min || d > (double)o->max) return false;
        *(double *)at = d;
        return true;
    case UM_OPT_LIST:
        if (list->n == UM_MAX_FILES) return false;
        list->item[list->n++] = value;
        return true;
    case UM_OPT_STR:
        break;
    }
    if (o->choices != NULL && strcmp(value, o->fallback) != 0 && !is_one_of(value, o->choices))
        return false;
    *(const char **)at = value;
    return true;
}

static const char *allowed(const um_option *o, um_arena *arena)
{
    switch (o->type) {
    case UM_OPT_BOOL:
        return "true false";
    case UM_OPT_LIST:
        return um_arena_fmt(arena, "at most %d", UM_MAX_FILES);
    case UM_OPT_STR:
        return o->choices;
    case UM_OPT_INT:
    case UM_OPT_SIZE:
    case UM_OPT_REAL:
        break;
    }
    return um_arena_fmt(arena, "%" PRId64 "..%" PRId64, o->min, o->max);
}

/* One value from one origin. label is how the person wrote the option, for the message. */
static um_status set(reader *r, const um_option *o, const char *label, const char *value,
                     um_origin from)
{
    uint8_t *origin = &r->cfg->origin[o - um_options];
    if (*origin > from) return UM_OK;
    if (o->type == UM_OPT_LIST && *origin < from) ((um_list *)((char *)r->cfg + o->offset))->n = 0;
    if (!assign(r->cfg, o, um_arena_str(r->arena, value)))
        return UM_FAIL(r->err, UM_E_USAGE, "%s: %s, allowed: %s", label, value,
                       allowed(o, r->arena));
    *origin = (uint8_t)from;
    return UM_OK;
}

void um_config_default(um_config *out)
{
    *out = (um_config){.request = ""};
    for (int i = 0; i < um_option_count; i++) {
        if (um_options[i].fallback == NULL) continue;
        bool fits = assign(out, &um_options[i], um_options[i].fallback);
        UM_ASSERT(fits);
        (void)fits;
    }
}

/* ---- names ---- */

/* The nearest option that the program takes, or NULL. */
static const char *nearest_option(const reader *r, const char *name)
{
    const char *names[UM_MAX_OPTIONS];
    for (int i = 0; i < um_option_count; i++)
        names[i] = um_options[i].who & r->who ? um_options[i].name : NULL;
    return um_nearest(name, names, um_option_count);
}

static um_status unknown_flag(const reader *r, const char *name)
{
    const char *near = nearest_option(r, name);
    if (near != NULL)
        return UM_FAIL(r->err, UM_E_USAGE, "unknown flag --%s, did you mean --%s?", name,
                       um_option_flag(um_option_find(near), r->arena));
    return UM_FAIL(r->err, UM_E_USAGE, "unknown flag --%s; %s --help lists them all", name,
                   um_program_name(r->who));
}

/* ---- environment ---- */

static um_status read_environment(reader *r)
{
    static const char prefix[] = "UNIMOE_";
    for (char **e = environ; e != NULL && *e != NULL; e++) {
        const char *eq = strchr(*e, '=');
        if (eq == NULL || strncmp(*e, prefix, sizeof prefix - 1) != 0 || eq[1] == '\0') continue;
        const char *label = um_arena_strn(r->arena, *e, (size_t)(eq - *e));
        char *name = um_arena_str(r->arena, label + sizeof prefix - 1);
        for (char *p = name; *p != '\0'; p++) *p = (char)tolower((unsigned char)*p);
        const um_option *o = um_option_find(name);
        if (o == NULL) {
            const char *near = nearest_option(r, name);
            char *hint = um_arena_fmt(r->arena, ", did you mean %s%s?", prefix, near ? near : "");
            for (char *p = hint + strlen(hint) - (near ? strlen(near) + 1 : 0); *p != '\0'; p++)
                *p = (char)toupper((unsigned char)*p);
            um_log_warn("environment: %s is no option%s", label, near ? hint : "");
        } else if (o->who & r->who) {
            UM_TRY(set(r, o, label, eq + 1, UM_FROM_ENVIRONMENT));
        }
    }
    return UM_OK;
}

const char *um_config_system(const char *name, const char *fallback)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : fallback;
}

const char *um_config_temporary(void)
{
    return um_config_system("TMPDIR", um_config_system("TEMP", um_config_system("TMP", "/tmp")));
}

char **um_config_environment(um_arena *arena)
{
    size_t n = 0, kept = 0;
    while (environ != NULL && environ[n] != NULL) n++;
    char **out = um_arena_alloc(arena, (n + 1) * sizeof *out);
    for (size_t i = 0; i < n; i++)
        if (strncmp(environ[i], "UNIMOE_", 7) != 0) out[kept++] = environ[i];
    out[kept] = NULL;
    return out;
}

/* ---- config file ---- */

static char *trim(char *s)
{
    while (isspace((unsigned char)*s)) s++;
    size_t n = strlen(s);
    while (n > 0 && isspace((unsigned char)s[n - 1])) s[--n] = '\0';
    return s;
}

/* "a \"b\"\n" in place to what it says. False when the closing quote is missing or something but a comment follows it. */
static bool unquote(char *s)
{
    char *to = s;
    for (s++; *s != '"'; s++) {
        if (*s == '\0') return false;
        if (*s == '\\') {
            s++;
            if (*s == '\0') return false;
            *to++ = (char)(*s == 'n' ? '\n' : *s == 't' ? '\t' : *s);
        } else {
            *to++ = *s;
        }
    }
    s = trim(s + 1);
    bool ends = *s == '\0' || *s == '#';
    *to = '\0';
    return ends;
}

/* Cuts a comment: a # at the start or after a space. */
static void cut_comment(char *s)
{
    for (char *p = s; *p != '\0'; p++)
        if (*p == '#' && (p == s || isspace((unsigned char)p[-1]))) *p = '\0';
}

static um_status read_line(reader *r, char *line, int number)
{
    const char *path = r->cfg->config_file;
    line = trim(line);
    if (*line == '\0' || *line == '#') return UM_OK;
    char *eq = strchr(line, '=');
    if (eq == NULL) return UM_FAIL(r->err, UM_E_USAGE, "%s:%d: want name = value", path, number);
    *eq = '\0';
    char *name = trim(line), *value = trim(eq + 1);
    if (*value != '"') {
        cut_comment(value);
        value = trim(value);
    } else if (!unquote(value)) {
        return UM_FAIL(r->err, UM_E_USAGE, "%s:%d: %s: a quoted value must end with a quote", path,
                       number, name);
    }
    const um_option *o = um_option_find(name);
    if (o == NULL) {
        const char *near = nearest_option(r, name);
        return UM_FAIL(r->err, UM_E_USAGE, "%s:%d: unknown option %s%s%s%s", path, number, name,
                       near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
    }
    if (o->offset == offsetof(um_config, config_file))
        return UM_FAIL(r->err, UM_E_USAGE, "%s:%d: a config file cannot name another", path,
                       number);
    if (!(o->who & r->who)) return UM_OK; /* one file may serve all commands */
    const char *label = um_arena_fmt(r->arena, "%s:%d: %s", path, number, name);
    return set(r, o, label, value, UM_FROM_FILE);
}

static um_status read_config_file(reader *r)
{
    if (r->cfg->config_file[0] == '\0') return UM_OK;
    uint8_t *data = NULL;
    size_t size = 0;
    UM_TRY(um_wrap(r->err,
                   um_file_read(&data, &size, r->cfg->config_file, FILE_LIMIT, r->arena, r->err),
                   "config file"));
    char *line = (char *)data;
    for (int number = 1; line != NULL; number++) {
        char *end = strchr(line, '\n');
        if (end != NULL) *end = '\0';
        UM_TRY(read_line(r, line, number));
        line = end == NULL ? NULL : end + 1;
    }
    return UM_OK;
}

/* ---- flags ---- */

/* The option behind a flag's name; *negated for --no-json. */
static um_status resolve(const reader *r, const um_option **out, bool *negated, const char *name)
{
    const um_option *o = um_option_find(name);
    *negated = false;
    if (o == NULL && (strncmp(name, "no-", 3) == 0 || strncmp(name, "no_", 3) == 0)) {
        o = um_option_find(name + 3);
        if (o != NULL && o->type != UM_OPT_BOOL) o = NULL;
        *negated = o != NULL;
    }
    if (o == NULL) return unknown_flag(r, name);
    if (!(o->who & r->who))
        return UM_FAIL(r->err, UM_E_USAGE, "--%s belongs to %s, not to %s", name,
                       um_program_list(o->who, r->arena), um_program_name(r->who));
    *out = o;
    return UM_OK;
}

/* argv[*i] is "--name", "--name=value" or "--name" with the value in the next word; *i moves to the last word used. */
static um_status read_flag(reader *r, int argc, char **argv, int *i)
{
    const char *word = argv[*i] + 2, *eq = strchr(word, '='), *value = eq == NULL ? NULL : eq + 1;
    const char *name = eq == NULL ? word : um_arena_strn(r->arena, word, (size_t)(eq - word));
    const char *label = um_arena_fmt(r->arena, "--%s", name);
    const um_option *o = NULL;
    bool negated = false;
    UM_TRY(resolve(r, &o, &negated, name));
    if (negated && value != NULL) return UM_FAIL(r->err, UM_E_USAGE, "%s takes no value", label);
    if (o->type == UM_OPT_BOOL && value == NULL) value = negated ? "false" : "true";
    if (value == NULL) {
        if (*i + 1 >= argc) return UM_FAIL(r->err, UM_E_USAGE, "%s needs a value", label);
        value = argv[++*i];
        if (strncmp(value, "--", 2) == 0 && value[2] != '\0')
            return UM_FAIL(r->err, UM_E_USAGE, "%s needs a value; if %s is meant, write %s=%s",
                           label, value, label, value);
    }
    return set(r, o, label, value, UM_FROM_FLAG);
}

/* argv[*i] is "-m": the long flag under one letter. */
static um_status read_short(reader *r, int argc, char **argv, int *i)
{
    const char *word = argv[*i];
    const um_option *o = word[2] == '\0' ? um_option_short(word[1]) : NULL;
    if (o == NULL)
        return UM_FAIL(r->err, UM_E_USAGE,
                       "unknown flag %s; one dash stands before -m -p -n -o -h and -V, two before "
                       "whole names",
                       word);
    if (!(o->who & r->who))
        return UM_FAIL(r->err, UM_E_USAGE, "%s (--%s) belongs to %s, not to %s", word,
                       um_option_flag(o, r->arena), um_program_list(o->who, r->arena),
                       um_program_name(r->who));
    if (*i + 1 >= argc) return UM_FAIL(r->err, UM_E_USAGE, "%s needs a value", word);
    return set(r, o, word, argv[++*i], UM_FROM_FLAG);
}

/* Words that are not flags: how many each program takes, and where the first goes. */
static um_status read_word(reader *r, const char *word)
{
    um_list *args = &r->cfg->args;
    const bool one = r->who == UM_PROG_TRACE || r->who == UM_PROG_INSPECT ||
                     r->who == UM_PROG_TRAIN || r->who == UM_PROG_ASSEMBLE;
    const bool many = r->who == UM_PROG_BENCH || r->who == UM_PROG_EVAL;
    int most = one ? 1 : many ? UM_MAX_FILES : r->who == UM_PROG_PLOT ? 2 : 0;
    if (args->n >= most)
        return UM_FAIL(r->err, UM_E_USAGE, "unexpected word \"%s\"; usage: %s %s", word,
                       um_program_name(r->who), um_program_usage(r->who));
    args->item[args->n++] = um_arena_str(r->arena, word);
    if (r->who == UM_PROG_TRACE)
        return set(r, um_option_find("request"), "request", word, UM_FROM_FLAG);
    if (r->who == UM_PROG_ASSEMBLE)
        return set(r, um_option_find("manifest"), "manifest", word, UM_FROM_FLAG);
    if (r->who == UM_PROG_INSPECT || r->who == UM_PROG_TRAIN)
        return set(r, um_option_find("model"), "model", word, UM_FROM_FLAG);
    return UM_OK;
}

static um_status read_flags(reader *r, int argc, char **argv)
{
    bool flags = true;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (flags && strcmp(word, "--") == 0) {
            flags = false;
        } else if (flags && strncmp(word, "--", 2) == 0) {
            UM_TRY(read_flag(r, argc, argv, &i));
        } else if (flags && word[0] == '-' && word[1] != '\0') {
            UM_TRY(read_short(r, argc, argv, &i));
        } else {
            UM_TRY(read_word(r, word));
        }
    }
    return UM_OK;
}

static bool asks(int argc, char **argv, const char *flag, const char *brief)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], flag) == 0 || strcmp(argv[i], brief) == 0) return true;
    return false;
}

um_status um_config_load(um_config *out, um_program who, int argc, char **argv, um_arena *arena,
                         const char **help, um_err *err)
{
    um_config cfg;
    reader r = {&cfg, who, arena, err};
    um_config_default(&cfg);
    *help = NULL;
    if (asks(argc, argv, "--help", "-h"))
        *help = um_config_help(who, arena);
    else if (asks(argc, argv, "--version", "-V"))
        *help = um_arena_fmt(arena, "%s %s\n", um_program_name(who), UM_VERSION);
    if (*help == NULL) {
        UM_TRY(read_flags(&r, argc, argv));
        UM_TRY(read_environment(&r));
        UM_TRY(read_config_file(&r));
        um_log_set_level((um_log_level)um_log_level_from_name(cfg.log_level));
    }
    *out = cfg;
    return UM_OK;
}

um_origin um_config_origin(const um_config *cfg, const char *name)
{
    const um_option *o = um_option_find(name);
    UM_ASSERT(o != NULL);
    return (um_origin)cfg->origin[o - um_options];
}

um_status um_config_words(const um_config *cfg, um_program who, const char **words, int max, int *n,
                          um_arena *arena, um_err *err)
{
    um_config plain;
    um_config_default(&plain);
    int used = *n;
    for (int i = 0; i < um_option_count; i++) {
        const um_option *o = &um_options[i];
        if (!(o->who & who) || o->who & UM_PROG_LOCAL) continue;
        for (int k = 0; k < um_option_items(cfg, o); k++) {
            const char *value = um_option_value(cfg, o, k, arena, true),
                       *flag = um_option_flag(o, arena);
            if (o->type != UM_OPT_LIST && cfg->origin[i] == UM_FROM_DEFAULT &&
                strcmp(value, um_option_value(&plain, o, 0, arena, true)) == 0)
                continue;
            bool is_bool = o->type == UM_OPT_BOOL;
            if (used + 2 > max)
                return UM_FAIL(err, UM_E_LIMIT, "options of %s: more than %d words",
                               um_program_name(who), max);
            words[used++] =
                um_arena_fmt(arena, is_bool && value[0] == 'f' ? "--no-%s" : "--%s", flag);
            if (!is_bool) words[used++] = value;
        }
    }
    *n = used;
    return UM_OK;
}

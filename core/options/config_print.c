/* Everything that shows options to people: --help, --print-config, docs/OPTIONS.md. See config.h. */
#include "core/options/config_table.h"

#include <ctype.h>
#include <inttypes.h>
#include <string.h>

/* true when the option is one of the words of a list. */
static bool names(const um_option *o, const char *list)
{
    size_t n = strlen(o->name);
    for (const char *at = list; (at = strstr(at, o->name)) != NULL; at += n)
        if ((at == list || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0')) return true;
    return false;
}

static const char *metavar(const um_option *o)
{
    switch (o->type) {
    case UM_OPT_BOOL:
        return "";
    case UM_OPT_INT:
        return " N";
    case UM_OPT_SIZE:
        return " SIZE";
    case UM_OPT_REAL:
        return " X";
    case UM_OPT_STR:
        if (o->choices != NULL) return " WORD";
        return names(o, "model vision_tower speech_tower sound_tower base tuned expert_files "
                        "media_folder resume upcycle")
                   ? " DIR"
               : names(o, "prompt_file requests request out routing config config_file csv compare "
                          "hostfile decoder train_start manifest tokenizer")
                   ? " FILE"
                   : " TEXT";
    case UM_OPT_LIST:
        break;
    }
    return " FILE";
}

/* " (none zstd; default none)" */
static const char *remarks(const um_option *o, um_arena *arena)
{
    if (o->type == UM_OPT_BOOL || o->type == UM_OPT_LIST) return "";
    if (o->choices != NULL && o->fallback[0] == '\0')
        return um_arena_fmt(arena, " (%s)", o->choices);
    if (o->choices != NULL)
        return um_arena_fmt(arena, " (%s; default %s)", o->choices, o->fallback);
    return o->fallback[0] == '\0' ? "" : um_arena_fmt(arena, " (default %s)", o->fallback);
}

static void help_to(FILE *to, um_program who, um_arena *arena)
{
    fprintf(to, "usage: %s %s\n%s\n", um_program_name(who), um_program_usage(who),
            um_program_purpose(who));
    const char *example = um_program_example(who), *group = "";
    if (example[0] != '\0') fprintf(to, "\nexamples\n");
    for (const char *line = example; *line != '\0';) {
        size_t n = strcspn(line, "\n");
        fprintf(to, "  %.*s\n", (int)n, line);
        line += n + (line[n] == '\n');
    }
    for (int i = 0; i < um_option_count; i++) {
        const um_option *o = &um_options[i];
        if (!(o->who & who)) continue;
        if (strcmp(group, o->group) != 0) fprintf(to, "\n%s\n", group = o->group);
        char letter = um_option_letter(o);
        const char *brief = letter != '\0' ? um_arena_fmt(arena, "-%c,", letter) : "";
        fprintf(to, "  %-3s --%-23s %s%s\n", brief,
                um_arena_fmt(arena, "%s%s", um_option_flag(o, arena), metavar(o)), o->meaning,
                remarks(o, arena));
    }
    fprintf(to, "  -h, --%-23s this text\n  -V, --%-23s the version\n", "help", "version");
    fprintf(to, "\nA flag --some-name is also UNIMOE_SOME_NAME in the environment and some_name = "
                "value in a config file;\n"
                "a yes-or-no flag is taken back by --no-some-name. Sizes take K, M or G behind.\n"
                "Exit codes: 0 done, 1 failed at run time, 2 usage, 3 model, 4 data, 75 stopped "
                "after saving a "
                "checkpoint.\n");
}

const char *um_config_help(um_program who, um_arena *arena)
{
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (to == NULL) return "out of memory\n";
    help_to(to, who, arena);
    fclose(to);
    const char *out = um_arena_strn(arena, text, size);
    um_free(text); /* the stream's buffer */
    return out;
}

/* Quoted where a config file would else read something different. */
static void print_value(FILE *to, const char *s)
{
    size_t n = strlen(s);
    bool plain = n > 0 && s[0] != ' ' && s[n - 1] != ' ' && strpbrk(s, "#\"\\\n\t") == NULL;
    if (plain) {
        fputs(s, to);
        return;
    }
    fputc('"', to);
    for (; *s != '\0'; s++) {
        if (*s == '"' || *s == '\\') fputc('\\', to);
        if (*s == '\n')
            fputs("\\n", to);
        else if (*s == '\t')
            fputs("\\t", to);
        else
            fputc(*s, to);
    }
    fputc('"', to);
}

void um_config_print(const um_config *cfg, um_program who, FILE *to)
{
    static const char *const origin[] = {"default", "file", "environment", "flag"};
    um_arena a;
    um_arena_init(&a, "config", 1 << 14);
    for (int i = 0; i < um_option_count; i++) {
        const um_option *o = &um_options[i];
        if (!(o->who & who)) continue;
        int items = um_option_items(cfg, o);
        if (items == 0) fprintf(to, "# %s is empty    # %s\n", o->name, origin[cfg->origin[i]]);
        for (int k = 0; k < items; k++) {
            fprintf(to, "%s = ", o->name);
            print_value(to, um_option_value(cfg, o, k, &a, false));
            fprintf(to, "    # %s\n", origin[cfg->origin[i]]);
        }
    }
    um_arena_free(&a);
}

static const char *range(const um_option *o, um_arena *arena)
{
    if (o->choices != NULL) return o->choices;
    if (o->type == UM_OPT_BOOL) return "yes or no";
    if (o->type == UM_OPT_STR || o->type == UM_OPT_LIST) return "text";
    if (o->max == INT64_MAX) return um_arena_fmt(arena, "%" PRId64 " and more", o->min);
    return um_arena_fmt(arena, "%" PRId64 " to %" PRId64, o->min, o->max);
}

void um_config_markdown(FILE *to)
{
    um_arena a;
    um_arena_init(&a, "config", 1 << 14);
    fprintf(to, "%s",
            "# Options\n\n"
            "Made by `unimoe options`; do not edit. A flag `--some-name` is also "
            "`UNIMOE_SOME_NAME` in the\n"
            "environment and `some_name = value` in the file that `--config-file` names. A flag "
            "wins over the\n"
            "environment, the environment over the file, the file over the default. "
            "`--print-config` shows\n"
            "every value and where it came from.\n");
    const char *group = "";
    for (int i = 0; i < um_option_count; i++) {
        const um_option *o = &um_options[i];
        if (strcmp(group, o->group) != 0) {
            group = o->group;
            fprintf(to, "\n## %c%s\n\n", toupper((unsigned char)group[0]), group + 1);
            fprintf(to,
                    "| flag | default | allowed | meaning | taken by |\n|---|---|---|---|---|\n");
        }
        bool empty = o->fallback == NULL || o->fallback[0] == '\0';
        char letter = um_option_letter(o);
        const char *brief = letter != '\0' ? um_arena_fmt(&a, "`-%c` ", letter) : "";
        fprintf(to, "| %s`--%s` | %s | %s | %s | %s |\n", brief, um_option_flag(o, &a),
                empty ? "" : o->fallback, range(o, &a), o->meaning, um_program_list(o->who, &a));
    }
    um_arena_free(&a);
}

/* The option table: every way to write an option, which programs accept it, where a value comes from, and the messages for mistakes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/options/config.h"
#include "core/base/nearest.h"

enum { MOST_WORDS = 40 };

typedef struct fixture {
    um_arena arena;
    um_config cfg;
    um_err err;
    const char *help;
    um_status st;
} fixture;

static int setup(void **state)
{
    fixture *f = um_zalloc(sizeof *f);
    um_arena_init(&f->arena, "test", 1 << 14);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    um_arena_free(&f->arena);
    um_free(f);
    return 0;
}

/* Loads the words of a line separated by "|". */
static um_status load(fixture *f, um_program who, const char *line)
{
    char *argv[MOST_WORDS] = {(char *)(uintptr_t) "program"};
    int argc = 1;
    char *copy = um_arena_str(&f->arena, line), *save = NULL;
    for (char *w = strtok_r(copy, "|", &save); w != NULL; w = strtok_r(NULL, "|", &save))
        argv[argc++] = w;
    f->err.msg[0] = '\0';
    f->st = um_config_load(&f->cfg, who, argc, argv, &f->arena, &f->help, &f->err);
    return f->st;
}

static void refused(fixture *f, um_program who, const char *line, const char *message)
{
    assert_int_equal(load(f, who, line), UM_E_USAGE);
    assert_string_equal(f->err.msg, message);
}

static void test_defaults(void **state)
{
    fixture *f = *state;
    um_config d;
    um_config_default(&d);
    assert_int_equal(load(f, UM_PROG_GENERATE, ""), UM_OK);
    assert_null(f->help);
    assert_memory_equal(&f->cfg.routers, &d.routers, sizeof d.routers);
    assert_int_equal(d.routers, 1);
    assert_int_equal(d.experts, 4);
    assert_string_equal(d.encoders, "1");
    assert_int_equal(d.credit, 64 << 20);
    assert_int_equal(d.deadline_ms, 3500);
    assert_int_equal(d.prefill_chunk, 256);
    assert_int_equal(d.max_batch, 32);
    assert_int_equal(d.max_new_tokens, 128);
    assert_int_equal(d.top_k, -1);
    assert_true(d.temperature < 0 && d.top_p < 0);
    assert_string_equal(d.isa, "auto");
    assert_string_equal(d.wire, "f32");
    assert_string_equal(d.codec, "none");
    assert_string_equal(d.image_aspect, "");
    assert_string_equal(d.model, "");
    assert_string_equal(d.request, "");
    assert_int_equal(d.image.n, 0);
    assert_false(d.json);
}

static void test_spellings(void **state)
{
    fixture *f = *state;
    assert_int_equal(
        load(f, UM_PROG_GENERATE,
             "--max-new-tokens|7|--prefill_chunk=9|--credit|2M|--json|--temperature|-0.5"
             "|--ignore-eos|--no-ignore-eos|--wire=bf16|--prompt=--image|--image|a|--image|b"),
        UM_OK);
    assert_int_equal(f->cfg.max_new_tokens, 7);
    assert_int_equal(f->cfg.prefill_chunk, 9);
    assert_int_equal(f->cfg.credit, 2 << 20);
    assert_true(f->cfg.json);
    assert_false(f->cfg.ignore_eos);
    assert_true(f->cfg.temperature == -0.5);
    assert_string_equal(f->cfg.wire, "bf16");
    assert_string_equal(f->cfg.prompt, "--image");
    assert_int_equal(f->cfg.image.n, 2);
    assert_string_equal(f->cfg.image.item[1], "b");
    assert_int_equal(um_config_origin(&f->cfg, "ignore_eos"), UM_FROM_FLAG);
    assert_int_equal(um_config_origin(&f->cfg, "top_p"), UM_FROM_DEFAULT);
}

static void test_positional(void **state)
{
    fixture *f = *state;
    assert_int_equal(load(f, UM_PROG_TRACE, "r.json|--out|o.safetensors"), UM_OK);
    assert_string_equal(f->cfg.request, "r.json");
    assert_string_equal(f->cfg.out, "o.safetensors");
    assert_int_equal(load(f, UM_PROG_GENERATE, "-m|DIR|-p|-3 degrees|-n|7"), UM_OK);
    assert_string_equal(f->cfg.model, "DIR");
    assert_string_equal(f->cfg.prompt, "-3 degrees");
    assert_int_equal(f->cfg.max_new_tokens, 7);
    assert_int_equal(load(f, UM_PROG_INIT, "-o|x|--preset|tiny"), UM_OK);
    assert_string_equal(f->cfg.out, "x");
    assert_int_equal(load(f, UM_PROG_INSPECT, "--|--odd-name"), UM_OK);
    assert_string_equal(f->cfg.model, "--odd-name");
    assert_int_equal(load(f, UM_PROG_TRACE, "a|b"), UM_E_USAGE);
    assert_non_null(strstr(f->err.msg, "unexpected word \"b\""));
    assert_int_equal(load(f, UM_PROG_GENERATE, "hello"), UM_E_USAGE);
    assert_int_equal(load(f, UM_PROG_EXPERT, "hello"), UM_E_USAGE);
}

static void test_mistakes(void **state)
{
    fixture *f = *state;
    refused(f, UM_PROG_GENERATE, "--tempreture|1",
            "unknown flag --tempreture, did you mean --temperature?");
    refused(f, UM_PROG_GENERATE, "--max_new_token|1",
            "unknown flag --max_new_token, did you mean --max-new-tokens?");
    refused(f, UM_PROG_GENERATE, "--quux",
            "unknown flag --quux; unimoe generate --help lists them all");
    refused(
        f, UM_PROG_GENERATE, "-x|4",
        "unknown flag -x; one dash stands before -m -p -n -o -h and -V, two before whole names");
    refused(f, UM_PROG_GENERATE, "-prompt|x",
            "unknown flag -prompt; one dash stands before -m -p -n -o -h and -V, two before whole "
            "names");
    refused(f, UM_PROG_GENERATE, "-n", "-n needs a value");
    refused(f, UM_PROG_GENERATE, "-n|many", "-n: many, allowed: 0..16777216");
    refused(f, UM_PROG_INSPECT, "-p|x",
            "-p (--prompt) belongs to unimoe generate, not to unimoe inspect");
    refused(f, UM_PROG_TRACE, "--image|x",
            "--image belongs to unimoe generate, not to unimoe trace");
    refused(f, UM_PROG_EXPERT, "--top-k|1",
            "--top-k belongs to unimoe-router, unimoe generate, unimoe trace, bench, not to "
            "unimoe-expert");
    refused(f, UM_PROG_GENERATE, "--max-batch|0", "--max-batch: 0, allowed: 1..4096");
    refused(f, UM_PROG_GENERATE, "--max-batch|4097", "--max-batch: 4097, allowed: 1..4096");
    refused(f, UM_PROG_GENERATE, "--max-batch|4x", "--max-batch: 4x, allowed: 1..4096");
    refused(f, UM_PROG_GENERATE, "--max-batch|4K", "--max-batch: 4K, allowed: 1..4096");
    refused(f, UM_PROG_GENERATE, "--max-batch|99999999999999999999",
            "--max-batch: 99999999999999999999, allowed: 1..4096");
    refused(f, UM_PROG_GENERATE, "--credit|9999999999G",
            "--credit: 9999999999G, allowed: 65536..1099511627776");
    refused(f, UM_PROG_GENERATE, "--credit|1MB", "--credit: 1MB, allowed: 65536..1099511627776");
    refused(f, UM_PROG_GENERATE, "--top-p|nan", "--top-p: nan, allowed: -1..1");
    refused(f, UM_PROG_GENERATE, "--wire|f16", "--wire: f16, allowed: f32 bf16");
    refused(f, UM_PROG_GENERATE, "--wire|f32 bf16", "--wire: f32 bf16, allowed: f32 bf16");
    refused(f, UM_PROG_GENERATE, "--wire=", "--wire: , allowed: f32 bf16");
    refused(f, UM_PROG_GENERATE, "--json=maybe", "--json: maybe, allowed: true false");
    refused(f, UM_PROG_GENERATE, "--no-json=true", "--no-json takes no value");
    refused(f, UM_PROG_GENERATE, "--no-wire",
            "unknown flag --no-wire; unimoe generate --help lists them all");
    refused(f, UM_PROG_GENERATE, "--model", "--model needs a value");
    refused(f, UM_PROG_GENERATE, "--model|--image",
            "--model needs a value; if --image is meant, write --model=--image");
}

static void test_too_many_files(void **state)
{
    fixture *f = *state;
    char *argv[2 * UM_MAX_FILES + 3] = {(char *)(uintptr_t) "program"};
    int argc = 1;
    for (int i = 0; i <= UM_MAX_FILES; i++) {
        argv[argc++] = (char *)(uintptr_t) "--image";
        argv[argc++] = (char *)(uintptr_t) "x.png";
    }
    um_config cfg;
    assert_int_equal(
        um_config_load(&cfg, UM_PROG_GENERATE, argc - 2, argv, &f->arena, &f->help, &f->err),
        UM_OK);
    assert_int_equal(cfg.image.n, UM_MAX_FILES);
    assert_int_equal(
        um_config_load(&cfg, UM_PROG_GENERATE, argc, argv, &f->arena, &f->help, &f->err),
        UM_E_USAGE);
}

static void test_environment(void **state)
{
    fixture *f = *state;
    setenv("UNIMOE_MAX_BATCH", "5", 1);
    setenv("UNIMOE_PROMPT", "hello", 1);
    setenv("UNIMOE_WIRE", "", 1);
    setenv("UNIMOE_MAX_BACH", "3", 1); /* a warning, no error */
    assert_int_equal(load(f, UM_PROG_GENERATE, ""), UM_OK);
    assert_int_equal(f->cfg.max_batch, 5);
    assert_string_equal(f->cfg.prompt, "hello");
    assert_string_equal(f->cfg.wire, "f32");
    assert_int_equal(um_config_origin(&f->cfg, "max_batch"), UM_FROM_ENVIRONMENT);
    assert_int_equal(load(f, UM_PROG_GENERATE, "--max-batch|6"), UM_OK);
    assert_int_equal(f->cfg.max_batch, 6);
    assert_int_equal(load(f, UM_PROG_EXPERT, ""), UM_OK); /* UNIMOE_PROMPT is for others */
    assert_string_equal(f->cfg.prompt, "");
    char **env = um_config_environment(&f->arena);
    for (; *env != NULL; env++) assert_int_not_equal(strncmp(*env, "UNIMOE_", 7), 0);
    setenv("UNIMOE_MAX_BATCH", "none", 1);
    refused(f, UM_PROG_GENERATE, "", "UNIMOE_MAX_BATCH: none, allowed: 1..4096");
    unsetenv("UNIMOE_MAX_BATCH");
    unsetenv("UNIMOE_MAX_BACH");
    unsetenv("UNIMOE_PROMPT");
    unsetenv("UNIMOE_WIRE");
}

static const char *write_file(const char *text)
{
    static const char path[] = "test_config.tmp.conf";
    FILE *to = fopen(path, "w");
    assert_non_null(to);
    fputs(text, to);
    fclose(to);
    return path;
}

static void test_file(void **state)
{
    fixture *f = *state;
    const char *path =
        write_file("# a comment\n\nmax_batch = 5   # five\nmax-new-tokens=6\r\n prompt = \"a # "
                   "\\\"b\\\"\\n\"  # text\n"
                   "image = x.png\nimage = y.png\npreset = small\njson = yes\nmodel = a#b\n");
    char line[200];
    snprintf(line, sizeof line, "--config-file|%s", path);
    assert_int_equal(load(f, UM_PROG_GENERATE, line), UM_OK);
    assert_int_equal(f->cfg.max_batch, 5);
    assert_int_equal(f->cfg.max_new_tokens, 6);
    assert_string_equal(f->cfg.prompt, "a # \"b\"\n");
    assert_string_equal(f->cfg.model, "a#b");
    assert_int_equal(f->cfg.image.n, 2);
    assert_true(f->cfg.json);
    assert_int_equal(um_config_origin(&f->cfg, "json"), UM_FROM_FILE);

    setenv("UNIMOE_MAX_BATCH", "7", 1);
    snprintf(line, sizeof line, "--config-file=%s|--image|z.png|--max-new-tokens|8", path);
    assert_int_equal(load(f, UM_PROG_GENERATE, line), UM_OK);
    assert_int_equal(f->cfg.max_batch, 7);      /* environment over file */
    assert_int_equal(f->cfg.max_new_tokens, 8); /* flag over file */
    assert_int_equal(f->cfg.image.n, 1);        /* a list is replaced, not merged */
    assert_string_equal(f->cfg.image.item[0], "z.png");
    unsetenv("UNIMOE_MAX_BATCH");

    setenv("UNIMOE_CONFIG_FILE", path, 1);
    assert_int_equal(load(f, UM_PROG_GENERATE, ""), UM_OK);
    assert_int_equal(f->cfg.max_batch, 5);
    unsetenv("UNIMOE_CONFIG_FILE");
    unlink(path);
}

static void test_file_mistakes(void **state)
{
    fixture *f = *state;
    static const char *const bad[][2] = {
        {"max_batch = 0\n", "test_config.tmp.conf:1: max_batch: 0, allowed: 1..4096"},
        {"\nmax_bach = 3\n",
         "test_config.tmp.conf:2: unknown option max_bach, did you mean max_batch?"},
        {"max_batch\n", "test_config.tmp.conf:1: want name = value"},
        {"prompt = \"a\n", "test_config.tmp.conf:1: prompt: a quoted value must end with a quote"},
        {"prompt = \"a\" b\n",
         "test_config.tmp.conf:1: prompt: a quoted value must end with a quote"},
        {"config_file = x\n", "test_config.tmp.conf:1: a config file cannot name another"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *path = write_file(bad[i][0]);
        refused(f, UM_PROG_GENERATE, "--config-file|test_config.tmp.conf", bad[i][1]);
        unlink(path);
    }
    assert_int_equal(load(f, UM_PROG_GENERATE, "--config-file|no/such.conf"), UM_E_IO);
    assert_non_null(strstr(f->err.msg, "no/such.conf"));
}

/* The words, joined by "|". */
static const char *joined(fixture *f, um_program who)
{
    const char *words[MOST_WORDS], *s = "";
    int n = 0;
    assert_int_equal(um_config_words(&f->cfg, who, words, MOST_WORDS, &n, &f->arena, &f->err),
                     UM_OK);
    for (int i = 0; i < n; i++)
        s = um_arena_fmt(&f->arena, "%s%s%s", s, i > 0 ? "|" : "", words[i]);
    return s;
}

static void test_words(void **state)
{
    fixture *f = *state;
    assert_int_equal(load(f, UM_PROG_GENERATE, ""), UM_OK);
    assert_string_equal(joined(f, UM_PROG_ROUTER), "");
    setenv("UNIMOE_CODEC", "none", 1);
    assert_int_equal(load(f, UM_PROG_GENERATE,
                          "--model|m|--prompt|p|--wire|f32|--credit|3M|--top-p|0.1|--no-gate-noise"
                          "|--ignore-eos|--experts|3|--dry-run|--log-level|info"),
                     UM_OK);
    unsetenv("UNIMOE_CODEC");
    /* An option set to its default is passed on too: the ranks must not find another value in their environment. */
    assert_string_equal(joined(f, UM_PROG_EXPERT),
                        "--model|m|--wire|f32|--codec|none|--credit|3M|--log-level|info");
    const char *router = joined(f, UM_PROG_ROUTER);
    assert_string_equal(router,
                        "--model|m|--wire|f32|--codec|none|--credit|3M|--top-p|0.10000000000000001"
                        "|--ignore-eos|--no-gate-noise|--log-level|info");
    um_config sent = f->cfg;
    assert_int_equal(load(f, UM_PROG_ROUTER, router),
                     UM_OK); /* and they read back as the same values */
    assert_true(f->cfg.top_p == sent.top_p);
    assert_int_equal(f->cfg.credit, sent.credit);
    assert_true(f->cfg.ignore_eos);
    const char *words[3];
    int n = 0;
    assert_int_equal(um_config_words(&sent, UM_PROG_ROUTER, words, 3, &n, &f->arena, &f->err),
                     UM_E_LIMIT);
    assert_int_equal(n, 0);
}

/* The output of --print-config is itself a config file with the same values. */
static void test_print(void **state)
{
    fixture *f = *state;
    char line[100];
    assert_int_equal(
        load(f, UM_PROG_GENERATE, "--prompt= a \"#\" \\ |--max-batch|9|--top-p|0.25|--image|i"),
        UM_OK);
    um_config first = f->cfg;
    FILE *to = fopen("test_config.tmp.conf", "w");
    assert_non_null(to);
    um_config_print(&first, UM_PROG_GENERATE, to);
    fclose(to);
    FILE *from = fopen("test_config.tmp.conf", "r"), *kept = fopen("test_config.tmp2.conf", "w");
    while (fgets(line, sizeof line, from) != NULL)
        if (strncmp(line, "config_file", 11) != 0) fputs(line, kept);
    fclose(from);
    fclose(kept);
    assert_int_equal(load(f, UM_PROG_GENERATE, "--config-file|test_config.tmp2.conf"), UM_OK);
    assert_string_equal(f->cfg.prompt, first.prompt);
    assert_int_equal(f->cfg.max_batch, 9);
    assert_true(f->cfg.top_p == 0.25);
    assert_int_equal(f->cfg.credit, first.credit);
    assert_int_equal(f->cfg.image.n, 1);
    unlink("test_config.tmp.conf");
    unlink("test_config.tmp2.conf");
}

static void test_help(void **state)
{
    fixture *f = *state;
    assert_int_equal(load(f, UM_PROG_GENERATE, "--wrong|--help"), UM_OK);
    assert_non_null(f->help);
    assert_non_null(strstr(f->help, "usage: unimoe generate"));
    assert_non_null(strstr(f->help, "--max-new-tokens N"));
    assert_non_null(strstr(f->help, "(none zstd; default none)"));
    assert_null(strstr(f->help, "--preset"));
    assert_int_equal(load(f, UM_PROG_EXPERT, "--version"), UM_OK);
    assert_string_equal(f->help, "unimoe-expert " UM_VERSION "\n");
}

static void test_nearest(void **state)
{
    (void)state;
    const char *const names[] = {"generate", NULL, "trace", "top_k", "top_p"};
    assert_string_equal(um_nearest("genrate", names, 5), "generate");
    assert_string_equal(um_nearest("tarce", names, 5), "trace");
    assert_string_equal(um_nearest("top-j", names, 5), "top_k");
    assert_null(um_nearest("", names, 5));
    assert_null(um_nearest("completely-else", names, 5));
    char longest[200];
    memset(longest, 'x', sizeof longest);
    longest[199] = '\0';
    assert_null(um_nearest(longest, names, 5));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_defaults),       T(test_spellings),   T(test_positional), T(test_mistakes),
        T(test_too_many_files), T(test_environment), T(test_file),       T(test_file_mistakes),
        T(test_words),          T(test_print),       T(test_help),       T(test_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

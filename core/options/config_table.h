/* The option table and what its readers share. Only config*.c includes this; everybody else uses config.h. */
#pragma once

#include "core/options/config.h"

typedef enum um_option_type {
    UM_OPT_BOOL,
    UM_OPT_INT,
    UM_OPT_SIZE, /* an integer with an optional K, M or G (1024 each) behind */
    UM_OPT_REAL,
    UM_OPT_STR,
    UM_OPT_LIST, /* a string that may be given again */
} um_option_type;

/* An option that a launching command keeps to itself: um_config_words leaves it out. */
enum { UM_PROG_LOCAL = 1 << 16 };

typedef struct um_option {
    const char *name; /* with underscores: the config file's key */
    um_option_type type;
    size_t offset;        /* in um_config */
    const char *fallback; /* the default, as text; NULL for lists */
    int64_t min, max;     /* of numbers */
    const char *choices;  /* of strings: the words allowed, or NULL; fallback is allowed too */
    unsigned who;         /* um_program bits */
    const char *group;    /* heading in --help, on every option */
    const char *meaning;
} um_option;

extern const um_option um_options[];
extern const int um_option_count;

/* The program's name as people type it, and its usage line. */
const char *um_program_name(um_program who);
const char *um_program_usage(um_program who);
const char *um_program_purpose(um_program who);
/* A line or more that can be typed, or "". */
const char *um_program_example(um_program who);
/* "unimoe generate, unimoe trace" for every bit of who. */
const char *um_program_list(unsigned who, um_arena *arena);

/* The option called name (dashes and underscores are alike), or NULL. */
const um_option *um_option_find(const char *name);
/* The option under one letter (-m), or NULL; and the letter of an option, or 0. */
const um_option *um_option_short(char letter);
char um_option_letter(const um_option *o);
/* "max-new-tokens" */
const char *um_option_flag(const um_option *o, um_arena *arena);
/* The value as it would be typed. i counts the items of a list. exact: reals with all their digits. */
const char *um_option_value(const um_config *cfg, const um_option *o, int i, um_arena *arena,
                            bool exact);
/* Items of a list, else 1. */
int um_option_items(const um_config *cfg, const um_option *o);

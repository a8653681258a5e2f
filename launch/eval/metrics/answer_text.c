/* See answer_text.h. */
#include "launch/eval/metrics/answer_text.h"

#include "core/base/text.h"

#include <ctype.h>
#include <string.h>

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c; }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

bool um_is_word_char(char c) { return (unsigned char)c >= 0x80 || isalnum((unsigned char)c); }

static char *lowered(const char *text, um_arena *arena)
{
    char *s = um_arena_str(arena, text);
    for (char *p = s; *p != '\0'; p++) *p = lower(*p);
    return s;
}

um_words um_words_split(const char *text, um_arena *arena)
{
    char *s = um_arena_str(arena, text);
    um_words w = {um_arena_alloc(arena, (strlen(s) / 2 + 1) * sizeof(char *)), 0};
    for (char *p = s;;) {
        while (is_blank(*p)) p++;
        if (*p == '\0') return w;
        w.word[w.n++] = p;
        while (*p != '\0' && !is_blank(*p)) p++;
        if (*p != '\0') *p++ = '\0';
    }
}

static bool is_article(const char *word)
{
    return strcmp(word, "a") == 0 || strcmp(word, "an") == 0 || strcmp(word, "the") == 0;
}

/* The words with a blank between them, without articles. */
static char *joined(const um_words *w, um_arena *arena)
{
    um_text out = {0};
    um_text_add(&out, "", 0);
    for (int i = 0; i < w->n; i++)
        if (!is_article(w->word[i])) um_text_fmt(&out, "%s%s", out.n > 0 ? " " : "", w->word[i]);
    char *s = um_arena_strn(arena, out.s, out.n);
    um_text_free(&out);
    return s;
}

/* --- VQA --- */

static const char *number_of(const char *word)
{
    static const char *const names[][2] = {{"none", "0"},  {"zero", "0"},  {"one", "1"},
                                           {"two", "2"},   {"three", "3"}, {"four", "4"},
                                           {"five", "5"},  {"six", "6"},   {"seven", "7"},
                                           {"eight", "8"}, {"nine", "9"},  {"ten", "10"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(word, names[i][0]) == 0) return names[i][1];
    return word;
}

/* The contractions that VQA puts right when one apostrophe is lacking. */
static const char *const contractions[] = {
    "ain't",       "aren't",      "can't",          "could've",     "couldn't",
    "couldn't've", "didn't",      "doesn't",        "don't",        "hadn't",
    "hadn't've",   "hasn't",      "haven't",        "he'd",         "he'd've",
    "he's",        "how'd",       "how'll",         "how's",        "isn't",
    "it'd",        "it'd've",     "it'll",          "ma'am",        "mightn't",
    "mightn't've", "might've",    "mustn't",        "must've",      "needn't",
    "not've",      "o'clock",     "oughtn't",       "'ow's'at",     "shan't",
    "she'd've",    "should've",   "shouldn't",      "shouldn't've", "somebody'd've",
    "somebody'll", "somebody's",  "someone'd",      "someone'd've", "someone'll",
    "someone's",   "something'd", "something'd've", "something'll", "that's",
    "there'd",     "there'd've",  "there're",       "there's",      "they'd",
    "they'd've",   "they'll",     "they're",        "they've",      "'twas",
    "wasn't",      "we'd've",     "we've",          "weren't",      "what'll",
    "what're",     "what's",      "what've",        "when's",       "where'd",
    "where's",     "where've",    "who'd",          "who'd've",     "who'll",
    "who's",       "who've",      "why'll",         "why're",       "why's",
    "won't",       "would've",    "wouldn't",       "wouldn't've",  "y'all",
    "y'all'll",    "y'all'd've",  "you'd",          "you'd've",     "you'll",
    "you're",      "you've",
};

/* Whether word is full without one of its apostrophes. */
static bool lacks_apostrophe(const char *word, const char *full)
{
    if (strlen(word) + 1 != strlen(full)) return false;
    for (const char *at = strchr(full, '\''); at != NULL; at = strchr(at + 1, '\'')) {
        size_t n = (size_t)(at - full);
        if (strncmp(word, full, n) == 0 && strcmp(word + n, at + 1) == 0) return true;
    }
    return false;
}

static const char *contraction_of(const char *word)
{
    for (size_t i = 0; i < sizeof contractions / sizeof *contractions; i++)
        if (lacks_apostrophe(word, contractions[i])) return contractions[i];
    return word;
}

static bool has_comma_in_number(const char *s)
{
    for (; *s != '\0'; s++)
        if (is_digit(s[0]) && s[1] == ',' && is_digit(s[2])) return true;
    return false;
}

/* A mark that stands beside a blank somewhere in the text is removed everywhere, else it becomes a blank; in a text with a number like
 * 1,000 all marks are removed. */
static void marks_remove(char *s, const char *text)
{
    static const char marks[] = ";/[]\"{}()=+\\_-><@`,?!";
    bool number = has_comma_in_number(text);
    for (const char *m = marks; *m != '\0'; m++) {
        const char before[] = {' ', *m, '\0'}, behind[] = {*m, ' ', '\0'};
        bool gone = number || strstr(text, before) != NULL || strstr(text, behind) != NULL;
        char *to = s;
        for (char *p = s; *p != '\0'; p++) {
            if (*p != *m)
                *to++ = *p;
            else if (!gone)
                *to++ = ' ';
        }
        *to = '\0';
    }
}

static void full_stops_remove(char *s)
{
    char *to = s;
    for (; *s != '\0'; s++)
        if (*s != '.' || is_digit(s[1])) *to++ = *s;
    *to = '\0';
}

char *um_answer_normal(const char *text, um_arena *arena)
{
    char *clean = um_arena_str(arena, text);
    size_t n = strlen(clean), front = 0;
    for (size_t i = 0; i < n; i++)
        if (is_blank(clean[i])) clean[i] = ' ';
    while (n > 0 && clean[n - 1] == ' ') clean[--n] = '\0';
    while (clean[front] == ' ') front++;
    clean += front;
    char *s = um_arena_str(arena, clean);
    marks_remove(s, clean);
    full_stops_remove(s);
    um_words w = um_words_split(lowered(s, arena), arena);
    for (int i = 0; i < w.n; i++) w.word[i] = contraction_of(number_of(w.word[i]));
    return joined(&w, arena);
}

/* --- SQuAD, speech, captions --- */

char *um_answer_plain(const char *text, um_arena *arena)
{
    char *s = lowered(text, arena), *to = s;
    for (const char *p = s; *p != '\0'; p++)
        if ((unsigned char)*p >= 0x80 || !ispunct((unsigned char)*p)) *to++ = *p;
    *to = '\0';
    um_words w = um_words_split(s, arena);
    return joined(&w, arena);
}

um_words um_words_spoken(const char *text, um_arena *arena)
{
    char *s = lowered(text, arena), *to = s;
    for (char *p = s; *p != '\0'; p++) {
        bool curly = strncmp(p, "\xe2\x80\x99", 3) == 0; /* U+2019, an apostrophe */
        bool dash = strncmp(p, "\xe2\x80\x93", 3) == 0 || strncmp(p, "\xe2\x80\x94", 3) == 0;
        char c = curly ? '\'' : dash ? '-' : *p;
        if (curly || dash) p += 2;
        bool within = to > s && um_is_word_char(to[-1]) && um_is_word_char(p[1]);
        if (um_is_word_char(c) || (c == '\'' && within) ||
            ((c == '.' || c == ',') && within && is_digit(to[-1]) && is_digit(p[1])))
            *to++ = c;
        else if (is_blank(c) || c == '-' || c == '/')
            *to++ = ' ';
    }
    *to = '\0';
    return um_words_split(s, arena);
}

/* The clitics that the Treebank parts from their word. */
static size_t clitic_at(const char *word, size_t n)
{
    static const char *const ends[] = {"n't", "'ll", "'re", "'ve", "'s", "'m", "'d"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t k = strlen(ends[i]);
        if (n > k && memcmp(word + n - k, ends[i], k) == 0) return n - k;
    }
    return n;
}

um_words um_words_caption(const char *text, um_arena *arena)
{
    char *s = lowered(text, arena);
    um_text out = {0};
    um_text_add(&out, "", 0);
    for (const char *p = s; *p != '\0';) {
        size_t n = 0;
        while (um_is_word_char(p[n]) ||
               (n > 0 && strchr("-'.,", p[n]) != NULL && p[n] != '\0' && um_is_word_char(p[n + 1])))
            n++;
        if (n == 0) {
            p++;
            continue;
        }
        size_t word = clitic_at(p, n);
        um_text_fmt(&out, "%.*s %.*s ", (int)word, p, (int)(n - word), p + word);
        p += n;
    }
    um_words w = um_words_split(out.s, arena);
    um_text_free(&out);
    return w;
}

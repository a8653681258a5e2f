/* See scores.h. */
#include "launch/eval/metrics/scores.h"

#include "core/base/status.h"
#include "launch/eval/metrics/answer_text.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

/* --- answers as texts --- */

static int matches(const char *answer, const char *const *refs, int n, um_arena *scratch)
{
    const char *want = um_answer_normal(answer, scratch);
    int same = 0;
    for (int i = 0; i < n; i++) same += strcmp(want, um_answer_normal(refs[i], scratch)) == 0;
    return same;
}

bool um_exact_match(const char *answer, const char *const *refs, int n, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    bool same = matches(answer, refs, n, scratch) > 0;
    um_arena_reset(scratch, mark);
    return same;
}

/* The text has the word just so, in its capitals: of a key that is an article, as the letter "A", which answers otherwise lose. */
static bool holds_word(const char *text, const char *word, um_arena *scratch)
{
    um_words w = um_words_split(text, scratch);
    size_t n = strlen(word);
    for (int i = 0; i < w.n; i++) {
        const char *s = w.word[i];
        while (*s != '\0' && !um_is_word_char(*s)) s++;
        if (n > 0 && strncmp(s, word, n) == 0 && !um_is_word_char(s[n])) return true;
    }
    return false;
}

bool um_holds_match(const char *answer, const char *const *refs, int n, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    const char *text = um_arena_fmt(scratch, " %s ", um_answer_normal(answer, scratch));
    bool held = false;
    for (int i = 0; i < n && !held; i++) {
        const char *ref = um_answer_normal(refs[i], scratch);
        held = ref[0] != '\0' ? strstr(text, um_arena_fmt(scratch, " %s ", ref)) != NULL
                              : holds_word(answer, refs[i], scratch);
    }
    um_arena_reset(scratch, mark);
    return held;
}

static double third(int k) { return k >= 3 ? 1.0 : k / 3.0; }

double um_vqa_accuracy(const char *answer, const char *const *refs, int n, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    int same = matches(answer, refs, n, scratch);
    um_arena_reset(scratch, mark);
    if (n < 2) return same > 0 ? 1.0 : 0.0;
    /* leaving out one of the same, or one of the others */
    return ((same > 0 ? same * third(same - 1) : 0.0) + (n - same) * third(same)) / n;
}

/* Words that both have, each as often as in the one that has it less. */
static int shared(const um_words *a, const um_words *b, um_arena *scratch)
{
    bool *used = um_arena_zero(scratch, (size_t)b->n + 1);
    int n = 0;
    for (int i = 0; i < a->n; i++)
        for (int k = 0; k < b->n; k++) {
            if (used[k] || strcmp(a->word[i], b->word[k]) != 0) continue;
            used[k] = true;
            n++;
            break;
        }
    return n;
}

double um_token_f1(const char *answer, const char *const *refs, int n, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    um_words a = um_words_split(um_answer_plain(answer, scratch), scratch);
    double best = 0;
    for (int i = 0; i < n; i++) {
        um_words b = um_words_split(um_answer_plain(refs[i], scratch), scratch);
        double both = shared(&a, &b, scratch), one = 0;
        if (a.n == 0 || b.n == 0)
            one = a.n == b.n ? 1.0 : 0.0;
        else
            one = 2.0 * both / (a.n + b.n); /* of precision both/a and recall both/b */
        if (one > best) best = one;
    }
    um_arena_reset(scratch, mark);
    return best;
}

/* --- choices --- */

/* The option whose letter the word is: "B", "(b)", "B.", "B:", "**B**"; -1: none. A bare small letter is a word ("a dog"), unless it is
 * alone. */
static int letter_of(const char *word, int n, bool alone)
{
    while (*word == '*' || *word == '"' || *word == '`') word++;
    bool open = word[0] == '(' || word[0] == '[';
    const char *p = word + open;
    int k = toupper((unsigned char)p[0]) - 'A';
    if (p[0] == '\0' || !isalpha((unsigned char)p[0]) || k < 0 || k >= n || um_is_word_char(p[1]))
        return -1;
    if (islower((unsigned char)p[0]) && !open && !alone && p[1] == '\0') return -1;
    if (p[1] == '\'' || (p[1] == '-' && p[2] != '\0')) return -1;
    return k;
}

/* "answer" is, and "Answer:", "**answer**". */
static bool is_word_of(const char *word, const char *what)
{
    while (*word == '*' || *word == '"') word++;
    return strncasecmp(word, what, strlen(what)) == 0;
}

static int by_letter(const char *answer, int n, um_arena *scratch)
{
    um_words w = um_words_split(answer, scratch);
    int k = w.n > 0 ? letter_of(w.word[0], n, w.n == 1) : -1;
    bool article = k == 0 && w.n > 1 && strcmp(w.word[0], "A") == 0; /* "A dog" */
    if (k >= 0 && !article) return k;
    int declared = -1, named = -1; /* the last "the answer is B"; the first "option C", "it is C" */
    for (int i = 1; i < w.n; i++) {
        const char *before = w.word[i - 1];
        bool is = strcmp(before, "is") == 0 || strcmp(before, "is:") == 0;
        bool declares =
            is_word_of(before, "answer") || (is && i > 1 && is_word_of(w.word[i - 2], "answer"));
        if (!declares && !is && !is_word_of(before, "option") && !is_word_of(before, "choice"))
            continue;
        k = letter_of(w.word[i], n, false);
        if (k < 0 || (k == 0 && strcasecmp(w.word[i], "a") == 0 && i + 1 < w.n)) continue;
        if (declares) declared = k;
        if (named < 0) named = k;
    }
    return declared >= 0 ? declared : named;
}

/* Whether text holds phrase with no letter beside it. */
static bool holds(const char *text, const char *phrase)
{
    size_t n = strlen(phrase);
    for (const char *at = text; n > 0 && (at = strstr(at, phrase)) != NULL; at++)
        if ((at == text || !um_is_word_char(at[-1])) && !um_is_word_char(at[n])) return true;
    return false;
}

static int by_text(const char *answer, const char *const *options, int n, um_arena *scratch)
{
    const char *text = um_answer_plain(answer, scratch);
    int found = -1, longest = 0;
    bool several = false;
    for (int i = 0; i < n; i++) {
        const char *option = um_answer_plain(options[i], scratch);
        int size = (int)strlen(option);
        if (strcmp(text, option) == 0) return i;
        if (!holds(text, option) || size < longest) continue;
        several = found >= 0 && size == longest;
        found = i;
        longest = size;
    }
    return several ? -1 : found; /* of "red" and "dark red" the longer is meant */
}

int um_choice_of(const char *answer, const char *const *options, int n, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    int k = by_letter(answer, n, scratch);
    if (k < 0 && options != NULL) k = by_text(answer, options, n, scratch);
    if (k < 0 && answer[0] == 'A' && answer[1] == ' ' && options == NULL) k = 0;
    um_arena_reset(scratch, mark);
    return k;
}

/* --- yes or no --- */

int um_yes_no_of(const char *answer, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    um_words w = um_words_spoken(answer, scratch);
    int is = -1;
    for (int i = 0; i < w.n && is < 0; i++) {
        if (strcmp(w.word[i], "yes") == 0) is = 1;
        if (strcmp(w.word[i], "no") == 0 || strcmp(w.word[i], "not") == 0) is = 0;
    }
    um_arena_reset(scratch, mark);
    return is;
}

static double share(long part, long whole)
{
    return whole > 0 ? (double)part / (double)whole : 0.0;
}

double um_yes_no_precision(const um_yes_no *c)
{
    return share(c->true_yes, c->true_yes + c->false_yes);
}
double um_yes_no_recall(const um_yes_no *c)
{
    return share(c->true_yes, c->true_yes + c->false_no);
}
double um_yes_no_f1(const um_yes_no *c)
{
    return share(2 * c->true_yes, 2 * c->true_yes + c->false_yes + c->false_no);
}

/* --- word errors --- */

um_word_errors um_word_errors_of(const char *answer, const char *ref, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    um_words a = um_words_spoken(answer, scratch), b = um_words_spoken(ref, scratch);
    long *row = um_arena_alloc(scratch, ((size_t)b.n + 1) *
                                            sizeof *row); /* distances of a's first i words */
    for (int k = 0; k <= b.n; k++) row[k] = k;
    for (int i = 1; i <= a.n; i++) {
        long corner = row[0];
        row[0] = i;
        for (int k = 1; k <= b.n; k++) {
            long swap = corner + (strcmp(a.word[i - 1], b.word[k - 1]) != 0);
            long other = (row[k] < row[k - 1] ? row[k] : row[k - 1]) + 1;
            corner = row[k];
            row[k] = swap < other ? swap : other;
        }
    }
    um_word_errors e = {row[b.n], b.n};
    um_arena_reset(scratch, mark);
    return e;
}

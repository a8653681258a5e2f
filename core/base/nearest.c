/* See nearest.h. */
#include "core/base/nearest.h"

#include "core/base/bytes.h"

enum { LONGEST = 48 }; /* longer words cannot be misspellings of any name in the tables */

static char fold(char c) { return c == '-' ? '_' : c; }

/* Edits from a to b, counting swapped neighbours as one (optimal string alignment). */
static int edits(const char *a, int na, const char *b, int nb)
{
    int d[LONGEST + 1][LONGEST + 1];
    for (int i = 0; i <= na; i++) d[i][0] = i;
    for (int j = 0; j <= nb; j++) d[0][j] = j;
    for (int i = 1; i <= na; i++) {
        for (int j = 1; j <= nb; j++) {
            int same = fold(a[i - 1]) == fold(b[j - 1]);
            int best = um_min_int(d[i - 1][j], d[i][j - 1]) + 1;
            best = um_min_int(best, d[i - 1][j - 1] + !same);
            if (i > 1 && j > 1 && fold(a[i - 1]) == fold(b[j - 2]) &&
                fold(a[i - 2]) == fold(b[j - 1]))
                best = um_min_int(best, d[i - 2][j - 2] + 1);
            d[i][j] = best;
        }
    }
    return d[na][nb];
}

const char *um_nearest(const char *word, const char *const *names, int n)
{
    size_t len = strlen(word);
    if (len == 0 || len > LONGEST) return NULL;
    const char *best = NULL;
    int least = um_max_int(1, (int)len / 3) + 1;
    for (int i = 0; i < n; i++) {
        if (names[i] == NULL || strlen(names[i]) > LONGEST) continue;
        int e = edits(word, (int)len, names[i], (int)strlen(names[i]));
        if (e < least) {
            least = e;
            best = names[i];
        }
    }
    return best;
}

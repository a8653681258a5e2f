/* The name that was probably meant. */
#pragma once

/* The one of n names (NULL entries are skipped) with the fewest edits to word (insert, delete, replace, swap neighbours; dashes
 * and underscores are alike), or NULL when none is near enough to be a misspelling. */
const char *um_nearest(const char *word, const char *const *names, int n);

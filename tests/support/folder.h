/* A folder of a test's own, made where the test runs and removed by it. */
#pragma once

#include <stddef.h>

/* Free with um_free after folder_remove. */
char *folder_make(void);
/* Removes the folder with all its contents. */
void folder_remove(const char *dir);
void folder_write(const char *dir, const char *name, const void *data, size_t size);
void folder_text(const char *dir, const char *name, const char *text);
/* The same with text in which single quotes stand for double ones. */
void folder_json(const char *dir, const char *name, const char *text);
/* dir/name is the file `target` (an absolute path). */
void folder_link(const char *dir, const char *name, const char *target);

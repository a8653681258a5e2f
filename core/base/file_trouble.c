/* See file_trouble.h. */
#include "core/base/file_trouble.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum {
    LOOK = 4096, /* bytes at the front that are looked at */
    QUOTE = 60,  /* of a server's message */
};

static bool begins(const uint8_t *data, size_t size, const char *word)
{
    size_t n = strlen(word);
    return size >= n && memcmp(data, word, n) == 0;
}

/* begins() whatever the case, after blanks and a byte order mark. */
static bool begins_loosely(const uint8_t *data, size_t size, const char *word)
{
    size_t n = strlen(word), at = begins(data, size, "\xEF\xBB\xBF") ? 3 : 0;
    while (at < size && strchr(" \t\r\n", data[at]) != NULL && data[at] != '\0') at++;
    return size - at >= n && strncasecmp((const char *)data + at, word, n) == 0;
}

/* "version https://git-lfs.github.com/spec/v1\noid sha256:...\nsize 123\n" */
static bool is_lfs_pointer(const uint8_t *data, size_t size)
{
    return begins(data, size, "version https://git-lfs.github.com/") ||
           begins(data, size, "version https://hawser.github.com/");
}

/* The size that the pointer names, as text, or "". */
static void lfs_size(char out[24], const uint8_t *data, size_t size)
{
    out[0] = '\0';
    for (size_t i = 0; i + 6 < size && i < LOOK; i++) {
        if (data[i] != '\n' || memcmp(data + i + 1, "size ", 5) != 0) continue;
        size_t n = 0;
        for (i += 6; i < size && n < 23 && data[i] >= '0' && data[i] <= '9'; i++)
            out[n++] = (char)data[i];
        out[n] = '\0';
        return;
    }
}

static bool is_web_page(const uint8_t *data, size_t size)
{
    static const char *const signs[] = {"<!doctype html", "<html", "<head", "<?xml", "<error>"};
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++)
        if (begins_loosely(data, size, signs[i])) return true;
    return false;
}

static bool all_zero(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size && i < LOOK; i++)
        if (data[i] != 0) return false;
    return true;
}

/* A short file of printable characters, one or two lines: "Entry not found", "Access to model X is restricted". */
static bool is_message(const uint8_t *data, size_t size)
{
    int letters = 0;
    if (size > 1024) return false;
    if (data[0] == '[' || (data[0] == '{' && !begins(data, size, "{\"error\""))) return false;
    for (size_t i = 0; i < size; i++) {
        if (data[i] < 0x20 && strchr("\r\n\t", data[i]) == NULL) return false;
        if (data[i] == '\0' || data[i] > 0x7E) return false;
        letters += (data[i] | 0x20) >= 'a' && (data[i] | 0x20) <= 'z';
    }
    return letters > 3;
}

static const char *known_format(const uint8_t *data, size_t size)
{
    static const struct {
        const char *magic;
        const char *what;
    } formats[] = {
        {"GGUF", "a GGUF file; these programs read safetensors"},
        {"\x1F\x8B", "compressed with gzip: unpack it first"},
        {"\x28\xB5\x2F\xFD", "compressed with zstd: unpack it first"},
        {"PK\x03\x04", "a PyTorch or zip file under this name; unimoe convert reads PyTorch files"},
        {"\x80\x02", "a PyTorch (pickle) file under this name; unimoe convert reads those"},
        {"\x89HDF\r\n", "an HDF5 file under this name; these programs read safetensors"},
    };
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (begins(data, size, formats[i].magic)) return formats[i].what;
    return NULL;
}

bool um_file_trouble(char out[UM_TROUBLE_TEXT], const uint8_t *data, size_t size)
{
    char text[24];
    const char *format = size > 0 ? known_format(data, size) : NULL;
    if (size == 0) {
        snprintf(out, UM_TROUBLE_TEXT, "the file is empty: download it again");
    } else if (is_lfs_pointer(data, size)) {
        lfs_size(text, data, size);
        snprintf(out, UM_TROUBLE_TEXT,
                 "a Git LFS pointer, not the file itself%s%s%s: run `git lfs pull` in its folder",
                 text[0] != '\0' ? " (" : "", text, text[0] != '\0' ? " bytes)" : "");
    } else if (is_web_page(data, size)) {
        snprintf(out, UM_TROUBLE_TEXT,
                 "a web page, not the file itself (a link to the page, or a login that is needed): "
                 "download it again");
    } else if (format != NULL) {
        snprintf(out, UM_TROUBLE_TEXT, "%s", format);
    } else if (all_zero(data, size)) {
        snprintf(out, UM_TROUBLE_TEXT,
                 "begins with zeros: a download that is not complete; download it again");
    } else if (is_message(data, size)) {
        int n = 0;
        while (n < QUOTE && (size_t)n < size && data[n] != '\r' && data[n] != '\n') n++;
        snprintf(out, UM_TROUBLE_TEXT,
                 "a message, not the file itself (\"%.*s\"): download it again", n,
                 (const char *)data);
    } else {
        return false;
    }
    return true;
}

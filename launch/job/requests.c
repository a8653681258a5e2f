/* See requests.h. */
#include "launch/job/requests.h"

#include "core/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    HEAD_BYTES = 256 << 10,  /* read before the job starts, to see what can be seen then */
    HEAD_WAIT_MS = 100,      /* for a pipe whose writer has only just started */
    PROMPT_BYTES = 48 << 20, /* escaped it must fit a request */
};

static bool is_stdin(const char *path) { return strcmp(path, "-") == 0; }

/* path as the file system resolves it. */
static um_status absolute(const char **out, const char *path, const char *what, um_arena *arena,
                          um_err *err)
{
    char real[PATH_MAX];
    if (realpath(path, real) == NULL)
        return UM_FAIL(err, UM_E_DATA, "%s %s: %s", what, path, strerror(errno));
    *out = um_arena_str(arena, real);
    return UM_OK;
}

static um_status folder_set(um_config *cfg, um_arena *arena, um_err *err)
{
    if (cfg->media_folder[0] != '\0')
        return absolute(&cfg->media_folder, cfg->media_folder, "--media-folder", arena, err);
    bool beside = cfg->requests[0] != '\0' && !is_stdin(cfg->requests);
    /* In a folder that was deleted (ranks start in / then) only relative media paths are a fault, and they say so. */
    char here[PATH_MAX];
    if (!beside && getcwd(here, sizeof here) == NULL) {
        cfg->media_folder = "/";
        return UM_OK;
    }
    return absolute(&cfg->media_folder, beside ? um_path_dir(arena, cfg->requests) : ".",
                    "the folder of the requests,", arena, err);
}

/* Reads into head until it is full, the source ends (fd is then -1), or a pipe has no more for now. */
static um_status head_read(um_requests *r, um_err *err)
{
    char *buf = um_zalloc(HEAD_BYTES);
    um_status st = UM_OK;
    while (r->head.n < HEAD_BYTES) {
        struct pollfd p = {.fd = r->fd, .events = POLLIN};
        if (isatty(r->fd) || poll(&p, 1, HEAD_WAIT_MS) <= 0) break;
        ssize_t n = read(r->fd, buf, HEAD_BYTES - r->head.n);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (n < 0) {
            st = UM_FAIL(err, UM_E_DATA, "%s: %s", r->name, strerror(errno));
            break;
        }
        if (n == 0) {
            close(r->fd);
            r->fd = -1;
            break;
        }
        um_text_add(&r->head, buf, (size_t)n);
    }
    um_free(buf);
    return st;
}

static um_status file_open(um_requests *r, const um_config *cfg, um_err *err)
{
    const char *path = cfg->requests;
    struct stat s;
    r->file = true;
    r->name = is_stdin(path) ? "standard input" : path;
    r->fd = is_stdin(path) ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (r->fd < 0) return UM_FAIL(err, UM_E_DATA, "requests %s: %s", r->name, strerror(errno));
    if (fstat(r->fd, &s) == 0 && S_ISDIR(s.st_mode))
        return UM_FAIL(err, UM_E_DATA, "requests %s: is a folder; give the file in it", r->name);
    return head_read(r, err);
}

/* --- one request from flags --- */

static um_status write_files(um_text *to, const char *key, const um_list *files, um_arena *arena,
                             um_err *err)
{
    const char *path = NULL;
    for (int i = 0; i < files->n; i++) {
        UM_TRY(absolute(&path, files->item[i], um_arena_fmt(arena, "--%s", key), arena, err));
        if (i == 0) um_text_fmt(to, ",\"%s\":[", key);
        if (i > 0) um_text_add(to, ",", 1);
        um_text_json(to, path);
    }
    if (files->n > 0) um_text_add(to, "]", 1);
    return UM_OK;
}

/* The text of --prompt, or of the file that --prompt-file names (or "-": standard input), without the line end behind it. */
static um_status prompt_read(const char **out, const um_config *cfg, um_arena *arena, um_err *err)
{
    const char *path = cfg->prompt_file[0] != '\0' ? cfg->prompt_file : cfg->prompt;
    uint8_t *data = NULL;
    size_t n = 0;
    *out = cfg->prompt;
    if (cfg->prompt_file[0] == '\0' && !is_stdin(cfg->prompt)) return UM_OK;
    um_status st = um_file_read(&data, &n, path, PROMPT_BYTES, arena, err);
    if (st != UM_OK) return um_wrap(err, UM_E_DATA, "prompt");
    const char *name = is_stdin(path) ? "standard input" : path;
    if (n >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0) { /* a byte order mark */
        data += 3;
        n -= 3;
    }
    if (memchr(data, 0, n) != NULL)
        return UM_FAIL(err, UM_E_DATA,
                       "prompt %s: holds zero bytes: not a text, or UTF-16; it must be UTF-8",
                       name);
    if (n > 0 && data[n - 1] == '\n') n--;
    if (n > 0 && data[n - 1] == '\r') n--;
    if (n == 0) return UM_FAIL(err, UM_E_DATA, "prompt %s: is empty", name);
    data[n] = '\0';
    *out = (const char *)data;
    return UM_OK;
}

static um_status prompt_open(um_requests *r, const um_config *cfg, um_arena *arena, um_err *err)
{
    const char *prompt = NULL;
    um_text *to = &r->head;
    r->name = "--prompt";
    UM_TRY(prompt_read(&prompt, cfg, arena, err));
    um_text_fmt(to, "{\"prompt\":");
    um_text_json(to, prompt);
    UM_TRY(write_files(to, "image", &cfg->image, arena, err));
    UM_TRY(write_files(to, "video", &cfg->video, arena, err));
    UM_TRY(write_files(to, "speech", &cfg->speech, arena, err));
    UM_TRY(write_files(to, "sound", &cfg->sound, arena, err));
    if (cfg->video_audio[0] != '\0') um_text_fmt(to, ",\"video_audio\":\"%s\"", cfg->video_audio);
    um_text_add(to, "}\n", 2);
    return UM_OK;
}

um_status um_requests_open(um_requests *out, um_config *cfg, um_arena *arena, um_err *err)
{
    *out = (um_requests){.fd = -1};
    um_status st =
        cfg->requests[0] != '\0' ? file_open(out, cfg, err) : prompt_open(out, cfg, arena, err);
    if (st == UM_OK) st = folder_set(cfg, arena, err);
    if (st != UM_OK) um_requests_close(out);
    return st;
}

void um_requests_close(um_requests *r)
{
    if (r->fd >= 0) close(r->fd);
    um_text_free(&r->head);
    *r = (um_requests){.fd = -1};
}

/* See job_progress.h. */
#include "launch/job/job_progress.h"

#include "core/base/clock.h"
#include "core/options/config.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

/* Milliseconds: before the first line; between two drawings on a terminal; between two lines elsewhere, in the first minute and
 * later. */
enum { FIRST_MS = 2000, DRAW_MS = 200, LINE_MS = 5000, LINE_LATER_MS = 30000, MINUTE_MS = 60000 };

static int64_t ms(int64_t ns) { return ns / 1000000; }

void um_job_progress_open(um_job_progress *p, FILE *to, int ranks, int64_t wanted, bool quiet)
{
    *p = (um_job_progress){.to = quiet ? NULL : to,
                           .ranks = ranks,
                           .wanted = wanted,
                           .began_ns = um_now_ns(),
                           .phase = "starting"};
    p->terminal = p->to != NULL && isatty(fileno(to)) == 1 &&
                  strcmp(um_config_system("TERM", "dumb"), "dumb") != 0;
}

static void set_int(int64_t *to, const um_json *line, const char *key)
{
    *to = um_json_int(um_json_get(line, key), *to);
}

void um_job_progress_update(um_job_progress *p, const um_json *line)
{
    const char *phase = um_json_str(um_json_get(line, "phase"), p->phase);
    if (strcmp(phase, "working") == 0 && strcmp(p->phase, phase) != 0) p->work_ns = um_now_ns();
    snprintf(p->phase, sizeof p->phase, "%s", phase);
    int64_t before = p->answered;
    set_int(&p->answered, line, "answered");
    if (p->answered > before) p->answer_ns = um_now_ns();
    set_int(&p->encoding, line, "encoding");
    set_int(&p->prompt_tokens, line, "prompt_tokens");
    set_int(&p->new_tokens, line, "new_tokens");
    if (p->wanted < 0) return;
    int64_t read = um_json_int(um_json_get(line, "requests"), 0);
    if (read > p->wanted) p->wanted = read;
}

/* "42 s", "3 min 20 s", "2 h 5 min" */
static void duration(char out[40], int64_t seconds)
{
    if (seconds < 60)
        snprintf(out, 40, "%" PRId64 " s", seconds);
    else if (seconds < 3600)
        snprintf(out, 40, "%" PRId64 " min %" PRId64 " s", seconds / 60, seconds % 60);
    else
        snprintf(out, 40, "%" PRId64 " h %" PRId64 " min", seconds / 3600, seconds % 3600 / 60);
}

/* "[#####               ] 3 of 8 answers, 412 new tokens, 21.3/s, about 40 s left" */
static void working(char *out, size_t size, const um_job_progress *p, int64_t now_ns)
{
    enum { BAR = 20 };
    char bar[BAR + 1], left[40];
    size_t n = 0;
    double seconds = (double)(now_ns - p->work_ns) * 1e-9;
    if (p->wanted == 1) {
        n += (size_t)snprintf(out, size, "answering");
    } else if (p->wanted > 0) {
        int full = (int)(BAR * p->answered / p->wanted);
        for (int i = 0; i < BAR; i++) bar[i] = i < full ? '#' : ' ';
        bar[BAR] = '\0';
        n += (size_t)snprintf(out, size, "[%s] %" PRId64 " of %" PRId64 " answers", bar,
                              p->answered, p->wanted);
    } else {
        n += (size_t)snprintf(out, size, "%" PRId64 " answers", p->answered);
    }
    if (p->new_tokens > 0 && seconds > 0)
        n += (size_t)snprintf(out + n, size - n, ", %" PRId64 " new tokens, %.1f/s", p->new_tokens,
                              (double)p->new_tokens / seconds);
    else if (p->encoding > 0)
        n += (size_t)snprintf(out + n, size - n, ", encoding media of %" PRId64, p->encoding);
    else
        n += (size_t)snprintf(out + n, size - n, ", reading prompts: %" PRId64 " tokens",
                              p->prompt_tokens);
    if (p->answered == 0 || p->answered >= p->wanted) return;
    /* as if answers went on coming as they came up to the last one */
    double each = (double)(p->answer_ns - p->work_ns) / (double)p->answered;
    double ahead = (each * (double)p->wanted - (double)(now_ns - p->work_ns)) * 1e-9;
    if (ahead < 1) return;
    duration(left, (int64_t)ahead);
    snprintf(out + n, size - n, ", about %s left", left);
}

static void describe(char *out, size_t size, const um_job_progress *p, int64_t now_ns)
{
    char took[40];
    duration(took, (now_ns - p->began_ns) / 1000000000);
    if (strcmp(p->phase, "working") == 0)
        working(out, size, p, now_ns);
    else if (strcmp(p->phase, "loading") == 0)
        snprintf(out, size, "%d ranks are loading the model, %s", p->ranks, took);
    else
        snprintf(out, size, "starting %d ranks, %s", p->ranks, took);
}

void um_job_progress_tick(um_job_progress *p, int64_t now_ns)
{
    char text[256];
    if (p->to == NULL || ms(now_ns - p->began_ns) < FIRST_MS) return;
    int64_t every = p->terminal                            ? DRAW_MS
                    : ms(now_ns - p->began_ns) < MINUTE_MS ? LINE_MS
                                                           : LINE_LATER_MS;
    if (p->shown_ns != 0 && ms(now_ns - p->shown_ns) < every) return;
    p->shown_ns = now_ns;
    describe(text, sizeof text, p, now_ns);
    fprintf(p->to, p->terminal ? "\r\033[K%.79s" : "unimoe: %s\n", text);
    fflush(p->to);
    p->drawn = p->terminal;
}

void um_job_progress_clear(um_job_progress *p)
{
    if (!p->drawn) return;
    fputs("\r\033[K", p->to);
    fflush(p->to);
    p->drawn = false;
}

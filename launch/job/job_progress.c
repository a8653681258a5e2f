/* See job_progress.h. */
#include "launch/job/job_progress.h"

#include "core/base/clock.h"
#include "core/options/config.h"

#include <inttypes.h>
#include <string.h>

void um_job_progress_open(um_job_progress *p, FILE *to, int ranks, int64_t wanted, bool quiet)
{
    *p = (um_job_progress){.ranks = ranks, .wanted = wanted, .phase = "starting"};
    um_progress_line_open(&p->line, quiet ? NULL : to);
    if (strcmp(um_config_system("TERM", "dumb"), "dumb") == 0) p->line.terminal = false;
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

/* "[#####               ] 3 of 8 answers, 412 new tokens, 21.3/s, about 40 s left" */
static void working(char *out, size_t size, const um_job_progress *p, int64_t now_ns)
{
    enum { BAR = 20 };
    char bar[BAR + 1], left[UM_DURATION];
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
    um_duration_text(left, (int64_t)ahead);
    snprintf(out + n, size - n, ", about %s left", left);
}

static void describe(char *out, size_t size, const um_job_progress *p, int64_t now_ns)
{
    char took[UM_DURATION];
    um_duration_text(took, (now_ns - p->line.begun) / 1000000000);
    if (strcmp(p->phase, "working") == 0)
        working(out, size, p, now_ns);
    else if (strcmp(p->phase, "loading") == 0)
        snprintf(out, size, "%d ranks are loading the model, %s", p->ranks, took);
    else
        snprintf(out, size, "starting %d ranks, %s", p->ranks, took);
}

void um_job_progress_tick(um_job_progress *p, int64_t now_ns)
{
    enum { COLUMNS = 79 };
    char state[256], text[sizeof state + 16];
    if (!um_progress_line_due(&p->line, now_ns)) return;
    describe(state, sizeof state, p, now_ns);
    if (p->line.terminal)
        snprintf(text, sizeof text, "%.*s", COLUMNS, state);
    else
        snprintf(text, sizeof text, "unimoe: %s", state);
    um_progress_line_show(&p->line, text, now_ns);
}

void um_job_progress_clear(um_job_progress *p) { um_progress_line_clear(&p->line); }

/* See progress.h. */
#include "core/base/progress.h"

#include "core/base/clock.h"
#include "core/base/text.h"

#include <inttypes.h>
#include <unistd.h>

/* Nanoseconds: before the first report; between two on a terminal; between two lines elsewhere, in the first minute and later. */
#define QUIET_NS INT64_C(2000000000)
#define DRAW_NS INT64_C(200000000)
#define LINE_NS INT64_C(5000000000)
#define LINE_LATER_NS INT64_C(30000000000)
#define MINUTE_NS INT64_C(60000000000)
enum { BAR_WIDTH = 30, TEXT = 160 };

void um_progress_line_open(um_progress_line *l, FILE *to)
{
    *l = (um_progress_line){.to = to, .begun = um_now_ns()};
    l->terminal = to != NULL && isatty(fileno(to)) == 1;
    l->due = l->begun + QUIET_NS;
}

bool um_progress_line_due(const um_progress_line *l, int64_t now)
{
    return l->to != NULL && now >= l->due;
}

void um_progress_line_show(um_progress_line *l, const char *text, int64_t now)
{
    if (l->to == NULL) return;
    fprintf(l->to, l->terminal ? "\r%s\033[K" : "%s\n", text);
    fflush(l->to);
    l->shown = true;
    l->drawn = l->terminal;
    l->due = now + (l->terminal ? DRAW_NS : now - l->begun < MINUTE_NS ? LINE_NS : LINE_LATER_NS);
}

void um_progress_line_clear(um_progress_line *l)
{
    if (!l->drawn) return;
    fputs("\r\033[K", l->to);
    fflush(l->to);
    l->drawn = false;
}

void um_duration_text(char out[UM_DURATION], int64_t seconds)
{
    int64_t minutes = seconds / 60;
    if (seconds < 60)
        snprintf(out, UM_DURATION, "%" PRId64 " s", seconds);
    else if (minutes < 60)
        snprintf(out, UM_DURATION, "%" PRId64 " min %" PRId64 " s", minutes, seconds % 60);
    else
        snprintf(out, UM_DURATION, "%" PRId64 " h %" PRId64 " min", minutes / 60, minutes % 60);
}

static void amount_text(char out[32], const um_progress *p, int64_t n)
{
    if (p->unit == UM_PROGRESS_BYTES)
        um_bytes_text(out, n);
    else
        snprintf(out, 32, "%" PRId64, n);
}

/* "1.5 GiB of 2.6 GiB, 57 %, 12 s left" */
static void state_text(char out[TEXT], const um_progress *p, int64_t now)
{
    char done[32], total[32], left[UM_DURATION];
    amount_text(done, p, p->done);
    if (p->total <= 0) {
        snprintf(out, TEXT, "%s", done);
        return;
    }
    amount_text(total, p, p->total);
    double part = (double)p->done / (double)p->total;
    um_duration_text(
        left, part > 0 ? (int64_t)((double)(now - p->line.begun) * 1e-9 * (1 - part) / part) : 0);
    snprintf(out, TEXT, "%s of %s, %d %%%s%s%s", done, total, (int)(100 * part),
             part > 0 && part < 1 ? ", " : "", part > 0 && part < 1 ? left : "",
             part > 0 && part < 1 ? " left" : "");
}

static void report(um_progress *p, int64_t now)
{
    char state[TEXT], bar[BAR_WIDTH + 1], text[2 * TEXT];
    state_text(state, p, now);
    if (p->line.terminal && p->total > 0) {
        int full = (int)(BAR_WIDTH * ((double)p->done / (double)p->total));
        for (int i = 0; i < BAR_WIDTH; i++) bar[i] = i < full ? '#' : ' ';
        bar[BAR_WIDTH] = '\0';
        snprintf(text, sizeof text, "%s [%s] %s", p->what, bar, state);
    } else {
        snprintf(text, sizeof text, "%s: %s", p->what, state);
    }
    um_progress_line_show(&p->line, text, now);
}

void um_progress_begin(um_progress *p, FILE *to, const char *what, um_progress_unit unit,
                       int64_t total)
{
    *p = (um_progress){.what = what, .unit = unit, .total = total};
    um_progress_line_open(&p->line, to);
}

void um_progress_add_at(um_progress *p, int64_t n, int64_t now)
{
    p->done += n;
    if (p->total > 0 && p->done > p->total) p->done = p->total;
    if (um_progress_line_due(&p->line, now)) report(p, now);
}

void um_progress_end_at(um_progress *p, int64_t now)
{
    if (p->line.shown && !p->line.terminal && p->line.to != NULL) report(p, now);
    um_progress_line_clear(&p->line);
    p->line.to = NULL;
}

void um_progress_add(um_progress *p, int64_t n) { um_progress_add_at(p, n, um_now_ns()); }
void um_progress_end(um_progress *p) { um_progress_end_at(p, um_now_ns()); }

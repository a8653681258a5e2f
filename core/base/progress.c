/* See progress.h. */
#include "core/base/progress.h"

#include "core/base/clock.h"
#include "core/base/text.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

/* Nanoseconds: silence at first; then a bar is redrawn, or a line printed, this often. */
#define QUIET_NS INT64_C(2000000000)
#define BAR_NS INT64_C(200000000)
#define LINE_NS INT64_C(5000000000)
enum { BAR_WIDTH = 30, TEXT = 160 };

static void amount_text(char out[32], const um_progress *p, int64_t n)
{
    if (p->unit == UM_PROGRESS_BYTES)
        um_bytes_text(out, n);
    else
        snprintf(out, 32, "%" PRId64, n);
}

/* "1:05", "2:00:01" */
static void duration_text(char out[32], int64_t ns)
{
    int64_t s = ns / 1000000000;
    if (s < 3600)
        snprintf(out, 32, "%" PRId64 ":%02" PRId64, s / 60, s % 60);
    else
        snprintf(out, 32, "%" PRId64 ":%02" PRId64 ":%02" PRId64, s / 3600, s / 60 % 60, s % 60);
}

/* "1.5 GiB of 2.6 GiB, 57 %, 0:12 left" */
static void state_text(char out[TEXT], const um_progress *p, int64_t now)
{
    char done[32], total[32], left[32];
    amount_text(done, p, p->done);
    if (p->total <= 0) {
        snprintf(out, TEXT, "%s", done);
        return;
    }
    amount_text(total, p, p->total);
    double part = (double)p->done / (double)p->total;
    duration_text(left, part > 0 ? (int64_t)((double)(now - p->begun) * (1 - part) / part) : 0);
    snprintf(out, TEXT, "%s of %s, %d %%%s%s%s", done, total, (int)(100 * part),
             part > 0 && part < 1 ? ", " : "", part > 0 && part < 1 ? left : "",
             part > 0 && part < 1 ? " left" : "");
}

static void bar_draw(const um_progress *p, const char *state)
{
    char bar[BAR_WIDTH + 1];
    int full = p->total > 0 ? (int)(BAR_WIDTH * ((double)p->done / (double)p->total)) : 0;
    for (int i = 0; i < BAR_WIDTH; i++) bar[i] = i < full ? '=' : ' ';
    bar[BAR_WIDTH] = '\0';
    if (p->total > 0)
        fprintf(p->to, "\r%s [%s] %s\033[K", p->what, bar, state);
    else
        fprintf(p->to, "\r%s %s\033[K", p->what, state);
}

static void report(um_progress *p, int64_t now)
{
    char state[TEXT];
    state_text(state, p, now);
    if (p->bar)
        bar_draw(p, state);
    else
        fprintf(p->to, "%s: %s\n", p->what, state);
    fflush(p->to);
    p->shown = true;
    p->due = now + (p->bar ? BAR_NS : LINE_NS);
}

void um_progress_begin(um_progress *p, FILE *to, const char *what, um_progress_unit unit,
                       int64_t total)
{
    *p = (um_progress){.to = to, .what = what, .unit = unit, .total = total};
    p->bar = to != NULL && isatty(fileno(to)) == 1;
    p->begun = um_now_ns();
    p->due = p->begun + QUIET_NS;
}

void um_progress_add_at(um_progress *p, int64_t n, int64_t now)
{
    p->done += n;
    if (p->total > 0 && p->done > p->total) p->done = p->total;
    if (p->to != NULL && now >= p->due) report(p, now);
}

void um_progress_end_at(um_progress *p, int64_t now)
{
    if (p->to == NULL || !p->shown) return;
    if (p->bar) {
        fprintf(p->to, "\r\033[K");
        fflush(p->to);
    } else {
        report(p, now);
    }
    p->to = NULL;
}

void um_progress_add(um_progress *p, int64_t n) { um_progress_add_at(p, n, um_now_ns()); }
void um_progress_end(um_progress *p) { um_progress_end_at(p, um_now_ns()); }

/* See mpirun_output.h. The texts are those of Open MPI 4.1 (help-orterun.txt, help-mpi-api.txt) and Open MPI 5.0 (help-prun.txt of
 * PRRTE, which calls itself prterun and breaks its lines elsewhere). */
#include "launch/job/mpirun_output.h"

#include "core/base/bytes.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { DASHES = 40 }; /* a line of so many is the edge of a box */

static bool is_edge(const char *line)
{
    size_t n = strspn(line, "-");
    return n >= DASHES && line[n + strspn(line + n, " \t\r")] == '\0';
}

/* "12:04:31.207 W expert/3 ...": written by log.c. */
static bool is_log_line(const char *s)
{
    return strlen(s) > 15 && isdigit((unsigned char)s[0]) && s[2] == ':' && s[5] == ':' &&
           s[8] == '.' && s[12] == ' ' && s[14] == ' ';
}

/* A line that a rank wrote while mpirun was writing its box. */
static bool is_ours(const char *s) { return strncmp(s, "unimoe", 6) == 0 || is_log_line(s); }

/* Sentences that repeat what a report says, or that only an Open MPI developer needs. */
static bool is_boilerplate(const char *s)
{
    static const char *const known[] = {
        "Primary job  terminated normally",
        "a non-zero exit code. Per user-direction",
        "help message help-",
        "orte/util/show_help.c at line", /* a help text of Open MPI that came too late to be shown */
        "Set MCA parameter \"orte_base_help_aggregate\"",
        "prterun has exited due to process rank", /* comes after the box about MPI_ABORT */
        "peer process has unexpectedly disconnected", /* another host's rank was lost: its report says which */
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strstr(s, known[i]) != NULL) return true;
    return false;
}

__attribute__((format(printf, 2, 3))) static void report(um_mpirun_output *b, const char *fmt, ...)
{
    char text[UM_MPIRUN_OUTPUT_WIDTH], line[UM_MPIRUN_OUTPUT_WIDTH + 16];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!b->fatal) {
        memcpy(b->cause, text, sizeof text); /* the caller says it at the end */
    } else {
        snprintf(line, sizeof line, "unimoe: %s", text);
        b->print(b->ctx, line);
    }
    b->fatal = true;
}

/* The open box as one line: where mpirun breaks its lines differs between versions. */
static const char *box_text(const um_mpirun_output *b, char *out, size_t size)
{
    size_t n = 0;
    out[0] = '\0';
    for (int i = 0; i < b->n && n < size; i++)
        n += (size_t)snprintf(out + n, size - n, "%s%s", i > 0 ? " " : "", b->line[i]);
    return out;
}

/* The number behind key, or -1. */
static int number_after(const char *text, const char *key)
{
    int v = -1;
    const char *at = strstr(text, key);
    return at != NULL && sscanf(at + strlen(key), "%d", &v) == 1 ? v : -1;
}

/* "mpirun noticed that process rank 2 with PID 0 on node h exited on signal 9 (Killed)." */
static bool report_signal(um_mpirun_output *b, const char *text)
{
    int rank = number_after(text, "process rank "), sig = number_after(text, "exited on signal ");
    if (rank < 0 || sig < 0) return false;
    char host[65] = "", label[160];
    const char *at = strstr(text, " on node ");
    if (at != NULL) sscanf(at + 9, "%64s", host);
    um_job_label(b->job, rank, host, label);
    if (b->fatal && strstr(b->cause, " was killed by signal ") == NULL) {
        /* Why the other ranks gave up. From another host this comes after their reports. */
        char line[UM_MPIRUN_OUTPUT_WIDTH + 16];
        snprintf(line, sizeof line, "unimoe: %s", b->cause);
        b->print(b->ctx, line);
        b->fatal = false;
    }
    report(b, "%s was killed by signal %d", label, sig);
    return true;
}

/* "MPI_ABORT was invoked on rank 2 in communicator ... with errorcode 1." or "... Errorcode: 1" */
static bool report_abort(um_mpirun_output *b, const char *text)
{
    int rank = number_after(text, "MPI_ABORT was invoked on rank ");
    int code = number_after(text, "errorcode "), code5 = number_after(text, "Errorcode: ");
    if (rank < 0) return false;
    char label[160];
    um_job_label(b->job, rank, NULL, label);
    report(b, "%s ended the job with code %d%s%s", label, code >= 0 ? code : code5,
           b->error[0] ? ": " : "", b->error);
    return true;
}

/* "Process name: [[17439,1],2] Exit code: 3" or, of Open MPI 5, "Process name: [prterun-host-76@1,2] ..." */
static bool report_exit(um_mpirun_output *b, const char *text)
{
    int rank = -1, code = number_after(text, "Exit code:");
    const char *at = strstr(text, "Process name: [");
    if (at != NULL && sscanf(at, "Process name: [[%*d,%*d],%d]", &rank) != 1)
        sscanf(at, "Process name: [%*[^]@]@%*d,%d]", &rank);
    if (rank < 0 || code < 0) return false;
    char label[160];
    um_job_label(b->job, rank, NULL, label);
    report(b, "%s ended with code %d before the job was done%s%s", label, code,
           b->error[0] ? ": " : "", b->error);
    return true;
}

static void close_box(um_mpirun_output *b)
{
    bool drop = false;
    for (int i = 0; i < b->n; i++) drop = drop || is_boilerplate(b->line[i]);
    char text[UM_MPIRUN_OUTPUT_LINES * (UM_MPIRUN_OUTPUT_WIDTH + 1)];
    box_text(b, text, sizeof text);
    if (!drop && !report_signal(b, text) && !report_abort(b, text) && !report_exit(b, text)) {
        for (int i = 0; i < b->n; i++) {
            char line[UM_MPIRUN_OUTPUT_WIDTH + 16];
            snprintf(line, sizeof line, "mpirun: %s", b->line[i]);
            if (b->line[i][0] != '\0') b->print(b->ctx, line);
        }
    }
    b->n = 0;
    b->inside = false;
}

/* Where the words "[host][[17439,1],2][file:line:function] " begin that end at `function`. */
static char *trace_start(char *line, char *function)
{
    static const char opening[] = "[[";
    for (char *p = function; p > line; p--) {
        if (strncmp(p, opening, 2) != 0 || p[-1] != ']') continue;
        while (p > line && *p != ' ') /* to the bracket of the host */
            if (*--p == '[') return p;
        break;
    }
    return function;
}

/* Cuts what the tcp part of Open MPI 5 writes for every pair of ranks on a machine whose interfaces have no route to one another. Ranks
 * of one host talk through memory and lose nothing by it. The pieces come without regard for lines. Returns whether any was there. */
static bool cut_unreachable(char *line)
{
    static const char function[] = "mca_btl_tcp_proc_create_interface_graph] ",
                      sentence[] =
                          "Unable to find reachable pairing between local and remote interfaces";
    bool found = false;
    for (char *at; (at = strstr(line, function)) != NULL; found = true) {
        char *start = trace_start(line, at), *end = at + sizeof function - 1;
        memmove(start, end, strlen(end) + 1);
    }
    for (char *at; (at = strstr(line, sentence)) != NULL; found = true)
        memmove(at, at + sizeof sentence - 1, strlen(at + sizeof sentence - 1) + 1);
    return found;
}

static void read_line(um_mpirun_output *b, const char *line)
{
    /* The first error of the job is most likely its cause: "12:04:31.207 E expert/1 ..." */
    if (b->error[0] == '\0' && is_log_line(line) && line[13] == 'E')
        snprintf(b->error, sizeof b->error, "%s", line + 15);
    if (is_edge(line)) {
        if (b->inside)
            close_box(b);
        else
            b->inside = true;
    } else if (b->inside && b->n < UM_MPIRUN_OUTPUT_LINES && !is_ours(line)) {
        snprintf(b->line[b->n++], UM_MPIRUN_OUTPUT_WIDTH, "%s", line);
        if (b->n == UM_MPIRUN_OUTPUT_LINES)
            close_box(b); /* no box of mpirun is so long: this was none */
    } else if (!is_boilerplate(line)) {
        b->print(b->ctx, line);
    }
}

void um_mpirun_output_line(um_mpirun_output *b, const char *line)
{
    char text[8 * UM_MPIRUN_OUTPUT_WIDTH];
    if (strstr(line, "interface_graph]") == NULL && strstr(line, "reachable pairing") == NULL) {
        read_line(b, line);
        return;
    }
    snprintf(text, sizeof text, "%s", line);
    bool cut = cut_unreachable(text);
    b->unreachable = b->unreachable || cut;
    if (!cut || text[0] != '\0') read_line(b, cut ? text : line);
}

void um_mpirun_output_end(um_mpirun_output *b)
{
    if (b->inside) close_box(b);
}

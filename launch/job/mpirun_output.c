/* See mpirun_output.h. The texts are those of Open MPI 4.1 (help-orterun.txt, help-mpi-api.txt) and Open MPI 5.0 (help-prun.txt of
 * PRRTE, which calls itself prterun and breaks its lines elsewhere). */
#include "launch/job/mpirun_output.h"

#include "core/base/bytes.h"
#include "core/base/log.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DASHES = 40 };                         /* a line of so many is the edge of a box */
enum { LOG_LEVEL_AT = 13, LOG_NAME_AT = 15 }; /* in "12:04:31.207 E expert/1 ..." */

static bool is_edge(const char *line)
{
    size_t n = strspn(line, "-");
    return n >= DASHES && line[n + strspn(line + n, " \t\r")] == '\0';
}

/* "12:04:31.207 W expert/3 ...": written by log.c. */
static bool is_log_line(const char *s)
{
    return strlen(s) > LOG_NAME_AT && isdigit((unsigned char)s[0]) && s[2] == ':' && s[5] == ':' &&
           s[8] == '.' && s[12] == ' ' && s[14] == ' ';
}

static bool is_error_line(const char *s) { return is_log_line(s) && s[LOG_LEVEL_AT] == 'E'; }

/* A line that a rank wrote while mpirun was writing its box. */
static bool is_ours(const char *s) { return strncmp(s, "unimoe", 6) == 0 || is_log_line(s); }

static bool has_any(const char *s, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strstr(s, words[i]) != NULL) return true;
    return false;
}
#define HAS_ANY(s, words) has_any((s), (words), sizeof(words) / sizeof((words)[0]))

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
        "total processes failed to start",
        "total process failed to start",
        "mpirun was unable to start the specified application as it encountered an", /* the box before says why */
        "[warn] Epoll ",      /* libevent, when mpirun ends before all its ranks were started */
        "FORCE-TERMINATE AT", /* behind a box that says why */
    };
    return HAS_ANY(s, known);
}

/* Lines outside boxes that say why ranks do not start: of ssh, of a shell on another host, of MPICH's mpirun. */
static bool is_hint(const char *s)
{
    static const char *const known[] = {
        "ssh: ",
        "Host key verification failed",
        "Permission denied (",
        "orted: command not found",
        "orted: No such file",
        "orted: not found",
        "prted: command not found",
        "[mpiexec@",
        "PMIX ERROR: OUT-OF-RESOURCE",
    };
    return HAS_ANY(s, known);
}

static void set_hint(um_mpirun_output *b, const char *line)
{
    if (b->hint[0] != '\0') return;
    if (strstr(line, "[mpiexec@") != NULL)
        snprintf(b->hint, sizeof b->hint,
                 "the mpirun that PATH finds is MPICH's, and unimoe was built with Open MPI: put "
                 "Open MPI's first in PATH");
    else if (strstr(line, "PMIX ERROR") != NULL)
        snprintf(b->hint, sizeof b->hint,
                 "Open MPI ran out of room in the folder for temporary files (TMPDIR, else /tmp)");
    else
        snprintf(b->hint, sizeof b->hint, "%s", line + strspn(line, " \t"));
    b->hint[strcspn(b->hint, "\r")] = '\0';
}

__attribute__((format(printf, 2, 3))) static void report(um_mpirun_output *b, const char *fmt, ...)
{
    char text[UM_MPIRUN_OUTPUT_WIDTH];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!b->fatal) memcpy(b->cause, text, sizeof text); /* the caller says it at the end */
    b->fatal = true;
}

/* ---- boxes ---- */

/* What follows key in any line of the box, without leading spaces; NULL when no line has it. */
static const char *text_after(const um_mpirun_output *b, const char *key)
{
    for (int i = 0; i < b->n; i++) {
        const char *at = strstr(b->line[i], key);
        if (at != NULL) return at + strlen(key) + strspn(at + strlen(key), " \t");
    }
    return NULL;
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
    /* From another host it comes after the reports of those that gave up because of it. */
    if (b->signal == 0) {
        b->signal = sig;
        b->fatal = false;
    }
    report(b, "%s was killed by signal %d%s", label, sig,
           sig == 9 ? " (by a person, or by the kernel when memory ran out: dmesg)" : "");
    return true;
}

/* The rank that is at fault in an error line, in front: of a chain "expert/3 joining: router/0 (rank 0): exchange: expert/0 (rank 1,
 * host h) was silent" the last rank named, with what is said of it; else the rank that logged the line. */
static void guilty_first(char out[UM_MPIRUN_OUTPUT_WIDTH], const um_job *job, const char *line)
{
    static const char *const roles[] = {"router/", "expert/", "encoder/"};
    const char *name = line + LOG_NAME_AT, *message = name + strcspn(name, " "), *from = NULL;
    message += strspn(message, " ");
    for (const char *p = message; *p != '\0'; p++) {
        int digits = 0;
        for (size_t r = 0; r < 3; r++) {
            size_t n = strlen(roles[r]);
            if (strncmp(p, roles[r], n) == 0) digits = (int)(n + strspn(p + n, "0123456789"));
        }
        if (digits > 0 && strncmp(p + digits, " (rank ", 7) == 0) from = p;
    }
    const char *behind = from == NULL ? NULL : strchr(from, ')');
    if (behind != NULL && strlen(behind) > 4) {
        snprintf(out, UM_MPIRUN_OUTPUT_WIDTH, "%s", from);
        return;
    }
    int index = -1, rank = 0;
    char label[160];
    for (int r = 0; r < UM_ROLES; rank += job->count[r++]) {
        size_t n = strlen(roles[r]);
        if (strncmp(name, roles[r], n) != 0 || sscanf(name + n, "%d", &index) != 1) continue;
        um_job_label(job, rank + index, NULL, label);
        snprintf(out, UM_MPIRUN_OUTPUT_WIDTH, "%s: %s", label, message);
        return;
    }
    snprintf(out, UM_MPIRUN_OUTPUT_WIDTH, "%s", name);
}

/* The first error by its time of day, of those that do not only say that another rank failed; -1 without one. */
static int first_error(const um_mpirun_output *b)
{
    static const char *const secondary[] = {"ended the job, see its message", "asked to stop"};
    int best = -1;
    for (int i = 0; i < b->errors; i++)
        if (!HAS_ANY(b->error[i], secondary) &&
            (best < 0 || strncmp(b->error[i], b->error[best], LOG_LEVEL_AT) < 0))
            best = i;
    return best;
}

/* "MPI_ABORT was invoked on rank 2 in communicator ... with errorcode 1." or "... Errorcode: 1" */
static bool report_abort(um_mpirun_output *b, const char *text)
{
    int rank = number_after(text, "MPI_ABORT was invoked on rank ");
    int code = number_after(text, "errorcode "), code5 = number_after(text, "Errorcode: ");
    if (rank < 0) return false;
    char label[160];
    um_job_label(b->job, rank, NULL, label);
    report(b, "%s ended the job with code %d", label, code >= 0 ? code : code5);
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
    report(b, "%s ended with code %d before the job was done", label, code);
    return true;
}

static const char *or_empty(const char *s) { return s == NULL ? "" : s; }

/* mpirun could not start ranks. */
static bool report_start(um_mpirun_output *b, const char *text)
{
    const char *file = text_after(b, "Executable:"), *node = text_after(b, "Node:");
    if (file == NULL) file = text_after(b, "Application name:");
    if (file != NULL) {
        const char *why = text_after(b, "Error:"), *host = node;
        if (host == NULL) host = text_after(b, "Local host:");
        report(b,
               "host %s cannot run %s: %s; the four unimoe programs stay in one folder, at the "
               "same path on every host",
               or_empty(host), file, why != NULL ? why : "it is missing or may not be executed");
        return true;
    }
    if (text_after(b, "not enough slots available") != NULL) {
        report(b,
               "the hosts have fewer slots than the job has ranks (%d): raise slots=N in the "
               "hostfile, or lower --routers, --experts and --encoders",
               um_job_ranks(b->job));
        return true;
    }
    if (text_after(b, "a parse error in the hostfile") != NULL) {
        report(b, "the hostfile is wrong in line %d: each line is HOST slots=N",
               number_after(text, "on line number "));
        return true;
    }
    if (text_after(b, "No nodes are available for this job") != NULL) {
        report(b, "the hostfile names no host: each line is HOST slots=N");
        return true;
    }
    if (text_after(b, "reliably start one or more daemons") != NULL ||
        text_after(b, "ORTE has lost communication with a remote daemon") != NULL) {
        report(b,
               "mpirun cannot start its daemon on a host of the hostfile%s%s; `ssh HOST mpirun "
               "--version` must work for every host without a password",
               b->hint[0] ? ": " : "", b->hint);
        return true;
    }
    if (text_after(b, "plm_rsh_agent") != NULL) {
        report(b, "mpirun finds no ssh in PATH, which it needs for other hosts: apt-get install "
                  "openssh-client");
        return true;
    }
    return false;
}

static void close_box(um_mpirun_output *b)
{
    bool drop = b->stopping;
    for (int i = 0; i < b->n; i++) drop = drop || is_boilerplate(b->line[i]);
    char text[UM_MPIRUN_OUTPUT_LINES * (UM_MPIRUN_OUTPUT_WIDTH + 1)];
    box_text(b, text, sizeof text);
    if (!drop && !report_signal(b, text) && !report_abort(b, text) && !report_exit(b, text) &&
        !report_start(b, text)) {
        for (int i = 0; i < b->n; i++) {
            char line[UM_MPIRUN_OUTPUT_WIDTH + 16];
            snprintf(line, sizeof line, "mpirun: %s", b->line[i]);
            if (b->line[i][0] != '\0') b->print(b->ctx, line);
        }
    }
    b->n = 0;
    b->inside = false;
}

/* ---- lines ---- */

/* An error of a rank: kept for the end. With more than fit, the rest are consequences of the first ones. */
static void hold_error(um_mpirun_output *b, const char *line)
{
    if (b->stopping) return;
    if (b->errors < UM_MPIRUN_OUTPUT_ERRORS)
        snprintf(b->error[b->errors++], UM_MPIRUN_OUTPUT_WIDTH, "%s", line);
    if (um_log_enabled(UM_LOG_INFO)) b->print(b->ctx, line);
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
    if (is_edge(line)) {
        if (b->inside)
            close_box(b);
        else
            b->inside = true;
    } else if (is_error_line(line)) {
        hold_error(b, line);
    } else if (is_hint(line) && !b->inside) {
        set_hint(b, line);
    } else if (b->inside && b->n < UM_MPIRUN_OUTPUT_LINES && !is_ours(line)) {
        snprintf(b->line[b->n++], UM_MPIRUN_OUTPUT_WIDTH, "%s", line);
        if (b->n == UM_MPIRUN_OUTPUT_LINES) close_box(b); /* mpirun writes no box of this length */
    } else if (!is_boilerplate(line)) {
        b->print(b->ctx, line);
    }
}

bool um_mpirun_output_is_noise(const char *line) { return is_boilerplate(line); }

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
    int first = first_error(b);
    if (b->fatal && b->signal == 0 && first >= 0) guilty_first(b->cause, b->job, b->error[first]);
    if (b->fatal || b->stopping || um_log_enabled(UM_LOG_INFO)) return;
    for (int i = 0; i < b->errors; i++) b->print(b->ctx, b->error[i]);
}

/* ---- mpirun itself ---- */

static size_t host_name_length(void)
{
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    return strcspn(host, "."); /* Open MPI cuts the domain off */
}

/* A shell's code for a death by signal, when it is a signal that ranks die of: mpirun has codes of its own above 128, too. */
static bool is_death(int code)
{
    static const int deadly[] = {4, 6, 7, 8, 9, 11, 15, 24, 25};
    for (size_t i = 0; i < sizeof deadly / sizeof deadly[0]; i++)
        if (code == 128 + deadly[i]) return true;
    return false;
}

um_status um_mpirun_output_explain(const um_mpirun_output *b, int wait_status, um_err *err)
{
    const char *program = b->job->argv[0];
    int code = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 0;
    if (b->hint[0] != '\0') return UM_FAIL(err, UM_E_PEER, "%s failed: %s", program, b->hint);
    if (WIFSIGNALED(wait_status) && host_name_length() > UM_HOST_NAME_MAX)
        return UM_FAIL(
            err, UM_E_PEER,
            "%s crashed: this host's name has %zu characters, and Open MPI 4 fails above "
            "%d; set a shorter one (hostname NAME; docker --hostname)",
            program, host_name_length(), UM_HOST_NAME_MAX);
    if (WIFSIGNALED(wait_status))
        return UM_FAIL(err, UM_E_PEER, "%s was killed by signal %d", program,
                       WTERMSIG(wait_status));
    int first = first_error(b);
    if (first >= 0) {
        char text[UM_MPIRUN_OUTPUT_WIDTH];
        guilty_first(text, b->job, b->error[first]);
        return UM_FAIL(err, um_exit_status(code), "%s", text);
    }
    if (is_death(code))
        return UM_FAIL(err, UM_E_PEER, "a rank was killed by signal %d (mpirun does not say which)",
                       code - 128);
    return UM_FAIL(err, um_exit_status(code), "%s ended with code %d%s", program, code,
                   code > 128 ? ": run unimoe doctor, which checks what mpirun needs" : "");
}

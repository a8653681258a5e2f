/* See results.h. */
#include "launch/job/results.h"

#include "launch/job/memory_plan.h"
#include "launch/job/mpirun_output.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>

/* What was just printed has reached the file or the pipe; else the job works for nobody. */
static bool written(um_results *a)
{
    if (fflush(a->out) == 0 && !ferror(a->out)) return true;
    if (a->broken == 0) a->broken = errno != 0 ? errno : EIO;
    return false;
}

/* "line 3, request abc" into out: where it stood, and its id when that says more; "" when there is only one. */
static void name_request(char out[160], const um_results *a, const um_json *j)
{
    const um_json *line = um_json_get(j, "line"), *element = um_json_get(j, "element");
    const char *id = um_json_str(um_json_get(j, "id"), "?");
    int64_t number = um_json_int(line != NULL ? line : element, 0);
    char digits[24];
    out[0] = '\0';
    if (a->unnamed) return;
    snprintf(digits, sizeof digits, "%" PRId64, number);
    if (number == 0)
        snprintf(out, 160, "request %.100s: ", id);
    else if (strcmp(id, digits) == 0)
        snprintf(out, 160, "%s %s: ", line != NULL ? "line" : "element", digits);
    else
        snprintf(out, 160, "%s %s, request %.100s: ", line != NULL ? "line" : "element", digits,
                 id);
}

/* With --json every line as it is; the tokens of a single answer as its text. */
static void print_token(um_results *a, const um_json *j, const char *line)
{
    const char *text = um_json_str(um_json_get(um_json_get(j, "token"), "text"), "");
    if (a->quiet || (!a->json && (a->wanted != 1 || text[0] == '\0'))) return;
    if (a->progress != NULL) um_job_progress_clear(a->progress);
    errno = 0;
    if (a->json)
        fprintf(a->out, "%s\n", line);
    else
        fputs(text, a->out);
    a->begun = !a->json;
    (void)written(a);
}

static void print_result(um_results *a, const um_json *j, const char *line)
{
    if (a->progress != NULL && !a->quiet) um_job_progress_clear(a->progress);
    errno = 0;
    if (a->json) {
        fprintf(a->out, "%s\n", line);
    } else if (!a->quiet) {
        if (a->wanted != 1) fprintf(a->out, "[%s] ", um_json_str(um_json_get(j, "id"), "?"));
        fprintf(a->out, "%s\n", a->begun ? "" : um_json_str(um_json_get(j, "answer"), ""));
    }
    a->begun = false;
    if (written(a)) a->done++;
}

/* A line of its own for what follows an answer that ended in its middle. */
static void break_line(um_results *a)
{
    if (a->begun) fputc('\n', a->out);
    a->begun = false;
}

static void print_error(um_results *a, const um_json *j, const char *line)
{
    char name[160];
    a->failed++;
    break_line(a);
    name_request(name, a, j);
    if (a->progress != NULL) um_job_progress_clear(a->progress);
    fprintf(a->log, "unimoe: %s%s\n", name, um_json_str(um_json_get(j, "error"), "failed"));
    errno = 0;
    if (a->json) fprintf(a->out, "%s\n", line);
    (void)written(a);
}

/* "111 prompt tokens at 52.1/s" or, of so few that no rate can be told, "1 new token" */
static void print_rate(FILE *to, int64_t n, const char *what, double rate)
{
    fprintf(to, "%" PRId64 " %s token%s", n, what, n == 1 ? "" : "s");
    if (rate > 0) fprintf(to, " at %.1f/s", rate);
}

/* "111 prompt tokens at 52.1/s, 12 new tokens at 8.3/s; rows 1.2 MiB, compressed to 0.9 MiB (1.33x)" */
static void print_figures(const um_results *a, const um_json *j)
{
    int64_t raw = um_json_int(um_json_get(j, "raw_bytes"), 0),
            wire = um_json_int(um_json_get(j, "wire_bytes"), 0),
            prompt = um_json_int(um_json_get(j, "prompt_tokens"), 0),
            new = um_json_int(um_json_get(j, "new_tokens"), 0);
    char r[32], w[32];
    if (prompt == 0 && new == 0) return;
    print_rate(a->log, prompt, "prompt",
               um_json_num(um_json_get(j, "prefill_tokens_per_second"), 0));
    fprintf(a->log, ", ");
    print_rate(a->log, new, "new", um_json_num(um_json_get(j, "decode_tokens_per_second"), 0));
    um_bytes_text(r, raw);
    um_bytes_text(w, wire);
    if (wire > 0) fprintf(a->log, "; rows exchanged: %s", a->codec ? r : w);
    if (wire > 0 && a->codec)
        fprintf(a->log, ", compressed to %s (%.2fx)", w, (double)raw / (double)wire);
    fprintf(a->log, "\n");
}

static void print_summary(um_results *a, const um_json *j, const char *line)
{
    a->summary = true;
    if (a->wanted == UM_WANTED_UNKNOWN) a->wanted = (int)um_json_int(um_json_get(j, "requests"), 0);
    if (a->progress != NULL) um_job_progress_clear(a->progress);
    errno = 0;
    if (a->json)
        fprintf(a->out, "%s\n", line);
    else if (!a->no_figures)
        print_figures(a, j);
    (void)written(a);
}

static void take_line(um_results *a, const um_json *j, bool result)
{
    a->refused = a->refused || !a->take(a->ctx, j);
    if (result)
        a->done++;
    else
        a->failed++;
}

um_job_next um_results_line(um_results *a, const char *line)
{
    um_json *j = NULL;
    bool parsed = um_json_parse(&j, line, strlen(line), NULL) == UM_OK;
    const char *kind = parsed ? um_json_str(um_json_get(j, "kind"), "") : "";
    bool result = strcmp(kind, "result") == 0;
    if (a->take != NULL && (result || strcmp(kind, "error") == 0)) {
        take_line(a, j, result);
    } else if (result) {
        print_result(a, j, line);
    } else if (strcmp(kind, "error") == 0) {
        print_error(a, j, line);
    } else if (strcmp(kind, "summary") == 0) {
        print_summary(a, j, line);
    } else if (strcmp(kind, "token") == 0) {
        print_token(a, j, line);
    } else if (strcmp(kind, "progress") == 0) {
        if (a->progress != NULL && !a->begun) um_job_progress_update(a->progress, j);
    } else if (line[0] != '\0' && !um_mpirun_output_is_noise(line)) {
        if (a->progress != NULL) um_job_progress_clear(a->progress);
        fprintf(a->log, "%s\n", line);
    }
    um_json_free(j);
    if (a->broken != 0 || a->refused) return UM_JOB_STOP;
    return a->summary ? UM_JOB_LAST : UM_JOB_GO_ON;
}

bool um_results_wanted(um_results *a)
{
    struct pollfd out = {fileno(a->out), 0, 0};
    if (a->broken == 0 && out.fd >= 0 && poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0)
        a->broken = EPIPE;
    return a->broken == 0;
}

/* ": 3 of 8 answers were written" */
static void answers_text(char out[64], const um_results *a)
{
    if (a->quiet || a->wanted == 0)
        out[0] = '\0';
    else if (a->wanted == UM_WANTED_UNKNOWN)
        snprintf(out, 64, ": %d answer%s written", a->done, a->done == 1 ? " was" : "s were");
    else
        snprintf(out, 64, ": %d of %d answer%s written", a->done, a->wanted,
                 a->wanted == 1 ? " was" : "s were");
}

um_status um_results_verdict(const um_results *a, um_status st, um_err *err)
{
    char answers[64];
    answers_text(answers, a);
    if (a->broken == EPIPE) {
        UM_FAIL(err, UM_E_STOPPED, "standard output: its reader is gone%s", answers);
        err->signal = SIGPIPE;
        return UM_E_STOPPED;
    }
    if (a->broken != 0)
        return UM_FAIL(err, UM_E_IO, "standard output: %s%s; the job was stopped",
                       a->broken == EBADF ? "it is closed" : strerror(a->broken), answers);
    if (st != UM_OK) {
        char why[sizeof err->msg];
        if (a->quiet || (a->wanted == 1 && a->done == 0)) return st;
        snprintf(why, sizeof why, "%s", err->msg);
        return UM_FAIL(err, st, "%.900s%s", why, answers);
    }
    if (a->summary && a->wanted == 0)
        return UM_FAIL(err, UM_E_DATA, "%s: no request in it",
                       a->source != NULL ? a->source : "the input");
    if (a->failed > 0 && a->wanted == UM_WANTED_UNKNOWN)
        return UM_FAIL(err, UM_E_DATA, "%d requests failed", a->failed);
    if (a->failed > 0)
        return UM_FAIL(err, UM_E_DATA, "%d of %d requests failed", a->failed, a->wanted);
    if (a->wanted == UM_WANTED_UNKNOWN)
        return UM_FAIL(err, UM_E_PEER, "the job ended after %d answers, without its summary",
                       a->done);
    if (a->done < a->wanted || !a->summary)
        return UM_FAIL(err, UM_E_PEER, "the job ended after %d of %d answers%s", a->done, a->wanted,
                       a->summary ? "" : ", without its summary");
    return UM_OK;
}

/* See results.h. */
#include "launch/job/results.h"

#include "launch/job/memory_plan.h"

#include <inttypes.h>
#include <string.h>

static void take_result(um_results *a, const um_json *j)
{
    a->done++;
    if (a->json || a->quiet) return;
    if (a->wanted != 1) fprintf(a->out, "[%s] ", um_json_str(um_json_get(j, "id"), "?"));
    fprintf(a->out, "%s\n", um_json_str(um_json_get(j, "answer"), ""));
    fflush(a->out);
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

static void take_error(um_results *a, const um_json *j)
{
    char name[160];
    a->failed++;
    name_request(name, a, j);
    fprintf(a->log, "unimoe: %s%s\n", name, um_json_str(um_json_get(j, "error"), "failed"));
}

/* "111 prompt tokens at 52.1/s, 12 new tokens at 8.3/s; rows 1.2 MiB raw, 0.9 MiB on the wire (1.33x)" */
static void take_summary(um_results *a, const um_json *j)
{
    a->summary = true;
    if (a->wanted == UM_WANTED_UNKNOWN) a->wanted = (int)um_json_int(um_json_get(j, "requests"), 0);
    if (a->json) return;
    int64_t raw = um_json_int(um_json_get(j, "raw_bytes"), 0),
            wire = um_json_int(um_json_get(j, "wire_bytes"), 0);
    char r[32], w[32];
    um_bytes_text(r, raw);
    um_bytes_text(w, wire);
    fprintf(a->log,
            "%" PRId64 " prompt tokens at %.1f/s, %" PRId64
            " new tokens at %.1f/s; rows %s raw, %s on the wire",
            um_json_int(um_json_get(j, "prompt_tokens"), 0),
            um_json_num(um_json_get(j, "prefill_tokens_per_second"), 0),
            um_json_int(um_json_get(j, "new_tokens"), 0),
            um_json_num(um_json_get(j, "decode_tokens_per_second"), 0), r, w);
    if (wire > 0) fprintf(a->log, " (%.2fx)", (double)raw / (double)wire);
    fprintf(a->log, "\n");
}

bool um_results_line(um_results *a, const char *line)
{
    um_json *j = NULL;
    bool parsed = um_json_parse(&j, line, strlen(line), NULL) == UM_OK;
    const char *kind = parsed ? um_json_str(um_json_get(j, "kind"), "") : "";
    bool known = true;
    if (strcmp(kind, "result") == 0)
        take_result(a, j);
    else if (strcmp(kind, "error") == 0)
        take_error(a, j);
    else if (strcmp(kind, "summary") == 0)
        take_summary(a, j);
    else
        known = false;
    if (a->json && known) {
        fprintf(a->out, "%s\n", line);
        fflush(a->out);
    }
    if (!known && line[0] != '\0') fprintf(a->log, "%s\n", line);
    um_json_free(j);
    return a->summary;
}

um_status um_results_verdict(const um_results *a, um_err *err)
{
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

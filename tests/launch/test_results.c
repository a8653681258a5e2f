/* Requests on their way in and answers on their way out; progress, and the memory that a job needs. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/file.h"
#include "encoder_worker/towers/tower_bytes.h"
#include "launch/job/results.h"
#include "launch/job/memory_plan.h"
#include "launch/job/job_progress.h"
#include "launch/job/requests.h"
#include "tests/support/launch_fixture.h"

static const char *head_of(launch_fixture *f, um_requests *r)
{
    um_requests_close(r);
    f->cfg.media_folder = "";
    if (um_requests_open(r, &f->cfg, &f->arena, &f->err) != UM_OK) fail_msg("%s", f->err.msg);
    return r->head.n == 0 ? "" : r->head.s;
}

static void test_prompt(void **state)
{
    launch_fixture *f = *state;
    um_requests r = {.fd = -1};
    char cwd[512];
    assert_non_null(getcwd(cwd, sizeof cwd));
    f->cfg.prompt = "Say \"hi\"";
    assert_string_equal(head_of(f, &r), "{\"prompt\":\"Say \\\"hi\\\"\"}\n");
    assert_int_equal(r.fd, -1);
    assert_int_equal(um_file_write("test_job.tmp.png", "x", 1, &f->err), UM_OK);
    f->cfg.image = (um_list){.item = {"test_job.tmp.png", "./test_job.tmp.png"}, .n = 2};
    f->cfg.prompt = "What?";
    assert_string_equal(head_of(f, &r),
                        um_arena_fmt(&f->arena,
                                     "{\"prompt\":\"What?\",\"image\":[\"%s/test_job.tmp.png\","
                                     "\"%s/test_job.tmp.png\"]}\n",
                                     cwd, cwd));
    unlink("test_job.tmp.png");
    um_requests_close(&r);
    assert_int_equal(um_requests_open(&r, &f->cfg, &f->arena, &f->err), UM_E_DATA);
    assert_string_equal(f->err.msg, "--image test_job.tmp.png: No such file or directory");
}

/* A prompt longer than a command line can hold; a mark in front of it and the line end behind it are not part of it. */
static void test_prompt_file(void **state)
{
    launch_fixture *f = *state;
    um_requests r = {.fd = -1};
    um_text text = {0};
    um_text_fmt(&text, "\xEF\xBB\xBFone\r\n");
    for (int i = 0; i < 300000; i++) um_text_fmt(&text, "word ");
    um_text_fmt(&text, "\r\n");
    assert_int_equal(um_file_write("test_job.tmp.txt", text.s, text.n, &f->err), UM_OK);
    f->cfg.prompt = "";
    f->cfg.prompt_file = "test_job.tmp.txt";
    const char *head = head_of(f, &r);
    assert_int_equal(strncmp(head, "{\"prompt\":\"one\\r\\nword word ", 28), 0);
    assert_string_equal(head + strlen(head) - 8, "word \"}\n");
    assert_int_equal(um_file_write("test_job.tmp.txt", "\n", 1, &f->err), UM_OK);
    um_requests_close(&r);
    assert_int_equal(um_requests_open(&r, &f->cfg, &f->arena, &f->err), UM_E_DATA);
    assert_string_equal(f->err.msg, "prompt test_job.tmp.txt: is empty");
    assert_int_equal(um_file_write("test_job.tmp.txt", "h\0i\0", 4, &f->err), UM_OK);
    assert_int_equal(um_requests_open(&r, &f->cfg, &f->arena, &f->err), UM_E_DATA);
    assert_non_null(strstr(f->err.msg, "it must be UTF-8"));
    unlink("test_job.tmp.txt");
    assert_int_equal(um_requests_open(&r, &f->cfg, &f->arena, &f->err), UM_E_DATA);
    assert_string_equal(f->err.msg, "prompt: test_job.tmp.txt: No such file or directory");
    um_text_free(&text);
}

/* A file is passed on unchanged: only its beginning is held in memory, and its folder is passed separately. */
static void test_request_file(void **state)
{
    launch_fixture *f = *state;
    um_requests r = {.fd = -1};
    um_text text = {0};
    char cwd[512];
    static const char small[] =
        "\xEF\xBB\xBF{\"prompt\":\"p\",\"image\":\"d.png\"}\r\n\nnonsense \xff";
    assert_non_null(getcwd(cwd, sizeof cwd));
    assert_int_equal(um_file_write("test_job.tmp.jsonl", small, strlen(small), &f->err), UM_OK);
    f->cfg.requests = "test_job.tmp.jsonl";
    assert_string_equal(head_of(f, &r), small);
    assert_int_equal(r.fd, -1);
    assert_string_equal(f->cfg.media_folder, cwd);
    for (int i = 0; i < 100000; i++) um_text_fmt(&text, "{\"prompt\":\"%d\"}\n", i);
    assert_int_equal(um_file_write("test_job.tmp.jsonl", text.s, text.n, &f->err), UM_OK);
    head_of(f, &r);
    assert_true(r.fd >= 0 && r.head.n < text.n / 2);
    size_t more = 0;
    char buf[4096];
    for (ssize_t n; (n = read(r.fd, buf, sizeof buf)) > 0; more += (size_t)n)
        assert_memory_equal(buf, text.s + r.head.n + more, n);
    assert_int_equal(r.head.n + more, text.n);
    um_requests_close(&r);
    unlink("test_job.tmp.jsonl");
    assert_int_equal(um_requests_open(&r, &f->cfg, &f->arena, &f->err), UM_E_DATA);
    assert_string_equal(f->err.msg, "requests test_job.tmp.jsonl: No such file or directory");
    f->cfg.requests = "/tmp";
    assert_int_equal(um_requests_open(&r, &f->cfg, &f->arena, &f->err), UM_E_DATA);
    assert_string_equal(f->err.msg, "requests /tmp: is a folder; give the file in it");
    um_text_free(&text);
}

/* Feeds lines to an um_results; what it wrote to out and log goes to f->seen, log behind "|". */
static void answer(launch_fixture *f, um_results *a, const char *const *lines, int n)
{
    char *out = NULL, *log = NULL;
    size_t out_size = 0, log_size = 0;
    a->out = open_memstream(&out, &out_size);
    a->log = open_memstream(&log, &log_size);
    for (int i = 0; i < n; i++)
        assert_int_equal(um_results_line(a, lines[i]),
                         strstr(lines[i], "summary") != NULL ? UM_JOB_LAST : UM_JOB_GO_ON);
    fclose(a->out);
    fclose(a->log);
    f->seen.n = 0;
    um_text_fmt(&f->seen, "%s|%s", out, log);
    um_free(out);
    um_free(log);
}

#define RESULT "{\"kind\":\"result\",\"id\":\"7\",\"answer\":\"A circle.\"}"
#define SUMMARY                                                                                    \
    "{\"kind\":\"summary\",\"requests\":1,\"prompt_tokens\":111,\"new_tokens\":12,\"prefill_"      \
    "tokens_per_second\":52.14,"                                                                   \
    "\"decode_tokens_per_second\":8.26,\"raw_bytes\":3145728,\"wire_bytes\":1572864}"
#define FIGURES "111 prompt tokens at 52.1/s, 12 new tokens at 8.3/s; rows exchanged: 1.5 MiB\n"

static void test_answers(void **state)
{
    launch_fixture *f = *state;
    um_results a = {.wanted = 1};
    answer(f, &a, (const char *const[]){RESULT, SUMMARY}, 2);
    assert_string_equal(f->seen.s, "A circle.\n|" FIGURES);
    assert_int_equal(um_results_verdict(&a, UM_OK, &f->err), UM_OK);

    a = (um_results){.wanted = 2};
    answer(f, &a,
           (const char *const[]){RESULT, "{\"kind\":\"error\",\"id\":\"8\",\"error\":\"no image\"}",
                                 "stray", SUMMARY},
           4);
    assert_string_equal(f->seen.s, "[7] A circle.\n|unimoe: request 8: no image\nstray\n" FIGURES);
    assert_int_equal(um_results_verdict(&a, UM_OK, &f->err), UM_E_DATA);
    assert_string_equal(f->err.msg, "1 of 2 requests failed");

    a = (um_results){.wanted = 1, .json = true};
    answer(f, &a, (const char *const[]){RESULT, SUMMARY}, 2);
    assert_string_equal(f->seen.s, RESULT "\n" SUMMARY "\n|");

    a = (um_results){.wanted = 2};
    answer(f, &a, (const char *const[]){RESULT}, 1);
    assert_int_equal(um_results_verdict(&a, UM_OK, &f->err), UM_E_PEER);
    assert_string_equal(f->err.msg, "the job ended after 1 of 2 answers, without its summary");
}

typedef struct taken {
    int lines, most; /* of which so many are taken */
} taken;

static bool take(void *ctx, const um_json *line)
{
    taken *t = ctx;
    (void)line;
    return ++t->lines <= t->most;
}

/* Who takes results and errors has them instead of the output, and may end the job. */
static void test_taken(void **state)
{
    launch_fixture *f = *state;
    taken t = {.most = 2};
    um_results a = {.wanted = 3, .take = take, .ctx = &t};
    answer(
        f, &a,
        (const char *const[]){RESULT, "{\"kind\":\"error\",\"id\":\"8\",\"error\":\"no image\"}"},
        2);
    assert_string_equal(f->seen.s, "|");
    assert_true(a.done == 1 && a.failed == 1 && t.lines == 2 && !a.refused);
    assert_int_equal(um_results_line(&a, RESULT), UM_JOB_STOP);
    assert_true(a.refused);
}

/* A request's place in its file, and its id if that tells more. The number of requests may be known only at the end. */
static void test_errors_name(void **state)
{
    launch_fixture *f = *state;
    um_results a = {.wanted = UM_WANTED_UNKNOWN};
    answer(f, &a,
           (const char *const[]){"{\"kind\":\"error\",\"id\":\"3\",\"line\":3,\"error\":\"e\"}",
                                 "{\"kind\":\"error\",\"id\":\"abc\",\"line\":4,\"error\":\"e\"}",
                                 "{\"kind\":\"error\",\"id\":\"x\",\"element\":5,\"error\":\"e\"}",
                                 RESULT, "{\"kind\":\"summary\",\"requests\":4}"},
           5);
    assert_non_null(strstr(f->seen.s,
                           "[7] A circle.\n|unimoe: line 3: e\nunimoe: line 4, request abc: "
                           "e\nunimoe: element 5, request x: e\n"));
    assert_int_equal(um_results_verdict(&a, UM_OK, &f->err), UM_E_DATA);
    assert_string_equal(f->err.msg, "3 of 4 requests failed");
    a = (um_results){.wanted = UM_WANTED_UNKNOWN, .source = "standard input"};
    answer(f, &a, (const char *const[]){"{\"kind\":\"summary\",\"requests\":0}"}, 1);
    assert_int_equal(um_results_verdict(&a, UM_OK, &f->err), UM_E_DATA);
    assert_string_equal(f->err.msg, "standard input: no request in it");
    a = (um_results){.wanted = 1, .unnamed = true};
    answer(f, &a,
           (const char *const[]){"{\"kind\":\"error\",\"id\":\"1\",\"line\":1,\"error\":\"e\"}"},
           1);
    assert_string_equal(f->seen.s, "|unimoe: e\n");
    a = (um_results){.wanted = UM_WANTED_UNKNOWN};
    answer(f, &a, (const char *const[]){RESULT}, 1);
    assert_int_equal(um_results_verdict(&a, UM_OK, &f->err), UM_E_PEER);
    assert_string_equal(f->err.msg, "the job ended after 1 answers, without its summary");
}

/* Only meaningful figures: no rate of too small a count, no compression without a codec, no line about nothing. */
static void test_figures(void **state)
{
    launch_fixture *f = *state;
    um_results a = {.wanted = 1, .codec = true};
    answer(f, &a, (const char *const[]){SUMMARY}, 1);
    assert_string_equal(f->seen.s, "|111 prompt tokens at 52.1/s, 12 new tokens at 8.3/s; rows "
                                   "exchanged: 3.0 MiB, compressed to 1.5 MiB (2.00x)\n");
    a = (um_results){.wanted = 1};
    answer(f, &a,
           (const char *const[]){"{\"kind\":\"summary\",\"prompt_tokens\":7,\"new_tokens\":1,"
                                 "\"prefill_tokens_per_second\":5,\"decode_tokens_per_second\":0}"},
           1);
    assert_string_equal(f->seen.s, "|7 prompt tokens at 5.0/s, 1 new token\n");
    a = (um_results){.wanted = 1};
    answer(f, &a,
           (const char *const[]){"{\"kind\":\"summary\",\"prompt_tokens\":0,\"new_tokens\":0}"}, 1);
    assert_string_equal(f->seen.s, "|");
    a = (um_results){.wanted = 1, .no_figures = true};
    answer(f, &a, (const char *const[]){"{\"kind\":\"progress\"}", SUMMARY}, 2);
    assert_string_equal(f->seen.s, "|");
}

/* Output that cannot be written ends the job at once, and the message counts what was written. */
static void test_answers_lost(void **state)
{
    launch_fixture *f = *state;
    um_results a = {.wanted = 8, .log = stderr, .out = fopen("/dev/full", "w")};
    assert_non_null(a.out);
    assert_int_equal(um_results_line(&a, RESULT), UM_JOB_STOP);
    assert_int_equal(um_results_verdict(&a, UM_E_STOPPED, &f->err), UM_E_IO);
    assert_string_equal(f->err.msg, "standard output: No space left on device: 0 of 8 answers were "
                                    "written; the job was stopped");
    fclose(a.out);
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    a = (um_results){.wanted = 2, .log = stderr, .out = fdopen(ends[1], "w")};
    assert_int_equal(um_results_line(&a, RESULT), UM_JOB_GO_ON);
    assert_true(um_results_wanted(&a));
    close(ends[0]);
    assert_false(um_results_wanted(&a)); /* without another answer */
    assert_int_equal(um_results_verdict(&a, UM_E_STOPPED, &f->err), UM_E_STOPPED);
    assert_int_equal(f->err.signal, SIGPIPE);
    fclose(a.out);
    a = (um_results){.wanted = 8, .done = 3};
    UM_FAIL(&f->err, UM_E_STOPPED, "stopped by SIGINT");
    assert_int_equal(um_results_verdict(&a, UM_E_STOPPED, &f->err), UM_E_STOPPED);
    assert_string_equal(f->err.msg, "stopped by SIGINT: 3 of 8 answers were written");
}

static void shown(launch_fixture *f, um_job_progress *p, int64_t seconds, const char *want)
{
    char *text = NULL;
    size_t size = 0;
    p->line.to = open_memstream(&text, &size);
    um_job_progress_tick(p, p->line.begun + seconds * 1000000000);
    fclose(p->line.to);
    p->line.to = stderr;
    assert_string_equal(text, want);
    um_free(text);
    (void)f;
}

static void report(um_job_progress *p, const char *line)
{
    um_json *j = NULL;
    assert_int_equal(um_json_parse(&j, line, strlen(line), NULL), UM_OK);
    um_job_progress_update(p, j);
    um_json_free(j);
}

static void test_progress(void **state)
{
    launch_fixture *f = *state;
    um_job_progress p;
    um_job_progress_open(&p, stderr, 6, 8, false);
    p.line.terminal = false;
    shown(f, &p, 1, ""); /* short jobs show nothing */
    shown(f, &p, 3, "unimoe: starting 6 ranks, 3 s\n");
    report(&p, "{\"kind\":\"progress\",\"phase\":\"loading\"}");
    shown(f, &p, 5, "");
    shown(f, &p, 8, "unimoe: 6 ranks are loading the model, 8 s\n");
    report(&p, "{\"kind\":\"progress\",\"phase\":\"working\",\"encoding\":2}");
    p.work_ns = p.line.begun + INT64_C(10000000000);
    shown(f, &p, 13, "unimoe: [                    ] 0 of 8 answers, encoding media of 2\n");
    report(&p,
           "{\"kind\":\"progress\",\"phase\":\"working\",\"encoding\":0,\"prompt_tokens\":640}");
    shown(f, &p, 18,
          "unimoe: [                    ] 0 of 8 answers, reading prompts: 640 tokens\n");
    report(&p, "{\"phase\":\"working\",\"answered\":2,\"new_tokens\":100,\"requests\":8}");
    p.answer_ns = p.line.begun + INT64_C(30000000000);
    shown(
        f, &p, 50,
        "unimoe: [#####               ] 2 of 8 answers, 100 new tokens, 2.5/s, about 40 s left\n");
    p.line.terminal = true;
    p.line.due = p.line.begun;
    shown(f, &p, 51,
          "\r[#####               ] 2 of 8 answers, 100 new tokens, 2.4/s, about 39 s left\033[K");
    um_job_progress_open(&p, stderr, 6, 8, true);
    assert_null(p.line.to);
    um_job_progress_tick(&p, p.line.begun + INT64_C(100000000000));
}

/* ---- memory ---- */

static void test_bytes_text(void **state)
{
    (void)state;
    char s[32];
    um_bytes_text(s, 0);
    assert_string_equal(s, "0 B");
    um_bytes_text(s, 1023);
    assert_string_equal(s, "1023 B");
    um_bytes_text(s, 1536);
    assert_string_equal(s, "1.5 KiB");
    um_bytes_text(s, INT64_C(5) << 40);
    assert_string_equal(s, "5.0 TiB");
}

static void test_memory_shortage(void **state)
{
    (void)state;
    um_arena a;
    um_arena_init(&a, "test", 4096);
    um_memory_plan_rank ranks[] = {
        {.role = UM_ROLE_ROUTER, .weights = INT64_C(3) << 30, .buffers = 1 << 30},
        {.role = UM_ROLE_EXPERT, .weights = INT64_C(5) << 30}};
    um_memory_plan p = {ranks, 2};
    assert_string_equal(um_memory_plan_shortage(&p, INT64_C(9) << 30, &a), "");
    assert_string_equal(um_memory_plan_shortage(&p, 0, &a), ""); /* nobody knows */
    const char *s = um_memory_plan_shortage(&p, (INT64_C(9) << 30) - 1, &a);
    assert_non_null(strstr(
        s, "need about 9.0 GiB (weights 8.0 GiB, buffers up to 1.0 GiB), and 9.0 GiB are free"));
    assert_non_null(strstr(s, "--max-batch"));
    s = um_memory_plan_shortage(&p, INT64_C(2) << 30, &a);
    assert_non_null(strstr(s, "2.0 GiB are free on this machine: more machines (--hostfile)"));
    um_arena_free(&a);
}

/* An encoder rank's buffers are the largest of the media that it reads, as its towers measure them, and what every rank takes. */
static void test_plan_of_encoders(void **state)
{
    launch_fixture *f = *state;
    um_checkpoint ck = {0};
    um_memory_plan plan;
    int seen = 0;
    if (um_checkpoint_open(&ck, UM_TEST_DATA "/golden/models/s4", NULL, &f->err) != UM_OK)
        fail_msg("%s", f->err.msg);
    f->cfg.routers = f->cfg.experts = 1;
    f->cfg.encoders = "image=1,speech=1,image+speech=1";
    assert_int_equal(um_memory_plan_make(&plan, &f->cfg, &ck, 4, &f->arena, &f->err), UM_OK);
    const um_tower_bytes video = um_tower_bytes_of(&ck.model, UM_VIDEO),
                         speech = um_tower_bytes_of(&ck.model, UM_SPEECH);
    const int64_t small = (int64_t)(video.host + video.device),
                  large = (int64_t)(speech.host + speech.device);
    assert_true(small > 0 && small < large);
    int64_t idle = 0, weights[3];
    for (int i = 0; i < plan.n; i++) {
        const um_memory_plan_rank *r = &plan.rank[i];
        if (r->role != UM_ROLE_ENCODER) continue;
        if (seen == 0) idle = r->buffers - small;
        assert_int_equal(r->buffers, idle + (r->reads >> UM_SPEECH & 1 ? large : small));
        weights[seen++] = r->weights;
    }
    assert_int_equal(seen, 3);
    assert_true(idle > 0 && weights[2] == weights[0] + weights[1]);
    um_checkpoint_close(&ck);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, launch_setup, launch_teardown)
    const struct CMUnitTest tests[] = {
        T(test_prompt),      T(test_prompt_file), T(test_request_file),    T(test_answers),
        T(test_errors_name), T(test_taken),       T(test_figures),         T(test_answers_lost),
        T(test_progress),    T(test_bytes_text),  T(test_memory_shortage), T(test_plan_of_encoders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

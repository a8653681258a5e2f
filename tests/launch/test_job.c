/* From options to a job: the mpirun line, what mpirun says about ranks, requests as the routers get them, answers as people get
 * them. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/file.h"
#include "launch/job/results.h"
#include "launch/job/mpirun_output.h"
#include "launch/job/mpirun_line.h"
#include "launch/job/memory_plan.h"
#include "launch/job/job_progress.h"
#include "launch/job/requests.h"

typedef struct fixture {
    um_arena arena;
    um_config cfg;
    um_err err;
    um_text seen; /* the lines received, each with a newline */
} fixture;

static int setup(void **state)
{
    fixture *f = um_zalloc(sizeof *f);
    um_arena_init(&f->arena, "test", 1 << 14);
    um_config_default(&f->cfg);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    um_text_free(&f->seen);
    um_arena_free(&f->arena);
    um_free(f);
    return 0;
}

static void load(fixture *f, int argc, const char *const *argv)
{
    const char *help = NULL;
    assert_int_equal(um_config_load(&f->cfg, UM_PROG_GENERATE, argc, (char **)(uintptr_t)argv,
                                    &f->arena, &help, &f->err),
                     UM_OK);
}

/* ---- composing ---- */

static const char *line_of(fixture *f, um_job_site site)
{
    um_job job;
    assert_int_equal(um_job_compose(&job, &f->cfg, &site, &f->arena, &f->err), UM_OK);
    assert_null(job.argv[job.argc]);
    return um_job_line(&job, &f->arena);
}

static void test_compose(void **state)
{
    fixture *f = *state;
    load(f, 7, (const char *const[]){"x", "--model", "/m", "--codec", "zstd", "--top-k", "5"});
    f->cfg.requests = "-";
    assert_string_equal(line_of(f, (um_job_site){.programs = "/b", .cpus = 64}),
                        "mpirun --bind-to none --mca pmdl '^ompi' --mca odls_base_sigkill_timeout 0"
                        " -np 1 /b/unimoe-router --model /m --requests - --codec zstd --top-k 5"
                        " : -np 4 /b/unimoe-expert --model /m --codec zstd"
                        " : -np 1 /b/unimoe-encoder --model /m --codec zstd");
    f->cfg.encoders = "0";
    f->cfg.experts = 2;
    f->cfg.mpirun_args = " --tag-output   --mca  btl self,tcp ";
    f->cfg.model = "/my 'best' model";
    assert_string_equal(
        line_of(f,
                (um_job_site){.programs = "/b", .cpus = 2, .root = true, .no_cross_memory = true}),
        "mpirun --allow-run-as-root --oversubscribe --bind-to none --mca pmdl '^ompi' --mca "
        "odls_base_sigkill_timeout "
        "0"
        " --mca btl_vader_single_copy_mechanism none --mca smsc '^cma' --tag-output --mca btl "
        "self,tcp"
        " -np 1 /b/unimoe-router --model '/my '\\''best'\\'' model' --requests - --codec zstd "
        "--top-k 5"
        " : -np 2 --mca btl_vader_single_copy_mechanism none --mca smsc '^cma' --mca btl self,tcp"
        " /b/unimoe-expert --model '/my '\\''best'\\'' model' --codec zstd");
}

/* With a hostfile the user sets the slots: there are never more ranks than slots. */
static void test_compose_hostfile(void **state)
{
    fixture *f = *state;
    f->cfg.hostfile = "/etc/hosts.mpi";
    f->cfg.encoders = "0";
    f->cfg.experts = 0;
    assert_string_equal(line_of(f, (um_job_site){.programs = "/b", .cpus = 1}),
                        "mpirun --bind-to none --mca pmdl '^ompi' --mca odls_base_sigkill_timeout "
                        "0 --hostfile /etc/hosts.mpi"
                        " -np 1 /b/unimoe-router");
}

/* Open MPI 5 applies settings and variables to the program behind them only: they stand before each. */
static void test_compose_settings(void **state)
{
    fixture *f = *state;
    f->cfg.encoders = "0";
    f->cfg.experts = 2;
    f->cfg.mpirun_args = "--map-by node -x A -x B=1 -mca btl_tcp_if_include eth0 --gmca pml ob1 "
                         "--report-bindings --mca last";
    const char *line = line_of(f, (um_job_site){.programs = "/b", .cpus = 64});
    const char *expert = strstr(line, " : ");
    assert_non_null(expert);
    assert_string_equal(expert, " : -np 2 -x A -x B=1 --mca btl_tcp_if_include eth0 --mca pml ob1 "
                                "--mca last /b/unimoe-expert");
}

/* Each modality's ranks are a separate part of the line; videos go to the ranks of images unless a group names them. */
static void test_compose_encoders(void **state)
{
    fixture *f = *state;
    um_job_site site = {.programs = "/b", .cpus = 64};
    um_job job;
    f->cfg.encoders = "image=1,speech+sound=2";
    f->cfg.experts = 0;
    assert_string_equal(line_of(f, site),
                        "mpirun --bind-to none --mca pmdl '^ompi' --mca odls_base_sigkill_timeout 0"
                        " -np 1 /b/unimoe-router"
                        " : -np 1 /b/unimoe-encoder --modalities image,video"
                        " : -np 2 /b/unimoe-encoder --modalities speech,sound");
    f->cfg.encoders = "image=1,video=2,speech=0";
    assert_string_equal(line_of(f, site),
                        "mpirun --bind-to none --mca pmdl '^ompi' --mca odls_base_sigkill_timeout 0"
                        " -np 1 /b/unimoe-router"
                        " : -np 1 /b/unimoe-encoder --modalities image"
                        " : -np 2 /b/unimoe-encoder --modalities video");
    static const struct {
        const char *encoders, *says;
    } bad[] = {
        {"x", "\"x\" is not a number of ranks from 0 to 4096"},
        {"-1", "\"-1\" is not a number of ranks"},
        {"", "\"\" is not a number of ranks"},
        {"image=", "\"\" is not a number of ranks"},
        {"image=1,", "\"\": want MODALITY=RANKS"},
        {"imgae=1", "\"imgae\" is not a modality, did you mean image"},
        {"text=1", "\"text\" is not a modality"},
        {"image=1;speech=1", "not a number of ranks"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        f->cfg.encoders = bad[i].encoders;
        assert_int_equal(um_job_compose(&job, &f->cfg, &site, &f->arena, &f->err), UM_E_USAGE);
        if (strstr(f->err.msg, bad[i].says) == NULL)
            fail_msg("%s: %s", bad[i].encoders, f->err.msg);
    }
}

static void test_compose_too_long(void **state)
{
    fixture *f = *state;
    um_job job = {.argc = -1};
    char words[2 * 600 + 1];
    memset(words, ' ', sizeof words);
    for (int i = 0; i < 600; i++) words[2 * i] = 'w';
    words[sizeof words - 1] = '\0';
    f->cfg.mpirun_args = words;
    um_job_site site = {.programs = "/b", .cpus = 1};
    assert_int_equal(um_job_compose(&job, &f->cfg, &site, &f->arena, &f->err), UM_E_LIMIT);
    assert_int_equal(job.argc, -1);
}

static void test_settle(void **state)
{
    fixture *f = *state;
    um_model m = {.dir = "m", .experts = 2};
    m.vision.present = true;
    assert_int_equal(um_job_resolve(&f->cfg, &m, &f->err), UM_OK);
    assert_int_equal(f->cfg.experts, 2); /* lowered to the model's */
    assert_string_equal(f->cfg.encoders, "1");
    m.vision.present = false;
    m.experts = 0;
    assert_int_equal(um_job_resolve(&f->cfg, &m, &f->err), UM_OK);
    assert_int_equal(f->cfg.experts, 0);
    assert_string_equal(f->cfg.encoders, "0");
    m.experts = 8;
    load(f, 5, (const char *const[]){"x", "--encoders", "2", "--experts", "3"});
    assert_int_equal(um_job_resolve(&f->cfg, &m, &f->err), UM_OK);
    assert_int_equal(f->cfg.experts, 3);
    assert_string_equal(f->cfg.encoders, "2"); /* asked for */
    load(f, 3, (const char *const[]){"x", "--experts", "0"});
    assert_int_equal(um_job_resolve(&f->cfg, &m, &f->err), UM_E_USAGE);
    assert_string_equal(f->err.msg, "--experts: 0, but m has 8 experts, allowed: 1..8");
}

static void test_label(void **state)
{
    (void)state;
    um_job job = {.count = {2, 3, 1}};
    char s[160];
    um_job_label(&job, 1, NULL, s);
    assert_string_equal(s, "router/1 (rank 1)");
    um_job_label(&job, 2, "node3", s);
    assert_string_equal(s, "expert/0 (rank 2, host node3)");
    um_job_label(&job, 5, "", s);
    assert_string_equal(s, "encoder/0 (rank 5)");
    um_job_label(&job, 6, NULL, s);
    assert_string_equal(s, "rank 6");
}

/* ---- what mpirun says ---- */

static void keep(void *ctx, const char *line) { um_text_fmt(ctx, "%s\n", line); }

#define EDGE "--------------------------------------------------------------------------\n"

static void banner(fixture *f, um_mpirun_output *b, const um_job *job, const char *text)
{
    *b = (um_mpirun_output){.job = job, .print = keep, .ctx = &f->seen};
    f->seen.n = 0;
    um_text_add(&f->seen, "", 0);
    char *copy = um_arena_str(&f->arena, text);
    for (char *line = copy, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = '\0';
        um_mpirun_output_line(b, line);
    }
    um_mpirun_output_end(b);
}

static const char *seen(const fixture *f) { return f->seen.n == 0 ? "" : f->seen.s; }

static void test_banner_signal(void **state)
{
    fixture *f = *state;
    um_job job = {.count = {1, 4, 1}};
    um_mpirun_output b;
    banner(f, &b, &job,
           EDGE "Primary job  terminated normally, but 1 process returned\n"
                "a non-zero exit code. Per user-direction, the job has been aborted.\n" EDGE EDGE
                "12:04:31.207 W expert/3 exchange: peer 0 silent\n"
                "mpirun noticed that process rank 2 with PID 0 on node h7 exited on signal 9 "
                "(Killed).\n" EDGE);
    assert_true(b.fatal);
    assert_string_equal(b.cause,
                        "expert/1 (rank 2, host h7) was killed by signal 9 (by a person, or "
                        "by the kernel when memory ran out: dmesg)");
    assert_string_equal(seen(f), "12:04:31.207 W expert/3 exchange: peer 0 silent\n");
}

static void test_banner_abort_and_exit(void **state)
{
    fixture *f = *state;
    um_job job = {.count = {1, 4, 1}};
    um_mpirun_output b;
    banner(f, &b, &job,
           EDGE
           "MPI_ABORT was invoked on rank 5 in communicator MPI_COMM_WORLD\nwith errorcode 3.\n\n"
           "NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.\n" EDGE
           "[h7:123] 1 more process has sent help message help-mpi-api.txt / mpi-abort\n"
           "[h7:123] Set MCA parameter \"orte_base_help_aggregate\" to 0 to see all help / error "
           "messages\n" EDGE
           "mpirun detected that one or more processes exited with non-zero status, thus causing\n"
           "the job to be terminated. The first process to do so was:\n\n"
           "  Process name: [[17439,1],0]\n  Exit code:    4\n" EDGE);
    assert_string_equal(b.cause, "encoder/0 (rank 5) ended the job with code 3");
    assert_string_equal(seen(f), "");
}

/* The same reports in the words of Open MPI 5. */
static void test_banner_open_mpi_5(void **state)
{
    fixture *f = *state;
    um_job job = {.count = {1, 4, 1}};
    um_mpirun_output b;
    banner(f, &b, &job,
           EDGE "prterun noticed that process rank 2 with PID 127 on node h7 exited on\n"
                "signal 9 (Killed).\n" EDGE);
    assert_string_equal(b.cause,
                        "expert/1 (rank 2, host h7) was killed by signal 9 (by a person, or "
                        "by the kernel when memory ran out: dmesg)");
    banner(f, &b, &job,
           EDGE "MPI_ABORT was invoked on rank 5 in communicator MPI_COMM_WORLD\n"
                "  Proc: [[83,1],5]\n  Errorcode: 4\n\n"
                "NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.\n"
                "You may or may not see output from other processes, depending on\n"
                "exactly when Open MPI kills them.\n" EDGE EDGE
                "prterun has exited due to process rank 5 with PID 0 on node h7 calling\n"
                "\"abort\". This may have caused other processes in the application to be\n"
                "terminated by signals sent by prterun (as reported here).\n" EDGE);
    assert_string_equal(b.cause, "encoder/0 (rank 5) ended the job with code 4");
    assert_string_equal(seen(f), "");
    banner(f, &b, &job,
           EDGE "prterun detected that one or more processes exited with non-zero status,\n"
                "thus causing the job to be terminated. The first process to do so was:\n\n"
                "   Process name: [prterun-my-h7.org-145@1,0]\n   Exit code:    3\n" EDGE);
    assert_string_equal(b.cause, "router/0 (rank 0) ended with code 3 before the job was done");
    assert_string_equal(seen(f), "");
}

/* A rank on another host was killed: the ranks of this host gave up before they knew of its end. */
static void test_banner_killed_elsewhere(void **state)
{
    fixture *f = *state;
    um_job job = {.count = {1, 4, 1}};
    um_mpirun_output b;
    banner(f, &b, &job,
           EDGE "An MPI communication peer process has unexpectedly disconnected.  This\n"
                "usually indicates a failure in the peer process (e.g., a crash or\n"
                "otherwise exiting without calling MPI_FINALIZE first).\n" EDGE EDGE
                "MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD\n"
                "with errorcode 1.\n" EDGE EDGE
                "mpirun noticed that process rank 4 with PID 0 on node 10.77.0.2 exited on signal "
                "9 (Killed).\n" EDGE EDGE
                "mpirun noticed that process rank 3 with PID 0 on node 10.77.0.2 exited on signal "
                "9 (Killed).\n" EDGE);
    assert_string_equal(b.cause,
                        "expert/3 (rank 4, host 10.77.0.2) was killed by signal 9 (by a person, or "
                        "by the kernel when memory ran out: dmesg)");
    assert_null(strstr(seen(f), "peer process"));
}

#define GRAPH                                                                                      \
    "[h7][[53318,1],3][../../../opal/mca/btl/tcp/btl_tcp_proc.c:266:"                              \
    "mca_btl_tcp_proc_create_interface_graph] "
#define PAIRING "Unable to find reachable pairing between local and remote interfaces"

/* Every rank of Open MPI 5 says so for every other one where a network interface has no route back, although ranks of one host do
 * not use the network. The ranks write without regard for one another. */
static void test_banner_unreachable(void **state)
{
    fixture *f = *state;
    um_job job = {.count = {1, 4, 1}};
    um_mpirun_output b;
    banner(f, &b, &job,
           GRAPH PAIRING "\n" GRAPH GRAPH PAIRING "\n" PAIRING PAIRING "\n" GRAPH
                         "\n\nbefore\n" GRAPH "12:04:31.207 W expert/3 slow\n" GRAPH PAIRING
                         "12:04:31.208 W expert/1 slow\n" EDGE GRAPH PAIRING
                         "\nThere is a new sentence\n" EDGE);
    assert_string_equal(seen(f), "\nbefore\n12:04:31.207 W expert/3 slow\n"
                                 "12:04:31.208 W expert/1 slow\n"
                                 "mpirun: There is a new sentence\n");
    assert_true(b.unreachable);
    banner(f, &b, &job, "[h7][[a b\n]" PAIRING "x\n[[\n");
    assert_string_equal(seen(f), "[h7][[a b\n]x\n[[\n");
    banner(f, &b, &job, "mca_btl_tcp_proc_create_interface_graph] x\n");
    assert_string_equal(seen(f), "x\n");
}

#define ABORT                                                                                      \
    EDGE "MPI_ABORT was invoked on rank 3 in communicator MPI_COMM_WORLD\nwith errorcode "         \
         "1.\n" EDGE

/* When a job fails, the first error is the cause: it is shown with the rank at fault in front, and the others are not shown. */
static void test_banner_error(void **state)
{
    fixture *f = *state;
    um_job job = {.count = {1, 4, 1}};
    um_mpirun_output b;
    static const char *const cases[][2] = {
        {"12:04:31.207 W expert/0 slow\n12:04:31.208 E expert/1 peer 3 is gone\n12:04:31.209 E "
         "expert/2 other\n" ABORT,
         "expert/1 (rank 2): peer 3 is gone"},
        /* by the time of day, not by the order in which pipes deliver */
        {"12:04:31.330 E expert/2 late\n12:04:31.293 E expert/0 joining the job: expert/1 (rank 2, "
         "host vm): joining the job: encoder/0 (rank 5, host vm): no tower\n12:04:31.292 E "
         "encoder/0 no tower\n" ABORT,
         "encoder/0 (rank 5): no tower"},
        {"12:04:31.293 E expert/0 joining: router/0 (rank 0, host vm): exchange: expert/3 (rank 4, "
         "host vm) was silent for 3635 ms\n" ABORT,
         "expert/3 (rank 4, host vm) was silent for 3635 ms"},
        {"12:04:31.295 E expert/2 x\n12:04:31.293 E expert/0 expert/2 (rank 3, host vm) ended the "
         "job, see its message\n12:04:31.294 E expert/2 weights are missing\n" ABORT,
         "expert/2 (rank 3): weights are missing"},
        {"12:04:31.293 E router frame of expert/2 (rank 3)\n" ABORT,
         "router frame of expert/2 (rank 3)"},
        {ABORT, "expert/2 (rank 3) ended the job with code 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        banner(f, &b, &job, cases[i][0]);
        assert_true(b.fatal);
        assert_string_equal(b.cause, cases[i][1]);
        assert_null(strstr(seen(f), " E "));
    }
    banner(f, &b, &job, "12:04:31.208 E router/0 one request lost\n"); /* the job went on */
    assert_false(b.fatal);
    assert_string_equal(seen(f), "12:04:31.208 E router/0 one request lost\n");
}

/* What mpirun says when it cannot start the ranks: the cause and the remedy, whatever its exit code. */
static void test_banner_start(void **state)
{
    fixture *f = *state;
    um_job job = {.argv = (const char *const[]){"mpirun", NULL}, .argc = 1, .count = {1, 4, 1}};
    um_mpirun_output b;
    um_err err = {0};
    static const char *const cases[][2] = {
        {"ssh: Could not resolve hostname nosuch: Name or service not known\r\n" EDGE
         "ORTE was unable to reliably start one or more daemons.\nThis usually is caused "
         "by:\n" EDGE,
         "mpirun cannot start its daemon on a host of the hostfile: ssh: Could not resolve "
         "hostname "
         "nosuch: Name or service not known; `ssh HOST mpirun --version` must work"},
        {EDGE "mpirun was unable to launch the specified application as it could not access\nor "
              "execute an executable:\n\nExecutable: /p q/unimoe-encoder\nNode: vm\n\nwhile "
              "attempting to start process rank 5.\n" EDGE "4 total processes failed to start\n",
         "host vm cannot run /p q/unimoe-encoder: it is missing or may not be executed;"},
        {EDGE
         "Open MPI tried to fork a new process via the \"execve\" system call but\nfailed.\n"
         "  Local host:        vm\n  Application name:  /b/unimoe-expert\n  Error:             "
         "Exec format error\n" EDGE,
         "host vm cannot run /b/unimoe-expert: Exec format error;"},
        {EDGE "There are not enough slots available in the system to satisfy the 4\nslots\n" EDGE,
         "the hosts have fewer slots than the job has ranks (6): raise slots=N in the hostfile"},
        {EDGE
         "Open RTE detected a parse error in the hostfile:\n    /hf\nIt occured on line number "
         "7 on token 3.\n" EDGE,
         "the hostfile is wrong in line 7: each line is HOST slots=N"},
        {EDGE "No nodes are available for this job, either due to a failure to\n" EDGE,
         "the hostfile names no host"},
        {EDGE "The value of the MCA parameter \"plm_rsh_agent\" was set to a path\nthat could not "
              "be found:\n\n  plm_rsh_agent: ssh : rsh\n" EDGE,
         "mpirun finds no ssh in PATH"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        banner(f, &b, &job, cases[i][0]);
        assert_true(b.fatal);
        if (strncmp(b.cause, cases[i][1], strlen(cases[i][1])) != 0) fail_msg("%s", b.cause);
        assert_string_equal(seen(f), "");
    }
    static const struct {
        const char *text;
        int wait_status; /* exit code << 8, or signal */
        const char *says;
    } ends[] = {
        {"[mpiexec@vm] match_arg (lib/utils/args.c:166): unrecognized argument oversubscribe\n",
         255 << 8, "mpirun failed: the mpirun that PATH finds is MPICH's"},
        {"[vm:1] PMIX ERROR: OUT-OF-RESOURCE in file x.c at line 208\n", 1 << 8,
         "mpirun failed: Open MPI ran out of room in the folder for temporary files"},
        {"", 11, "mpirun was killed by signal 11"},
        {"", 243 << 8, "mpirun ended with code 243: run unimoe doctor"},
        {"", 255 << 8, "mpirun ended with code 255: run unimoe doctor"},
        {"", 139 << 8, "a rank was killed by signal 11 (mpirun does not say which)"},
        {"12:04:31.294 E expert/2 weights are missing\n", 1 << 8,
         "expert/2 (rank 3): weights are missing"},
    };
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        banner(f, &b, &job, ends[i].text);
        assert_int_not_equal(um_mpirun_output_explain(&b, ends[i].wait_status, &err), UM_OK);
        if (strncmp(err.msg, ends[i].says, strlen(ends[i].says)) != 0) fail_msg("%s", err.msg);
    }
}

static void test_banner_keeps_the_rest(void **state)
{
    fixture *f = *state;
    um_job job = {.count = {1, 4, 1}};
    um_mpirun_output b;
    banner(f, &b, &job,
           "a line of a rank\n---- short dashes ----\n" EDGE
           "There is a new sentence\n\nin the system\n" EDGE EDGE "an open box\n");
    assert_false(b.fatal);
    assert_string_equal(
        seen(f), "a line of a rank\n---- short dashes ----\nmpirun: There is a new sentence\n"
                 "mpirun: in the system\nmpirun: an open box\n");
    char many[UM_MPIRUN_OUTPUT_LINES * 8 + 600] = EDGE;
    for (int i = 0; i < UM_MPIRUN_OUTPUT_LINES + 2; i++)
        snprintf(many + strlen(many), 8, "row %02d\n", i);
    banner(f, &b, &job, many);
    assert_non_null(strstr(seen(f), "mpirun: row 39\nrow 40\nrow 41\n")); /* nothing is lost */
}

/* ---- requests and answers ---- */

static const char *head_of(fixture *f, um_requests *r)
{
    um_requests_close(r);
    f->cfg.media_folder = "";
    if (um_requests_open(r, &f->cfg, &f->arena, &f->err) != UM_OK) fail_msg("%s", f->err.msg);
    return r->head.n == 0 ? "" : r->head.s;
}

static void test_prompt(void **state)
{
    fixture *f = *state;
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
    fixture *f = *state;
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
    fixture *f = *state;
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
static void answer(fixture *f, um_results *a, const char *const *lines, int n)
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
    fixture *f = *state;
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

/* A request's place in its file, and its id if that tells more. The number of requests may be known only at the end. */
static void test_errors_name(void **state)
{
    fixture *f = *state;
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
    fixture *f = *state;
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
    fixture *f = *state;
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

static void shown(fixture *f, um_job_progress *p, int64_t seconds, const char *want)
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
    fixture *f = *state;
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

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_shortage),
        T(test_compose),
        T(test_compose_hostfile),
        T(test_compose_settings),
        T(test_compose_encoders),
        T(test_compose_too_long),
        T(test_settle),
        T(test_label),
        T(test_banner_signal),
        T(test_banner_abort_and_exit),
        T(test_banner_error),
        T(test_banner_open_mpi_5),
        T(test_banner_killed_elsewhere),
        T(test_banner_unreachable),
        T(test_banner_keeps_the_rest),
        T(test_prompt),
        T(test_prompt_file),
        T(test_request_file),
        T(test_answers),
        T(test_errors_name),
        T(test_bytes_text),
        T(test_banner_start),
        T(test_figures),
        T(test_answers_lost),
        T(test_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What mpirun and the ranks print, made into one cause and the lines that are worth reading. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "launch/job/mpirun_output.h"
#include "launch/job/mpirun_line.h"
#include "tests/support/launch_fixture.h"

static void keep(void *ctx, const char *line) { um_text_fmt(ctx, "%s\n", line); }

#define EDGE "--------------------------------------------------------------------------\n"

static void read_output(launch_fixture *f, um_mpirun_output *b, const um_job *job, const char *text)
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

static const char *seen(const launch_fixture *f) { return f->seen.n == 0 ? "" : f->seen.s; }

static void test_output_signal(void **state)
{
    launch_fixture *f = *state;
    um_job job = {.count = {1, 4, 1}};
    um_mpirun_output b;
    read_output(f, &b, &job,
                EDGE
                "Primary job  terminated normally, but 1 process returned\n"
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

static void test_output_abort_and_exit(void **state)
{
    launch_fixture *f = *state;
    um_job job = {.count = {1, 4, 1}};
    um_mpirun_output b;
    read_output(
        f, &b, &job,
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
static void test_output_open_mpi_5(void **state)
{
    launch_fixture *f = *state;
    um_job job = {.count = {1, 4, 1}};
    um_mpirun_output b;
    read_output(f, &b, &job,
                EDGE "prterun noticed that process rank 2 with PID 127 on node h7 exited on\n"
                     "signal 9 (Killed).\n" EDGE);
    assert_string_equal(b.cause,
                        "expert/1 (rank 2, host h7) was killed by signal 9 (by a person, or "
                        "by the kernel when memory ran out: dmesg)");
    read_output(f, &b, &job,
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
    read_output(f, &b, &job,
                EDGE "prterun detected that one or more processes exited with non-zero status,\n"
                     "thus causing the job to be terminated. The first process to do so was:\n\n"
                     "   Process name: [prterun-my-h7.org-145@1,0]\n   Exit code:    3\n" EDGE);
    assert_string_equal(b.cause, "router/0 (rank 0) ended with code 3 before the job was done");
    assert_string_equal(seen(f), "");
}

/* A rank on another host was killed: the ranks of this host gave up before they knew of its end. */
static void test_output_killed_elsewhere(void **state)
{
    launch_fixture *f = *state;
    um_job job = {.count = {1, 4, 1}};
    um_mpirun_output b;
    read_output(f, &b, &job,
                EDGE
                "An MPI communication peer process has unexpectedly disconnected.  This\n"
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
static void test_output_unreachable(void **state)
{
    launch_fixture *f = *state;
    um_job job = {.count = {1, 4, 1}};
    um_mpirun_output b;
    read_output(f, &b, &job,
                GRAPH PAIRING "\n" GRAPH GRAPH PAIRING "\n" PAIRING PAIRING "\n" GRAPH
                              "\n\nbefore\n" GRAPH "12:04:31.207 W expert/3 slow\n" GRAPH PAIRING
                              "12:04:31.208 W expert/1 slow\n" EDGE GRAPH PAIRING
                              "\nThere is a new sentence\n" EDGE);
    assert_string_equal(seen(f), "\nbefore\n12:04:31.207 W expert/3 slow\n"
                                 "12:04:31.208 W expert/1 slow\n"
                                 "mpirun: There is a new sentence\n");
    assert_true(b.unreachable);
    read_output(f, &b, &job, "[h7][[a b\n]" PAIRING "x\n[[\n");
    assert_string_equal(seen(f), "[h7][[a b\n]x\n[[\n");
    read_output(f, &b, &job, "mca_btl_tcp_proc_create_interface_graph] x\n");
    assert_string_equal(seen(f), "x\n");
}

#define ABORT                                                                                      \
    EDGE "MPI_ABORT was invoked on rank 3 in communicator MPI_COMM_WORLD\nwith errorcode "         \
         "1.\n" EDGE

/* When a job fails, the first error is the cause: it is shown with the rank at fault in front, and the others are not shown. */
static void test_output_error(void **state)
{
    launch_fixture *f = *state;
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
        read_output(f, &b, &job, cases[i][0]);
        assert_true(b.fatal);
        assert_string_equal(b.cause, cases[i][1]);
        assert_null(strstr(seen(f), " E "));
    }
    read_output(f, &b, &job, "12:04:31.208 E router/0 one request lost\n"); /* the job went on */
    assert_false(b.fatal);
    assert_string_equal(seen(f), "12:04:31.208 E router/0 one request lost\n");
}

/* What mpirun says when it cannot start the ranks: the cause and the remedy, whatever its exit code. */
static void test_output_start(void **state)
{
    launch_fixture *f = *state;
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
        read_output(f, &b, &job, cases[i][0]);
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
        read_output(f, &b, &job, ends[i].text);
        assert_int_not_equal(um_mpirun_output_explain(&b, ends[i].wait_status, &err), UM_OK);
        if (strncmp(err.msg, ends[i].says, strlen(ends[i].says)) != 0) fail_msg("%s", err.msg);
    }
}

static void test_output_keeps_the_rest(void **state)
{
    launch_fixture *f = *state;
    um_job job = {.count = {1, 4, 1}};
    um_mpirun_output b;
    read_output(f, &b, &job,
                "a line of a rank\n---- short dashes ----\n" EDGE
                "There is a new sentence\n\nin the system\n" EDGE EDGE "an open box\n");
    assert_false(b.fatal);
    assert_string_equal(
        seen(f), "a line of a rank\n---- short dashes ----\nmpirun: There is a new sentence\n"
                 "mpirun: in the system\nmpirun: an open box\n");
    char many[UM_MPIRUN_OUTPUT_LINES * 8 + 600] = EDGE;
    for (int i = 0; i < UM_MPIRUN_OUTPUT_LINES + 2; i++)
        snprintf(many + strlen(many), 8, "row %02d\n", i);
    read_output(f, &b, &job, many);
    assert_non_null(strstr(seen(f), "mpirun: row 39\nrow 40\nrow 41\n")); /* nothing is lost */
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, launch_setup, launch_teardown)
    const struct CMUnitTest tests[] = {
        T(test_output_signal),      T(test_output_abort_and_exit),
        T(test_output_open_mpi_5),  T(test_output_killed_elsewhere),
        T(test_output_unreachable), T(test_output_error),
        T(test_output_start),       T(test_output_keeps_the_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The mpirun line: words, numbers of ranks, settings, labels of ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "launch/job/mpirun_line.h"
#include "tests/support/launch_fixture.h"

static const char *line_of(launch_fixture *f, um_job_site site)
{
    um_job job;
    assert_int_equal(um_job_compose(&job, &f->cfg, &site, &f->arena, &f->err), UM_OK);
    assert_null(job.argv[job.argc]);
    return um_job_line(&job, &f->arena);
}

static void test_compose(void **state)
{
    launch_fixture *f = *state;
    launch_options(f, 7,
                   (const char *const[]){"x", "--model", "/m", "--codec", "zstd", "--top-k", "5"});
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
    launch_fixture *f = *state;
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
    launch_fixture *f = *state;
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
    launch_fixture *f = *state;
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
    launch_fixture *f = *state;
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
    launch_fixture *f = *state;
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
    launch_options(f, 5, (const char *const[]){"x", "--encoders", "2", "--experts", "3"});
    assert_int_equal(um_job_resolve(&f->cfg, &m, &f->err), UM_OK);
    assert_int_equal(f->cfg.experts, 3);
    assert_string_equal(f->cfg.encoders, "2"); /* asked for */
    launch_options(f, 3, (const char *const[]){"x", "--experts", "0"});
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

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, launch_setup, launch_teardown)
    const struct CMUnitTest tests[] = {
        T(test_compose),
        T(test_compose_hostfile),
        T(test_compose_settings),
        T(test_compose_encoders),
        T(test_compose_too_long),
        T(test_settle),
        T(test_label),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

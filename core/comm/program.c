/* See program.h. */
#include "core/comm/program.h"

#include "core/base/log.h"
#include "core/base/openmp.h"
#include "core/base/process.h"

#include <signal.h>
#include <stdio.h>

static volatile sig_atomic_t stop_flag; /* one of the allowed globals: set by the signal handler */

static void on_signal(int sig)
{
    (void)sig;
    stop_flag = 1;
}

int um_program_main(int argc, char **argv, um_role role, um_program who, um_role_fn run)
{
    um_err err = {0};
    um_arena options;
    um_config cfg;
    um_comm *comm = NULL;
    const char *help = NULL;
    char name[32];
    um_arena_init(&options, "options", 1 << 16);
    um_openmp_init(argv);
    um_status st = um_config_load(&cfg, who, argc, argv, &options, &help, &err);
    if (st == UM_OK && help != NULL) {
        fputs(help, stdout);
        um_arena_free(&options);
        return 0;
    }
    um_log_set_name(um_role_name(role));
    if (st == UM_OK && cfg.train) um_signals_watch();
    if (st == UM_OK) st = um_comm_mpi_open(&comm, &argc, &argv, role, &err);
    if (st == UM_OK) {
        const um_rank *me = &comm->topo.ranks[comm->rank];
        snprintf(name, sizeof name, "%s/%d", um_role_name(role), me->index);
        um_log_set_name(name);
        if (!cfg.train) signal(SIGTERM, on_signal);
        signal(SIGINT, on_signal);
        signal(SIGPIPE, SIG_IGN);
        comm->stop = &stop_flag;
        comm->yield_us = cfg.yield_us;
        if (cfg.check_start)
            printf("%s on %s\n", name, me->hostname);
        else
            st = run(&cfg, comm, &err);
    }
    /* the rank that failed first reports; what merely follows from it would only hide the cause */
    bool follows = comm != NULL && comm->follows;
    um_log_level level = follows ? UM_LOG_DEBUG : st == UM_E_STOPPED ? UM_LOG_INFO : UM_LOG_ERROR;
    if (st != UM_OK) um_log_at(level, "%s", err.msg);
    um_comm_close(comm, st);
    um_arena_free(&options);
    return um_exit_code(st);
}

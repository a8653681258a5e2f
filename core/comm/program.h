/* What the three rank programs share: options, signals, transport, the role, the end. CONVENTIONS 2.13: a program is its role
 * function plus MPI. This header's function is in the library um_comm_mpi, since it opens the MPI transport. */
#pragma once

#include "core/options/config.h"
#include "core/comm/comm.h"

typedef um_status (*um_role_fn)(const um_config *cfg, um_comm *comm, um_err *err);

/* main() of a rank program. Returns the exit code; on failure the whole job is ended first (um_comm_close). */
int um_program_main(int argc, char **argv, um_role role, um_program who, um_role_fn run);

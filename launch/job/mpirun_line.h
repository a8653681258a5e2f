/* An MPI job: which ranks, started by which mpirun line. Composing is a function of options, model and site alone, so that
 * --dry-run, the tests and the real start see the same words. run.h starts it. */
#pragma once

#include "core/options/config.h"
#include "core/comm/topology.h"
#include "core/model/model.h"

/* Characters of a host name, without its domain, that mpirun of Open MPI 4.1 copes with: measured, it crashes on 57. */
enum { UM_HOST_NAME_MAX = 56 };

/* What this machine asks of the mpirun line. */
typedef struct um_job_site {
    const char *programs; /* folder of unimoe-router, unimoe-expert, unimoe-encoder */
    int cpus;             /* that this process may use */
    bool root;            /* mpirun refuses root without being told */
    bool no_ssh;          /* neither ssh nor rsh in PATH */
    bool
        no_cross_memory; /* process_vm_readv is forbidden here (containers): MPI must copy through shared memory */
} um_job_site;
um_status um_job_site_here(um_job_site *out, um_arena *arena, um_err *err);

typedef struct um_job {
    const char *const *argv; /* ends with NULL */
    int argc;
    int count[UM_ROLES]; /* ranks of each role; rank numbers go router, expert, encoder */
} um_job;

/* Fits the numbers of ranks to the model: no more expert ranks than experts, none for a dense model, no encoder ranks without
 * a tower unless they were asked for. Whatever it lowers it logs when the number was asked for. */
um_status um_job_resolve(um_config *cfg, const um_model *m, um_err *err);

/* The mpirun line of cfg, with the settled numbers of ranks. cfg->requests, request and out go to the routers as they are. */
um_status um_job_compose(um_job *out, const um_config *cfg, const um_job_site *site,
                         um_arena *arena, um_err *err);
/* The words as one line that a shell reads back as the same words. */
const char *um_job_line(const um_job *job, um_arena *arena);

/* One of the words is this one. */
bool um_job_has_word(const um_job *job, const char *word);
int um_job_ranks(const um_job *job);
/* "expert/1 (rank 2)" or, with a host, "expert/1 (rank 2, host node3)" into out. */
void um_job_label(const um_job *job, int rank, const char *host, char out[160]);

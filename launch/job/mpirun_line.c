/* See mpirun_line.h. */
#include "launch/job/mpirun_line.h"

#include "core/options/encoders.h"
#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/process.h"
#include "launch/job/spawn.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MAX_WORDS = 512 };

static const struct {
    const char *program;
    um_program who;
} roles[UM_ROLES] = {
    [UM_ROLE_ROUTER] = {"unimoe-router", UM_PROG_ROUTER},
    [UM_ROLE_EXPERT] = {"unimoe-expert", UM_PROG_EXPERT},
    [UM_ROLE_ENCODER] = {"unimoe-encoder", UM_PROG_ENCODER},
};

/* Some containers forbid process_vm_readv even on oneself; Open MPI 4.1 notices only when a large message fails. */
static bool cross_memory_works(void)
{
    char from = 1, to = 0;
    struct iovec local = {&to, 1}, remote = {&from, 1};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1;
}

um_status um_job_site_here(um_job_site *out, um_arena *arena, um_err *err)
{
    char self[4096];
    UM_TRY(um_process_program(self, sizeof self, err));
    *out = (um_job_site){
        .programs = um_path_dir(arena, self),
        .cpus = um_cpus_allowed(),
        .root = geteuid() == 0,
        .no_ssh = um_program_find("ssh", arena) == NULL && um_program_find("rsh", arena) == NULL,
        .no_cross_memory = !cross_memory_works(),
    };
    return UM_OK;
}

um_status um_job_resolve(um_config *cfg, const um_model *m, um_err *err)
{
    bool asked = um_config_origin(cfg, "experts") != UM_FROM_DEFAULT;
    if (m->experts > 0 && cfg->experts == 0)
        return UM_FAIL(err, UM_E_USAGE, "--experts: 0, but %s has %d experts, allowed: 1..%d",
                       m->dir, m->experts, m->experts);
    if (cfg->experts > m->experts) {
        if (asked && m->experts > 0)
            um_log_warn("experts %" PRId64 " is more than the %d of the model: %d expert ranks",
                        cfg->experts, m->experts, m->experts);
        if (asked && m->experts == 0) um_log_warn("the model is dense: no expert ranks");
        cfg->experts = m->experts;
    }
    bool tower = m->vision.present || m->speech.present || m->sound.present;
    if (!tower && um_config_origin(cfg, "encoders") == UM_FROM_DEFAULT) cfg->encoders = "0";
    return UM_OK;
}

/* The growing mpirun line. */
typedef struct line {
    const char *word[MAX_WORDS];
    int n;
    int own;  /* so many words are for mpirun itself, */
    int head; /* and those from there to here stand before the first program */
    um_arena *arena;
    um_err *err;
} line;

static um_status add(line *l, const char *word)
{
    if (l->n + 1 >= MAX_WORDS)
        return UM_FAIL(l->err, UM_E_LIMIT, "mpirun line: more than %d words", MAX_WORDS);
    l->word[l->n++] = word;
    return UM_OK;
}

/* Space-separated words. */
static um_status add_words(line *l, const char *words)
{
    for (const char *p = words; *p != '\0';) {
        size_t skip = strspn(p, " \t"), len = strcspn(p + skip, " \t");
        if (len > 0) UM_TRY(add(l, um_arena_strn(l->arena, p + skip, len)));
        p += skip + len;
    }
    return UM_OK;
}

/* The words that Open MPI 5 applies to the program behind them only, where Open MPI 4 applies them to every program: settings of the
 * ranks (--mca NAME VALUE) and variables (-x NAME). They must stand in each part of the line. */
static int words_of_setting(const char *word)
{
    static const char *const names[] = {"-mca", "-gmca", "-omca"};
    const char *name = word[0] == '-' && word[1] == '-' ? word + 1 : word;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0) return 3;
    return strcmp(word, "-x") == 0 ? 2 : 0;
}

static um_status add_settings(line *l)
{
    for (int i = l->own, size; i<l->head; i += size> 0 ? size : 1) {
        size = words_of_setting(l->word[i]);
        if (size == 3) UM_TRY(add(l, "--mca")); /* Open MPI 4 allows a --gmca once in a line */
        for (int k = size == 3 ? i + 1 : i; k < i + size && k < l->head; k++)
            UM_TRY(add(l, l->word[k]));
    }
    return UM_OK;
}

/* Ranks of one role: "-np 4 --mca NAME VALUE /path/unimoe-expert --model DIR ...". */
static um_status add_role(line *l, const um_config *cfg, const um_job_site *site, um_role role,
                          int count)
{
    if (count == 0) return UM_OK;
    if (role != UM_ROLE_ROUTER) UM_TRY(add(l, ":"));
    UM_TRY(add_words(l, um_arena_fmt(l->arena, "-np %d", count)));
    if (role != UM_ROLE_ROUTER) UM_TRY(add_settings(l));
    UM_TRY(add(l, um_path_join(l->arena, site->programs, roles[role].program)));
    return um_config_words(cfg, roles[role].who, l->word, MAX_WORDS - 1, &l->n, l->arena, l->err);
}

/* Encoder ranks, a part of the line for each group of them that read the same. */
static um_status add_encoders(line *l, const um_config *cfg, const um_job_site *site,
                              const um_encoders *e)
{
    for (int i = 0; i < e->n; i++) {
        um_config own = *cfg;
        own.modalities = e->group[i].modalities;
        UM_TRY(add_role(l, &own, site, UM_ROLE_ENCODER, e->group[i].ranks));
    }
    return UM_OK;
}

um_status um_job_compose(um_job *out, const um_config *cfg, const um_job_site *site,
                         um_arena *arena, um_err *err)
{
    line l = {.arena = arena, .err = err};
    um_encoders encoders;
    UM_TRY(um_encoders_parse(&encoders, cfg->encoders, arena, err));
    um_job job = {.count = {(int)cfg->routers, (int)cfg->experts, encoders.ranks}};
    UM_TRY(add(&l, "mpirun"));
    if (site->root) UM_TRY(add(&l, "--allow-run-as-root"));
    /* Open MPI 5 calls this --map-by :OVERSUBSCRIBE and still knows the old name, which can stand beside a --map-by of the user.
     * Open MPI counts cores where cpus counts hardware threads: half of them are sure to be there. */
    if (cfg->hostfile[0] == '\0' && um_job_ranks(&job) > um_max_int(site->cpus / 2, 1))
        UM_TRY(add(&l, "--oversubscribe"));
    /* pmdl: mpirun of Open MPI 5 with a PMIx library of its own (Debian 13, Ubuntu 25.04) crashes on every line with a colon in a part
     * that does no more than set OMPI_* variables for the ranks (open-mpi/ompi issue 13303). Open MPI 4 ignores the word. */
    UM_TRY(add_words(&l, "--bind-to none --mca pmdl ^ompi --mca odls_base_sigkill_timeout 0"));
    /* Debian's settings name ssh and rsh, and mpirun gives up when it finds neither, also when no other host takes part. */
    if (site->no_ssh && cfg->hostfile[0] == '\0')
        UM_TRY(add_words(&l, "--mca plm_rsh_agent /bin/false"));
    l.own = l.n;
    if (site->no_cross_memory) /* the first is Open MPI 4's name, the second Open MPI 5's */
        UM_TRY(add_words(&l, "--mca btl_vader_single_copy_mechanism none --mca smsc ^cma"));
    if (cfg->hostfile[0] != '\0') {
        UM_TRY(add(&l, "--hostfile"));
        UM_TRY(add(&l, cfg->hostfile));
    }
    UM_TRY(add_words(&l, cfg->mpirun_args));
    l.head = l.n;
    UM_TRY(add_role(&l, cfg, site, UM_ROLE_ROUTER, job.count[UM_ROLE_ROUTER]));
    UM_TRY(add_role(&l, cfg, site, UM_ROLE_EXPERT, job.count[UM_ROLE_EXPERT]));
    UM_TRY(add_encoders(&l, cfg, site, &encoders));
    const char **argv = um_arena_zero(arena, (size_t)(l.n + 1) * sizeof *argv);
    memcpy(argv, l.word, (size_t)l.n * sizeof *argv);
    job.argv = argv;
    job.argc = l.n;
    *out = job;
    return UM_OK;
}

static const char *shell_word(const char *s, um_arena *arena)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";
    if (s[0] != '\0' && s[strspn(s, plain)] == '\0') return s;
    char *out = um_arena_alloc(arena, 4 * strlen(s) + 3), *to = out;
    *to++ = '\'';
    for (; *s != '\0'; s++) {
        if (*s != '\'')
            *to++ = *s;
        else
            to = (char *)memcpy(to, "'\\''", 4) + 4;
    }
    memcpy(to, "'", 2);
    return out;
}

const char *um_job_line(const um_job *job, um_arena *arena)
{
    size_t bytes = 1;
    for (int i = 0; i < job->argc; i++) bytes += 4 * strlen(job->argv[i]) + 3;
    char *out = um_arena_alloc(arena, bytes), *to = out;
    for (int i = 0; i < job->argc; i++)
        to += snprintf(to, bytes - (size_t)(to - out), "%s%s", i > 0 ? " " : "",
                       shell_word(job->argv[i], arena));
    *to = '\0';
    return out;
}

bool um_job_has_word(const um_job *job, const char *word)
{
    for (int i = 0; i < job->argc; i++)
        if (strcmp(job->argv[i], word) == 0) return true;
    return false;
}

int um_job_ranks(const um_job *job)
{
    int n = 0;
    for (int r = 0; r < UM_ROLES; r++) n += job->count[r];
    return n;
}

void um_job_label(const um_job *job, int rank, const char *host, char out[160])
{
    bool named = host != NULL && host[0] != '\0';
    int first = 0;
    for (int r = 0; r < UM_ROLES; first += job->count[r++]) {
        if (rank < first || rank >= first + job->count[r]) continue;
        snprintf(out, 160, "%s/%d (rank %d%s%.64s)", um_role_name((um_role)r), rank - first, rank,
                 named ? ", host " : "", named ? host : "");
        return;
    }
    snprintf(out, 160, "rank %d", rank);
}

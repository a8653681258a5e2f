/* unimoe doctor: is this machine fit for a job? One line a check; what is not well comes with its remedy. See command.h. */
#include "launch/command.h"

#include "core/base/memory.h"
#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/tensor/ops.h"
#include "launch/host.h"
#include "launch/job/stale_shm.h"
#include "launch/job/memory_plan.h"
#include "launch/job/run.h"

#include <inttypes.h>
#include <netdb.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

enum { CHECK_RANKS = 4, HOSTS = 4096 };

typedef struct doctor {
    const um_config *cfg;
    FILE *to;
    um_arena arena;
    um_job_site site;
    int failed;
} doctor;

__attribute__((format(printf, 3, 4))) static void ok(doctor *d, const char *what, const char *fmt,
                                                     ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(d->to, "ok    %-14s ", what);
    vfprintf(d->to, fmt, ap);
    fprintf(d->to, "\n");
    va_end(ap);
}

/* A finding with its remedy. */
static void ill(doctor *d, bool fatal, const char *what, const char *finding, const char *remedy)
{
    fprintf(d->to, "%-5s %-14s %s\n      fix: %s\n", fatal ? "fail" : "warn", what, finding,
            remedy);
    if (fatal) d->failed++;
}

/* ---- this machine ---- */

static void check_cpu(doctor *d)
{
    char name[96];
    um_dev best;
    um_err err = {0};
    um_host_cpu_name(name);
    if (um_dev_open_cpu(&best, UM_ISA_AUTO, 1, &err) != UM_OK || best.isa == UM_ISA_GENERIC)
        ill(d, false, "cpu",
            um_arena_fmt(&d->arena,
                         "%s: neither AVX2+FMA nor AVX-512, plain C is many times slower", name),
            "run on a CPU with AVX2; in a virtual machine pass the host's CPU through (-cpu host)");
    else
        ok(d, "cpu", "%s: %s", name, um_isa_name(best.isa));
    if (um_dev_open_cpu(&best, (um_isa)um_isa_from_name(d->cfg->isa), 1, &err) != UM_OK)
        ill(d, true, "isa", err.msg, "leave --isa and UNIMOE_ISA at auto");
}

static void check_cores(doctor *d)
{
    double quota = um_host_cpu_quota();
    if (quota > 0 && quota + 0.01 < d->site.cpus)
        ill(d, false, "cores",
            um_arena_fmt(&d->arena, "%d, but this container may use only %.2g of them",
                         d->site.cpus, quota),
            um_arena_fmt(&d->arena, "--threads %d, or raise the container's CPU limit",
                         um_max_int(1, (int)quota)));
    else
        ok(d, "cores", "%d", d->site.cpus);
}

static void check_memory(doctor *d)
{
    char text[32];
    int64_t bytes = um_memory_available();
    um_bytes_text(text, bytes);
    if (bytes > 0 && bytes < (INT64_C(1) << 30))
        ill(d, false, "memory", um_arena_fmt(&d->arena, "%s available", text),
            "see what a model needs: unimoe generate --dry-run --model DIR --prompt x");
    else
        ok(d, "memory", "%s available", text);
}

static void check_shm(doctor *d)
{
    char text[32];
    int stale = um_stale_shm(0, false);
    int64_t free_bytes = um_host_shm_free();
    um_bytes_text(text, free_bytes);
    if (free_bytes < (INT64_C(64) << 20))
        ill(d, true, "/dev/shm",
            um_arena_fmt(&d->arena, "%s free; ranks of one host exchange rows through it", text),
            "mount -o remount,size=1G /dev/shm (docker: --shm-size=1g), or --mpirun-args \"--mca "
            "btl self,tcp\"");
    else
        ok(d, "/dev/shm", "%s free", text);
    if (stale > 0)
        ill(d, false, "/dev/shm",
            um_arena_fmt(&d->arena,
                         "%d segments of Open MPI that no process uses, from jobs that were killed",
                         stale),
            "when no MPI job runs here: rm /dev/shm/vader_segment.*");
}

static void check_cross_memory(doctor *d)
{
    if (d->site.no_cross_memory)
        ok(d, "single copy",
           "not allowed here: unimoe tells Open MPI to copy through shared memory");
    else
        ok(d, "single copy", "allowed");
}

static void check_memlock(doctor *d)
{
    int64_t limit = um_host_memlock();
    bool fabric = um_file_exists("/sys/class/infiniband");
    char text[32];
    um_bytes_text(text, limit);
    if (limit < 0)
        ok(d, "memlock", "unlimited");
    else if (!fabric)
        ok(d, "memlock", "%s; no InfiniBand or RoCE here that would need more", text);
    else
        ill(d, false, "memlock",
            um_arena_fmt(&d->arena, "%s, but this host has InfiniBand or RoCE", text),
            "ulimit -l unlimited (limits.conf: * - memlock unlimited; Slurm: "
            "PropagateResourceLimitsExcept=MEMLOCK)");
}

/* ---- MPI ---- */

typedef struct capture {
    um_arena *arena;
    const char *first; /* first line of output */
    const char *last;  /* last line of the log */
    const char *btl;   /* names of the transports, from ompi_info --parsable */
    int lines;
} capture;

static bool capture_line(void *ctx, const char *line)
{
    capture *c = ctx;
    char name[64];
    if (c->lines++ == 0) c->first = um_arena_str(c->arena, line);
    /* "mca:btl:vader:version:..." comes three times for each */
    if (sscanf(line, "mca:btl:%63[^:]:version:", name) == 1 &&
        strstr(line, ":version:\"component:") != NULL)
        c->btl = um_arena_fmt(c->arena, "%s%s%s", c->btl, c->btl[0] ? " " : "", name);
    return false;
}

static void capture_log(void *ctx, const char *line)
{
    capture *c = ctx;
    if (line[0] != '\0') c->last = um_arena_str(c->arena, line);
}

/* Runs words[0..] (ends with NULL) to its end. */
static um_status run_words(capture *out, const char *const *words, um_arena *arena, um_err *err)
{
    um_job job = {.argv = words};
    while (words[job.argc] != NULL) job.argc++;
    *out = (capture){.arena = arena, .first = "", .last = "", .btl = ""};
    um_job_io io = {.line = capture_line, .log = capture_log, .ctx = out};
    return um_job_run(&job, &io, err);
}

static bool check_mpirun(doctor *d)
{
    um_err err = {0};
    capture c;
    if (run_words(&c, (const char *const[]){"mpirun", "--version", NULL}, &d->arena, &err) !=
        UM_OK) {
        ill(d, true, "mpirun", c.last[0] != '\0' ? c.last : err.msg,
            "apt-get install openmpi-bin, or load your cluster's module");
        return false;
    }
    if (strstr(c.first, "Open MPI") == NULL)
        ill(d, false, "mpirun", um_arena_fmt(&d->arena, "%s: not Open MPI", c.first),
            "put Open MPI's mpirun first in PATH, the one that unimoe was built with");
    else
        ok(d, "mpirun", "%s", c.first);
    if (run_words(&c, (const char *const[]){"ompi_info", "--parsable", NULL}, &d->arena, &err) !=
        UM_OK)
        ill(d, false, "transports", "ompi_info is not there to list them",
            "apt-get install openmpi-bin");
    else
        ok(d, "transports", "%s", c.btl);
    return true;
}

static void check_programs(doctor *d)
{
    static const char *const names[] = {"unimoe-router", "unimoe-expert", "unimoe-encoder"};
    const char *missing = "";
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (access(um_path_join(&d->arena, d->site.programs, names[i]), X_OK) != 0)
            missing = um_arena_fmt(&d->arena, "%s %s", missing, names[i]);
    if (missing[0] != '\0')
        ill(d, true, "programs", um_arena_fmt(&d->arena, "not in %s:%s", d->site.programs, missing),
            "build them: cmake --workflow --preset release; the four programs stay in one folder");
    else
        ok(d, "programs", "%s", d->site.programs);
}

/* ---- hosts ---- */

static void check_host(doctor *d, const char *name, int *well)
{
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(name, NULL, NULL, &found);
    if (rc == 0) {
        freeaddrinfo(found);
        ++*well;
        return;
    }
    ill(d, true, "host", um_arena_fmt(&d->arena, "%s: %s", name, gai_strerror(rc)),
        "add the name to DNS or /etc/hosts on every host, or take it out of the hostfile");
}

/* The first word of every line of the hostfile is a name. */
static void check_hosts(doctor *d)
{
    if (d->cfg->hostfile[0] == '\0') return;
    um_err err = {0};
    uint8_t *data = NULL;
    size_t size = 0;
    int well = 0;
    if (um_file_read(&data, &size, d->cfg->hostfile, 1 << 20, &d->arena, &err) != UM_OK) {
        ill(d, true, "hostfile", err.msg,
            "give --hostfile a file with a host name a line, as \"node1 slots=8\"");
        return;
    }
    char *save = NULL;
    for (char *line = strtok_r((char *)data, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        size_t skip = strspn(line, " \t"), len = strcspn(line + skip, " \t\r#");
        if (len > 0) check_host(d, um_arena_strn(&d->arena, line + skip, len), &well);
    }
    if (well > 0) ok(d, "hostfile", "%d %s", well, well == 1 ? "name resolves" : "names resolve");
}

/* A small job, to see that mpirun can start ranks at all, here and on the hosts of the hostfile. */
static void check_start(doctor *d)
{
    const char *words[64];
    int n = 0;
    um_err err = {0};
    capture c;
    words[n++] = "mpirun";
    if (d->site.root) words[n++] = "--allow-run-as-root";
    words[n++] = "--bind-to";
    words[n++] = "none";
    if (d->cfg->hostfile[0] != '\0') {
        words[n++] = "--hostfile";
        words[n++] = d->cfg->hostfile;
    } else {
        words[n++] = "--oversubscribe";
    }
    if (d->cfg->hostfile[0] == '\0') {
        words[n++] = "-np";
        words[n++] = um_arena_fmt(&d->arena, "%d", CHECK_RANKS);
    }
    words[n++] = "hostname";
    words[n] = NULL;
    if (run_words(&c, words, &d->arena, &err) != UM_OK)
        ill(d, true, "start", c.last[0] != '\0' ? c.last : err.msg,
            "ssh must reach every host without a password, with the same Open MPI there in the "
            "same place");
    else if (d->cfg->hostfile[0] == '\0' && c.lines != CHECK_RANKS)
        ill(d, true, "start",
            um_arena_fmt(&d->arena, "%d of %d ranks answered", c.lines, CHECK_RANKS),
            "look at what mpirun says: mpirun -np 4 hostname");
    else
        ok(d, "start", "%d ranks started and ended", c.lines);
}

um_status um_doctor(const um_config *cfg, FILE *to, um_err *err)
{
    doctor d = {.cfg = cfg, .to = to};
    um_arena_init(&d.arena, "doctor", 1 << 16);
    um_status st = um_job_site_here(&d.site, &d.arena, err);
    if (st == UM_OK) {
        check_cpu(&d);
        check_cores(&d);
        check_memory(&d);
        check_shm(&d);
        check_cross_memory(&d);
        check_memlock(&d);
        check_programs(&d);
        check_hosts(&d);
        if (check_mpirun(&d)) check_start(&d);
        if (d.failed > 0)
            st = UM_FAIL(err, UM_E_IO, "%d check%s failed", d.failed, d.failed == 1 ? "" : "s");
    }
    um_arena_free(&d.arena);
    return st;
}

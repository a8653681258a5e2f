/* unimoe doctor: is this machine fit for a job? One line a check; what is not well comes with its remedy. See command.h. */
#include "launch/command.h"

#include "core/base/memory.h"
#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/tensor/ops.h"
#include "launch/job/host.h"
#include "launch/job/memory_plan.h"
#include "launch/job/run.h"
#include "launch/job/stale_session.h"
#include "launch/job/stale_shm.h"
#include "launch/job/start_check.h"

#include <inttypes.h>
#include <netdb.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

enum { HOSTFILE_BYTES = 1 << 20, LEAST_RANKS = 3, MOST_RANKS = 64, START_MS = 60000 };

typedef struct doctor {
    const um_config *cfg;
    FILE *to;
    um_arena arena;
    um_job_site site;
    um_text json; /* the checks so far, with --json */
    int checks, failed;
    int hosts, slots; /* of the hostfile; 0 slots: none is stated */
} doctor;

static void show(doctor *d, const um_finding *f)
{
    static const char *const words[] = {"ok", "warn", "fail"};
    d->failed += f->verdict == UM_CHECK_FAIL;
    if (!d->cfg->json) {
        fprintf(d->to, "%-5s %-14s %s\n", words[f->verdict], f->what, f->finding);
        if (f->remedy != NULL) fprintf(d->to, "      fix: %s\n", f->remedy);
        fflush(d->to);
        return;
    }
    um_text_fmt(&d->json, "%s\n  {\"check\": ", d->checks++ > 0 ? "," : "");
    um_text_json(&d->json, f->what);
    um_text_fmt(&d->json, ", \"verdict\": \"%s\", \"finding\": ", words[f->verdict]);
    um_text_json(&d->json, f->finding);
    if (f->remedy != NULL) {
        um_text_fmt(&d->json, ", \"fix\": ");
        um_text_json(&d->json, f->remedy);
    }
    um_text_add(&d->json, "}", 1);
}

__attribute__((format(printf, 3, 4))) static void ok(doctor *d, const char *what, const char *fmt,
                                                     ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    show(d, &(um_finding){UM_CHECK_OK, what, text, NULL});
}

/* A finding with its remedy. */
static void ill(doctor *d, bool fatal, const char *what, const char *finding, const char *remedy)
{
    show(d, &(um_finding){fatal ? UM_CHECK_FAIL : UM_CHECK_WARN, what, finding, remedy});
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

/* What killed jobs left behind. A job that fails removes what it can; one that is killed with its launcher cannot. */
static void check_stale(doctor *d)
{
    int segments = um_stale_shm(0, false),
        sessions = um_stale_sessions(um_config_temporary(), false);
    if (segments > 0)
        ill(d, false, "left behind",
            um_arena_fmt(&d->arena,
                         "%d segments of Open MPI in /dev/shm that no process uses, from jobs that "
                         "were killed",
                         segments),
            "when no MPI job runs here: rm /dev/shm/vader_segment.*");
    if (sessions > 0)
        ill(d, false, "left behind",
            um_arena_fmt(&d->arena,
                         "%d session folders of Open MPI in %s, of jobs that were killed", sessions,
                         um_config_temporary()),
            um_arena_fmt(&d->arena, "when no MPI job runs here: rm -r %s/ompi.*",
                         um_config_temporary()));
}

/* What a start needs, as generate itself checks it. */
static void check_start_needs(doctor *d)
{
    um_finding f[UM_START_CHECKS];
    const char *args = d->cfg->mpirun_args;
    um_start s = {.ranks = um_max_int(d->site.cpus, 6),
                  .shared_memory = strstr(args, "btl ") == NULL,
                  .site = &d->site};
    um_start_findings(f, &s, &d->arena);
    for (int i = 0; i < UM_START_CHECKS; i++) show(d, &f[i]);
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

static um_job_next capture_line(void *ctx, const char *line)
{
    capture *c = ctx;
    char name[64];
    if (c->lines++ == 0) c->first = um_arena_str(c->arena, line);
    /* "mca:btl:vader:version:..." comes three times for each */
    if (sscanf(line, "mca:btl:%63[^:]:version:", name) == 1 &&
        strstr(line, ":version:\"component:") != NULL)
        c->btl = um_arena_fmt(c->arena, "%s%s%s", c->btl, c->btl[0] ? " " : "", name);
    return UM_JOB_GO_ON;
}

static void capture_log(void *ctx, const char *line)
{
    capture *c = ctx;
    if (line[0] != '\0') c->last = um_arena_str(c->arena, line);
}

static um_status run_captured(capture *out, const um_job *job, um_arena *arena, um_err *err)
{
    *out = (capture){.arena = arena, .first = "", .last = "", .btl = ""};
    um_job_io io = {.line = capture_line, .log = capture_log, .start_ms = START_MS, .ctx = out};
    return um_job_run(job, &io, err);
}

/* Runs words[0..] (ends with NULL) to its end. */
static um_status run_words(capture *out, const char *const *words, um_arena *arena, um_err *err)
{
    um_job job = {.argv = words};
    while (words[job.argc] != NULL) job.argc++;
    return run_captured(out, &job, arena, err);
}

/* The first "4.1" of "mpirun (Open MPI) 4.1.4", as major * 1000 + minor; 0 when there is none. */
static int version_of(const char *text)
{
    int major = 0, minor = 0;
    const char *digits = text + strcspn(text, "0123456789");
    return sscanf(digits, "%d.%d", &major, &minor) == 2 ? major * 1000 + minor : 0;
}

static bool check_mpirun(doctor *d)
{
    um_err err = {0};
    capture c;
    if (run_words(&c, (const char *const[]){"mpirun", "--version", NULL}, &d->arena, &err) !=
        UM_OK) {
        ill(d, true, "mpirun", err.msg,
            "apt-get install openmpi-bin, or load your cluster's module");
        return false;
    }
    if (strstr(c.first, "Open MPI") == NULL) {
        ill(d, true, "mpirun", um_arena_fmt(&d->arena, "%.100s: not Open MPI", c.first),
            "put Open MPI's mpirun first in PATH, the one that unimoe was built with");
        return false;
    }
    if (version_of(UM_MPI_BUILT) != 0 && version_of(c.first) != version_of(UM_MPI_BUILT))
        ill(d, true, "mpirun",
            um_arena_fmt(&d->arena, "%s, but unimoe was built with Open MPI %s", c.first,
                         UM_MPI_BUILT),
            "put the mpirun of that version first in PATH, or build unimoe again");
    else
        ok(d, "mpirun", "%s, as built with", c.first);
    if (run_words(&c, (const char *const[]){"ompi_info", "--parsable", NULL}, &d->arena, &err) !=
        UM_OK)
        ill(d, false, "transports", "ompi_info is not there to list them",
            "apt-get install openmpi-bin");
    else
        ok(d, "transports", "%s", c.btl);
    return true;
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

/* The first word of every line of the hostfile is a name; "slots=N" may follow. */
static void check_hosts(doctor *d)
{
    if (d->cfg->hostfile[0] == '\0') return;
    um_err err = {0};
    uint8_t *data = NULL;
    size_t size = 0;
    int well = 0;
    bool stated = true;
    if (um_file_read(&data, &size, d->cfg->hostfile, HOSTFILE_BYTES, &d->arena, &err) != UM_OK) {
        ill(d, true, "hostfile", err.msg,
            "give --hostfile a file with a host name a line, as \"node1 slots=8\"");
        return;
    }
    char *save = NULL;
    for (char *line = strtok_r((char *)data, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        size_t skip = strspn(line, " \t"), len = strcspn(line + skip, " \t\r#");
        int slots = 0;
        if (len == 0) continue;
        const char *at = strstr(line, "slots=");
        stated = stated && at != NULL && sscanf(at, "slots=%d", &slots) == 1;
        d->slots += slots;
        d->hosts++;
        check_host(d, um_arena_strn(&d->arena, line + skip, len), &well);
    }
    if (!stated) d->slots = 0;
    if (d->hosts == 0)
        ill(d, true, "hostfile", "no host in it", "a line for each host, as \"node1 slots=8\"");
    if (well > 0) ok(d, "hostfile", "%d %s", well, well == 1 ? "name resolves" : "names resolve");
    if (d->slots > 0 && d->slots < LEAST_RANKS)
        ill(d, true, "slots",
            um_arena_fmt(&d->arena,
                         "%d in all; a job has a router, an expert and an encoder at least",
                         d->slots),
            "raise slots=N in the hostfile");
    else if (d->slots > 0)
        ok(d, "slots", "%d: room for a job of so many ranks", d->slots);
}

/* Ranks of the small job: one for each host of the hostfile, as far as slots go. */
static int ranks_to_start(const doctor *d)
{
    int ranks = um_max_int(d->hosts, LEAST_RANKS + 1);
    if (d->slots > 0) ranks = um_min_int(ranks, um_max_int(d->slots, LEAST_RANKS));
    return um_min_int(ranks, MOST_RANKS);
}

/* A small job of the form that generate starts, several programs in one line, whose ranks meet, print who they are, and end. */
static void check_start(doctor *d)
{
    um_config cfg = *d->cfg;
    um_err err = {0};
    um_job job;
    capture c;
    int ranks = ranks_to_start(d);
    cfg.routers = 1;
    cfg.encoders = "1";
    cfg.experts = ranks - 2;
    cfg.check_start = true;
    if (d->hosts > 1)
        cfg.mpirun_args = um_arena_fmt(&d->arena, "--map-by node %s", cfg.mpirun_args);
    um_status st = um_job_compose(&job, &cfg, &d->site, &d->arena, &err);
    if (st == UM_OK) st = run_captured(&c, &job, &d->arena, &err);
    if (st != UM_OK)
        ill(d, true, "start", err.msg,
            d->hosts > 0
                ? "ssh must reach every host without a password, with the same Open MPI and unimoe "
                  "there in the same place"
                : um_arena_fmt(&d->arena, "see what it says by hand: %s",
                               um_job_line(&job, &d->arena)));
    else if (c.lines != ranks)
        ill(d, true, "start", um_arena_fmt(&d->arena, "%d of %d ranks answered", c.lines, ranks),
            um_arena_fmt(&d->arena, "see what it says by hand: %s", um_job_line(&job, &d->arena)));
    else
        ok(d, "start", "%d ranks of three programs started, met and ended", ranks);
}

static void check_all(doctor *d)
{
    check_cpu(d);
    check_cores(d);
    check_memory(d);
    check_start_needs(d);
    check_stale(d);
    check_cross_memory(d);
    check_memlock(d);
    check_hosts(d);
    bool startable = d->failed == 0;
    if (check_mpirun(d) && startable) check_start(d);
    if (!startable)
        ill(d, false, "start", "not tried, for a check above failed", "mend that first");
}

um_status um_doctor(const um_config *cfg, FILE *to, um_err *err)
{
    doctor d = {.cfg = cfg, .to = to};
    um_arena_init(&d.arena, "doctor", 1 << 16);
    um_status st = um_job_site_here(&d.site, &d.arena, err);
    if (st == UM_OK) {
        check_all(&d);
        if (cfg->json)
            fprintf(to, "{\"failed\": %d, \"checks\": [%s\n]}\n", d.failed,
                    d.json.n > 0 ? d.json.s : "");
        if (d.failed > 0)
            st = UM_FAIL(err, UM_E_IO, "%d check%s failed", d.failed, d.failed == 1 ? "" : "s");
    }
    um_text_free(&d.json);
    um_arena_free(&d.arena);
    return st;
}

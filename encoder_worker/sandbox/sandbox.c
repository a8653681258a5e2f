/* See sandbox.h. The one door to libseccomp. */
#include "encoder_worker/sandbox/sandbox.h"

#include "core/base/memory.h"

#include <seccomp.h>

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define N_OF(list) (sizeof(list) / sizeof(list)[0])

/* Calls that may be made with any arguments. */
static const char *const allowed[] = {
    "read", "write", "close", "exit", "exit_group",
    /* memory; mmap and mprotect have rules of their own */
    "brk", "munmap", "mremap", "madvise",
    /* locks and signals within the process; abort() blocks signals, then asks who it is */
    "futex", "rt_sigreturn", "rt_sigprocmask", "restart_syscall", "getpid", "gettid", "sched_yield",
    /* time and chance; clocks are system calls where the vdso has none */
    "clock_gettime", "clock_getres", "gettimeofday", "getrandom",
    /* the size of the machine: glibc's qsort, libraries that count cores */
    "sysinfo", "sched_getaffinity", "getcpu",
    /* of glibc since 2.35, at the start and end of threads */
    "rseq", "set_robust_list", "fstat"};

/* Refused with an error instead of death: libraries ask for optional files (conversion tables, /sys, /proc) and go on without. */
static const char *const refused[] = {
    "open",       "openat",   "stat",       "lstat", "newfstatat", "statx", "access", "faccessat",
    "faccessat2", "readlink", "readlinkat", "ioctl", "lseek",      "fcntl", "prctl",  "uname"};

#ifdef UM_SANITIZED
/* The runtime of a sanitizer looks at its own stack, sets its handlers, and has a thread that sleeps. */
static const char *const sanitizer[] = {"sigaltstack",     "rt_sigaction", "nanosleep",
                                        "clock_nanosleep", "prlimit64",    "getrlimit",
                                        "gettid",          "getppid",      "sched_setaffinity",
                                        "getuid",          "geteuid",      "getrusage"};
#endif

static int add_names(scmp_filter_ctx f, uint32_t action, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int call = seccomp_syscall_resolve_name(names[i]);
        int rc = call == __NR_SCMP_ERROR ? 0 : seccomp_rule_add(f, action, call, 0);
        if (rc != 0 && rc != -EDOM) return rc; /* EDOM: this processor's kernel has no such call */
    }
    return 0;
}

/* Memory that is not backed by a file and never executable; signals to ourselves only. */
static int add_conditions(scmp_filter_ctx f)
{
    const uint64_t anonymous = MAP_ANONYMOUS, exec = PROT_EXEC;
    int rc =
        seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2, SCMP_A2(SCMP_CMP_MASKED_EQ, exec, 0),
                         SCMP_A3(SCMP_CMP_MASKED_EQ, anonymous, anonymous));
    if (rc == 0)
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, exec, 0));
    if (rc == 0)
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                              SCMP_A0(SCMP_CMP_MASKED_EQ, 0xffffffffu, (scmp_datum_t)getpid()));
    return rc;
}

static um_status filter(um_err *err)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int rc = f == NULL ? -ENOMEM : seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
    if (rc == 0) rc = add_names(f, SCMP_ACT_ALLOW, allowed, N_OF(allowed));
    if (rc == 0) rc = add_names(f, SCMP_ACT_ERRNO(EACCES), refused, N_OF(refused));
#ifdef UM_SANITIZED
    if (rc == 0) rc = add_names(f, SCMP_ACT_ALLOW, sanitizer, N_OF(sanitizer));
#endif
    if (rc == 0) rc = add_conditions(f);
    if (rc == 0) rc = seccomp_load(f);
    if (f != NULL) seccomp_release(f);
    if (rc == 0) return UM_OK;
    return UM_FAIL(
        err, UM_E_IO,
        "this kernel does not let a process be confined (seccomp: %s); media are decoded "
        "only where it does: Linux 4.14 or newer with CONFIG_SECCOMP_FILTER",
        strerror(-rc));
}

/* Pages mapped now, and those of them that count as data: fields 1 and 6 of /proc/self/statm. */
static um_status mapped_now(rlim_t *all, rlim_t *data, um_err *err)
{
    char line[256];
    unsigned long long size = 0, pages = 0;
    if (!um_proc_line("/proc/self/statm", "", line, sizeof line) ||
        sscanf(line, "%llu %*u %*u %*u %*u %llu", &size, &pages) != 2)
        return UM_FAIL(err, UM_E_IO, "/proc/self/statm cannot be read: is /proc mounted?");
    rlim_t page = (rlim_t)sysconf(_SC_PAGESIZE);
    *all = (rlim_t)size * page;
    *data = (rlim_t)pages * page;
    return UM_OK;
}

static um_status limit(int what, const char *name, rlim_t most, um_err *err)
{
    struct rlimit r = {most, most};
    struct rlimit had;
    /* what the user's own limits forbid already stays forbidden */
    if (getrlimit((__rlimit_resource_t)what, &had) == 0 && had.rlim_max < most)
        r = (struct rlimit){had.rlim_max, had.rlim_max};
    if (setrlimit((__rlimit_resource_t)what, &r) == 0) return UM_OK;
    return UM_FAIL(err, UM_E_IO, "setrlimit %s: %s", name, strerror(errno));
}

static um_status limits(int64_t memory_bytes, int64_t cpu_seconds, um_err *err)
{
    rlim_t all = 0, data = 0, more = (rlim_t)memory_bytes;
    UM_TRY(mapped_now(&all, &data, err));
    UM_TRY(limit(RLIMIT_AS, "AS", all + more, err));
    UM_TRY(limit(RLIMIT_DATA, "DATA", data + more, err));
    UM_TRY(limit(RLIMIT_CPU, "CPU", (rlim_t)cpu_seconds, err));
    UM_TRY(limit(RLIMIT_CORE, "CORE", 0, err));
    UM_TRY(limit(RLIMIT_FSIZE, "FSIZE", 0, err));
    UM_TRY(limit(RLIMIT_NPROC, "NPROC", 0, err));
    UM_TRY(limit(RLIMIT_MEMLOCK, "MEMLOCK", 0, err));
    return limit(RLIMIT_NOFILE, "NOFILE", 0, err);
}

um_status um_sandbox_enter(int64_t memory_bytes, int64_t cpu_seconds, um_err *err)
{
    UM_ASSERT(memory_bytes > 0 && cpu_seconds > 0);
    tzset(); /* reads its file while it may: libraries turn times into text */
    UM_TRY(limits(memory_bytes, cpu_seconds, err));
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 ||
        prctl(PR_SET_DUMPABLE, 0) != 0)
        return UM_FAIL(err, UM_E_IO, "prctl: %s", strerror(errno));
    return filter(err);
}

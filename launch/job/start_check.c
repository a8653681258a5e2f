/* See start_check.h. What Open MPI 4.1.4 needs was measured with 6 to 21 ranks on one host. */
#include "launch/job/start_check.h"

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "launch/job/host.h"
#include "core/base/text.h"
#include "launch/job/spawn.h"
#include "launch/job/stale_session.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Two files of 4 MiB that PMIx allocates at once, and a few KiB a rank. */
static const int64_t session_bytes = (8 << 20) + (512 << 10), session_rank_bytes = 32 << 10;
/* A shared memory segment has 4 MiB, of which a rank fills 100 to 200 KiB at first. Open MPI wants room for a whole one. */
static const int64_t segment_bytes = (4 << 20) + (64 << 10), segment_rank_bytes = 256 << 10;

/* errno of taking so many bytes in folder, and of giving them back: quotas, read-only file systems and full tables of files show
 * only when one tries. */
static int room_error(const char *folder, int64_t bytes)
{
    struct statvfs v;
    um_err err;
    if (statvfs(folder, &v) != 0) return errno;
    if ((int64_t)v.f_bavail * (int64_t)v.f_frsize < bytes) return ENOSPC;
    um_arena arena;
    um_arena_init(&arena, "probe", 4096);
    char *path = um_arena_fmt(&arena, "%s/unimoe.probe.%ld", folder, (long)getpid());
    int why = 0, fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        why = errno;
    } else {
        if (fallocate(fd, 0, 0, (off_t)bytes) != 0 && errno != EOPNOTSUPP) why = errno;
        if (why == 0 && um_file_put(fd, "x", 1, path, &err) != UM_OK) why = errno;
        close(fd);
        unlink(path);
    }
    um_arena_free(&arena);
    return why;
}

static um_finding well(const char *what, const char *finding)
{
    return (um_finding){UM_CHECK_OK, what, finding, NULL};
}

static int64_t session_room(const um_start *s)
{
    int64_t bytes = session_bytes + session_rank_bytes * s->ranks;
    /* Without a /dev/shm that can be written, segments are files of the session too. */
    if (s->shared_memory && access("/dev/shm", W_OK) != 0)
        bytes += segment_bytes + segment_rank_bytes * s->ranks;
    return bytes;
}

/* Open MPI makes a folder that does not exist, so its parent is what counts. */
static const char *existing(const char *folder, um_arena *arena)
{
    while (!um_file_exists(folder) && strcmp(folder, "/") != 0 && strcmp(folder, ".") != 0)
        folder = um_path_dir(arena, folder);
    return folder;
}

static um_finding check_tmp(const um_start *s, um_arena *arena)
{
    const char *tmp = um_config_temporary(), *folder = existing(tmp, arena);
    char need[32];
    int64_t bytes = session_room(s);
    um_bytes_text(need, bytes);
    /* "/ompi.HOST.UID/pid.PID/pmix_dstor_ds21_PID/smlockseg-NUMBER-0" and more goes behind it */
    if (strlen(tmp) > PATH_MAX - 1024)
        return (um_finding){UM_CHECK_FAIL, "TMPDIR",
                            um_arena_fmt(arena, "its path has %zu characters", strlen(tmp)),
                            "export TMPDIR=/tmp, or another short path"};
    int why = um_file_is_folder(folder) ? room_error(folder, bytes) : ENOTDIR;
    if (why == ENOSPC || why == EDQUOT)
        return (um_finding){UM_CHECK_FAIL, "TMPDIR",
                            um_arena_fmt(arena, "%s has no room: mpirun needs %s for %d ranks", tmp,
                                         need, s->ranks),
                            "free some there, or export TMPDIR=DIR with a folder that has room"};
    if (why != 0)
        return (um_finding){UM_CHECK_FAIL, "TMPDIR",
                            um_arena_fmt(arena, "%s: %s", tmp, strerror(why)),
                            "export TMPDIR=DIR with a folder that can be written"};
    return well("TMPDIR", um_arena_fmt(arena, "%s has room for the %s that %d ranks take", tmp,
                                       need, s->ranks));
}

static um_finding check_shm(const um_start *s, um_arena *arena)
{
    char have[32], need[32];
    int64_t bytes = segment_bytes + segment_rank_bytes * s->ranks, room = um_host_shm_free();
    um_bytes_text(need, bytes);
    um_bytes_text(have, room);
    if (!s->shared_memory)
        return well("/dev/shm", um_arena_fmt(arena,
                                             "%s free; --mpirun-args asks for other "
                                             "transports",
                                             have));
    if (access("/dev/shm", W_OK) != 0)
        return (um_finding){UM_CHECK_WARN, "/dev/shm",
                            um_arena_fmt(arena,
                                         "%s: ranks of one host exchange rows through files "
                                         "in TMPDIR, slower",
                                         strerror(errno)),
                            "mount -t tmpfs tmpfs /dev/shm, writable for everybody (mode 1777)"};
    if (room < bytes)
        return (um_finding){UM_CHECK_FAIL, "/dev/shm",
                            um_arena_fmt(arena,
                                         "%s free, and %d ranks exchange rows through %s of "
                                         "it",
                                         have, s->ranks, need),
                            "mount -o remount,size=1G /dev/shm (docker: --shm-size=1g), or "
                            "--mpirun-args=\"--mca btl self,tcp\", which is slower"};
    return well("/dev/shm", um_arena_fmt(arena, "%s free", have));
}

static um_finding check_host_name(um_arena *arena)
{
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    size_t n = strcspn(host, ".");
    if (n > UM_HOST_NAME_MAX && UM_MPI_BUILT[0] == '4')
        return (um_finding){UM_CHECK_FAIL, "host name",
                            um_arena_fmt(arena,
                                         "%.20s... has %zu characters, and mpirun of Open "
                                         "MPI 4 crashes above %d",
                                         host, n, UM_HOST_NAME_MAX),
                            "hostname SHORTER (docker: --hostname, Kubernetes: spec.hostname)"};
    return well("host name", um_arena_fmt(arena, "%s", host[0] != '\0' ? host : "not set"));
}

static um_finding check_programs(const um_start *s, um_arena *arena)
{
    static const char *const names[] = {"unimoe-router", "unimoe-expert", "unimoe-encoder",
                                        "unimoe-decoder"};
    const char *missing = "";
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (um_program_find(um_path_join(arena, s->site->programs, names[i]), arena) == NULL)
            missing = um_arena_fmt(arena, "%s %s", missing, names[i]);
    if (missing[0] != '\0')
        return (um_finding){
            UM_CHECK_FAIL, "programs",
            um_arena_fmt(arena, "not in %s, or not executable:%s", s->site->programs, missing),
            "keep the five programs of a build in one folder; cmake --workflow "
            "--preset release makes them"};
    return well("programs", s->site->programs);
}

static um_finding check_ssh(const um_start *s)
{
    if (s->site->no_ssh)
        return (um_finding){UM_CHECK_WARN, "ssh", "not in PATH: jobs on this host alone can start",
                            "apt-get install openssh-client, for jobs on several hosts"};
    return well("ssh", "there, for jobs on several hosts");
}

static um_finding check_folder(um_arena *arena)
{
    char here[PATH_MAX];
    if (getcwd(here, sizeof here) == NULL)
        return (um_finding){UM_CHECK_WARN, "this folder",
                            um_arena_fmt(arena, "%s; ranks start in /", strerror(errno)),
                            "cd to a folder that exists"};
    return well("this folder", um_arena_str(arena, here));
}

void um_start_findings(um_finding out[UM_START_CHECKS], const um_start *s, um_arena *arena)
{
    out[0] = check_tmp(s, arena);
    out[1] = check_shm(s, arena);
    out[2] = check_host_name(arena);
    out[3] = check_programs(s, arena);
    out[4] = check_ssh(s);
    out[5] = check_folder(arena);
}

um_status um_start_check(const um_start *s, um_arena *arena, um_err *err)
{
    um_finding f[UM_START_CHECKS];
    um_start_findings(f, s, arena);
    if (f[0].verdict == UM_CHECK_FAIL && um_stale_sessions(um_config_temporary(), true) > 0)
        f[0] = check_tmp(s, arena);
    for (int i = 0; i < UM_START_CHECKS; i++)
        if (f[i].verdict == UM_CHECK_FAIL)
            return UM_FAIL(err, UM_E_IO, "%s: %s. To fix it: %s", f[i].what, f[i].finding,
                           f[i].remedy);
    return UM_OK;
}

int64_t um_start_timeout_ms(int ranks) { return 60000 + (int64_t)ranks * 1000; }

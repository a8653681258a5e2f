/* Processors of large hosts: the kernel rejects a CPU set that is too small to hold all of them. */
#include "core/base/process.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

static int host_cpus, refuse_with;

/* sched_getaffinity of a host with host_cpus processors, all of them allowed. */
static int get(pid_t pid, size_t bytes, cpu_set_t *set)
{
    (void)pid;
    errno = refuse_with;
    if (refuse_with != 0) return -1;
    if (bytes * 8 < (size_t)host_cpus) {
        errno = EINVAL;
        return -1;
    }
    CPU_ZERO_S(bytes, set);
    for (int i = 0; i < host_cpus; i++) CPU_SET_S((size_t)i, bytes, set);
    return 0;
}

static void hosts_of_every_size_are_counted(void **state)
{
    (void)state;
    const int sizes[] = {1, 2, 63, 64, 65, 1023, 1024, 1025, 2048, 4096, 5000, 100000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        host_cpus = sizes[i];
        assert_int_equal(um_cpus_allowed_by(get), sizes[i]);
    }
    assert_true(um_cpus_allowed() >= 1);
}

static void a_refusal_falls_back_to_what_is_online(void **state)
{
    (void)state;
    const int why[] = {EPERM, EINVAL, ENOSYS};
    for (int i = 0; i < 3; i++) {
        refuse_with = why[i];
        assert_true(um_cpus_allowed_by(get) >= 1);
    }
    refuse_with = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hosts_of_every_size_are_counted),
        cmocka_unit_test(a_refusal_falls_back_to_what_is_online),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

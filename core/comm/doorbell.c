/* See doorbell.h. */
#include "core/comm/doorbell.h"

#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Not FUTEX_PRIVATE: the word is shared between processes. */
static void futex(atomic_uint *word, int op, uint32_t value, const struct timespec *timeout)
{
    syscall(SYS_futex, word, op, value, timeout, NULL, 0);
}

uint32_t um_doorbell_arm(um_doorbell *own)
{
    uint32_t ticket = atomic_load(&own->rung);
    atomic_store(&own->asleep, 1);
    atomic_thread_fence(memory_order_seq_cst); /* the look for work that follows stays behind */
    return ticket;
}

bool um_doorbell_sleep(um_doorbell *own, uint32_t ticket, int64_t timeout_us)
{
    struct timespec t = {timeout_us / 1000000, timeout_us % 1000000 * 1000};
    futex(&own->rung, FUTEX_WAIT, ticket, &t);
    return atomic_load(&own->rung) != ticket;
}

void um_doorbell_disarm(um_doorbell *own) { atomic_store(&own->asleep, 0); }

bool um_doorbell_ring(um_doorbell *other)
{
    atomic_thread_fence(memory_order_seq_cst); /* the work before it is visible first */
    if (atomic_load(&other->asleep) == 0) return false;
    atomic_fetch_add(&other->rung, 1);
    futex(&other->rung, FUTEX_WAKE, 1, NULL);
    return true;
}

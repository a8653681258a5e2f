/* See alive.h. */
#include "core/comm/alive.h"

#include "core/base/process.h"

static bool is_over(char state) { return state == 'Z' || state == 'X'; }

uint64_t um_alive_started(int pid)
{
    um_process p;
    return um_process_read(&p, pid) && !is_over(p.state) ? p.started : 0;
}

um_alive um_alive_look(int pid, uint64_t started)
{
    um_process p;
    if (!um_process_read(&p, pid) || is_over(p.state) || p.started != started) return UM_ALIVE_GONE;
    return p.state == 'T' || p.state == 't' ? UM_ALIVE_HALTED : UM_ALIVE_RUNS;
}

/* unimoe-router: a router rank under mpirun. */
#include "core/comm/program.h"
#include "router/router.h"

int main(int argc, char **argv)
{
    return um_program_main(argc, argv, UM_ROLE_ROUTER, UM_PROG_ROUTER, um_router_run);
}

/* unimoe-expert: an expert rank under mpirun. */
#include "core/comm/program.h"
#include "expert_worker/expert.h"

int main(int argc, char **argv)
{
    return um_program_main(argc, argv, UM_ROLE_EXPERT, UM_PROG_EXPERT, um_expert_run);
}

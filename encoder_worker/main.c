/* unimoe-encoder: an encoder rank under mpirun. */
#include "core/comm/program.h"
#include "encoder_worker/encoder.h"

int main(int argc, char **argv)
{
    return um_program_main(argc, argv, UM_ROLE_ENCODER, UM_PROG_ENCODER, um_encoder_run);
}

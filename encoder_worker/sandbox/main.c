/* unimoe-decoder: images, sound and videos to pixels and samples, in a process that can do nothing else. Started by encoder ranks. */
#include "encoder_worker/sandbox/serve.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char help[] =
    "unimoe-decoder " UM_VERSION ": decodes media files for unimoe-encoder, which starts it.\n"
    "It speaks over a socket that it is given as standard input and takes no options.\n";

int main(int argc, char **argv)
{
    struct stat st;
    um_err err = {0};
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        printf("unimoe-decoder " UM_VERSION "\n");
        return 0;
    }
    if (argc > 1 || fstat(STDIN_FILENO, &st) != 0 || !S_ISSOCK(st.st_mode)) {
        bool asked = argc > 1 && strcmp(argv[1], "--help") == 0;
        fputs(help, asked ? stdout : stderr);
        return asked ? 0 : 2;
    }
    /* no exit handlers: those of libraries may want what the sandbox forbids */
    _exit(um_decode_serve(STDIN_FILENO, &err) == UM_OK ? 0 : 1);
}

#ifdef UM_SANITIZED
/* The environment is empty here, so the sanitizers are told by these. Leaks are not looked for: that takes another process. A
 * failed allocation is NULL, as outside sanitizers; freed memory is not kept long, for it counts. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16:abort_on_error=1";
}
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "allocator_may_return_null=1:abort_on_error=1"; }
#endif

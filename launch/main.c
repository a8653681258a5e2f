/* The unimoe command: chooses the command by its first word and hands it the options. */
#include "core/base/log.h"
#include "core/base/nearest.h"
#include "core/base/text.h"
#include "launch/assemble/assemble.h"
#include "launch/command.h"
#include "launch/convert/convert.h"
#include "launch/model_dir/init.h"
#include "launch/model_dir/inspect.h"
#include "launch/plot/plot.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static um_status inspect(const um_config *cfg, um_err *err)
{
    if (cfg->model[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE, "the model directory is missing: unimoe inspect DIR");
    return um_inspect_run(cfg, stdout, err);
}

static um_status doctor(const um_config *cfg, um_err *err) { return um_doctor(cfg, stdout, err); }
static um_status convert(const um_config *cfg, um_err *err)
{
    return um_convert_run(cfg, stdout, err);
}
static um_status assemble(const um_config *cfg, um_err *err)
{
    return um_assemble_run(cfg, stdout, err);
}
static um_status init(const um_config *cfg, um_err *err) { return um_init_run(cfg, stdout, err); }

static const struct {
    const char *name;
    um_program who; /* 0: takes no options */
    um_status (*run)(const um_config *cfg, um_err *err);
    const char *purpose;
    void (*more)(FILE *out); /* behind --help, or NULL */
} commands[] = {
    {"generate", UM_PROG_GENERATE, um_generate,
     "answer a question about text and images, or a file of requests", NULL},
    {"trace", UM_PROG_TRACE, um_trace, "write every tensor on the way of one request to a file",
     NULL},
    {"train", UM_PROG_TRAIN, um_train, "train a model, or some of its tensors, on conversations",
     NULL},
    {"eval", UM_PROG_EVAL, um_eval, "ask models the questions of tasks and score their answers",
     NULL},
    {"inspect", UM_PROG_INSPECT, inspect,
     "show what a model directory holds and what is wrong with it", NULL},
    {"doctor", UM_PROG_DOCTOR, doctor,
     "check this machine and its MPI, with a remedy for every fault", NULL},
    {"plot", UM_PROG_PLOT, um_plot,
     "draw which experts the tokens of each modality go to, or the log of a training", NULL},
    {"init", UM_PROG_INIT, init, "make a model directory with random weights", um_init_presets},
    {"convert", UM_PROG_CONVERT, convert,
     "make a model directory from released checkpoints, or write one for other programs", NULL},
    {"assemble", UM_PROG_ASSEMBLE, assemble,
     "make a mixture of experts of a dense model and of experts trained apart", NULL},
    {"options", 0, NULL, "print every option as Markdown (docs/OPTIONS.md)", NULL},
    {"help", 0, NULL, "this text", NULL},
};
enum { COMMANDS = (int)(sizeof commands / sizeof commands[0]) };

static void print_help(FILE *to)
{
    fprintf(
        to,
        "usage: unimoe COMMAND [OPTION]...\n"
        "Multimodal mixture-of-experts models on MPI ranks: routers, experts and encoders.\n\n");
    for (int i = 0; i < COMMANDS; i++)
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].purpose);
    fprintf(
        to,
        "\nunimoe help COMMAND, or unimoe COMMAND --help, explains the command and its flags.\n");
}

static int unknown_command(const char *word)
{
    const char *names[COMMANDS];
    for (int i = 0; i < COMMANDS; i++) names[i] = commands[i].name;
    const char *near = um_nearest(word, names, COMMANDS);
    fprintf(stderr, "unimoe: unknown command %s", word);
    if (near != NULL)
        fprintf(stderr, ", did you mean %s?\n", near);
    else
        fprintf(stderr, "; unimoe help lists them all\n");
    return um_exit_code(UM_E_USAGE);
}

/* argv[0] is the command's name. */
static int run_command(int command, int argc, char **argv)
{
    um_err err = {0};
    um_config cfg;
    um_arena options;
    const char *help = NULL;
    um_arena_init(&options, "options", 1 << 14);
    um_status st = um_config_load(&cfg, commands[command].who, argc, argv, &options, &help, &err);
    if (st == UM_OK && help != NULL) {
        fputs(help, stdout);
        if (commands[command].more != NULL && um_starts_with(help, "usage:"))
            commands[command].more(stdout);
    } else if (st == UM_OK && cfg.print_config)
        um_config_print(&cfg, commands[command].who, stdout);
    else if (st == UM_OK)
        st = commands[command].run(&cfg, &err);
    if (st != UM_OK) fflush(stdout); /* so that the message comes last when both go to one place */
    int sig = st == UM_E_STOPPED ? err.signal : 0;
    if (st != UM_OK && sig != SIGPIPE) fprintf(stderr, "unimoe: %s\n", err.msg);
    um_arena_free(&options);
    return sig > 0 ? 128 + sig : um_exit_code(st);
}

/* argv[0] is the command's name. */
static int choose_command(int argc, char **argv)
{
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(argv[0], commands[i].name) != 0) continue;
        if (commands[i].run != NULL) return run_command(i, argc, argv);
        print_help(stdout); /* of help and options, which take no flags */
        return 0;
    }
    return unknown_command(argv[0]);
}

static int choose(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    char help_flag[] = "--help";
    if (argc < 2) {
        print_help(stderr);
        return um_exit_code(UM_E_USAGE);
    }
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        printf("unimoe %s\n", UM_VERSION);
        return 0;
    }
    if (strcmp(word, "help") == 0 && argc > 2) { /* unimoe help generate */
        char *args[] = {argv[2], help_flag};
        return choose_command(2, args);
    }
    if (strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        print_help(stdout);
        return 0;
    }
    if (strcmp(word, "options") == 0) {
        um_config_markdown(stdout);
        return 0;
    }
    return choose_command(argc - 1, argv + 1);
}

enum { OUTPUT_BUFFER = 1 << 18 };

/* A descriptor that was closed when we were started (unimoe ... >&-) would be given to the next file that is opened, and that file
 * would receive the output. What replaces it refuses writes, so that they are noticed. */
static void open_standard(void)
{
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 2 ? O_WRONLY : O_RDONLY) != fd)
            _exit(um_exit_code(UM_E_IO));
}

/* Output that cannot be written is an error of every command. Returns the exit code. */
static int close_output(int code)
{
    struct stat sb;
    errno = 0;
    bool lost = fflush(stdout) != 0 || ferror(stdout);
    if (!lost && fstat(STDOUT_FILENO, &sb) == 0 && S_ISREG(sb.st_mode))
        lost = fsync(STDOUT_FILENO) != 0 && errno != EINVAL && errno != EROFS;
    int why = errno;
    if (!lost || code != 0) return code;
    if (why == EPIPE)
        return 128 + SIGPIPE; /* its reader has seen enough: as any program that SIGPIPE ends */
    fprintf(stderr, "unimoe: standard output: %s\n",
            why == EBADF ? "it is closed" : strerror(why != 0 ? why : EIO));
    return um_exit_code(UM_E_IO);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN); /* write() reports a pipe without a reader */
    open_standard();
    if (!isatty(STDOUT_FILENO))
        setvbuf(stdout, um_zalloc(OUTPUT_BUFFER), _IOFBF,
                OUTPUT_BUFFER); /* close_output() sees why a write failed */
    return close_output(choose(argc, argv));
}

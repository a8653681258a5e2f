/* Whole jobs as threads of one process that is killed with -9 at random moments and goes on, on other numbers of ranks: the last checkpoint
 * has the bits of the unbroken run. test_train_kills N kills N times instead of a few. */
#include "tests/cluster/train/training_fixture.h"
#include "tests/support/fixture.h"

#include "core/base/file.h"
#include "core/base/clock.h"
#include "core/base/rng.h"
#include "core/base/text.h"
#include "core/train/saved.h"

#include <dirent.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static int kills = 6;
static um_err why;

static void more_steps(um_config *cfg)
{
    cfg->steps = 12;
    cfg->keep = 2;
    cfg->clip = 1;
}

/* A run in a process of its own: this one must stay without threads, so that it can fork. */
static pid_t begin(const char *out, const char *resume, const int ranks[3])
{
    fflush(NULL);
    const pid_t child = fork();
    if (child != 0) return child;
    training_run j = {.routers = ranks[0],
                      .experts = ranks[1],
                      .encoders = ranks[2],
                      .out = out,
                      .resume = resume,
                      .save_every = 1,
                      .options = more_steps};
    training_go(&j);
    _exit(j.st == UM_OK ? 0 : 1);
}

static bool ended(pid_t child, bool wait)
{
    int status = 0;
    const pid_t got = waitpid(child, &status, wait ? 0 : WNOHANG);
    if (got == 0) return false;
    assert_int_equal(got, child);
    if (WIFSIGNALED(status)) return true;
    assert_int_equal(WEXITSTATUS(status), 0);
    return true;
}

static bool saving(void)
{
    bool found = false;
    DIR *d = opendir(um_path_join(&arena, dir, "run"));
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;)
        found = found || um_starts_with(e->d_name, ".tmp-checkpoint-");
    if (d != NULL) closedir(d);
    return found;
}

/* Waits for a random moment, in every second life for one in a save, and kills. False: the run came to its end first. */
static bool killed(pid_t child, um_rng *rng, bool in_a_save, int64_t usual_ns, int *in_saves)
{
    const int64_t from = um_now_ns(),
                  at = from + (int64_t)um_rng_below(rng, 1000) * usual_ns / 1000;
    while (um_now_ns() < at || (in_a_save && !saving())) {
        if (ended(child, false)) return false;
        um_sleep_us(in_a_save ? 100 : 2000);
    }
    if (in_a_save) um_sleep_us((int)um_rng_below(rng, 3000));
    if (ended(child, false)) return false;
    *in_saves += saving();
    kill(child, SIGKILL);
    ended(child, true);
    return true;
}

static void killed_at_random_moments(void **state)
{
    static const int ranks[][3] = {{1, 1, 1}, {2, 3, 1}, {1, 4, 2},
                                   {3, 2, 1}, {4, 1, 2}, {2, 2, 3}};
    um_rng rng = um_rng_seed(7, 1);
    int done = 0, in_saves = 0;
    (void)state;
    const int64_t from = um_now_ns();
    ended(begin("whole", NULL, ranks[0]), true);
    const int64_t usual = um_now_ns() - from;
    for (int life = 0; done < kills; life++) {
        const char *newest = NULL, *out = um_path_join(&arena, dir, "run");
        if (um_saved_newest(&newest, out, &arena, &why) != UM_OK) fail_msg("%s", why.msg);
        const pid_t child = begin("run", newest, ranks[um_rng_below(&rng, 6)]);
        if (killed(child, &rng, life % 2 == 0, usual, &in_saves)) {
            done++;
            continue;
        }
        /* it is through; the next one is a new run */
        training_same(um_arena_fmt(&arena, "%s/whole/checkpoint-12", dir),
                      um_arena_fmt(&arena, "%s/run/checkpoint-12", dir));
        um_saved_set_aside(out, 0);
    }
    const char *newest = NULL;
    if (um_saved_newest(&newest, um_path_join(&arena, dir, "run"), &arena, &why) != UM_OK)
        fail_msg("%s", why.msg);
    ended(begin("run", newest, ranks[1]), true);
    training_same(um_arena_fmt(&arena, "%s/whole/checkpoint-12", dir),
                  um_arena_fmt(&arena, "%s/run/checkpoint-12", dir));
    print_message("%d kills, %d while a checkpoint was being written\n", done, in_saves);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(killed_at_random_moments, folder_setup, folder_teardown),
    };
    if (argc > 1) kills = (int)strtol(argv[1], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

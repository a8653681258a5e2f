/* Requests as they come: items handed over between two threads, an idle input that nobody looks at, a writer that is held up, and an end
 * at any time. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/arena.h"
#include "core/base/clock.h"
#include "router/request/input.h"
#include "router/request/request.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What um_comm_wake is to a rank: the test waits here. */
typedef struct bell {
    pthread_mutex_t lock;
    pthread_cond_t rung;
    int rings, seen;
} bell;

static bell *bell_open(void)
{
    bell *b = um_zalloc(sizeof *b);
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->rung, NULL);
    return b;
}

static void bell_close(bell *b)
{
    pthread_cond_destroy(&b->rung);
    pthread_mutex_destroy(&b->lock);
    um_free(b);
}

static void ring(void *ctx)
{
    bell *b = ctx;
    pthread_mutex_lock(&b->lock);
    b->rings++;
    pthread_cond_signal(&b->rung);
    pthread_mutex_unlock(&b->lock);
}

static void wait_for_ring(bell *b)
{
    pthread_mutex_lock(&b->lock);
    while (b->rings == b->seen) pthread_cond_wait(&b->rung, &b->lock);
    b->seen = b->rings;
    pthread_mutex_unlock(&b->lock);
}

/* The next item; waits for it as a rank does. NULL at the end. */
static um_input_item *take(um_input *in, bell *b)
{
    um_input_item *i = NULL;
    um_err err = {0};
    for (;;) {
        assert_int_equal(um_input_next(in, &i, &err), UM_OK);
        if (i != NULL || um_input_ended(in)) return i;
        wait_for_ring(b);
    }
}

static void says_item(um_input *in, bell *b, const char *text, uint64_t number)
{
    um_input_item *i = take(in, b);
    assert_non_null(i);
    assert_string_equal(i->item.text, text);
    assert_int_equal(i->item.n, strlen(text));
    assert_int_equal(i->item.number, number);
    um_input_item_free(i);
}

static um_input *open_input(const char *path, bell *b)
{
    um_input *in = NULL;
    um_err err = {0};
    assert_int_equal(um_input_open(&in, path, ring, b, &err), UM_OK);
    return in;
}

static um_input *open_pipe(int *to, bell *b)
{
    int fd[2];
    char path[64];
    assert_int_equal(pipe(fd), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd[0]);
    um_input *in = open_input(path, b);
    close(fd[0]);
    *to = fd[1];
    return in;
}

static void send_text(int fd, const char *text)
{
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static void a_file_is_read_to_its_end(void **state)
{
    (void)state;
    bell *b = bell_open();
    folder_text(dir, "lines", "{\"a\":1}\n\n{\"b\":2}\nlast");
    um_input *in = open_input(um_arena_fmt(&arena, "%s/lines", dir), b);
    says_item(in, b, "{\"a\":1}", 1);
    says_item(in, b, "{\"b\":2}", 3);
    says_item(in, b, "last", 4);
    assert_null(take(in, b));
    assert_true(um_input_ended(in));
    um_input_close(in);
    folder_text(dir, "array", "[{\"a\":1}, {\"b\":2}]");
    in = open_input(um_arena_fmt(&arena, "%s/array", dir), b);
    says_item(in, b, "{\"a\":1}", 1);
    says_item(in, b, "{\"b\":2}", 2);
    assert_null(take(in, b));
    um_input_close(in);
    bell_close(b);
}

static void what_cannot_be_read_is_named(void **state)
{
    (void)state;
    um_err err = {0};
    um_input *in = NULL;
    bell *b = bell_open();
    assert_int_equal(um_input_open(&in, um_arena_fmt(&arena, "%s/missing", dir), ring, b, &err),
                     UM_E_DATA);
    has(&err, "missing: No such file");
    in = open_input(dir, b); /* a folder opens, and cannot be read */
    um_input_item *i = NULL;
    um_status st;
    while ((st = um_input_next(in, &i, &err)) == UM_OK) wait_for_ring(b);
    assert_int_equal(st, UM_E_DATA);
    has(&err, "requests: ");
    um_input_close(in);
    bell_close(b);
}

/* While nothing comes nobody looks; what comes is taken after one ring. */
static void an_idle_input_costs_nothing(void **state)
{
    (void)state;
    int to;
    bell *b = bell_open();
    um_input *in = open_pipe(&to, b);
    for (int i = 1; i <= 20; i++) {
        char line[32];
        snprintf(line, sizeof line, "{\"id\":%d}", i);
        um_sleep_us(2000);
        send_text(to, um_arena_fmt(&arena, "%s\n", line));
        says_item(in, b, line, (uint64_t)i);
    }
    send_text(to, "{\"in\":"); /* a line in two pieces is one item */
    send_text(to, "\"two\"}\n");
    says_item(in, b, "{\"in\":\"two\"}", 21);
    close(to);
    assert_null(take(in, b));
    assert_true(um_input_looks(in) <= 20 + 2 + 1); /* one for each write, and the end */
    um_input_close(in);
    assert_true(b->rings <= 21 + 1);
    bell_close(b);
}

enum { LINES = 3000, LINE_BYTES = 4096 };

static void *write_lines(void *arg)
{
    int fd = *(int *)arg;
    char line[LINE_BYTES];
    for (int i = 0; i < LINES; i++) {
        int n = snprintf(line, sizeof line, "{\"id\":%d}", i);
        memset(line + n, ' ', sizeof line - (size_t)n);
        line[sizeof line - 1] = '\n';
        for (size_t at = 0; at < sizeof line;) {
            ssize_t got = write(fd, line + at, sizeof line - at);
            if (got <= 0) return NULL;
            at += (size_t)got;
        }
    }
    close(fd);
    return NULL;
}

/* Nothing is lost however slowly they are taken, and no more is read ahead than the bound: the pipe's and the input's. */
static void a_writer_is_held_up(void **state)
{
    (void)state;
    int to;
    pthread_t thread;
    bell *b = bell_open();
    um_input *in = open_pipe(&to, b);
    pthread_create(&thread, NULL, write_lines, &to);
    for (int i = 0; i < LINES; i++) {
        um_input_item *item = take(in, b);
        assert_non_null(item);
        assert_int_equal(item->item.number, i + 1);
        um_input_item_free(item);
        if (i == 0) {
            int before = -1;
            while (before != um_input_looks(in)) { /* it reads until it is full, and then no more */
                before = um_input_looks(in);
                um_sleep_us(100000);
            }
            assert_true(before <= (256 << 10) / 4096 + 20); /* a read brings one line at least */
        }
    }
    assert_null(take(in, b));
    pthread_join(thread, NULL);
    um_input_close(in);
    bell_close(b);
}

/* While it waits for bytes, while it waits for room, with items that nobody took. */
static void it_ends_wherever_it_waits(void **state)
{
    (void)state;
    for (int full = 0; full < 3; full++) {
        int to;
        bell *b = bell_open();
        um_input *in = open_pipe(&to, b);
        for (int i = 0; i < (full == 2 ? 200 : full); i++) {
            char line[LINE_BYTES];
            memset(line, 'x', sizeof line);
            line[sizeof line - 1] = '\n';
            assert_int_equal(write(to, line, sizeof line), (ssize_t)sizeof line);
        }
        if (full > 0) wait_for_ring(b);
        um_input_close(in);
        close(to);
        bell_close(b);
    }
    um_input_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_read_to_its_end),
        cmocka_unit_test(what_cannot_be_read_is_named),
        cmocka_unit_test(an_idle_input_costs_nothing),
        cmocka_unit_test(a_writer_is_held_up),
        cmocka_unit_test(it_ends_wherever_it_waits),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}

/* Takes the place of unimoe-decoder for its rank's tests. It greets well, and then does what the first byte of a file says:
 *   a good frame   b bad magic   c of another request   d more pixels than allowed   e bytes that do not fit the sides
 *   f two frames   g samples that were not asked for    h more samples than allowed   i ends   j aborts   k closes, lives on
 *   l says nothing   m a text with control characters   n success without a result   o half a block
 *   p an error after a frame   q SIGSYS   r this was its last answer   s a text that is longer than allowed */
#include "encoder_worker/decode/decode_wire.h"

#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint32_t number;

static void put(const void *data, size_t n)
{
    if (n > 0 && write(STDIN_FILENO, data, n) != (ssize_t)n) _exit(9);
}

static void tell(um_decode_response t, const void *data, size_t n)
{
    uint8_t head[UM_RESPONSE_BYTES];
    t.number = t.number == 0 ? number : t.number;
    um_decode_response_put(head, &t);
    put(head, sizeof head);
    put(data, n);
}

static void end(um_status st, const char *text, bool last)
{
    tell(
        (um_decode_response){
            .kind = UM_RESPONSE_END, .status = st, .last = last, .bytes = strlen(text)},
        text, strlen(text));
}

static void frame(uint32_t w, uint32_t h, uint64_t bytes)
{
    tell((um_decode_response){.kind = UM_RESPONSE_FRAME, .w = w, .h = h, .bytes = bytes}, "rgb", 3);
}

static void samples(uint64_t n)
{
    float f = 0.5f;
    tell((um_decode_response){.kind = UM_RESPONSE_SAMPLES, .bytes = n * 4}, &f, 4);
}

static void misbehave(char how)
{
    static const char garbage[UM_RESPONSE_BYTES] = "not a block of the decoder's";
    switch (how) {
    case 'a':
        frame(1, 1, 3);
        break;
    case 'b':
        put(garbage, sizeof garbage);
        break;
    case 'c':
        number += 7;
        frame(1, 1, 3);
        break;
    case 'd':
        frame(60000, 60000, (uint64_t)3600000000 * 3);
        break;
    case 'e':
        frame(1, 1, 12);
        break;
    case 'f':
        frame(1, 1, 3);
        frame(1, 1, 3);
        break;
    case 'g':
        samples(1);
        break;
    case 'h':
        samples((uint64_t)1 << 40);
        break;
    case 'i':
        _exit(7);
    case 'j':
        abort();
    case 'k':
        close(STDIN_FILENO);
        pause();
        break;
    case 'l':
        pause();
        break;
    case 'm':
        end(UM_E_DATA, "red \x1b[31m and\nnew line \xff", false);
        return;
    case 'o':
        put(garbage, 5);
        pause();
        break;
    case 'p':
        frame(1, 1, 3);
        end(UM_E_DATA, "broken in the middle", false);
        return;
    case 'q':
        raise(SIGSYS);
        break;
    case 'r':
        frame(1, 1, 3);
        end(UM_OK, "", true);
        _exit(0);
    case 's':
        tell((um_decode_response){.kind = UM_RESPONSE_END, .status = UM_E_DATA, .bytes = 1 << 20},
             "x", 1);
        return;
    default:
        break;
    }
    end(UM_OK, "", false);
}

int main(void)
{
    uint8_t head[UM_REQUEST_BYTES];
    char file[256];
    um_decode_request a;
    while (read(STDIN_FILENO, head, sizeof head) == sizeof head &&
           um_decode_request_get(&a, head, NULL) == UM_OK) {
        number = a.number;
        if (a.kind == UM_REQUEST_HELLO) {
            end(UM_OK, "", false);
            continue;
        }
        if (a.bytes > sizeof file || read(STDIN_FILENO, file, a.bytes) != (ssize_t)a.bytes)
            return 9;
        misbehave(file[0]);
    }
    return 0;
}

/* Control messages: {message type, packed bytes}. What unpacks must pack into its size, and unpack from there to the same bytes; a
 * refusal leaves the arena as it was. */
#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "proto/control.h"
#include "tests/fuzz/fuzz.h"

static const ProtobufCMessageDescriptor *const types[] = {
    &um__hello__descriptor,          &um__job_config__descriptor,    &um__ready__descriptor,
    &um__encode_request__descriptor, &um__encode_result__descriptor, &um__request__descriptor,
    &um__result__descriptor,         &um__stats__descriptor,         &um__shutdown__descriptor,
    &um__error__descriptor,          &um__routing__descriptor,
};

static void pack_again(const ProtobufCMessage *m, um_arena *arena)
{
    size_t n = um_control_size(m);
    uint8_t *first = um_zalloc(n), *second = um_zalloc(n);
    size_t used = um_control_pack(m, first);
    UM_ASSERT(used == n);
    ProtobufCMessage *copy = NULL;
    um_status st = um_control_unpack(&copy, m->descriptor, first, used, arena, NULL);
    UM_ASSERT(st == UM_OK && um_control_size(copy) == n);
    if (st == UM_OK) um_control_pack(copy, second);
    UM_ASSERT(n == 0 || memcmp(first, second, n) == 0);
    um_free(first);
    um_free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    um_arena arena;
    um_arena_init(&arena, "fuzz", 4096);
    ProtobufCMessage *m = NULL;
    um_err err = {0};
    const ProtobufCMessageDescriptor *type = types[data[0] % (sizeof types / sizeof types[0])];
    if (um_control_unpack(&m, type, data + 1, size - 1, &arena, &err) == UM_OK)
        pack_again(m, &arena);
    else
        UM_ASSERT(err.msg[0] != '\0' && m == NULL && arena.used == 0);
    um_arena_free(&arena);
    return 0;
}

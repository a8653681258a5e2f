/* See control.h. */
#include "proto/control.h"

/* A message's structs may use more memory than its packed bytes: this many bytes in addition to a small multiple of them. Two million
 * bytes of empty sub-messages reach the limit; messages of a real job stay far below it. */
#define SLACK ((size_t)64 << 20)

typedef struct budget {
    um_arena *arena;
    size_t left;
} budget;

static void *budget_alloc(void *data, size_t bytes)
{
    budget *b = data;
    enum { ROUNDING = 64 }; /* the arena's alignment */
    if (b->left < ROUNDING || bytes > b->left - ROUNDING) return NULL;
    b->left -= bytes + ROUNDING;
    return um_arena_alloc(b->arena, bytes);
}
static void budget_free(void *data, void *p)
{
    (void)data;
    (void)p;
}

static const void *field_at(const ProtobufCMessage *m, unsigned offset)
{
    return (const char *)m + offset;
}

/* A defect that the library accepts but a receiver must not see: an enum field whose number has no name, or (field NULL) a field with
 * number 0, which protobuf forbids. */
typedef struct fault {
    const char *field;
    int value;
} fault;

static bool find_fault(fault *out, const ProtobufCMessage *m);

static bool field_fault(fault *out, const ProtobufCFieldDescriptor *f, const ProtobufCMessage *m)
{
    const void *count = field_at(m, f->quantifier_offset), *at = field_at(m, f->offset);
    if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) && *(const uint32_t *)count != f->id) return false;
    bool many = f->label == PROTOBUF_C_LABEL_REPEATED;
    size_t n = many ? *(const size_t *)count : 1;
    if (many) at = *(const void *const *)at;
    for (size_t k = 0; k < n; k++) {
        if (f->type == PROTOBUF_C_TYPE_ENUM) {
            int value = ((const int *)at)[k];
            *out = (fault){f->name, value};
            if (protobuf_c_enum_descriptor_get_value(f->descriptor, value) == NULL) return true;
        } else if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
            const ProtobufCMessage *sub = ((const ProtobufCMessage *const *)at)[k];
            if (sub != NULL && find_fault(out, sub)) return true;
        }
    }
    return false;
}

static bool find_fault(fault *out, const ProtobufCMessage *m)
{
    for (unsigned i = 0; i < m->n_unknown_fields; i++) {
        *out = (fault){0};
        if (m->unknown_fields[i].tag == 0) return true;
    }
    for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
        if (field_fault(out, &m->descriptor->fields[i], m)) return true;
    }
    return false;
}

um_status um_control_unpack(ProtobufCMessage **out, const ProtobufCMessageDescriptor *type,
                            const uint8_t *buf, size_t n, um_arena *arena, um_err *err)
{
    if (n > UM_CONTROL_MAX)
        return UM_FAIL(err, UM_E_CORRUPT, "message %s: %zu bytes, at most %zu", type->name, n,
                       UM_CONTROL_MAX);
    um_mark mark = um_arena_mark(arena);
    budget b = {arena, SLACK + 4 * n};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &b};
    ProtobufCMessage *m = protobuf_c_message_unpack(type, &allocator, n, buf);
    if (m == NULL) {
        um_arena_reset(arena, mark);
        return UM_FAIL(err, UM_E_CORRUPT, "message %s: its %zu bytes do not decode", type->name, n);
    }
    fault bad = {0};
    if (find_fault(&bad, m)) {
        um_arena_reset(arena, mark);
        if (bad.field == NULL)
            return UM_FAIL(err, UM_E_CORRUPT, "message %s: a field has the number 0", type->name);
        return UM_FAIL(err, UM_E_CORRUPT, "message %s: field %s holds %d, which has no name",
                       type->name, bad.field, bad.value);
    }
    *out = m;
    return UM_OK;
}

size_t um_control_size(const ProtobufCMessage *m) { return protobuf_c_message_get_packed_size(m); }

size_t um_control_pack(const ProtobufCMessage *m, uint8_t *buf)
{
    return protobuf_c_message_pack(m, buf);
}

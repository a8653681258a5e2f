/* See pickle.h. Sources: CPython's Lib/pickletools.py documents the opcodes; torch/_utils.py and torch/serialization.py define the
 * functions and the persistent ids. */
#include "launch/torch/pickle.h"

#include "core/base/bytes.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    SIZE_MAX_PICKLE = 1 << 26, /* bytes: enough names for some hundred thousand tensors */
    VALUES_MAX = 1 << 21,
    STACK_MAX = 1 << 21,
    MARKS_MAX = 1000,
    MEMO_MAX = 1 << 21,
};

typedef enum role { ROLE_ORDERED_DICT, ROLE_TENSOR, ROLE_PARAMETER, ROLE_SIZE, ROLE_STORAGE } role;

/* Everything that a pickle may name. */
static const struct {
    const char *name;
    role role;
    um_dtype dtype; /* of a storage */
} globals[] = {
    {"collections OrderedDict", ROLE_ORDERED_DICT, UM_F32},
    {"torch._utils _rebuild_tensor_v2", ROLE_TENSOR, UM_F32},
    {"torch._utils _rebuild_parameter", ROLE_PARAMETER, UM_F32},
    {"torch Size", ROLE_SIZE, UM_F32},
    {"torch FloatStorage", ROLE_STORAGE, UM_F32},
    {"torch HalfStorage", ROLE_STORAGE, UM_F16},
    {"torch BFloat16Storage", ROLE_STORAGE, UM_BF16},
    {"torch DoubleStorage", ROLE_STORAGE, UM_F64},
    {"torch LongStorage", ROLE_STORAGE, UM_I64},
    {"torch IntStorage", ROLE_STORAGE, UM_I32},
    {"torch ShortStorage", ROLE_STORAGE, UM_I16},
    {"torch CharStorage", ROLE_STORAGE, UM_I8},
    {"torch ByteStorage", ROLE_STORAGE, UM_U8},
    {"torch BoolStorage", ROLE_STORAGE, UM_BOOL},
};

typedef struct machine {
    const uint8_t *p, *end;
    um_arena *arena;
    um_err *err;
    um_value **stack, **memo; /* memo: NULL where nothing was stored */
    size_t depth, stack_cap, memo_n, memo_cap, values;
    size_t mark[MARKS_MAX]; /* depth of the stack at each mark */
    size_t marks;
    bool done;
} machine;

static um_status damaged(machine *m, const char *what)
{
    return UM_FAIL(m->err, UM_E_CORRUPT, "the pickle is damaged: %s", what);
}

/* --- stack, memo, values --- */

static um_status make(machine *m, um_value **out, um_value_kind kind)
{
    if (m->values++ == VALUES_MAX)
        return UM_FAIL(m->err, UM_E_LIMIT, "the pickle has more than %d values", VALUES_MAX);
    *out = um_arena_zero(m->arena, sizeof **out);
    (*out)->kind = kind;
    return UM_OK;
}

static um_status push(machine *m, um_value *v)
{
    if (m->depth == STACK_MAX)
        return UM_FAIL(m->err, UM_E_LIMIT, "the pickle's stack is deeper than %d", STACK_MAX);
    if (m->depth == m->stack_cap) {
        m->stack_cap = m->stack_cap == 0 ? 256 : m->stack_cap * 2;
        m->stack = um_realloc(m->stack, m->stack_cap * sizeof *m->stack);
    }
    m->stack[m->depth++] = v;
    return UM_OK;
}

static um_status push_new(machine *m, um_value v)
{
    um_value *made = NULL;
    UM_TRY(make(m, &made, v.kind));
    *made = v;
    return push(m, made);
}

/* What lies above the last mark belongs to it: nothing below may be popped. */
static size_t floor_of(const machine *m) { return m->marks > 0 ? m->mark[m->marks - 1] : 0; }

static um_status pop(machine *m, um_value **out)
{
    if (m->depth <= floor_of(m)) return damaged(m, "it takes from an empty stack");
    *out = m->stack[--m->depth];
    return UM_OK;
}

static um_status top(machine *m, um_value **out)
{
    if (m->depth <= floor_of(m)) return damaged(m, "it looks at an empty stack");
    *out = m->stack[m->depth - 1];
    return UM_OK;
}

static um_status unmark(machine *m, size_t *from)
{
    if (m->marks == 0) return damaged(m, "a mark is missing");
    *from = m->mark[--m->marks];
    return UM_OK;
}

static um_status memo_put(machine *m, size_t i)
{
    um_value *v = NULL;
    UM_TRY(top(m, &v));
    if (i >= MEMO_MAX) return UM_FAIL(m->err, UM_E_LIMIT, "the pickle's memo is too large");
    if (i >= m->memo_cap) {
        size_t cap = m->memo_cap == 0 ? 256 : m->memo_cap;
        while (cap <= i) cap *= 2;
        m->memo = um_realloc(m->memo, cap * sizeof *m->memo);
        memset(m->memo + m->memo_cap, 0, (cap - m->memo_cap) * sizeof *m->memo);
        m->memo_cap = cap;
    }
    m->memo[i] = v;
    if (i >= m->memo_n) m->memo_n = i + 1;
    return UM_OK;
}

static um_status memo_get(machine *m, size_t i)
{
    if (i >= m->memo_n || m->memo[i] == NULL) return damaged(m, "it uses an unknown memo");
    return push(m, m->memo[i]);
}

static void grow(machine *m, um_value *v, size_t items)
{
    if (items <= v->cap) return;
    size_t cap = v->cap == 0 ? 8 : v->cap * 2;
    while (cap < items) cap *= 2;
    um_value **item = um_arena_alloc(m->arena, cap * sizeof *item);
    if (v->n > 0) memcpy(item, v->item, v->n * (v->kind == UM_VALUE_DICT ? 2 : 1) * sizeof *item);
    v->item = item;
    v->cap = cap;
}

/* --- reading arguments --- */

static um_status take(machine *m, const uint8_t **out, uint64_t n)
{
    if (n > (size_t)(m->end - m->p)) return damaged(m, "it ends in the middle");
    *out = m->p;
    m->p += n;
    return UM_OK;
}

/* A little-endian unsigned number of 1, 2, 4 or 8 bytes. */
static um_status take_uint(machine *m, uint64_t *out, int bytes)
{
    const uint8_t *p = NULL;
    UM_TRY(take(m, &p, (uint64_t)bytes));
    *out = 0;
    for (int i = 0; i < bytes; i++) *out |= (uint64_t)p[i] << (8 * i);
    return UM_OK;
}

/* Pushes a text that is preceded by its length. */
static um_status push_text(machine *m, int length_bytes)
{
    uint64_t n = 0;
    const uint8_t *p = NULL;
    UM_TRY(take_uint(m, &n, length_bytes));
    UM_TRY(take(m, &p, n));
    if (memchr(p, 0, (size_t)n) != NULL) return damaged(m, "a text has a 0 byte");
    return push_new(m, (um_value){.kind = UM_VALUE_TEXT,
                                  .text = um_arena_strn(m->arena, (const char *)p, (size_t)n)});
}

static um_status push_int(machine *m, int bytes)
{
    uint64_t v = 0;
    UM_TRY(take_uint(m, &v, bytes));
    int64_t n = bytes == 4 ? (int64_t)(int32_t)(uint32_t)v : (int64_t)v;
    return push_new(m, (um_value){.kind = UM_VALUE_INT, .number = n});
}

/* LONG1: a two's complement number of up to 8 bytes; torch does not write longer ones. */
static um_status push_long(machine *m)
{
    uint64_t n = 0, v = 0;
    UM_TRY(take_uint(m, &n, 1));
    if (n > 8) return UM_FAIL(m->err, UM_E_LIMIT, "the pickle has a number of more than 64 bits");
    UM_TRY(take_uint(m, &v, (int)n));
    if (n > 0 && n < 8 && (v >> (8 * n - 1) & 1)) v |= UINT64_MAX << (8 * n);
    return push_new(m, (um_value){.kind = UM_VALUE_INT, .number = (int64_t)v});
}

/* BINFLOAT is big-endian. */
static um_status push_real(machine *m)
{
    const uint8_t *p = NULL;
    uint64_t bits = 0;
    double v;
    UM_TRY(take(m, &p, 8));
    for (int i = 0; i < 8; i++) bits = bits << 8 | p[i];
    memcpy(&v, &bits, 8);
    return push_new(m, (um_value){.kind = UM_VALUE_REAL, .real = v});
}

static um_status take_line(machine *m, char *out, size_t room)
{
    const uint8_t *from = m->p, *end = memchr(from, '\n', (size_t)(m->end - from));
    if (end == NULL || (size_t)(end - from) >= room || memchr(from, 0, (size_t)(end - from)))
        return damaged(m, "a name does not end");
    memcpy(out, from, (size_t)(end - from));
    out[end - from] = '\0';
    m->p = end + 1;
    return UM_OK;
}

/* --- globals and the values they build --- */

static um_status push_global(machine *m, const char *module, const char *name)
{
    char full[512];
    int n = snprintf(full, sizeof full, "%s %s", module, name);
    for (size_t i = 0; n < (int)sizeof full && i < sizeof globals / sizeof *globals; i++) {
        if (strcmp(full, globals[i].name) == 0)
            return push_new(
                m,
                (um_value){.kind = UM_VALUE_GLOBAL, .number = (int64_t)i, .text = globals[i].name});
    }
    return UM_FAIL(m->err, UM_E_DATA,
                   "the pickle wants to use %.200s.%.200s, which is not allowed: only tensors and "
                   "plain values are read, and nothing is ever run",
                   module, name);
}

static um_status op_global(machine *m)
{
    char module[256], name[256];
    UM_TRY(take_line(m, module, sizeof module));
    UM_TRY(take_line(m, name, sizeof name));
    return push_global(m, module, name);
}

static um_status op_stack_global(machine *m)
{
    um_value *module = NULL, *name = NULL;
    UM_TRY(pop(m, &name));
    UM_TRY(pop(m, &module));
    if (module->kind != UM_VALUE_TEXT || name->kind != UM_VALUE_TEXT)
        return damaged(m, "a global has no name");
    return push_global(m, module->text, name->text);
}

static bool is_list(const um_value *v, size_t least)
{
    return v->kind == UM_VALUE_LIST && v->n >= least;
}

static bool is_global(const um_value *v, role r)
{
    return v->kind == UM_VALUE_GLOBAL && globals[v->number].role == r;
}

/* ('storage', torch.FloatStorage, key, location, values) */
static um_status op_persistent(machine *m)
{
    um_value *id = NULL;
    UM_TRY(pop(m, &id));
    bool ok = is_list(id, 5) && id->item[0]->kind == UM_VALUE_TEXT &&
              strcmp(id->item[0]->text, "storage") == 0 && is_global(id->item[1], ROLE_STORAGE) &&
              id->item[2]->kind == UM_VALUE_TEXT && id->item[4]->kind == UM_VALUE_INT &&
              id->item[4]->number >= 0;
    if (!ok)
        return UM_FAIL(m->err, UM_E_DATA,
                       "the pickle refers to something outside it that is not a tensor's storage");
    return push_new(m, (um_value){.kind = UM_VALUE_STORAGE,
                                  .text = id->item[2]->text,
                                  .dtype = globals[id->item[1]->number].dtype,
                                  .number = id->item[4]->number});
}

static bool take_sizes(int64_t out[UM_PICKLE_DIMS], const um_value *list)
{
    for (size_t i = 0; i < list->n; i++) {
        if (list->item[i]->kind != UM_VALUE_INT || list->item[i]->number < 0) return false;
        out[i] = list->item[i]->number;
    }
    return true;
}

/* _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks); the tensor must lie inside the storage. */
static um_status tensor_made(machine *m, const um_value *args)
{
    um_value t = {.kind = UM_VALUE_TENSOR};
    bool ok = is_list(args, 4) && args->item[0]->kind == UM_VALUE_STORAGE &&
              args->item[1]->kind == UM_VALUE_INT && args->item[1]->number >= 0 &&
              is_list(args->item[2], 0) && is_list(args->item[3], 0) &&
              args->item[2]->n == args->item[3]->n;
    if (!ok) return damaged(m, "a tensor is not described as torch does");
    if (args->item[2]->n > UM_PICKLE_DIMS)
        return UM_FAIL(m->err, UM_E_LIMIT, "a tensor has more than %d dimensions", UM_PICKLE_DIMS);
    t.storage = args->item[0];
    t.number = args->item[1]->number;
    t.rank = (int)args->item[2]->n;
    if (!take_sizes(t.shape, args->item[2]) || !take_sizes(t.stride, args->item[3]))
        return damaged(m, "a tensor's shape or strides are not all non-negative integers");
    int64_t last = t.number, values = 1;
    bool empty = false;
    for (int i = 0; i < t.rank; i++) {
        int64_t step = 0, d = t.shape[i] > 0 ? t.shape[i] : 1;
        empty = empty || t.shape[i] == 0;
        ok = ok && !__builtin_mul_overflow(values, d, &values) &&
             !__builtin_mul_overflow(d - 1, t.stride[i], &step) &&
             !__builtin_add_overflow(last, step, &last);
    }
    if (!ok || values > INT64_MAX / 16 || (!empty && last >= t.storage->number))
        return UM_FAIL(m->err, UM_E_CORRUPT, "a tensor lies outside its storage %.64s",
                       t.storage->text);
    return push_new(m, t);
}

static um_status op_reduce(machine *m)
{
    um_value *args = NULL, *what = NULL;
    UM_TRY(pop(m, &args));
    UM_TRY(pop(m, &what));
    if (what->kind != UM_VALUE_GLOBAL || args->kind != UM_VALUE_LIST)
        return damaged(m, "it calls something that is not a function");
    switch (globals[what->number].role) {
    case ROLE_ORDERED_DICT:
        if (args->n > 0) return damaged(m, "an OrderedDict is made with arguments");
        return push_new(m, (um_value){.kind = UM_VALUE_DICT});
    case ROLE_TENSOR:
        return tensor_made(m, args);
    case ROLE_PARAMETER: /* (data, requires_grad, hooks): only the data is used */
        if (args->n < 1 || args->item[0]->kind != UM_VALUE_TENSOR)
            return damaged(m, "a parameter has no tensor");
        return push(m, args->item[0]);
    case ROLE_SIZE:
        if (args->n != 1 || args->item[0]->kind != UM_VALUE_LIST)
            return damaged(m, "a torch.Size has no sizes");
        return push(m, args->item[0]);
    case ROLE_STORAGE:
        break;
    }
    return UM_FAIL(m->err, UM_E_DATA, "the pickle calls %s, which is not allowed", what->text);
}

/* Skips the attributes of a state dict (_metadata: versions of modules); other objects may not have any. */
static um_status op_build(machine *m)
{
    um_value *state = NULL, *object = NULL;
    UM_TRY(pop(m, &state));
    UM_TRY(top(m, &object));
    return object->kind == UM_VALUE_DICT ? UM_OK : damaged(m, "it sets attributes of a value");
}

/* --- containers --- */

static um_status list_of(machine *m, size_t from, bool tuple)
{
    um_value *list = NULL;
    size_t n = m->depth - from;
    UM_TRY(make(m, &list, UM_VALUE_LIST));
    list->flag = tuple;
    grow(m, list, n);
    if (n > 0) memcpy(list->item, m->stack + from, n * sizeof *list->item);
    list->n = n;
    m->depth = from;
    return push(m, list);
}

static um_status op_tuple_of(machine *m, size_t n)
{
    if (m->depth - floor_of(m) < n) return damaged(m, "a tuple is too short");
    return list_of(m, m->depth - n, true);
}

static um_status op_tuple(machine *m, bool tuple)
{
    size_t from = 0;
    UM_TRY(unmark(m, &from));
    return list_of(m, from, tuple);
}

/* Appends the items from `from` up to the list below them. */
static um_status append_from(machine *m, size_t from)
{
    size_t n = m->depth - from;
    m->depth = from;
    um_value *list = NULL;
    UM_TRY(top(m, &list));
    if (list->kind != UM_VALUE_LIST || list->flag) return damaged(m, "it appends to no list");
    grow(m, list, list->n + n);
    if (n > 0) memcpy(list->item + list->n, m->stack + from, n * sizeof *list->item);
    list->n += n;
    return UM_OK;
}

/* Adds the pairs from `from` up to the dict below them. */
static um_status set_from(machine *m, size_t from)
{
    size_t n = m->depth - from;
    m->depth = from;
    um_value *dict = NULL;
    UM_TRY(top(m, &dict));
    if (dict->kind != UM_VALUE_DICT || n % 2 != 0) return damaged(m, "it sets items of no dict");
    grow(m, dict, 2 * dict->n + n);
    if (n > 0) memcpy(dict->item + 2 * dict->n, m->stack + from, n * sizeof *dict->item);
    dict->n += n / 2;
    return UM_OK;
}

static um_status op_marked(machine *m, um_status (*fn)(machine *m, size_t from))
{
    size_t from = 0;
    UM_TRY(unmark(m, &from));
    return fn(m, from);
}

static um_status op_last(machine *m, size_t n, um_status (*fn)(machine *m, size_t from))
{
    if (m->depth - floor_of(m) < n) return damaged(m, "items are missing");
    return fn(m, m->depth - n);
}

static um_status op_dict(machine *m)
{
    um_value *dict = NULL;
    size_t from = 0;
    UM_TRY(unmark(m, &from));
    size_t n = m->depth - from;
    if (n % 2 != 0) return damaged(m, "a dict has a key without a value");
    UM_TRY(make(m, &dict, UM_VALUE_DICT));
    grow(m, dict, n);
    if (n > 0) memcpy(dict->item, m->stack + from, n * sizeof *dict->item);
    dict->n = n / 2;
    m->depth = from;
    return push(m, dict);
}

static um_status op_mark(machine *m)
{
    if (m->marks == MARKS_MAX)
        return UM_FAIL(m->err, UM_E_LIMIT, "the pickle is nested deeper than %d", MARKS_MAX);
    m->mark[m->marks++] = m->depth;
    return UM_OK;
}

static um_status op_pop(machine *m)
{
    um_value *v = NULL;
    return pop(m, &v);
}

static um_status op_dup(machine *m)
{
    um_value *v = NULL;
    UM_TRY(top(m, &v));
    return push(m, v);
}

static um_status op_skip(machine *m, int bytes)
{
    const uint8_t *p = NULL;
    return take(m, &p, (uint64_t)bytes);
}

static um_status op_proto(machine *m)
{
    uint64_t version = 0;
    UM_TRY(take_uint(m, &version, 1));
    if (version >= 2 && version <= 5) return UM_OK;
    return UM_FAIL(m->err, UM_E_DATA, "pickle protocol %" PRIu64 ", allowed 2 to 5", version);
}

static um_status op_memo_get(machine *m, int bytes)
{
    uint64_t i = 0;
    UM_TRY(take_uint(m, &i, bytes));
    return memo_get(m, (size_t)i);
}

static um_status op_memo_put(machine *m, int bytes)
{
    uint64_t i = 0;
    UM_TRY(take_uint(m, &i, bytes));
    return memo_put(m, (size_t)i);
}

static um_status push_bool(machine *m, bool b)
{
    return push_new(m, (um_value){.kind = UM_VALUE_BOOL, .flag = b});
}

static um_status unknown(machine *m, uint8_t op)
{
    return UM_FAIL(m->err, UM_E_DATA, "pickle opcode 0x%02x is not one that torch writes", op);
}

/* Opcode names as in pickletools. */
/* clang-format off */
static um_status step(machine *m, uint8_t op)
{
    switch (op) {
    case 0x80: return op_proto(m);                /* PROTO */
    case 0x95: return op_skip(m, 8);              /* FRAME */
    case '.': m->done = true; return UM_OK;       /* STOP */
    case '(': return op_mark(m);                  /* MARK */
    case '0': return op_pop(m);                   /* POP */
    case '2': return op_dup(m);                   /* DUP */
    case 'N': return push_new(m, (um_value){.kind = UM_VALUE_NONE}); /* NONE */
    case 0x88: return push_bool(m, true);         /* NEWTRUE */
    case 0x89: return push_bool(m, false);        /* NEWFALSE */
    case 'J': return push_int(m, 4);              /* BININT */
    case 'K': return push_int(m, 1);              /* BININT1 */
    case 'M': return push_int(m, 2);              /* BININT2 */
    case 0x8a: return push_long(m);               /* LONG1 */
    case 'G': return push_real(m);                /* BINFLOAT */
    case 'X': return push_text(m, 4);             /* BINUNICODE */
    case 0x8c: return push_text(m, 1);            /* SHORT_BINUNICODE */
    case 0x8d: return push_text(m, 8);            /* BINUNICODE8 */
    case ')': return list_of(m, m->depth, true);  /* EMPTY_TUPLE */
    case 't': return op_tuple(m, true);           /* TUPLE */
    case 0x85: return op_tuple_of(m, 1);          /* TUPLE1 */
    case 0x86: return op_tuple_of(m, 2);          /* TUPLE2 */
    case 0x87: return op_tuple_of(m, 3);          /* TUPLE3 */
    case ']': return list_of(m, m->depth, false); /* EMPTY_LIST */
    case 'l': return op_tuple(m, false);          /* LIST */
    case 'a': return op_last(m, 1, append_from);  /* APPEND */
    case 'e': return op_marked(m, append_from);   /* APPENDS */
    case '}': return push_new(m, (um_value){.kind = UM_VALUE_DICT}); /* EMPTY_DICT */
    case 'd': return op_dict(m);                  /* DICT */
    case 's': return op_last(m, 2, set_from);     /* SETITEM */
    case 'u': return op_marked(m, set_from);      /* SETITEMS */
    case 'h': return op_memo_get(m, 1);           /* BINGET */
    case 'j': return op_memo_get(m, 4);           /* LONG_BINGET */
    case 'q': return op_memo_put(m, 1);           /* BINPUT */
    case 'r': return op_memo_put(m, 4);           /* LONG_BINPUT */
    case 0x94: return memo_put(m, m->memo_n);     /* MEMOIZE */
    case 'c': return op_global(m);                /* GLOBAL */
    case 0x93: return op_stack_global(m);         /* STACK_GLOBAL */
    case 'Q': return op_persistent(m);            /* BINPERSID */
    case 'R': return op_reduce(m);                /* REDUCE */
    case 'b': return op_build(m);                 /* BUILD */
    default: return unknown(m, op);
    }
}
/* clang-format on */

um_status um_pickle_read(const um_value **out, const uint8_t *data, size_t size, um_arena *arena,
                         um_err *err)
{
    machine *m = um_zalloc(sizeof *m);
    um_status st = UM_OK;
    *m = (machine){.p = data, .end = data + size, .arena = arena, .err = err};
    if (size > SIZE_MAX_PICKLE)
        st = UM_FAIL(err, UM_E_LIMIT, "a pickle of %zu bytes, allowed %d", size, SIZE_MAX_PICKLE);
    while (st == UM_OK && !m->done)
        st = m->p < m->end ? step(m, *m->p++) : damaged(m, "it has no end");
    um_value *root = NULL;
    if (st == UM_OK) st = pop(m, &root);
    if (st == UM_OK) *out = root;
    um_free(m->stack);
    um_free(m->memo);
    um_free(m);
    return st;
}

const um_value *um_value_get(const um_value *dict, const char *key)
{
    if (dict == NULL || dict->kind != UM_VALUE_DICT) return NULL;
    for (size_t i = dict->n; i-- > 0;) {
        const um_value *k = dict->item[2 * i];
        if (k->kind == UM_VALUE_TEXT && strcmp(k->text, key) == 0) return dict->item[2 * i + 1];
    }
    return NULL;
}

/* See events.h. */
#include "proto/events.h"

#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "proto/events.pb-c.h"
#include "proto/frame.h"

static uint32_t masked(const uint8_t *p, size_t n)
{
    const uint32_t c = um_crc32c(p, n);
    return (c >> 15 | c << 17) + 0xa282ead8u;
}

static void record(um_text *out, const Um__Tb__Event *e)
{
    const size_t n = um__tb__event__get_packed_size(e);
    um_arena a;
    um_arena_init(&a, "event", n + 64);
    uint8_t *buf = um_arena_alloc(&a, n + 16);
    um_put_u64(buf, n);
    um_put_u32(buf + 8, masked(buf, 8));
    um__tb__event__pack(e, buf + 12);
    um_put_u32(buf + 12 + n, masked(buf + 12, n));
    um_text_add(out, (const char *)buf, n + 16);
    um_arena_free(&a);
}

void um_events_begin(um_text *out, double wall, int64_t step)
{
    Um__Tb__Event e = UM__TB__EVENT__INIT;
    Um__Tb__SessionLog start = UM__TB__SESSION_LOG__INIT;
    e.wall_time = wall;
    e.what_case = UM__TB__EVENT__WHAT_FILE_VERSION;
    e.file_version = (char *)(uintptr_t) "brain.Event:2";
    record(out, &e);
    e.step = step;
    start.status = UM__TB__SESSION_STATUS__START;
    e.what_case = UM__TB__EVENT__WHAT_SESSION_LOG;
    e.session_log = &start;
    record(out, &e);
}

void um_events_scalars(um_text *out, double wall, int64_t step, const um_event_scalar *list,
                       size_t n)
{
    Um__Tb__Event e = UM__TB__EVENT__INIT;
    Um__Tb__Summary s = UM__TB__SUMMARY__INIT;
    um_arena a;
    if (n == 0) return;
    um_arena_init(&a, "scalars", n * 128);
    Um__Tb__ScalarSummary *value = um_arena_alloc(&a, n * sizeof *value);
    s.value = um_arena_alloc(&a, n * sizeof(Um__Tb__ScalarSummary *));
    s.n_value = n;
    for (size_t i = 0; i < n; i++) {
        um__tb__scalar_summary__init(&value[i]);
        value[i].tag = (char *)(uintptr_t)list[i].tag;
        value[i].value_case = UM__TB__SCALAR_SUMMARY__VALUE_SIMPLE_VALUE;
        value[i].simple_value = (float)list[i].value;
        s.value[i] = &value[i];
    }
    e.wall_time = wall;
    e.step = step;
    e.what_case = UM__TB__EVENT__WHAT_SUMMARY;
    e.summary = &s;
    record(out, &e);
    um_arena_free(&a);
}

/*
 * tests/fuzz/fuzz_event.c - both readers of events on foreign bytes: no crash, and an event that is
 * accepted survives the other form.
 */
#include "core/event.h"
#include "tests/core/event_equal.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct event_arena *arena;
static struct event_arena *other;
static struct buf out;

static void require(bool fact)
{
    if (!fact)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str bytes = {(const char *)data, size};
    struct event e;
    struct event back;
    if (!arena) {
        require(!event_arena_new(&arena, NULL) && !event_arena_new(&other, NULL));
        buf_init(&out, 8u << 20);
    }
    event_arena_reset(arena);
    event_arena_reset(other);
    buf_reset(&out);
    if (!event_from_json(bytes, arena, &e, NULL)) {
        require(!event_encode(&e, &out, NULL));
        require(!event_decode((struct str){out.data, out.len}, other, &back, NULL));
        require(same_event(&e, &back));
    } else if (!event_decode(bytes, arena, &e, NULL) && !event_check(&e, NULL)) {
        require(!event_to_json(&e, &out, NULL));
    }
    return 0;
}

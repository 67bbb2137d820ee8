/*
 * The content of a logical message of any bytes: a request that keeps every promise of an event and
 * can be written down and read again, or a refusal that quotes nothing of it.
 */
#include "ingest/request.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct event_arena *arena;

static void require(bool holds)
{
    if (!holds)
        abort();
}

static void check_request(const struct event *e)
{
    struct buf b;
    struct event back;
    buf_init(&b, LIMIT_EVENT_BYTES);
    require(e->type == EVENT_REQUEST ||
            (e->type == EVENT_PRIVACY && e->u.privacy.op == PRIVACY_ERASE));
    require(event_check(e, NULL) == STATUS_OK && e->user_id.len > 0);
    require(e->at_us <= 1000 + REQUEST_AHEAD_US);
    require(event_encode(e, &b, NULL) == STATUS_OK);
    require(event_decode((struct str){b.data, b.len}, arena, &back, NULL) == STATUS_OK);
    require(str_equal(back.user_id, e->user_id) && str_equal(back.bot_name, e->bot_name));
    buf_deinit(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct event e;
    struct error err = {0};
    if (!arena && event_arena_new(&arena, NULL))
        abort();
    event_arena_reset(arena);
    enum status st = request_event((struct str){(const char *)data, size}, (struct position){1, 2},
                                   1000, arena, &e, &err);
    if (st == STATUS_OK)
        check_request(&e);
    else
        require(st == STATUS_INVALID && err.text[0]);
    return 0;
}

/*
 * tests/fuzz/fuzz_qdrant.c - any answers to a scroll, parted by NUL: no crash; every event keeps
 * the promises of core/event.h; a point that comes a second time as it was gives nothing; the next
 * request is JSON and a reading of such pages moves on.
 *
 * Seeds: tests/fuzz/corpus/qdrant/.
 */
#include "ingest/qdrant_walk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct qdrant_rules rules = {.name = "mem", .collection = {"elena", 5}, .now_us = 1};
static struct event_arena *arena;
static struct buf scratch, bytes;
static struct qdrant_events found;

static void require(bool fact)
{
    if (!fact)
        abort();
}

static void check_events(void)
{
    require(found.n <= QDRANT_EVENTS_MAX);
    for (size_t i = 0; i < found.n; i++) {
        struct event e;
        require(event_check(&found.events[i], NULL) == STATUS_OK);
        buf_reset(&scratch);
        require(event_encode(&found.events[i], &scratch, NULL) == STATUS_OK);
        require(event_decode((struct str){scratch.data, scratch.len}, arena, &e, NULL) ==
                STATUS_OK);
    }
}

static void take(const struct qdrant_point *point)
{
    struct qdrant_known was;
    event_arena_reset(arena);
    require(qdrant_point_events(&rules, point, NULL, arena, &scratch, &found, NULL) == STATUS_OK);
    require(found.changed && (found.n > 0 || found.ignored));
    check_events();
    buf_reset(&bytes);
    require(qdrant_known_encode(&found.known, &bytes) == STATUS_OK);
    require(qdrant_known_decode((struct str){bytes.data, bytes.len}, &was, NULL) == STATUS_OK);
    require(qdrant_point_events(&rules, point, &was, arena, &scratch, &found, NULL) == STATUS_OK);
    require(found.n == 0 && !found.changed && !found.ignored);
    /* What was there before is settled with what is there now. */
    was.hash = 0;
    was.user_id = STR("somebody else");
    was.bot_name = STR("elena");
    was.message_id = STR("m");
    was.kinds = QDRANT_IS_MEMORY | QDRANT_IS_MESSAGE;
    require(qdrant_point_events(&rules, point, &was, arena, &scratch, &found, NULL) == STATUS_OK);
    check_events();
    qdrant_gone_events(&rules, str_from(point->id), &was, &found);
    require(found.n == 2);
    check_events();
}

static void walk(struct qdrant_walk *w, const struct qdrant_page *page)
{
    enum status st = qdrant_walk_page(w, page, NULL);
    if (st)
        return;
    buf_reset(&scratch);
    require(qdrant_walk_request(w, &scratch) == STATUS_OK);
    /* Ids are larger than what jansson takes for an integer. */
    json_t *request = json_loadb(scratch.data, scratch.len, JSON_DECODE_INT_AS_REAL, NULL);
    require(json_is_object(request));
    json_decref(request);
}

static void take_page(struct qdrant_walk w[3], struct str body)
{
    struct qdrant_page page = {0};
    if (qdrant_page_read(body, &page, NULL))
        return;
    for (size_t i = 0; i < page.n; i++) {
        struct qdrant_point point;
        if (!qdrant_page_point(&page, i, &point, NULL))
            take(&point);
    }
    for (size_t i = 0; i < 3; i++)
        walk(&w[i], &page);
    qdrant_page_deinit(&page);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!arena) {
        require(event_arena_new(&arena, NULL) == STATUS_OK);
        buf_init(&scratch, 64u << 20);
        buf_init(&bytes, 64u << 20);
    }
    struct qdrant_walk w[3];
    qdrant_walk_init(&w[0], QDRANT_READ_ALL, -INFINITY, 2, 0);
    qdrant_walk_init(&w[1], QDRANT_READ_SINCE, 1.5e9, 2, 0);
    qdrant_walk_init(&w[2], QDRANT_READ_ORDERED, 1.5e9, 2, 3);
    const char *at = (const char *)data, *end = at + size;
    while (at < end) {
        const char *nul = memchr(at, 0, (size_t)(end - at));
        const char *stop = nul ? nul : end;
        take_page(w, (struct str){at, (size_t)(stop - at)});
        at = stop + (nul != NULL);
    }
    for (size_t i = 0; i < 3; i++)
        qdrant_walk_deinit(&w[i]);
    return 0;
}

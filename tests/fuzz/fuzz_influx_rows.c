/*
 * Any bytes as an answer of InfluxDB to /query: refused, or points whose names are there and whose
 * numbers are finite, which are mapped to events that can be read again.
 */
#include "ingest/influx_event.h"
#include "ingest/influx_rows.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct influx_batch batch;
static struct event_arena *arena;

static bool known(struct str measurement)
{
    return measurement.len > 0 && measurement.ptr[0] == 'c';
}

static bool seen(void *ctx, const struct seen_mark *mark)
{
    (void)ctx;
    return mark->id % 5 == 0;
}

static void require(bool holds)
{
    if (!holds)
        abort();
}

static enum status take_point(void *ctx, const struct line_point *p, struct error *err)
{
    static const struct influx_map map = {
        .where = {"influx:fuzz", 11}, .known = known, .seen = seen};
    (void)ctx;
    require(p->plain && p->has_time && p->measurement.ptr && p->n_fields > 0);
    for (size_t i = 0; i < p->n_tags; i++)
        require(p->tags[i].key.ptr && p->tags[i].value.len > 0);
    for (size_t i = 0; i < p->n_fields; i++)
        require(p->fields[i].type != LINE_FLOAT || isfinite(p->fields[i].u.number));
    return influx_add_point(&batch, &map, p, 1, err);
}

static enum status take_name(void *ctx, struct str name, struct error *err)
{
    (void)ctx;
    (void)err;
    require(name.ptr != NULL);
    return STATUS_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str json = {(const char *)data, size};
    struct event e;
    if (!arena &&
        (influx_batch_init(&batch, 64 << 20, NULL) || event_arena_new(&arena, NULL) != STATUS_OK))
        abort();
    influx_batch_reset(&batch);
    (void)influx_rows_read(json, take_point, NULL, NULL);
    (void)influx_names_read(json, take_name, NULL, NULL);
    struct reader r = reader_of(batch.events.data, batch.events.len);
    event_arena_reset(arena);
    for (uint32_t i = 0; i < batch.n_events; i++) {
        struct str bytes = reader_blob(&r);
        require(!r.bad && event_decode(bytes, arena, &e, NULL) == STATUS_OK);
        require(e.type == EVENT_DEAD_LETTER || event_check(&e, NULL) == STATUS_OK);
    }
    require(reader_left(&r) == 0);
    return 0;
}

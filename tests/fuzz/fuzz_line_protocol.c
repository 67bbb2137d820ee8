/*
 * A body of any bytes: the lines that are points lie within it and have names, numbers and times as
 * promised; every line is either that or refused with its place; and what is mapped are events that
 * can be read again. The first byte chooses the precision.
 */
#include "core/event.h"
#include "ingest/influx_event.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct influx_batch batch;
static struct event_arena *arena;
static char scratch[1 << 20];

static bool known(struct str measurement)
{
    return measurement.len > 0 && measurement.ptr[0] == 'm';
}

static void require(bool holds)
{
    if (!holds)
        abort();
}

static void inside(struct str s, struct str body, enum line_part part)
{
    require(s.ptr >= body.ptr && s.ptr + s.len <= body.ptr + body.len);
    require(s.len <= sizeof(scratch) && line_unescape(s, part, scratch) <= s.len);
}

static void check_point(const struct line_point *p, struct str body)
{
    inside(p->line, body, LINE_NAME);
    inside(p->measurement, p->line, LINE_NAME);
    require(p->measurement.len > 0 && p->n_fields > 0);
    for (size_t i = 0; i < p->n_tags; i++) {
        inside(p->tags[i].key, p->line, LINE_NAME);
        inside(p->tags[i].value, p->line, LINE_NAME);
        require(p->tags[i].key.len > 0 && p->tags[i].value.len > 0);
        for (size_t k = 0; k < i; k++)
            require(!str_equal(p->tags[i].key, p->tags[k].key));
    }
    for (size_t i = 0; i < p->n_fields; i++) {
        const struct line_field *f = &p->fields[i];
        inside(f->key, p->line, LINE_NAME);
        if (f->type == LINE_STRING)
            inside(f->u.text, p->line, LINE_TEXT);
        require(f->key.len > 0 && (f->type != LINE_FLOAT || isfinite(f->u.number)));
    }
}

static void check_events(void)
{
    struct reader r = reader_of(batch.events.data, batch.events.len);
    struct event e;
    event_arena_reset(arena);
    for (uint32_t i = 0; i < batch.n_events; i++) {
        struct str bytes = reader_blob(&r);
        require(!r.bad && event_decode(bytes, arena, &e, NULL) == STATUS_OK);
        require(e.type == EVENT_DEAD_LETTER || event_check(&e, NULL) == STATUS_OK);
    }
    require(reader_left(&r) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const units[] = {"", "us", "ms", "s", "m", "h"};
    static const struct influx_map map = {.where = {"influx:fuzz", 11}, .known = known};
    struct line_options o = {.now_ns = INT64_C(1795387000123456789)};
    struct line_reader r;
    static struct line_point p;
    struct error err;
    enum status st;
    if (size == 0)
        return 0;
    if (!arena &&
        (influx_batch_init(&batch, 64 << 20, NULL) || event_arena_new(&arena, NULL) != STATUS_OK))
        abort();
    require(line_precision(str_from(units[data[0] % 6]), &o.unit_ns));
    o.unsigned_integers = data[0] & 0x80;
    char *copy = malloc(size); /* so that a byte too far is noticed */
    if (!copy)
        return 0;
    for (size_t i = 1; i < size; i++)
        copy[i - 1] = (char)data[i];
    struct str body = {copy, size - 1};
    size_t behind = 0;
    line_reader_init(&r, body, &o);
    while ((st = line_next(&r, &p, &err)) != STATUS_END) {
        require(st == STATUS_OK || st == STATUS_INVALID);
        require(p.offset >= behind && p.line.ptr == body.ptr + p.offset && p.number > 0);
        behind = p.offset + p.line.len;
        if (st == STATUS_OK)
            check_point(&p, body);
    }
    influx_batch_reset(&batch);
    require(influx_add_body(&batch, &map, body, &o, NULL) == STATUS_OK);
    check_events();
    free(copy);
    return 0;
}

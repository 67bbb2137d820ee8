#include "ingest/heartbeat.h"

#include "core/pg.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "warmpath.heartbeat"

enum status heartbeat_sql(const char *pipeline, int64_t now_us, struct buf *out)
{
    char content[128];
    snprintf(content, sizeof(content), "%.64s %" PRId64, pipeline, now_us);
    enum status st =
        buf_append_str(out, STR("SELECT pg_catalog.pg_logical_emit_message(true, '" PREFIX "', "));
    if (!st)
        st = pg_quote_literal(out, content);
    return st ? st : buf_append(out, ")", 2);
}

bool heartbeat_read(struct str prefix, struct str content, const char *pipeline,
                    int64_t *ret_sent_us)
{
    char text[128];
    size_t len = strlen(pipeline);
    if (!str_equal(prefix, STR(PREFIX)) || content.len >= sizeof(text))
        return false;
    memcpy(text, content.ptr, content.len);
    text[content.len] = '\0';
    char *end = NULL;
    if (strncmp(text, pipeline, len) != 0 || text[len] != ' ')
        return false;
    int64_t sent_us = strtoll(text + len + 1, &end, 10);
    if (*end || end == text + len + 1 || sent_us <= 0)
        return false;
    *ret_sent_us = sent_us;
    return true;
}

void heartbeat_came(struct heartbeat *h, struct str prefix, struct str content, lsn_t final_lsn)
{
    int64_t sent_us = 0;
    /* One that still waits is the one to measure: a newer one would hide that it does. */
    if (!h->pipeline || h->sent_us || !heartbeat_read(prefix, content, h->pipeline, &sent_us))
        return;
    h->sent_us = sent_us;
    h->final_lsn = final_lsn;
}

bool heartbeat_done(struct heartbeat *h, lsn_t durable, int64_t now_us, int64_t *ret_lag_us)
{
    /* Durable is an end LSN: beyond the start of the commit record it has all of it. */
    if (!h->sent_us || durable <= h->final_lsn)
        return false;
    *ret_lag_us = now_us > h->sent_us ? now_us - h->sent_us : 0;
    h->sent_us = 0;
    return true;
}

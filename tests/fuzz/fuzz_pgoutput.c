/*
 * tests/fuzz/fuzz_pgoutput.c - whatever a server (or what stands in its place) sends: no crash, and
 * every event that comes out keeps the promises of core/event.h.
 *
 * Each input is read twice. As one pgoutput message: decoded, and a row change is mapped against a
 * fixed table. As a session: CopyData messages, each behind two bytes of length (big-endian),
 * through the whole stream with a receiver that is now and then full. Seeds:
 * tests/fuzz/corpus/pgoutput/, recorded from PostgreSQL 15; m_* are messages, s_* sessions.
 */
#include "core/clock.h"
#include "core/log.h"
#include "ingest/pgoutput.h"
#include "ingest/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mapping_set mappings;
static struct pgoutput_decoder *decoder;
static struct event_arena *arena;
static struct stream *stream;
static unsigned calls;
static struct position last; /* of the session */

static void require(bool fact)
{
    if (!fact)
        abort();
}

static enum status on_event(void *ctx, const struct event *e, struct position pos,
                            int64_t commit_us, struct error *err)
{
    (void)ctx;
    (void)commit_us;
    if (++calls % 5 == 0)
        return STATUS_AGAIN;
    require(event_check(e, err) == STATUS_OK);
    require(position_compare(last, pos) < 0);
    last = pos;
    return STATUS_OK;
}

static enum status on_commit(void *ctx, lsn_t end_lsn, int64_t commit_us, struct error *err)
{
    (void)ctx;
    (void)commit_us;
    (void)err;
    require(end_lsn > last.lsn);
    return ++calls % 7 == 0 ? STATUS_AGAIN : STATUS_OK;
}

static void on_idle(void *ctx, lsn_t wal_end, int64_t server_us)
{
    (void)ctx;
    (void)wal_end;
    (void)server_us;
}

static int64_t on_drained(void *ctx)
{
    (void)ctx;
    return INT64_MAX;
}

static lsn_t on_durable(void *ctx)
{
    (void)ctx;
    return 0;
}

static const struct receiver_ops receiver = {.event = on_event,
                                             .commit = on_commit,
                                             .idle = on_idle,
                                             .drained = on_drained,
                                             .durable = on_durable};

static void map(struct mapping *m, enum mapping_field f, const char *column, const char *path)
{
    m->fields[f].set = true;
    snprintf(m->fields[f].column, sizeof(m->fields[f].column), "%s", column);
    snprintf(m->fields[f].path, sizeof(m->fields[f].path), "%s", path);
}

static void map_key(struct mapping *m, const char *table, enum event_type type)
{
    snprintf(m->schema, sizeof(m->schema), "public");
    snprintf(m->table, sizeof(m->table), "%s", table);
    m->type = type;
    map(m, FIELD_ID, "id", "");
    map(m, FIELD_USER_ID, "user_id", "");
    map(m, FIELD_BOT_NAME, "bot_name", "");
    map(m, FIELD_AT, "created_at", "");
    map(m, FIELD_CONTENT, "content", "");
}

static void init(void)
{
    struct mapping *chat = &mappings.tables[0];
    struct mapping *memory = &mappings.tables[1];
    mappings.n = 2;
    map_key(chat, "chat_message", EVENT_MESSAGE);
    map(chat, FIELD_ROLE, "role", "");
    map(chat, FIELD_EMBEDDING, "embedding", "");
    map(chat, FIELD_EMOTION, "metadata", "emotion.label");
    map(chat, FIELD_EMOTION_CONFIDENCE, "metadata", "emotion.confidence");
    map(chat, FIELD_TRAITS, "metadata", "traits");
    snprintf(chat->fields[FIELD_ROLE].enum_map[0].from, 64, "assistant");
    snprintf(chat->fields[FIELD_ROLE].enum_map[0].to, 32, "bot");
    snprintf(chat->fields[FIELD_ROLE].enum_map[1].from, 64, "user");
    snprintf(chat->fields[FIELD_ROLE].enum_map[1].to, 32, "user");
    snprintf(chat->fields[FIELD_ROLE].enum_map[2].from, 64, "system");
    chat->fields[FIELD_ROLE].n_enum = 3;
    map_key(memory, "memory", EVENT_MEMORY);
    map(memory, FIELD_MEMORY_ID, "id", "");
    map(memory, FIELD_IMPORTANCE, "importance", "");
    map(memory, FIELD_GRADE, "grade", "");
    memory->fields[FIELD_AT].time_unit = TIME_EPOCH_S;
    memory->fields[FIELD_OP].set = true;
    snprintf(memory->fields[FIELD_OP].constant, sizeof(memory->fields[FIELD_OP].constant),
             "create");
    require(!mapping_check(chat, NULL) && !mapping_check(memory, NULL));
    require(!pgoutput_decoder_new(&decoder, NULL) && !event_arena_new(&arena, NULL));
    require(!stream_new(&mappings, &receiver, &stream, NULL));
    log_set_level(LOG_ERROR);
}

/* The message's row against the columns of the chat table, in the order it was created with. */
static void map_row(const struct pgoutput_message *m)
{
    static const char *const names[] = {"id",      "user_id",    "bot_name",  "role",
                                        "content", "created_at", "embedding", "metadata"};
    static struct relation_column columns[8];
    struct relation rel = {.n_columns = 8, .columns = columns};
    struct mapping_binding binding;
    struct event events[MAPPING_EVENTS_MAX];
    size_t n = 0;
    for (int i = 0; i < 8; i++)
        snprintf(columns[i].name, sizeof(columns[i].name), "%s", names[i]);
    require(!mapping_bind(&mappings.tables[0], &rel, &binding, NULL));
    enum row_change change = m->kind == PGOUTPUT_INSERT   ? CHANGE_INSERT
                             : m->kind == PGOUTPUT_UPDATE ? CHANGE_UPDATE
                                                          : CHANGE_DELETE;
    event_arena_reset(arena);
    if (mapping_apply(&binding, change, m->u.change.old_kind ? &m->u.change.old_tuple : NULL,
                      change == CHANGE_DELETE ? NULL : &m->u.change.new_tuple, arena, events, &n,
                      NULL))
        return;
    require(n <= 2);
    for (size_t i = 0; i < n; i++)
        require(event_check(&events[i], NULL) == STATUS_OK);
}

static void run_session(const uint8_t *data, size_t size)
{
    size_t at = 0;
    last = (struct position){0, 0};
    stream_start(stream, 0x100, 0);
    while (size - at >= 2) {
        size_t len = (size_t)data[at] << 8 | data[at + 1];
        at += 2;
        if (len > size - at)
            return;
        /* A copy of exactly its size: a read beyond it is seen. */
        char *bytes = malloc(len ? len : 1);
        require(bytes != NULL);
        memcpy(bytes, data + at, len);
        at += len;
        enum status st = stream_put(stream, (struct str){bytes, len}, NULL);
        while (st == STATUS_AGAIN && !stream_is_blocked(stream))
            st = stream_retry(stream, NULL);
        struct feedback *f = stream_feedback(stream);
        struct feedback_report report = feedback_report(f, f->committed);
        feedback_sent(f, &report, 0);
        free(bytes);
        if (st)
            return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pgoutput_message m;
    if (!decoder)
        init();
    calls = 0;
    if (!pgoutput_decode(decoder, (struct str){(const char *)data, size}, &m, NULL) &&
        (m.kind == PGOUTPUT_INSERT || m.kind == PGOUTPUT_UPDATE || m.kind == PGOUTPUT_DELETE))
        map_row(&m);
    run_session(data, size);
    return 0;
}

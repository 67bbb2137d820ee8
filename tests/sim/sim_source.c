/* tests/sim/sim_source.c - the application and its PostgreSQL: tables, WAL in order of commit, one
 * logical slot, and what its sender sends. */
#include "tests/sim/sim.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/ingest/wire.h"

#define COLUMNS 6
#define USERS   7
#define LIVE    400

enum sim_relation { CHAT, MEMORY, ACCESS, OUTREACH, RELATIONS };

static const char *const relation_names[RELATIONS] = {"chat", "memory", "access", "outreach"};
static const char *const columns[RELATIONS][COLUMNS + 1] = {
    {"*id", "*user_id", "*bot", "at", "role", "content", NULL},
    {"*id", "*user_id", "*bot", "at", "type", "content", NULL},
    {"*id", "*user_id", "*bot", "at", "memory", "score", NULL},
    {"*id", "*user_id", "*bot", "at", "op", "topic", NULL},
};

struct change {
    enum sim_relation relation;
    char kind; /* I, U or D */
    char *values[COLUMNS];
};

struct transaction {
    lsn_t final_lsn;
    lsn_t end_lsn;
    int64_t commit_us;
    struct change *changes;
    size_t n;
};

/* A row of a table that still exists. */
struct live {
    enum sim_relation relation;
    char *values[COLUMNS];
};

struct sim_source {
    struct transaction *wal;
    size_t n;
    lsn_t end;
    lsn_t confirmed; /* what a restart of the server begins after ... */
    lsn_t persisted; /* ... unless it crashes */
    uint64_t ids;
    struct live live[LIVE];
    size_t n_live;
};

/* ---- tables ---- */

static void map_field(struct mapping *m, enum mapping_field f, const char *column)
{
    m->fields[f].set = true;
    snprintf(m->fields[f].column, sizeof(m->fields[f].column), "%s", column);
}

static void map_constant(struct mapping *m, enum mapping_field f, const char *value)
{
    m->fields[f].set = true;
    snprintf(m->fields[f].constant, sizeof(m->fields[f].constant), "%s", value);
}

const struct mapping_set *sim_mappings(void)
{
    static struct mapping_set set;
    if (set.n)
        return &set;
    static const enum event_type types[RELATIONS] = {EVENT_MESSAGE, EVENT_MEMORY, EVENT_MEMORY,
                                                     EVENT_OUTREACH};
    for (int r = 0; r < RELATIONS; r++) {
        struct mapping *m = &set.tables[set.n++];
        m->type = types[r];
        snprintf(m->schema, sizeof(m->schema), "public");
        snprintf(m->table, sizeof(m->table), "%s", relation_names[r]);
        map_field(m, FIELD_ID, "id");
        map_field(m, FIELD_USER_ID, "user_id");
        map_field(m, FIELD_BOT_NAME, "bot");
        map_field(m, FIELD_AT, "at");
    }
    map_field(&set.tables[CHAT], FIELD_ROLE, "role");
    map_field(&set.tables[CHAT], FIELD_CONTENT, "content");
    map_constant(&set.tables[MEMORY], FIELD_OP, "create");
    map_field(&set.tables[MEMORY], FIELD_MEMORY_ID, "id");
    map_field(&set.tables[MEMORY], FIELD_CONTENT, "content");
    map_field(&set.tables[MEMORY], FIELD_MEMORY_TYPE, "type");
    map_constant(&set.tables[ACCESS], FIELD_OP, "access");
    map_field(&set.tables[ACCESS], FIELD_MEMORY_ID, "memory");
    map_field(&set.tables[ACCESS], FIELD_SCORE, "score");
    map_field(&set.tables[OUTREACH], FIELD_OP, "op");
    map_field(&set.tables[OUTREACH], FIELD_TOPIC, "topic");
    for (size_t i = 0; i < set.n; i++) {
        struct error err = {0};
        sim_must(mapping_check(&set.tables[i], &err), &err);
    }
    return &set;
}

/* ---- what the application writes ---- */

static char *copy(const char *text)
{
    char *s = text ? strdup(text) : NULL;
    assert(s || !text);
    return s;
}

static char *some_text(struct sim_random *r)
{
    static const char *const words[] = {
        "music",   "guitar",   "chords", "garden",  "tomato", "plants", "train",  "ticket",
        "morning", "coffee",   "sugar",  "kitchen", "quiet",  "rain",   "window", "letter",
        "friend",  "birthday", "what",   "is",      "the",    "and",    "you",    "never"};
    char text[256] = "";
    uint32_t topic = sim_below(r, 6) * 3;
    uint32_t n = 1 + sim_below(r, 12);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t word = sim_chance(r, 2, 3) ? topic + sim_below(r, 3) : 18 + sim_below(r, 6);
        size_t len = strlen(text);
        snprintf(text + len, sizeof(text) - len, "%s%s", words[word],
                 i + 1 < n             ? " "
                 : sim_chance(r, 1, 4) ? "?"
                                       : "");
    }
    return copy(text);
}

static char *some_time(struct sim_random *r, int64_t now_us)
{
    int64_t late_us = (int64_t)sim_below(r, 2000000);
    if (sim_chance(r, 1, 20))
        late_us += (int64_t)sim_below(r, 40) * US_PER_DAY; /* some beyond the window */
    char text[40];
    time_format(now_us - late_us, 1, text);
    return copy(text);
}

static void set_values(struct sim_source *s, struct sim_random *r, enum sim_relation relation,
                       int64_t now_us, char *values[COLUMNS])
{
    char text[40];
    snprintf(text, sizeof(text), "%s-%" PRIu64, relation_names[relation], ++s->ids);
    values[0] = copy(text);
    snprintf(text, sizeof(text), "user-%u", sim_below(r, USERS));
    values[1] = copy(text);
    values[2] = copy(sim_chance(r, 1, 4) ? "marcus" : "elena");
    values[3] = some_time(r, now_us);
    switch (relation) {
    case CHAT:
        values[4] = copy(sim_chance(r, 1, 3) ? "bot" : "user");
        values[5] = some_text(r);
        break;
    case MEMORY:
        values[4] = copy(sim_chance(r, 1, 2) ? "fact" : "event");
        values[5] = some_text(r);
        break;
    case ACCESS:
        snprintf(text, sizeof(text), "memory-%" PRIu64, 1 + sim_random(r) % s->ids);
        values[4] = copy(text);
        values[5] = sim_chance(r, 1, 3) ? NULL : copy("0.7");
        break;
    case OUTREACH:
        values[4] = copy(sim_chance(r, 2, 3) ? "sent" : "replied");
        values[5] = copy("music");
        break;
    case RELATIONS:
        break;
    }
}

static void insert(struct sim_source *s, struct sim_random *r, int64_t now_us, struct change *c)
{
    static const enum sim_relation mix[] = {CHAT, CHAT,   CHAT,   CHAT,   CHAT,
                                            CHAT, MEMORY, ACCESS, ACCESS, OUTREACH};
    c->kind = 'I';
    c->relation = mix[sim_below(r, sizeof(mix) / sizeof(mix[0]))];
    set_values(s, r, c->relation, now_us, c->values);
    if (c->relation > MEMORY || s->n_live == LIVE)
        return;
    /* Accesses name memories by number: let some of them exist. */
    struct live *l = &s->live[s->n_live++];
    l->relation = c->relation;
    for (int i = 0; i < COLUMNS; i++)
        l->values[i] = copy(c->values[i]);
}

static void change_one(struct sim_source *s, struct sim_random *r, struct change *c)
{
    struct live *l = &s->live[sim_below(r, (uint32_t)s->n_live)];
    c->relation = l->relation;
    c->kind = sim_chance(r, 1, 2) ? 'U' : 'D';
    if (c->kind == 'U') {
        free(l->values[5]);
        l->values[5] = some_text(r);
    }
    for (int i = 0; i < COLUMNS; i++)
        c->values[i] = copy(c->kind == 'D' && i > 2 ? NULL : l->values[i]);
    if (c->kind == 'U')
        return;
    for (int i = 0; i < COLUMNS; i++)
        free(l->values[i]);
    *l = s->live[--s->n_live];
}

void sim_source_commit(struct sim_source *s, struct sim_random *r, int64_t now_us)
{
    s->wal = realloc(s->wal, (s->n + 1) * sizeof(*s->wal));
    assert(s->wal);
    struct transaction *t = &s->wal[s->n++];
    *t = (struct transaction){.commit_us = now_us};
    /* Most are small, some are empty for us (other tables), a few are large. */
    t->n = sim_chance(r, 1, 40) ? 50 + sim_below(r, 250) : sim_below(r, 4);
    t->changes = calloc(t->n + 1, sizeof(*t->changes));
    assert(t->changes);
    for (size_t i = 0; i < t->n; i++) {
        if (s->n_live > 5 && sim_chance(r, 1, 5))
            change_one(s, r, &t->changes[i]);
        else
            insert(s, r, now_us, &t->changes[i]);
    }
    /* WAL of others lies between, except when there is none. */
    t->final_lsn = s->end + 8 * (sim_chance(r, 1, 3) ? 0 : sim_below(r, 1000));
    t->end_lsn = t->final_lsn + 48;
    s->end = t->end_lsn;
}

/* ---- life ---- */

struct sim_source *sim_source_new(void)
{
    struct sim_source *s = calloc(1, sizeof(*s));
    assert(s);
    s->end = s->confirmed = s->persisted = SIM_BIRTH_LSN;
    s->ids = 1;
    return s;
}

void sim_source_free(struct sim_source *s)
{
    for (size_t t = 0; t < s->n; t++) {
        for (size_t i = 0; i < s->wal[t].n; i++)
            for (int v = 0; v < COLUMNS; v++)
                free(s->wal[t].changes[i].values[v]);
        free(s->wal[t].changes);
    }
    for (size_t i = 0; i < s->n_live; i++)
        for (int v = 0; v < COLUMNS; v++)
            free(s->live[i].values[v]);
    free(s->wal);
    free(s);
}

lsn_t sim_source_end(const struct sim_source *s)
{
    return s->end;
}

lsn_t sim_source_confirmed(const struct sim_source *s)
{
    return s->confirmed;
}

void sim_source_confirm(struct sim_source *s, lsn_t flush)
{
    if (flush > s->end)
        sim_fail("the slot was told " LSN_FMT ", beyond the end of the log at " LSN_FMT,
                 LSN_ARGS(flush), LSN_ARGS(s->end));
    if (flush > s->confirmed)
        s->confirmed = flush;
}

void sim_source_crash(struct sim_source *s, struct sim_random *r)
{
    if (sim_chance(r, 1, 2))
        s->persisted = s->confirmed;
    s->confirmed = s->persisted;
}

/* ---- the sender ---- */

void sim_session_open(struct sim_source *s, struct sim_session *session, lsn_t start)
{
    *session = (struct sim_session){.open = true};
    if (start < s->confirmed)
        start = s->confirmed;
    while (session->transaction < s->n && s->wal[session->transaction].final_lsn < start)
        session->transaction++;
}

static void put_change(struct sim_session *session, const struct change *c, struct buf *out)
{
    const char *const *values = (const char *const *)c->values;
    uint32_t id = 100 + (uint32_t)c->relation;
    if (c->kind == 'I')
        wire_insert(out, id, COLUMNS, values);
    else if (c->kind == 'U')
        wire_update(out, id, 0, COLUMNS, NULL, values);
    else
        wire_delete(out, id, 'K', COLUMNS, values);
    session->row++;
}

bool sim_session_next(struct sim_source *s, struct sim_session *session, int64_t now_us,
                      struct buf *out)
{
    if (session->transaction == s->n)
        return false;
    const struct transaction *t = &s->wal[session->transaction];
    wire_xlog_data(out, t->final_lsn, now_us);
    if (session->row == 0) {
        wire_begin(out, t->final_lsn, t->commit_us);
        session->row++;
        return true;
    }
    if (session->row > t->n) {
        wire_commit(out, t->final_lsn, t->end_lsn, t->commit_us);
        session->transaction++;
        session->row = 0;
        return true;
    }
    const struct change *c = &t->changes[session->row - 1];
    if (!session->described[c->relation]) {
        session->described[c->relation] = true;
        wire_relation(out, 100 + (uint32_t)c->relation, "public", relation_names[c->relation],
                      columns[c->relation]);
        return true;
    }
    put_change(session, c, out);
    return true;
}

void sim_session_keepalive(struct sim_source *s, int64_t now_us, struct buf *out)
{
    wire_keepalive(out, s->end, now_us, false);
}

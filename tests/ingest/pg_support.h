/*
 * tests/ingest/pg_support.h - what the tests of this folder against a real server share: SQL that
 * must succeed, and the mapping of one chat table.
 */
#pragma once

#include "ingest/mapping.h"
#include "tests/support/pgcluster.h"

#include <libpq-fe.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHAT_DDL                                                                       \
    "CREATE TABLE chat (id text, user_id text NOT NULL, bot text NOT NULL, role text," \
    " content text, at timestamptz DEFAULT now(), meta jsonb, PRIMARY KEY (id))"

static inline PGconn *pg_connect_ok(const char *conninfo)
{
    PGconn *conn = PQconnectdb(conninfo);
    if (PQstatus(conn) != CONNECTION_OK)
        fail_msg("%s", PQerrorMessage(conn));
    return conn;
}

static inline void pg_exec_ok(PGconn *conn, const char *sql)
{
    PGresult *res = PQexec(conn, sql);
    if (PQresultStatus(res) != PGRES_COMMAND_OK && PQresultStatus(res) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", sql, PQerrorMessage(conn));
    PQclear(res);
}

/* The first field of the first row, "" for NULL or no row; valid until the next call. */
static inline const char *pg_value(PGconn *conn, const char *sql)
{
    static char value[512];
    PGresult *res = PQexec(conn, sql);
    if (PQresultStatus(res) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", sql, PQerrorMessage(conn));
    snprintf(value, sizeof(value), "%s", PQntuples(res) ? PQgetvalue(res, 0, 0) : "");
    PQclear(res);
    return value;
}

static inline void pg_map(struct mapping *m, enum mapping_field f, const char *column)
{
    m->fields[f].set = true;
    snprintf(m->fields[f].column, sizeof(m->fields[f].column), "%s", column);
}

static inline struct mapping_set pg_chat_mapping(void)
{
    struct mapping_set set = {.n = 1};
    struct mapping *m = &set.tables[0];
    snprintf(m->schema, sizeof(m->schema), "public");
    snprintf(m->table, sizeof(m->table), "chat");
    m->type = EVENT_MESSAGE;
    pg_map(m, FIELD_ID, "id");
    pg_map(m, FIELD_USER_ID, "user_id");
    pg_map(m, FIELD_BOT_NAME, "bot");
    pg_map(m, FIELD_ROLE, "role");
    pg_map(m, FIELD_CONTENT, "content");
    pg_map(m, FIELD_AT, "at");
    return set;
}

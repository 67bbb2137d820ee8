/*
 * ingest/preflight_internal.h - what the files of the start-up checks share; for them alone.
 */
#pragma once

#include "core/clock.h"
#include "core/pg.h"
#include "core/pg_array.h"
#include "ingest/preflight.h"

/* Of every connection that asks. */
#define PREFLIGHT_STATEMENT_TIMEOUT "SET statement_timeout = '30s'"

/* WAL kept for one reason that is worth a warning. */
#define SLOT_MUCH_BYTES (INT64_C(1) << 30)
/* A transaction open for so long is forgotten rather than busy. */
#define SLOT_PIN_OLD_US (300 * US_PER_SECOND)

struct preflight {
    const struct preflight_config *cfg;
    PGconn *conn; /* to the source */
    int version;  /* PQserverVersion(): 150020 is 15.20 */
    struct preflight_report *report;
};

/* One group of checks; returns IO only when the connection is lost. */
typedef enum status preflight_fn(struct preflight *p, struct error *err);

preflight_fn preflight_check_server;
preflight_fn preflight_check_tables;
preflight_fn preflight_check_publication;
preflight_fn preflight_check_slot;
preflight_fn preflight_check_sink;

/* Of the slot, by preflight_check_slot(). */
MUST_CHECK enum status preflight_check_pins(struct preflight *p, const struct slot_info *s,
                                            struct error *err);

/* What reads one slot ($1) from a server of this version: columns that it lacks are given as what
 * their absence means. */
#define SLOT_SQL_BYTES 3072
void preflight_slot_sql(int version, char out[SLOT_SQL_BYTES]);

/* Whether a setting that is a list of names has this one; a name in double quotes is one name,
 * commas and all. */
bool preflight_list_has(const char *list, const char *name);

/* Adds one result; beyond CHECKS_MAX it replaces the last one. The fix is set afterwards. */
struct check *preflight_add(struct preflight *p, const char *name, enum check_result result,
                            const char *fmt, ...) PRINTF_LIKE(4, 5);
/* Appends to the fix; what does not fit is cut. */
void preflight_fix(struct check *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* What mends a failed connection; key: the configuration's name of the conninfo. */
void preflight_connect_fix(struct check *c, const char *conninfo, const char *key,
                           const struct error *why);

/* Text parameters, text results. An error of the server is REFUSED or IO, by its class. */
MUST_CHECK enum status preflight_query(PGconn *conn, const char *sql, int n_params,
                                       const char *const *params, PGresult **ret,
                                       struct error *err);
/* "" for NULL. */
const char *preflight_text(const PGresult *res, int row, const char *column);
bool preflight_bool(const PGresult *res, int row, const char *column);
int64_t preflight_int(const PGresult *res, int row, const char *column, int64_t if_null);

/* REFUSED: who keeps the slot from being made. */
MUST_CHECK enum status preflight_slot_blocked(PGconn *conn, const char *slot, struct error *err);

/* A text[] of all items. */
MUST_CHECK enum status preflight_array(const char *const *items, size_t n, struct pg_array *out);
/* "schema"."table", quoted, NUL-terminated, in a buffer that cuts nothing we can be given. */
struct preflight_name {
    char text[2 * PG_QUOTED_NAME_BYTES];
};
struct preflight_name preflight_quote_table(const char *schema, const char *table);
struct preflight_name preflight_quote(const char *ident);

/* What the publication sends; all true while there is none (that is what would be created). */
struct publication_info {
    bool exists;
    bool all_tables;
    bool insert;
    bool update;
    bool delete;
    bool truncate;
    bool via_root;
};
MUST_CHECK enum status preflight_publication_read(PGconn *conn, const char *publication,
                                                  struct publication_info *ret, struct error *err);

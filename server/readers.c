#include "server/readers.h"

#include "core/log.h"
#include "core/pg.h"

#define ROWS_TIMEOUT_US (600 * US_PER_SECOND) /* they are all looked at */

static enum status run(const struct config *cfg, const char *sql, const char *what,
                       struct error *err)
{
    const struct pg_options o = {.conninfo = cfg->sink_conninfo,
                                 .application_name = "warmpath start",
                                 .setup = "SET lock_timeout = '60s'"};
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_open(&o, &conn, err);
    return st ? st : pg_query_within(conn, sql, 0, NULL, ROWS_TIMEOUT_US, what, &res, err);
}

enum status readers_not_current(const struct config *cfg, struct error *err)
{
    return run(cfg, "UPDATE strategic_processor SET caught_up_to = '-infinity'",
               "could not write strategic_processor", err);
}

/* Rows of somebody who wrote before us (row_version 0) are his. */
#define STALE(table)                                                                 \
    "UPDATE " table " SET expires_at = least(expires_at, now()), valid_until = NULL" \
    " WHERE row_version > 0 AND (expires_at > now() OR valid_until > now()) RETURNING 1"

enum status readers_stale(const struct config *cfg, struct error *err)
{
    log_write(LOG_INFO, "run", "every cache row counts as stale until it is computed again");
    return run(
        cfg,
        "WITH mh AS (" STALE(
            "strategic_memory_health") "),"
                                       " pf AS (" STALE(
                                           "strategic_character_performance") "),"
                                                                              " pp AS (" STALE(
                                                                                  "strategic_"
                                                                                  "personality_"
                                                                                  "profiles") "),"
                                                                                              " cp "
                                                                                              "AS "
                                                                                              "(" STALE(
                                                                                                  "strategic_conversation_patterns") "),"
                                                                                                                                     " mb AS (" STALE(
                                                                                                                                         "strategic_memory_behavior") "),"
                                                                                                                                                                      " eo AS (" STALE(
                                                                                                                                                                          "strategic_engagement_opportunities") ")"
                                                                                                                                                                                                                " UPDATE strategic_processor SET caught_up_to = '-infinity'",
        "could not mark the cache rows as stale", err);
}

/*
 * What keeps the slot from letting WAL go: one finding per cause, each with what ends it.
 *
 * Decoding can only begin again where no transaction was open, so restart_lsn waits for the oldest
 * one of the whole cluster, prepared ones included, however far confirmed_flush_lsn is; what
 * is not confirmed waits for us; and a failover slot waits for the standbys that
 * synchronized_standby_slots names (PostgreSQL documentation, "pg_replication_slots").
 */
#include "ingest/preflight_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Without pg_read_all_stats the age and state of others' transactions are NULL; their xids are not.
 */
static const char transaction_sql[] =
    "SELECT pid, coalesce(application_name, '') AS application, coalesce(usename, '') AS role,"
    " coalesce(datname, '') AS database, coalesce(', ' || state, '') AS state, backend_xid AS xid,"
    " (extract(epoch FROM pg_catalog.clock_timestamp() - xact_start) * 1000000)::bigint AS age_us"
    " FROM pg_catalog.pg_stat_activity"
    " WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()"
    " ORDER BY pg_catalog.age(backend_xid) DESC LIMIT 1";

static const char prepared_sql[] =
    "SELECT gid, owner AS role, database, transaction AS xid,"
    " pg_catalog.quote_literal(gid) AS quoted,"
    " (extract(epoch FROM pg_catalog.clock_timestamp() - prepared) * 1000000)::bigint AS age_us"
    " FROM pg_catalog.pg_prepared_xacts ORDER BY pg_catalog.age(transaction) DESC LIMIT 1";

/* Those of the list that are behind what our slot has confirmed, or that nobody reads. */
static const char standby_sql[] =
    "SELECT n.name, s.slot_name IS NULL AS missing, coalesce(s.active, false) AS active,"
    " coalesce(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(),"
    "   s.restart_lsn), 0)::bigint AS behind"
    " FROM (SELECT pg_catalog.btrim(pg_catalog.unnest(pg_catalog.string_to_array("
    "   pg_catalog.current_setting('synchronized_standby_slots'), ',')), ' \"') AS name) n"
    " LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = n.name"
    " WHERE n.name <> '' AND (s.slot_name IS NULL OR NOT s.active OR s.restart_lsn IS NULL)"
    " ORDER BY 1 LIMIT 1";

static struct slot_pin *add_pin(struct slot_pins *pins, const char *kind, int64_t age_us)
{
    struct slot_pin *pin = &pins->pins[pins->n++];
    *pin = (struct slot_pin){.kind = kind, .age_us = age_us};
    return pin;
}

/* ", open for 12 s"; nothing when this role may not know. */
static const char *age_text(int64_t age_us, const char *verb, char out[64])
{
    out[0] = '\0';
    if (age_us >= 0)
        snprintf(out, 64, ", %s for %" PRId64 " s", verb, age_us / US_PER_SECOND);
    return out;
}

static enum status find_transaction(PGconn *conn, struct slot_pins *pins, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = preflight_query(conn, transaction_sql, 0, NULL, &res, err);
    if (st || PQntuples(res) == 0)
        return st;
    char age[64];
    struct slot_pin *pin = add_pin(pins, "transaction", preflight_int(res, 0, "age_us", -1));
    snprintf(pin->what, sizeof(pin->what),
             "the oldest open transaction: pid %s, application \"%s\", role \"%s\", database "
             "\"%s\", xid %s%s%s",
             preflight_text(res, 0, "pid"), preflight_text(res, 0, "application"),
             preflight_text(res, 0, "role"), preflight_text(res, 0, "database"),
             preflight_text(res, 0, "xid"), preflight_text(res, 0, "state"),
             age_text(pin->age_us, "open", age));
    snprintf(pin->fix, sizeof(pin->fix), "end it there, or: SELECT pg_terminate_backend(%s);",
             preflight_text(res, 0, "pid"));
    return STATUS_OK;
}

static enum status find_prepared(PGconn *conn, struct slot_pins *pins, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = preflight_query(conn, prepared_sql, 0, NULL, &res, err);
    if (st || PQntuples(res) == 0)
        return st;
    char age[64];
    struct slot_pin *pin =
        add_pin(pins, "prepared_transaction", preflight_int(res, 0, "age_us", -1));
    snprintf(pin->what, sizeof(pin->what),
             "the oldest prepared transaction: gid \"%.80s\", role \"%s\", database \"%s\", xid "
             "%s%s",
             preflight_text(res, 0, "gid"), preflight_text(res, 0, "role"),
             preflight_text(res, 0, "database"), preflight_text(res, 0, "xid"),
             age_text(pin->age_us, "prepared", age));
    snprintf(pin->fix, sizeof(pin->fix),
             "in database \"%s\": COMMIT PREPARED %.200s; or ROLLBACK PREPARED",
             preflight_text(res, 0, "database"), preflight_text(res, 0, "quoted"));
    return STATUS_OK;
}

static enum status find_standby(PGconn *conn, struct slot_pins *pins, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = preflight_query(conn, standby_sql, 0, NULL, &res, err);
    if (st || PQntuples(res) == 0)
        return st;
    const char *name = preflight_text(res, 0, "name");
    struct slot_pin *pin = add_pin(pins, "standby", -1);
    snprintf(pin->what, sizeof(pin->what),
             "standby slot \"%s\" of synchronized_standby_slots %s: the server sends us nothing "
             "that this standby does not have yet",
             name, preflight_bool(res, 0, "missing") ? "does not exist" : "is not read by anybody");
    snprintf(pin->fix, sizeof(pin->fix),
             "bring that standby back, or take its slot out of synchronized_standby_slots");
    return STATUS_OK;
}

static void find_reader(const struct slot_info *slot, struct slot_pins *pins)
{
    if (slot->active && slot->lag_bytes < SLOT_MUCH_BYTES)
        return;
    struct slot_pin *pin = add_pin(pins, "reader", slot->active ? -1 : slot->inactive_us);
    char age[64];
    if (slot->active) {
        snprintf(pin->what, sizeof(pin->what),
                 "%" PRId64 " MB are not yet durable in the state of the reader",
                 slot->lag_bytes >> 20);
        snprintf(pin->fix, sizeof(pin->fix),
                 "let it catch up; if the number grows, look at its log, disk and processors");
        return;
    }
    snprintf(pin->what, sizeof(pin->what), "nobody reads the slot%s",
             age_text(pin->age_us, "idle", age));
    snprintf(pin->fix, sizeof(pin->fix), "start `warmpath run`");
}

enum status preflight_slot_pins(PGconn *conn, const struct slot_info *slot, struct slot_pins *ret,
                                struct error *err)
{
    struct slot_pins pins = {0};
    enum status st = find_transaction(conn, &pins, err);
    if (!st)
        st = find_prepared(conn, &pins, err);
    if (!st && PQserverVersion(conn) >= 170000 && slot->failover)
        st = find_standby(conn, &pins, err);
    if (st)
        return st;
    find_reader(slot, &pins);
    *ret = pins;
    return STATUS_OK;
}

/* An open transaction is no news; one that is old, or that keeps much, is. A reader that is not
 * there is doctor's normal case: how much is kept meanwhile is said elsewhere. */
static bool is_trouble(const struct slot_pin *pin, const struct slot_info *s)
{
    if (strcmp(pin->kind, "standby") == 0)
        return true;
    if (strcmp(pin->kind, "reader") == 0)
        return s->active;
    return pin->age_us > SLOT_PIN_OLD_US || s->pinned_bytes > SLOT_MUCH_BYTES ||
           strcmp(s->wal_status, "reserved") != 0;
}

enum status preflight_check_pins(struct preflight *p, const struct slot_info *s, struct error *err)
{
    struct slot_pins pins = {0};
    enum status st = preflight_slot_pins(p->conn, s, &pins, err);
    for (size_t i = 0; i < pins.n && !st; i++) {
        const struct slot_pin *pin = &pins.pins[i];
        bool trouble = is_trouble(pin, s);
        struct check *c = preflight_add(p, "slot_pin", trouble ? CHECK_WARN : CHECK_OK,
                                        "WAL is kept for %s", pin->what);
        if (trouble)
            preflight_fix(c, "%s", pin->fix);
    }
    return st;
}

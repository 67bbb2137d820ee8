#include "server/begin.h"

#include <inttypes.h>
#include <stdio.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/pg.h"
#include "state/fault.h"

#define SLOT_TIMEOUT_US (60 * US_PER_SECOND)

static enum status write_identity(struct startup *s, struct error *err)
{
    enum status st = STATUS_OK;
    for (uint32_t i = 0; i < s->workers && !st; i++)
        st = store_identity_write(s->stores[i], &s->identity, err);
    return st;
}

/* The slot and its snapshot, with the intent written down before. */
static enum status make_with_snapshot(const struct config *cfg, struct startup *s, PGconn *conn,
                                      struct error *err)
{
    s->identity.loading = true;
    s->identity.slot_birth = LSN_INVALID;
    enum status st = write_identity(s, err);
    if (!st && FAULT_POINT("slot_before_create"))
        st = error_set(err, STATUS_IO, "could not create the slot: injected fault");
    if (!st)
        st = preflight_slot_export(cfg->source_conninfo, conn, cfg->slot, cfg->failover,
                                   SLOT_TIMEOUT_US, &s->snapshot, err);
    if (!st && FAULT_POINT("slot_after_create"))
        st = error_set(err, STATUS_IO, "could not use the slot: injected fault");
    if (st)
        return st;
    s->identity.slot_birth = s->snapshot.birth;
    s->identity.since_us = s->snapshot.at_us - cfg->snapshot_window_us;
    return STATUS_OK;
}

enum status begin_state(const struct config *cfg, struct startup *s, PGconn *conn,
                        const struct gap_input *in, struct error *err)
{
    enum status st = STATUS_OK;
    snprintf(s->identity.system_identifier, sizeof(s->identity.system_identifier), "%s",
             in->system_identifier);
    snprintf(s->identity.slot, sizeof(s->identity.slot), "%s", cfg->slot);
    s->identity.slot_birth = in->slot_confirmed;
    s->identity.timeline = in->timeline;
    s->identity.loading = false;
    s->identity.since_us = 0;
    if (!in->slot_exists && in->snapshot)
        st = make_with_snapshot(cfg, s, conn, err);
    else if (!in->slot_exists)
        st = preflight_slot_create(conn, cfg->slot, cfg->failover, SLOT_TIMEOUT_US,
                                   &s->identity.slot_birth, err);
    if (st)
        return st;
    if (!in->slot_exists)
        log_write(LOG_INFO, "run", "created slot slot=\"%s\" lsn=" LSN_FMT, cfg->slot,
                  LSN_ARGS(s->identity.slot_birth));
    return write_identity(s, err);
}

/* What readers of the progress were told by the state that is thrown away. The row stays: the
 * sink's role may not delete it (deploy/roles.sql). */
static enum status forget_progress(const struct config *cfg, struct error *err)
{
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    CLEANUP(PQclearp) PGresult *res = NULL;
    const char *params[] = {cfg->pipeline};
    enum status st = preflight_connect(cfg->sink_conninfo, &conn, err);
    return st ? st
              : pg_query(conn,
                         "UPDATE strategic_progress SET slot = NULL, slot_birth = NULL, "
                         "covered_lsn = NULL WHERE pipeline = $1",
                         1, params, "could not write to strategic_progress", &res, err);
}

static enum status check_may_begin(const struct config *cfg, PGconn *conn, struct error *err)
{
    struct slot_info slot = {0};
    if (!cfg->create)
        return error_set(err, STATUS_REFUSED,
                         "the state in \"%s\" must begin anew with a new slot \"%s\", but "
                         "source.create is off: set it",
                         cfg->state_dir, cfg->slot);
    enum status st = preflight_slot_read(conn, cfg->slot, &slot, err);
    if (!st && slot.active)
        st = error_set(err, STATUS_REFUSED,
                       "slot \"%s\" must be made anew, but it is being read by %s (server process "
                       "%d): end that first",
                       cfg->slot, slot.holder, slot.active_pid);
    return st;
}

/* The tables do not have it, so the new state will not. */
static void warn_of_inbox(const struct startup *s)
{
    uint64_t newest = 0;
    for (uint32_t i = 0; i < s->workers; i++)
        if (store_newest_inbox(s->stores[i]) > newest)
            newest = store_newest_inbox(s->stores[i]);
    if (newest)
        log_write(LOG_WARN, "run",
                  "what came by HTTP or was pulled, and was counted, is gone with the old state; "
                  "what waits in the inbox is kept rows=%" PRIu64,
                  newest);
}

enum status begin_anew(const struct config *cfg, struct startup *s, PGconn *conn, struct error *err)
{
    enum status st = check_may_begin(cfg, conn, err);
    if (st)
        return st;
    log_write(LOG_WARN, "run", "beginning anew with a new slot and an empty state slot=\"%s\"",
              cfg->slot);
    warn_of_inbox(s);
    for (uint32_t i = 0; i < s->workers; i++)
        store_close(TAKE(s->stores[i]));
    /* From here on the state says that this slot, whatever it holds, is to go. */
    s->identity.loading = true;
    s->identity.slot_birth = LSN_INVALID;
    s->identity.timeline = 0;
    s->identity.since_us = 0;
    st = store_set_renew(cfg->state_dir, s->workers, lease_epoch(s->lease), &s->identity, s->stores,
                         err);
    if (!st && FAULT_POINT("anew_before_drop"))
        st = error_set(err, STATUS_IO, "could not drop the slot: injected fault");
    if (!st)
        st = preflight_slot_drop(conn, cfg->slot, err);
    if (!st && FAULT_POINT("anew_after_drop"))
        st = error_set(err, STATUS_IO, "could not go on: injected fault");
    return st ? st : forget_progress(cfg, err);
}

#include "server/startup.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/pg.h"
#include "ingest/preflight.h"
#include "ingest/session.h"
#include "pipeline/partition.h"
#include "server/begin.h"
#include "server/built_with.h"
#include "server/readers.h"
#include "server/slot_loss.h"
#include "server/source_watch.h"

#define HOLDER_BYTES 128

/* ---- do state and slot fit ---- */

static enum status check_fresh(const struct gap_input *in, struct error *err)
{
    if (!in->slot_exists && !in->create)
        return error_set(err, STATUS_REFUSED,
                         "replication slot \"%s\" does not exist and source.create is off: set "
                         "it, or%s run SELECT pg_create_logical_replication_slot('%s', 'pgoutput')",
                         in->slot, in->snapshot ? " set source.snapshot: never and" : "", in->slot);
    if (in->slot_exists && in->sink_has_progress)
        return error_set(
            err, in->sink_same_slot ? STATUS_LOST : STATUS_REFUSED,
            "\"%.250s\" holds no state, but pipeline \"%s\" has already worked up to " LSN_FMT
            " and slot \"%s\" exists: what came before is no longer in the "
            "slot. Restore the state if there is a copy of it",
            in->state_dir, in->pipeline, LSN_ARGS(in->sink_covered), in->slot);
    if (in->slot_exists && in->slot_lost)
        return error_set(err, STATUS_REFUSED,
                         "slot \"%s\" is lost, and there is no state it belongs to: %.300s. If "
                         "nobody needs it, SELECT pg_drop_replication_slot('%s')",
                         in->slot, in->slot_lost, in->slot);
    if (in->slot_exists && in->snapshot)
        return error_set(err, STATUS_REFUSED,
                         "\"%s\" holds no state, and slot \"%s\" exists already: rows from before "
                         "it can only be read together with a slot that is made for it. If nobody "
                         "needs that slot, run SELECT pg_drop_replication_slot('%s') and start "
                         "again; or set source.snapshot: never to count only what the slot holds",
                         in->state_dir, in->slot, in->slot);
    return STATUS_OK;
}

/* A crash cut the initial snapshot short: state and slot are thrown away, if the slot is ours. */
static enum status check_loading(const struct gap_input *in, struct error *err)
{
    /* Not thrown away without asking: a limit that is too small for the snapshot would lose the
     * next slot as well. */
    if (in->slot_exists && in->slot_lost)
        return error_set(err, STATUS_LOST,
                         "slot \"%s\" was lost before the initial snapshot was complete: %.300s",
                         in->slot, in->slot_lost);
    if (in->slot_exists && in->state.slot_birth != LSN_INVALID &&
        in->slot_confirmed > in->state.slot_birth)
        return error_set(err, STATUS_REFUSED,
                         "the initial snapshot in \"%s\" is not complete, but slot \"%s\" has been "
                         "read from " LSN_FMT " up to " LSN_FMT
                         " by somebody else. Use another source.slot, or if nobody needs that one, "
                         "run SELECT pg_drop_replication_slot('%s') and start again",
                         in->state_dir, in->slot, LSN_ARGS(in->state.slot_birth),
                         LSN_ARGS(in->slot_confirmed), in->slot);
    return STATUS_OK;
}

/* The same cluster, but is it the same history? A promoted standby branches off where it was. */
static enum status check_timeline(const struct gap_input *in, struct error *err)
{
    if (in->shared_lsn == LSN_INVALID)
        return error_set(
            err, STATUS_REFUSED,
            "the server is on timeline %" PRIu32 ", the state in \"%s\" was read from timeline "
            "%" PRIu32 ", which is not part of its history: this is a former primary, or a copy "
            "from before a promotion. Point source.conninfo at the present primary",
            in->timeline, in->state_dir, in->state.timeline);
    if (in->state_covered > in->shared_lsn)
        return error_set(
            err, STATUS_LOST,
            "the server was promoted to timeline %" PRIu32 " at " LSN_FMT ", but the state already "
            "contains changes of the former primary up to " LSN_FMT ", which the new one never "
            "had",
            in->timeline, LSN_ARGS(in->shared_lsn), LSN_ARGS(in->state_covered));
    return STATUS_OK;
}

/* Whose state it is. Anything else here could throw away what belongs to somebody. */
static enum status check_owner(const struct gap_input *in, struct error *err)
{
    if (strcmp(in->state.pipeline, in->pipeline) != 0)
        return error_set(err, STATUS_REFUSED,
                         "\"%s\" holds the state of pipeline \"%s\", not \"%s\"", in->state_dir,
                         in->state.pipeline, in->pipeline);
    if (strcmp(in->state.system_identifier, in->system_identifier) != 0)
        return error_set(err, STATUS_REFUSED,
                         "\"%s\" belongs to the cluster with system identifier %s, but the source "
                         "is %s: positions of one mean nothing in the other. Point source.conninfo "
                         "at the right server, or use another state.dir",
                         in->state_dir, in->state.system_identifier, in->system_identifier);
    if (strcmp(in->state.slot, in->slot) != 0)
        return error_set(err, STATUS_REFUSED,
                         "\"%s\" was built from slot \"%s\", but source.slot is \"%s\"",
                         in->state_dir, in->state.slot, in->slot);
    return STATUS_OK;
}

enum status startup_check_gap(const struct gap_input *in, struct error *err)
{
    if (in->state_fresh)
        return check_fresh(in, err);
    enum status st = check_owner(in, err);
    if (!st)
        st = check_timeline(in, err);
    if (st || in->state.loading)
        return st ? st : check_loading(in, err);
    if (!in->slot_exists)
        return error_set(err, STATUS_LOST,
                         "slot \"%s\" is gone: it was dropped, or the server failed over to a "
                         "standby without it. Changes after " LSN_FMT " may be lost",
                         in->slot, LSN_ARGS(in->state_covered));
    if (in->slot_lost)
        return error_set(err, STATUS_LOST,
                         "slot \"%s\" is lost, and with it the changes after " LSN_FMT ": %.300s",
                         in->slot, LSN_ARGS(in->state_covered), in->slot_lost);
    if (in->server_flush < in->state_covered)
        return error_set(
            err, in->standby ? STATUS_REFUSED : STATUS_LOST,
            "the server ends at " LSN_FMT ", but the state already contains changes up to " LSN_FMT
            ": %s",
            LSN_ARGS(in->server_flush), LSN_ARGS(in->state_covered),
            in->standby ? "it is a standby that is behind. Point source.conninfo at the primary, "
                          "or start again when it has caught up"
                        : "it was restored from a backup or failed over to an older copy");
    if (in->slot_confirmed > in->state_covered)
        return error_set(err, STATUS_LOST,
                         "slot \"%s\" was confirmed up to " LSN_FMT
                         ", but the state in \"%.250s\" ends at " LSN_FMT
                         ": an older copy of the state was restored, or the slot was created anew. "
                         "The changes in between would be skipped silently. Restore the newest "
                         "state if there is one",
                         in->slot, LSN_ARGS(in->slot_confirmed), in->state_dir,
                         LSN_ARGS(in->state_covered));
    return STATUS_OK;
}

/* ---- the pieces ---- */

struct trigger_policy startup_policy(void *ctx, enum table_id table, struct str bot_name)
{
    const struct config *cfg = ctx;
    struct trigger_policy policy = {0};
    bool first = true;
    for (size_t i = 0; engine_at(i); i++) {
        if (!engine_fills(engine_at(i), table))
            continue;
        struct trigger_policy of_engine = config_trigger(cfg, engine_at(i), bot_name);
        policy = first ? of_engine : trigger_either(&policy, &of_engine);
        first = false;
    }
    return policy;
}

/* "host:pid:machine": machine tells this boot and process namespace from all others, so that a pid
 * means the same process to whoever reads it. */
static void holder_name(pid_t pid, char out[HOLDER_BYTES])
{
    char host[64] = "localhost";
    (void)gethostname(host, sizeof(host) - 1);
    char boot[64] = "";
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    size_t len = f ? fread(boot, 1, sizeof(boot), f) : 0;
    if (f)
        fclose(f);
    struct stat ns = {0};
    (void)stat("/proc/self/ns/pid", &ns);
    uint64_t machine = hash64((struct str){boot, len}) ^ hash64_mix(ns.st_ino);
    snprintf(out, HOLDER_BYTES, "%s:%d:%08x", host, (int)pid, (unsigned)(machine >> 32));
}

/* A holder of this machine whose process has ended: killed, it could not give its lease back. */
static bool holder_is_dead(const char *holder)
{
    const char *colon = strchr(holder, ':');
    long pid = colon ? strtol(colon + 1, NULL, 10) : 0;
    if (pid <= 0 || pid > INT32_MAX)
        return false;
    char ours[HOLDER_BYTES];
    holder_name((pid_t)pid, ours);
    if (strcmp(ours, holder) != 0)
        return false;
    return pid == getpid() || (kill((pid_t)pid, 0) != 0 && errno == ESRCH);
}

static enum status acquire_lease(const struct config *cfg, struct lease **ret, struct error *err)
{
    char holder[HOLDER_BYTES];
    holder_name(getpid(), holder);
    return lease_acquire(cfg->sink_conninfo, cfg->pipeline, holder, holder_is_dead, ret, err);
}

static enum status fold_one(const struct config *cfg, struct store *store, uint32_t worker,
                            uint32_t workers, uint64_t epoch, struct error *err)
{
    struct partition_config pc = {
        .worker = worker,
        .workers = workers,
        .store = store,
        .sink = sink_port_closed,
        .policy = startup_policy,
        .policy_ctx = (void *)(uintptr_t)cfg, /* only read */
        .memory_max = SIZE_MAX / 2,
        .catch_up_lag_us = cfg->catch_up_lag_us,
        .epoch = epoch,
    };
    int64_t now = clock_wall_us(&clock_real);
    CLEANUP(partition_closep) struct partition *p = NULL;
    enum status st = partition_open(&pc, now, &p, err);
    return st ? st : partition_fold_all(p, now, err);
}

/* The state was spread over another number of workers: fold every journal, then copy by partition.
 */
static enum status respread(const struct config *cfg, uint32_t from, uint32_t to, uint64_t epoch,
                            struct error *err)
{
    log_write(LOG_INFO, "run", "spreading the state anew workers_before=%u workers=%u", from, to);
    struct store_identity identity = {0};
    struct store *stores[LIMIT_WORKERS] = {0};
    bool fresh = false;
    enum status st = store_set_open(cfg->state_dir, from, epoch, &identity, &fresh, stores, err);
    for (uint32_t i = 0; i < from && !st; i++)
        st = fold_one(cfg, stores[i], i, from, epoch, err);
    for (uint32_t i = 0; i < from; i++)
        store_close(stores[i]);
    return st ? st : store_set_respread(cfg->state_dir, to, err);
}

static enum status open_state(const struct config *cfg, struct startup *s, bool *ret_fresh,
                              struct error *err)
{
    uint64_t epoch = lease_epoch(s->lease);
    s->workers = config_workers(cfg);
    uint32_t before = store_set_workers(cfg->state_dir);
    if (before != 0 && before != s->workers) {
        enum status st = respread(cfg, before, s->workers, epoch, err);
        if (st)
            return st;
    }
    snprintf(s->identity.pipeline, sizeof(s->identity.pipeline), "%s", cfg->pipeline);
    s->identity.partitions = LIMIT_PARTITIONS;
    return store_set_open(cfg->state_dir, s->workers, epoch, &s->identity, ret_fresh, s->stores,
                          err);
}

/* What the sink has been told by an earlier run of this pipeline. */
static enum status read_progress(const struct config *cfg, struct gap_input *in, struct error *err)
{
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = preflight_connect(cfg->sink_conninfo, &conn, err);
    const char *values[] = {cfg->pipeline, cfg->slot};
    if (!st)
        st = pg_query(conn,
                      "SELECT covered_lsn, slot = $2 FROM strategic_progress WHERE pipeline = $1 "
                      "AND covered_lsn > '0/0'",
                      2, values, "could not read strategic_progress", &res, err);
    if (!st && PQntuples(res) == 1) {
        in->sink_has_progress = lsn_parse(PQgetvalue(res, 0, 0), &in->sink_covered);
        in->sink_same_slot = PQgetvalue(res, 0, 1)[0] == 't';
    }
    return st;
}

struct preflight_config startup_preflight(const struct config *cfg)
{
    bool same = strcmp(cfg->source_conninfo, cfg->sink_conninfo) == 0;
    return (struct preflight_config){
        .conninfo = cfg->source_conninfo,
        .slot = cfg->slot,
        .publication = cfg->publication,
        .mappings = &cfg->mappings,
        .create = cfg->create,
        .failover = cfg->failover,
        .sink_conninfo = same ? NULL : cfg->sink_conninfo,
    };
}

enum status startup_check_prerequisites(const struct config *cfg, bool refuse, struct error *err)
{
    static struct preflight_report report; /* large, and only one thread starts or reloads */
    struct preflight_config pc = startup_preflight(cfg);
    enum status st = preflight_run(&pc, &report, err);
    if (st)
        return st;
    for (size_t i = 0; i < report.n; i++) {
        const struct check *c = &report.checks[i];
        if (strcmp(c->name, "slot_lost") == 0)
            continue; /* settle_slot() decides what to do about it */
        if (c->result == CHECK_FAIL && refuse)
            return error_set(err, STATUS_REFUSED, "%s: %s. To mend it: %.380s", c->name, c->found,
                             c->fix);
        if (!refuse && strcmp(c->name, "slot_holder") == 0)
            continue; /* ourselves */
        if (c->result != CHECK_OK)
            log_write(LOG_WARN, "run", "%s: %s fix=\"%s\"", c->name, c->found, c->fix);
    }
    return STATUS_OK;
}

static lsn_t least_covered(const struct startup *s)
{
    lsn_t covered = UINT64_MAX;
    for (uint32_t i = 0; i < s->workers; i++)
        if (store_covered(s->stores[i]) < covered)
            covered = store_covered(s->stores[i]);
    return covered > s->identity.slot_birth ? covered : s->identity.slot_birth;
}

static struct inbox_seen inbox_seen(const struct startup *s)
{
    struct inbox_seen seen = {.covered = UINT64_MAX};
    for (uint32_t i = 0; i < s->workers; i++) {
        uint64_t covered = store_covered_inbox(s->stores[i]);
        uint64_t newest = store_newest_inbox(s->stores[i]);
        seen.covered = covered < seen.covered ? covered : seen.covered;
        seen.newest = newest > seen.newest ? newest : seen.newest;
    }
    return seen;
}

static enum status write_identity(struct startup *s, struct error *err)
{
    enum status st = STATUS_OK;
    for (uint32_t i = 0; i < s->workers && !st; i++)
        st = store_identity_write(s->stores[i], &s->identity, err);
    return st;
}

static void log_timeline(uint32_t before, uint32_t now)
{
    if (before != 0)
        log_write(LOG_WARN, "run",
                  "the source is on a new timeline, and goes on where the former one ended "
                  "timeline_before=%" PRIu32 " timeline=%" PRIu32,
                  before, now);
}

enum status startup_check_source(void *ctx, const struct source_seen *seen, lsn_t durable,
                                 struct error *err)
{
    struct startup_source *s = ctx;
    struct gap_input in = {
        .state = s->identity,
        .state_covered = durable,
        .server_flush = seen->server.flush_lsn,
        .timeline = seen->server.timeline,
        .shared_lsn = seen->server.shared_lsn,
        .slot = s->cfg->slot,
        .slot_exists = seen->slot.exists,
        .slot_confirmed = seen->slot.confirmed_flush,
        .state_dir = s->cfg->state_dir,
        .pipeline = s->cfg->pipeline,
    };
    char lost[SLOT_LOSS_BYTES];
    if (seen->slot.exists && preflight_slot_lost(&seen->slot, lost))
        in.slot_lost = lost;
    in.state.loading = false; /* the snapshot has been read: now the slot must go on from there */
    snprintf(in.system_identifier, sizeof(in.system_identifier), "%" PRIu64,
             seen->server.system_identifier);
    enum status st = startup_check_gap(&in, err);
    if (st || in.timeline == s->identity.timeline)
        return st;
    st = store_set_timeline(s->cfg->state_dir, s->epoch, in.timeline, err);
    if (st)
        return st;
    log_timeline(s->identity.timeline, in.timeline);
    s->identity.timeline = in.timeline;
    return STATUS_OK;
}

/* A slot that somebody reads is not ours, unless the lease says that the reader has lost it. */
static enum status check_reader(const struct config *cfg, PGconn *conn,
                                const struct slot_info *slot, struct error *err)
{
    if (!slot->active)
        return STATUS_OK;
    char ours[128];
    snprintf(ours, sizeof(ours), "\"" STARTUP_READER_NAME "\"", cfg->pipeline);
    if (!strstr(slot->holder, ours))
        return error_set(err, STATUS_REFUSED, "slot \"%s\" is being read by %s (server process %d)",
                         cfg->slot, slot->holder, slot->active_pid);
    log_write(LOG_WARN, "run",
              "ending the connection of an instance that has lost its lease pid=%d",
              slot->active_pid);
    return session_end_reader(conn, cfg->slot, slot->active_pid, NULL, err);
}

static const char *parameter(const PGconn *conn, const char *name)
{
    const char *value = PQparameterStatus(conn, name);
    return value ? value : "";
}

/* st: what startup_check_gap() has found. A loss that the policy lets us begin anew after is none
 * afterwards. */
static enum status settle_loss(const struct config *cfg, struct startup *s, PGconn *conn,
                               enum status st, struct gap_input *in, struct error *err)
{
    bool interrupted = !st && !in->state_fresh && in->state.loading;
    if (interrupted)
        log_write(LOG_WARN, "run", "the initial snapshot was not completed: it is made again");
    else if (st != STATUS_LOST && (st || !s->anew))
        return st;
    if (st == STATUS_LOST)
        st = s->anew ? STATUS_OK : slot_loss_decide(cfg, clock_wall_us(&clock_real), err);
    if (!st)
        st = begin_anew(cfg, s, conn, err);
    in->state_fresh = true;
    in->slot_exists = false;
    return st;
}

/* What the pulls remember as given (state/points.h, state/seen.h) was given to a state that is no
 * more: they give it again. */
static void forget_pulls(const char *dir)
{
    static const char *const patterns[] = {"qdrant-*.db*", "influx-*.db*"};
    DIR *d = opendir(dir);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d))
        for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++)
            if (fnmatch(patterns[i], e->d_name, 0) == 0)
                (void)unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
}

/* The source is not what our rows were computed from, whatever is done about it. */
static void tell_readers(const struct config *cfg)
{
    struct error why = {0};
    if (readers_not_current(cfg, &why))
        log_write(LOG_WARN, "run", "readers may still take rows for current error=\"%s\"",
                  why.text);
}

static enum status settle_slot(const struct config *cfg, struct startup *s, bool fresh,
                               PGconn *conn, struct error *err)
{
    struct gap_input in = {
        .state_fresh = fresh || s->identity.slot[0] == '\0',
        .state = s->identity,
        .slot = cfg->slot,
        .state_dir = cfg->state_dir,
        .pipeline = cfg->pipeline,
        .create = cfg->create,
        .snapshot = cfg->snapshot == SNAPSHOT_INITIAL,
    };
    struct server_identity server = {0};
    char lost[SLOT_LOSS_BYTES];
    enum status st = preflight_identify(cfg->source_conninfo,
                                        in.state_fresh ? 0 : s->identity.timeline, &server, err);
    if (!st)
        st = read_progress(cfg, &in, err);
    struct slot_info slot = {0};
    if (!st)
        st = preflight_slot_read(conn, cfg->slot, &slot, err);
    if (!st)
        st = check_reader(cfg, conn, &slot, err);
    if (st)
        return st;
    snprintf(in.system_identifier, sizeof(in.system_identifier), "%" PRIu64,
             server.system_identifier);
    in.server_flush = server.flush_lsn;
    in.timeline = server.timeline;
    in.shared_lsn = server.shared_lsn;
    in.slot_exists = slot.exists;
    in.slot_confirmed = slot.confirmed_flush;
    in.state_covered = least_covered(s);
    in.standby = strcmp(parameter(conn, "in_hot_standby"), "on") == 0;
    if (slot.exists && preflight_slot_lost(&slot, lost))
        in.slot_lost = lost;
    st = startup_check_gap(&in, err);
    if (st)
        tell_readers(cfg);
    st = settle_loss(cfg, s, conn, st, &in, err);
    if (!st && in.state_fresh)
        st = readers_stale(cfg, err);
    if (!st && in.state_fresh) {
        source_watch_forget(cfg->state_dir);
        forget_pulls(cfg->state_dir);
    }
    if (!st && in.state_fresh)
        st = begin_state(cfg, s, conn, &in, err);
    if (!st && s->identity.timeline != in.timeline) {
        log_timeline(s->identity.timeline, in.timeline);
        s->identity.timeline = in.timeline;
        st = write_identity(s, err);
    }
    st = st ? st : built_with_settle(cfg, in.state_fresh, err);
    if (st)
        return st;
    s->start = least_covered(s);
    s->inbox = inbox_seen(s);
    log_write(LOG_INFO, "run",
              "%s state=" LSN_FMT " slot=" LSN_FMT " server=" LSN_FMT " workers=%u",
              in.state_fresh ? "starting" : "resuming", LSN_ARGS(s->start),
              LSN_ARGS(slot.confirmed_flush), LSN_ARGS(server.flush_lsn), s->workers);
    return STATUS_OK;
}

static enum status start_with(const struct config *cfg, struct startup *s, PGconn *conn,
                              struct error *err)
{
    struct preflight_config pc = startup_preflight(cfg);
    bool created = false;
    enum status st = STATUS_OK;
    if (cfg->create)
        st = preflight_publication_create(conn, &pc, &created, err);
    if (created)
        log_write(LOG_INFO, "run", "created publication publication=\"%s\"", cfg->publication);
    bool fresh = false;
    if (!st)
        st = open_state(cfg, s, &fresh, err);
    return st ? st : settle_slot(cfg, s, fresh, conn, err);
}

enum status startup_run(const struct config *cfg, bool anew, struct startup *ret, struct error *err)
{
    struct startup s = {.anew = anew};
    enum status st = startup_check_prerequisites(cfg, true, err);
    if (!st)
        st = acquire_lease(cfg, &s.lease, err);
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    if (!st)
        st = preflight_connect(cfg->source_conninfo, &conn, err);
    if (!st)
        st = start_with(cfg, &s, conn, err);
    if (st) {
        startup_release(&s);
        return st;
    }
    *ret = s;
    return STATUS_OK;
}

void startup_release(struct startup *s)
{
    for (uint32_t i = 0; i < s->workers; i++) {
        store_close(s->stores[i]);
        s->stores[i] = NULL;
    }
    preflight_export_end(&s->snapshot);
    lease_release(s->lease);
    s->lease = NULL;
}

/*
 * ingest/preflight.h - what must be true of the source before streaming, and how to mend it.
 *
 * One table of checks serves `run` and `doctor`. Each check says what was found and, unless all is
 * well, the exact SQL or setting that mends it. Nothing here changes the server but the two
 * functions named *_create. None of them touches a slot's position: looking never consumes.
 *
 * Threads: none; each call uses the connection it is given, or its own. SQL is written for
 * PostgreSQL 14 to 18 and looks at the server's version where the catalogues differ.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/lsn.h"
#include "core/pg.h"
#include "core/status.h"
#include "ingest/mapping.h"

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

enum check_result { CHECK_OK, CHECK_WARN, CHECK_FAIL };
const char *check_result_name(enum check_result r); /* "ok", "warn", "fail" */

struct check {
    const char *name; /* static: "wal_level", "replica_identity", ... */
    enum check_result result;
    char found[512]; /* one line */
    char fix[1024];  /* SQL statements or a setting; empty when ok */
};

/* Most checks give one result; those of tables give one per mapped table. */
#define CHECKS_MAX 96

struct preflight_report {
    size_t n;
    struct check checks[CHECKS_MAX];
};
enum check_result preflight_worst(const struct preflight_report *r);

struct preflight_config {
    const char *conninfo;
    const char *slot;
    const char *publication;
    const struct mapping_set *mappings;
    bool create;   /* publication and slot will be made when missing: then that is no failure */
    bool failover; /* the slot should be kept on the standbys */
    /* Where the cache rows go; NULL = the same database, then its tables are checked here too. */
    const char *sink_conninfo;
    const char *const *sink_tables; /* names without schema; NULL: the six cache tables */
    size_t n_sink_tables;
};

/* A report in any case, even when no connection can be made (that is its first check). IO when the
 * connection was lost on the way. */
MUST_CHECK enum status preflight_run(const struct preflight_config *cfg,
                                     struct preflight_report *ret, struct error *err);

/* An ordinary connection with the session settings the other functions rely on. */
MUST_CHECK enum status preflight_connect(const char *conninfo, PGconn **ret, struct error *err);

/* What LSNs are relative to: they may only be compared within one system identifier, and with care
 * across timelines. Opens a replication connection of its own (IDENTIFY_SYSTEM). */
struct server_identity {
    uint64_t system_identifier;
    uint32_t timeline;
    lsn_t flush_lsn; /* end of what the server has made durable */
    /* Up to where its history is that of the timeline asked about: UINT64_MAX when it is on that
     * timeline, or none was asked about; where it branched off; LSN_INVALID: never. */
    lsn_t shared_lsn;
    char database[64];
};
/* timeline: to be asked about; 0 = none. */
MUST_CHECK enum status preflight_identify(const char *conninfo, uint32_t timeline,
                                          struct server_identity *ret, struct error *err);
/* The same on a connection for replication commands that is not streaming. */
MUST_CHECK enum status preflight_identify_on(PGconn *conn, uint32_t timeline,
                                             const struct pg_wait *wait,
                                             struct server_identity *ret, struct error *err);
/* Where a timeline ended, by the content of a timeline history file (PostgreSQL docs, "Timelines");
 * LSN_INVALID: it is not among the ancestors. */
lsn_t preflight_timeline_end(const char *history, uint32_t timeline);
MUST_CHECK enum status preflight_system_identifier(const char *conninfo, uint64_t *ret,
                                                   struct error *err);

struct slot_info {
    bool exists;
    bool logical;
    char plugin[64];
    char database[64];
    bool active;
    int active_pid;        /* 0 when not active */
    char holder[256];      /* who has it: application, user, address; empty when not active */
    lsn_t confirmed_flush; /* LSN_INVALID when not set */
    lsn_t restart_lsn;
    char wal_status[16];    /* reserved, extended, unreserved, lost */
    int64_t safe_wal_bytes; /* until it may be lost, -1 = no limit set */
    int64_t keep_bytes_max; /* max_slot_wal_keep_size, -1 = no limit */
    int64_t retained_bytes; /* WAL kept for it: from restart_lsn to the end */
    int64_t pinned_bytes;   /* from restart_lsn to confirmed_flush_lsn */
    int64_t lag_bytes;      /* from confirmed_flush_lsn to the end */
    bool two_phase;
    bool conflicting;       /* PostgreSQL 16+: a standby had to give it up */
    char invalidation[64];  /* 17+: why it is of no use any more; empty = fine */
    int64_t inactive_us;    /* 17+: since when nobody has read it; -1 = active or not known */
    bool failover;          /* 17+: kept on the standbys too */
    bool synced;            /* 17+: this is a standby's copy */
    lsn_t two_phase_at;     /* 18+ */
    int64_t idle_timeout_s; /* 18+: idle_replication_slot_timeout, 0 = none */
};
/* OK with exists false when there is none. */
MUST_CHECK enum status preflight_slot_read(PGconn *conn, const char *slot, struct slot_info *ret,
                                           struct error *err);
/* Whether the server has given the slot up for good; then why, and the setting that keeps it from
 * doing so again. */
#define SLOT_LOSS_BYTES 320
bool preflight_slot_lost(const struct slot_info *s, char why[SLOT_LOSS_BYTES]);

/* What keeps WAL: at most one finding of each kind. */
struct slot_pin {
    const char *kind; /* "transaction", "prepared_transaction", "standby", "reader" */
    int64_t age_us;   /* -1 = not known */
    char what[400];   /* one line, continues "WAL is kept for" */
    char fix[320];
};
struct slot_pins {
    size_t n;
    struct slot_pin pins[4];
};
MUST_CHECK enum status preflight_slot_pins(PGconn *conn, const struct slot_info *slot,
                                           struct slot_pins *ret, struct error *err);

/*
 * Creates a permanent slot with pgoutput. *ret_consistent_point is its birth: changes committed
 * before it are not in the slot. REFUSED when it cannot be made, with the reason; waits for at most
 * timeout_us for older transactions to end and then names one. failover: kept on the standbys as
 * well, where the server can (a primary of PostgreSQL 17 or later).
 */
MUST_CHECK enum status preflight_slot_create(PGconn *conn, const char *slot, bool failover,
                                             int64_t timeout_us, lsn_t *ret_consistent_point,
                                             struct error *err);

/*
 * The same by CREATE_REPLICATION_SLOT, with a snapshot that shows the database as of the slot's
 * birth, for others to SET TRANSACTION SNAPSHOT. It can be used as long as its connection is open
 * and idle: preflight_export_end(). conn: another one, to ask with.
 */
struct slot_export {
    PGconn *conn; /* owned; NULL = there is no snapshot */
    char snapshot[64];
    lsn_t birth;
    int64_t at_us; /* the server's clock just before */
};
MUST_CHECK enum status preflight_slot_export(const char *conninfo, PGconn *conn, const char *slot,
                                             bool failover, int64_t timeout_us,
                                             struct slot_export *ret, struct error *err);
void preflight_export_end(struct slot_export *e); /* of {0}, and again: a no-op */
/* OK when there is none. */
MUST_CHECK enum status preflight_slot_drop(PGconn *conn, const char *slot, struct error *err);

/*
 * The publication must exist before the slot: history decides what a slot can see of it. Missing:
 * created for exactly the mapped tables; REFUSED with the SQL to choose from when a table lacks a
 * mapped column or a replica identity: publishing its updates and deletes would make the
 * application's own statements fail. Present: REFUSED
 * unless it has every mapped table and no cache table.
 */
MUST_CHECK enum status preflight_publication_create(PGconn *conn,
                                                    const struct preflight_config *cfg,
                                                    bool *ret_created, struct error *err);

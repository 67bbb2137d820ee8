/*
 * tests/sim/sim.h - the whole system in one thread on a virtual clock: one seed is one universe.
 *
 * Real: stream, feedback, router, frames, workers, partitions, triggers, journal and pages on
 * SQLite. Simulated: the server's WAL and slot, the links, the disk below SQLite
 * (tests/fault/faultvfs.h), PostgreSQL's cache tables, and processes that die, are paused, wake up
 * late and start again. Workload, schedule and faults all come from the seed.
 *
 * What must hold at every step: the slot is never told more than is durable; PostgreSQL never shows
 * anything that a power cut could take back; nobody writes with an old epoch; versions only rise.
 * What must hold when everything has come to rest: each row equals the naive engines' at its T, no
 * row is missing, nothing is outstanding.
 */
#pragma once

#include "core/clock.h"
#include "core/event.h"
#include "core/limits.h"
#include "engines/oracle/oracle.h"
#include "ingest/mapping.h"
#include "pipeline/router.h"
#include "pipeline/worker.h"
#include "state/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_START_US (INT64_C(1767600000) * US_PER_SECOND) /* 2026-01-05 08:00 UTC */

/* What may go wrong in a universe, as a mask. */
enum sim_fault {
    SIM_KILL = 1 << 0,   /* a process ends between two steps, its files stay as they are */
    SIM_POWER = 1 << 1,  /* ... and what was not synced is lost, kept or torn */
    SIM_DISK = 1 << 2,   /* one write or sync fails */
    SIM_LINK = 1 << 3,   /* frames are lost */
    SIM_SOURCE = 1 << 4, /* the session is cut, the server forgets what was confirmed */
    SIM_SINK = 1 << 5,   /* transactions fail, or commit without an answer */
    SIM_ZOMBIE = 1 << 6, /* a process is paused, another takes over, the first wakes up */
    SIM_CLOCK = 1 << 7,  /* the wall clock jumps */
    SIM_FAULTS = (1 << 8) - 1,
};

struct sim_options {
    uint64_t seed;
    unsigned faults; /* of enum sim_fault */
    uint32_t transactions;
    bool verbose;
    char dir[64]; /* of its own, empty */
};

#define SIM_FAILED 3 /* exit status of a universe in which something did not hold */
/* Says what did not hold and ends the process with SIM_FAILED. */
_Noreturn void sim_fail(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* For what never may fail here: aborts with the text. */
void sim_must(enum status st, const struct error *err);

/* ---- chance ---- */
struct sim_random {
    uint64_t state;
};
uint64_t sim_random(struct sim_random *r);
uint32_t sim_below(struct sim_random *r, uint32_t n);
bool sim_chance(struct sim_random *r, uint32_t n, uint32_t of); /* n times out of `of` */

/* ---- time: mono only moves on, wall may jump ---- */
struct sim_time {
    int64_t mono_us;
    int64_t wall_us;
};
struct clock sim_clock(struct sim_time *t);

/* ---- links (sim_link.c stands in for pipeline/link.c) ---- */
void sim_link_reset(void);
/* Loses the oldest frame in flight on some link; false: none was. */
bool sim_link_lose(struct sim_random *r);

/* ---- the source (sim_source.c): tables, WAL, slot ---- */
#define SIM_BIRTH_LSN 0x1000000 /* of the slot */
struct sim_source;
struct sim_source *sim_source_new(void);
void sim_source_free(struct sim_source *s);
extern const struct mapping_set *sim_mappings(void);
/* One more committed transaction. */
void sim_source_commit(struct sim_source *s, struct sim_random *r, int64_t now_us);
lsn_t sim_source_end(const struct sim_source *s); /* end of the newest transaction */
/* What the slot was told last; what it was told must not be above `durable`. */
lsn_t sim_source_confirmed(const struct sim_source *s);
void sim_source_confirm(struct sim_source *s, lsn_t flush);
/* The server crashes: it remembers an earlier confirmation. */
void sim_source_crash(struct sim_source *s, struct sim_random *r);

/* A session as the server's sender has it. */
struct sim_session {
    bool open;
    size_t transaction; /* next to send ... */
    size_t row;         /* ... and where in it: 0 BEGIN, then rows, then COMMIT */
    bool described[8];  /* relations told already */
};
void sim_session_open(struct sim_source *s, struct sim_session *session, lsn_t start);
/* The next message, to out; false: nothing to send. */
bool sim_session_next(struct sim_source *s, struct sim_session *session, int64_t now_us,
                      struct buf *out);
void sim_session_keepalive(struct sim_source *s, int64_t now_us, struct buf *out);

/* ---- the cache (sim_cache.c): PostgreSQL as the sink sees it ---- */
struct sim_cache;
struct sim_cache *sim_cache_new(void);
void sim_cache_free(struct sim_cache *c);
uint64_t sim_cache_take_over(struct sim_cache *c); /* a new epoch */

/* The sink of one process. */
struct sim_sink;
struct sim_sink *sim_sink_new(struct sim_cache *c, uint64_t epoch);
void sim_sink_free(struct sim_sink *s);
struct sink_port sim_sink_port(struct sim_sink *s);
/* One transaction, perhaps; FENCED: somebody has taken over. */
MUST_CHECK enum status sim_sink_step(struct sim_sink *s, struct sim_random *r, bool faults);
bool sim_sink_idle(const struct sim_sink *s);
/* What a crash has left must still hold all that rows show: the newest position of each partition.
 */
void sim_cache_check_durable(const struct sim_cache *c, const lsn_t applied[LIMIT_PARTITIONS]);
/* Every row of the oracle is there, and equal; returns how many. */
size_t sim_cache_check_rows(struct sim_cache *c, struct oracle *o, int64_t as_of_us);

/* ---- a process (sim_process.c) ---- */
struct sim_world {
    struct sim_options options;
    struct sim_random random;
    struct sim_time time;
    struct sim_source *source;
    struct sim_cache *cache;
    struct sim_process *reader; /* who holds the slot; NULL: nobody */
    char dir[64];
    uint32_t workers;
    size_t memory;
    bool faults;   /* still happen */
    bool draining; /* everything dirty is to be shown */
    bool disk_armed;
    uint32_t starts;
};
struct sim_process;
/* Recovers what the disk holds, and checks it against what others were told. NULL: it could not
 * start, because of a fault. */
struct sim_process *sim_process_start(struct sim_world *w);
/* Gives one of its threads time; false: it has ended by itself, and is freed. */
bool sim_process_step(struct sim_process *p);
/* Ends it between two steps as kill -9 does; its files stay as they are. */
void sim_process_kill(struct sim_process *p);
/* Everything of the source is durable and shown, and nothing waits. */
bool sim_process_rests(struct sim_process *p);
int64_t sim_process_as_of(struct sim_process *p);
void sim_process_print(struct sim_process *p); /* where it stands */

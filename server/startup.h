/*
 * server/startup.h - what `run` must settle before the first event: who may write (lease), what is
 * durable here (state), where the source stands (slot), and that the three fit together.
 *
 * The rule of DESIGN.md section 5: confirmed_flush_lsn <= what the state covers, same system
 * identifier, same history (timeline), same slot; else REFUSED or, where the source can no longer
 * give what follows our state, LOST, with what happened and what to do. Nothing is guessed.
 */
#pragma once

#include "core/cleanup.h"
#include "ingest/replication.h"
#include "pipeline/inbox_feed.h"
#include "server/config.h"
#include "state/lease.h"
#include "state/store.h"

/* application_name of the slot reader; its argument is the pipeline. PostgreSQL cuts names at 63
 * bytes. */
#define STARTUP_READER_NAME "warmpath %.54s"

struct startup {
    struct lease *lease;
    uint32_t workers;
    struct store *stores[LIMIT_WORKERS];
    struct store_identity identity;
    lsn_t start;             /* every event up to here is in the state */
    struct inbox_seen inbox; /* likewise, of the other source */
    struct slot_export
        snapshot; /* of the rows to load first; conn NULL: there is nothing to load */
    bool anew;    /* begin anew, whatever state and slot are like */
};

/* anew: the slot was lost while it was read, and slot_loss_decide() has said to begin anew; a loss
 * that is found here is decided on here. */
MUST_CHECK enum status startup_run(const struct config *cfg, bool anew, struct startup *ret,
                                   struct error *err);
/* Closes the stores and gives the lease back. */
void startup_release(struct startup *s);

/* Looks at the source with the checks of ingest/preflight.h. Warnings are logged. The first failure
 * is REFUSED, with what was found and what mends it; without refuse it is logged as well. */
MUST_CHECK enum status startup_check_prerequisites(const struct config *cfg, bool refuse,
                                                   struct error *err);
/* What the start-up checks of ingest/ look at, from the configuration. */
struct preflight_config startup_preflight(const struct config *cfg);

/* The policy of one table for one bot: that of the first engine that fills it. ctx: struct config.
 */
struct trigger_policy startup_policy(void *ctx, enum table_id table, struct str bot_name);

/* Asked by the reader on every connect (replication_config.check); writes down a new timeline
 * before anything of it is streamed. ctx: struct startup_source, which the reader's thread owns
 * meanwhile.
 */
struct startup_source {
    const struct config *cfg;
    uint64_t epoch;
    struct store_identity identity;
};
enum status startup_check_source(void *ctx, const struct source_seen *seen, lsn_t durable,
                                 struct error *err);

/* Pure: may a state like this read a slot like that, or, while it is loading, throw that slot away?
 * OK; LOST when nobody but this pipeline is harmed by beginning anew; else REFUSED.
 * docs/OPERATIONS.md has the table of the cases. */
struct gap_input {
    bool state_fresh;
    struct store_identity state; /* undefined when fresh */
    lsn_t state_covered;         /* the larger of covered and slot birth */
    char system_identifier[24];  /* of the server */
    lsn_t server_flush;
    uint32_t timeline; /* of the server */
    lsn_t shared_lsn;  /* as in struct server_identity, for the timeline of the state */
    const char *slot;
    bool slot_exists;
    lsn_t slot_confirmed;
    const char *slot_lost;  /* why it is of no use any more, NULL = it is not lost */
    bool standby;           /* the server is in recovery: it may only be behind */
    bool sink_has_progress; /* strategic_progress knows this pipeline ... */
    lsn_t sink_covered;     /* ... up to here ... */
    bool sink_same_slot;    /* ... with this slot */
    const char *state_dir;
    const char *pipeline;
    bool create;
    bool snapshot; /* what is there before the slot is to be read */
};
MUST_CHECK enum status startup_check_gap(const struct gap_input *in, struct error *err);

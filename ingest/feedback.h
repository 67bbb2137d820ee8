/*
 * ingest/feedback.h - what the server is told about our progress, and when: pure functions.
 *
 * flush is a promise: the server may forget everything before it. It is only ever the end LSN of a
 * durable COMMIT, or the walEnd of a keepalive that found nothing outstanding and was made durable
 * (PostgreSQL documentation, "Streaming Replication Protocol", standby status update). It never
 * goes back, and never passes what was handed on, whatever the receiver may claim.
 */
#pragma once

#include "core/lsn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the reader has seen and sent in this session. */
struct feedback {
    lsn_t start;          /* where this session started: durable before it */
    lsn_t received;       /* newest walEnd of any message */
    lsn_t committed;      /* end LSN of the newest COMMIT handed on */
    lsn_t idle;           /* newest keepalive walEnd handed on as idle */
    lsn_t flushed;        /* newest flush LSN sent */
    lsn_t written;        /* newest write LSN sent */
    int64_t sent_us;      /* when; monotonic clock */
    bool in_transaction;  /* between BEGIN and its COMMIT handed on */
    bool outstanding;     /* something was decoded but not yet taken by the receiver */
    bool reply_requested; /* by the server, since the last answer */
};

struct feedback_report {
    lsn_t write; /* received */
    lsn_t apply; /* durable; equal to flush */
    lsn_t flush; /* durable */
};

void feedback_start(struct feedback *f, lsn_t start, int64_t now_us);

/* Whether a keepalive with this walEnd may be handed on as "nothing is outstanding up to here". */
bool feedback_may_idle(const struct feedback *f, lsn_t wal_end);

/* durable: the receiver's claim. Postcondition: write >= apply >= flush >= the last flush sent. */
struct feedback_report feedback_report(const struct feedback *f, lsn_t durable);

/* Whether to send now: asked for, or interval_us has passed since the last one. */
bool feedback_is_due(const struct feedback *f, int64_t interval_us, int64_t now_us);
/* Microseconds until feedback_is_due(), 0 = now. */
int64_t feedback_wait_us(const struct feedback *f, int64_t interval_us, int64_t now_us);

/* After it was handed to the socket. */
void feedback_sent(struct feedback *f, const struct feedback_report *report, int64_t now_us);

/* The 34 bytes of a standby status update ('r'). server_us: Unix epoch; ping asks for an answer. */
#define FEEDBACK_BYTES 34
void feedback_encode(const struct feedback_report *report, int64_t wall_us, bool ping,
                     uint8_t out[FEEDBACK_BYTES]);

/*
 * The watchdog over the server's silence, for connections that die without a word. Silence only
 * counts while we are reading. After silence_us a reply is asked for; when that brings nothing
 * within answer_us, the connection is given up.
 */
struct watchdog {
    int64_t heard_us;
    int64_t asked_us; /* 0 = not asked */
};
enum watchdog_action { WATCHDOG_WAIT, WATCHDOG_ASK, WATCHDOG_DEAD };
void watchdog_heard(struct watchdog *w, int64_t now_us);
enum watchdog_action watchdog_check(struct watchdog *w, int64_t silence_us, int64_t answer_us,
                                    int64_t now_us);

/*
 * Decorrelated jitter: a wait uniform in [min, 3 * previous], at most max; previous 0 = the first.
 * random: any 64 random bits. Spreads reconnects of many readers without keeping count.
 */
int64_t backoff_next(int64_t previous_us, int64_t min_us, int64_t max_us, uint64_t random);

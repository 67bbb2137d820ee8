/*
 * server/private_board.h - what the supervisor last said of itself and its stages: that it is
 * alive, and which checks of readiness hold. The private listener answers from it
 * (private_routes.h), so that no request touches the pipeline and none can see it half taken down.
 */
#pragma once

#include "core/clock.h"
#include "core/status.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define READY_CHECKS_MAX 16
#define READY_WHY_BYTES  256

struct ready_check {
    const char *name; /* static, "sink" */
    bool ok;
    bool note;                 /* shown when asked for, and no reason not to be ready */
    char why[READY_WHY_BYTES]; /* when it is not; one line, no secret */
};
struct readiness {
    size_t n;
    struct ready_check checks[READY_CHECKS_MAX];
};
/* Appends a check; why is cut. */
void ready_check(struct readiness *r, const char *name, bool ok, const char *why, ...)
    PRINTF_LIKE(4, 5);
/* The same for what is only to be shown. */
void ready_note(struct readiness *r, const char *name, bool ok, const char *why, ...)
    PRINTF_LIKE(4, 5);

struct private_board {
    const struct clock *clock;
    pthread_mutex_t lock; /* guards the rest */
    int64_t alive_us;     /* mono: when the supervisor last said so */
    bool reported;
    bool stopping;
    struct readiness ready;
};
void private_board_init(struct private_board *b, const struct clock *clock);
void private_board_deinit(struct private_board *b);
/* Any thread. */
void private_board_alive(struct private_board *b);
void private_board_report(struct private_board *b, const struct readiness *r);
void private_board_stopping(struct private_board *b); /* from now on /readyz says no */
/* A copy, with the checks that only the board can make; ready: all checks, else only whether the
 * supervisor is alive. Any thread. */
struct readiness private_board_read(struct private_board *b, bool ready);

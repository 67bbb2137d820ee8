#include "server/private_board.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

/* The supervisor looks ten times a second; reading the configuration again may hold it up while a
 * database does not answer. */
#define ALIVE_US (30 * US_PER_SECOND)

static void PRINTF_LIKE(5, 0)
    add(struct readiness *r, const char *name, bool ok, bool note, const char *why, va_list args)
{
    if (r->n == READY_CHECKS_MAX)
        return;
    struct ready_check *c = &r->checks[r->n++];
    *c = (struct ready_check){.name = name, .ok = ok, .note = note};
    vsnprintf(c->why, sizeof(c->why), why, args);
    if (ok)
        c->why[0] = '\0';
    for (char *p = c->why; *p; p++)
        if ((unsigned char)*p < ' ')
            *p = ' ';
}

void ready_check(struct readiness *r, const char *name, bool ok, const char *why, ...)
{
    va_list args;
    va_start(args, why);
    add(r, name, ok, false, why, args);
    va_end(args);
}

void ready_note(struct readiness *r, const char *name, bool ok, const char *why, ...)
{
    va_list args;
    va_start(args, why);
    add(r, name, ok, true, why, args);
    va_end(args);
}

void private_board_init(struct private_board *b, const struct clock *clock)
{
    *b = (struct private_board){.clock = clock, .alive_us = clock_mono_us(clock)};
    pthread_mutex_init(&b->lock, NULL);
}

void private_board_deinit(struct private_board *b)
{
    pthread_mutex_destroy(&b->lock);
}

void private_board_alive(struct private_board *b)
{
    pthread_mutex_lock(&b->lock);
    b->alive_us = clock_mono_us(b->clock);
    pthread_mutex_unlock(&b->lock);
}

void private_board_report(struct private_board *b, const struct readiness *r)
{
    pthread_mutex_lock(&b->lock);
    b->ready = *r;
    b->reported = true;
    pthread_mutex_unlock(&b->lock);
}

void private_board_stopping(struct private_board *b)
{
    pthread_mutex_lock(&b->lock);
    b->stopping = true;
    pthread_mutex_unlock(&b->lock);
}

static void check_alive(const struct private_board *b, struct readiness *r)
{
    int64_t silent_us = clock_mono_us(b->clock) - b->alive_us;
    /* Stopping has its own deadlines, and the supervisor is busy with them. */
    ready_check(r, "supervisor", b->stopping || silent_us < ALIVE_US,
                "has not moved for %" PRId64 " s", silent_us / US_PER_SECOND);
}

struct readiness private_board_read(struct private_board *b, bool ready)
{
    struct readiness r = {0};
    pthread_mutex_lock(&b->lock);
    if (ready && b->reported)
        r = b->ready;
    if (ready && b->stopping)
        ready_check(&r, "shutdown", false, "the process is stopping");
    else if (ready && !b->reported)
        ready_check(&r, "start", false, "the process is starting");
    check_alive(b, &r);
    pthread_mutex_unlock(&b->lock);
    return r;
}

#include "core/log.h"

#include "core/clock.h"

#include <assert.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define RECORD_BYTES 4096

static _Atomic int max_level = LOG_INFO;

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&max_level, (int)level, memory_order_relaxed);
}

struct record {
    char bytes[RECORD_BYTES];
    size_t len;
};

/* Keeps one byte for the newline; what does not fit is cut. */
static void put(struct record *r, char c)
{
    if (r->len < sizeof(r->bytes) - 1)
        r->bytes[r->len++] = (char)((unsigned char)c < 0x20 ? ' ' : c);
}

static void put_escaped(struct record *r, char c)
{
    if (c == '"' || c == '\\')
        put(r, '\\');
    put(r, c);
}

/* True at " key=", where one field of logfmt ends and the next begins. */
static bool at_field(const char *p)
{
    if (*p != ' ')
        return false;
    const char *key = p + 1;
    p = key;
    while ((*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') || *p == '_')
        p++;
    return p > key && *p == '=';
}

/* A value that starts with a quote ends at the last quote before the next field: error texts hold
 * names in double quotes, which are escaped here so that no caller has to. */
static const char *put_quoted_value(struct record *r, const char *p)
{
    put(r, '"');
    for (p++; *p && !(*p == '"' && (p[1] == '\0' || at_field(p + 1))); p++)
        put_escaped(r, *p);
    put(r, '"');
    return *p ? p + 1 : p;
}

/* text is `words key=value ...`: the words become msg="words". */
static void put_message(struct record *r, const char *text)
{
    for (const char *p = "msg=\""; *p; p++)
        put(r, *p);
    for (; *text && !at_field(text); text++)
        put_escaped(r, *text);
    put(r, '"');
    while (*text) {
        bool value_starts = *text == '=';
        put(r, *text++);
        if (value_starts && *text == '"')
            text = put_quoted_value(r, text);
    }
}

void log_write(enum log_level level, const char *stage, const char *fmt, ...)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    assert(level <= LOG_DEBUG);
    if ((int)level > atomic_load_explicit(&max_level, memory_order_relaxed))
        return;
    char text[RECORD_BYTES / 2];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);

    char ts[40];
    (void)time_format(clock_wall_us(&clock_real), 1, ts);
    struct record r;
    int n = snprintf(r.bytes, sizeof(r.bytes), "ts=%s level=%s stage=%s ", ts, names[level], stage);
    assert(n > 0 && (size_t)n < sizeof(r.bytes));
    r.len = (size_t)n;
    put_message(&r, text);
    r.bytes[r.len++] = '\n';
    /* One write per record, so that records of different threads do not mix. A log that cannot be
     * written has nowhere to be reported. */
    ssize_t written = write(STDERR_FILENO, r.bytes, r.len);
    (void)written;
}

int log_limit_pass(struct log_limit *l, long long now_us, long long period_us)
{
    if (now_us < l->next_us) {
        l->held++;
        return -1;
    }
    int held = l->held;
    l->held = 0;
    l->next_us = now_us + period_us;
    return held;
}

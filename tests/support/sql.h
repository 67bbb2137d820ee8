/* tests/support/sql.h - short ways to ask a server something from a test. Any failure is a
 * failed cmocka test with the server's message, so only call these from the test's own thread. */
#pragma once

#include "core/cleanup.h"

#include <libpq-fe.h>
#include <stdbool.h>

PGconn *sql_open(const char *conninfo);
void sql_close(PGconn *conn); /* NULL is a no-op */
CLEANUP_FREEP(PGconn, sql_close);

/* Runs statements, results dropped. */
void sql_run(PGconn *conn, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* All rows as text: columns joined by "|", rows by newline, NULL as "-". The caller frees it. */
char *sql_text(PGconn *conn, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
long sql_number(PGconn *conn, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Asks again and again until the query gives true; false after 30 s. */
bool sql_wait_until(PGconn *conn, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

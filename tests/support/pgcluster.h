/*
 * tests/support/pgcluster.h - a private PostgreSQL server for the tests of one program.
 *
 * The cluster lives in a directory of its own under $TMPDIR, listens on a Unix socket only and dies
 * with the test program, however that ends. wal_level is logical; fsync is off, which a test that
 * kills processes (not the machine) cannot notice. Root runs it as user postgres.
 *
 * WARMPATH_TEST_CONNINFO (keyword form, a role that may create databases) names a server to use
 * instead; then it can neither be stopped nor started, and tests that need that skip themselves
 * (pgcluster_is_private()). PG_BINDIR names the server's programs, otherwise pg_config or
 * /usr/lib/postgresql is asked.
 */
#pragma once

#include <stdbool.h>

struct pgcluster;

/* A running server, or NULL with the reason on stderr. *ret_skip (may be NULL): there is no server
 * on this machine, so the program should exit with 77. */
struct pgcluster *pgcluster_open(bool *ret_skip);
void pgcluster_close(struct pgcluster *c); /* stops it and removes the directory; NULL is a no-op */
bool pgcluster_is_private(const struct pgcluster *c);

/* Creates an empty database and returns the connection string for it; the caller frees it. */
char *pgcluster_database(struct pgcluster *c, const char *name);
/* The socket directory, for programs that need it. */
const char *pgcluster_host(const struct pgcluster *c);

/* immediate: like a crash, nothing is flushed and clients are cut off. */
void pgcluster_stop(struct pgcluster *c, bool immediate);
void pgcluster_start(struct pgcluster *c);
/* The postmaster, for SIGSTOP and the like; 0 when stopped. */
int pgcluster_pid(const struct pgcluster *c);

/*
 * bench/floor.c - the least that any slot reader must do: read pgoutput from a slot, and for every
 * INSERT upsert one fixed row and NOTIFY, each in a transaction of its own. No state, no restart,
 * no checks: the floor that Warmpath's commit-to-row latency is printed beside.
 *
 * usage: floor CONNINFO SLOT PUBLICATION      (the table floor_row(id int primary key, n bigint)
 *                                              exists; ends on SIGTERM)
 */
#include <libpq-fe.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile sig_atomic_t stop;

static void on_term(int sig)
{
    (void)sig;
    stop = 1;
}

static void die(PGconn *conn, const char *what)
{
    fprintf(stderr, "floor: %s: %s", what, PQerrorMessage(conn));
    exit(1);
}

static PGconn *open_connection(const char *conninfo, const char *replication)
{
    const char *keywords[] = {"dbname", replication ? "replication" : NULL, NULL};
    const char *values[] = {conninfo, replication, NULL};
    PGconn *conn = PQconnectdbParams(keywords, values, 1);
    if (PQstatus(conn) != CONNECTION_OK)
        die(conn, "connect");
    return conn;
}

static void upsert(PGconn *sink)
{
    PGresult *res = PQexecPrepared(sink, "up", 0, NULL, NULL, NULL, 0);
    if (PQresultStatus(res) != PGRES_TUPLES_OK)
        die(sink, "upsert");
    PQclear(res);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: floor CONNINFO SLOT PUBLICATION\n");
        return 64;
    }
    signal(SIGTERM, on_term);
    PGconn *sink = open_connection(argv[1], NULL);
    PQclear(PQprepare(sink, "up",
                      "WITH u AS (INSERT INTO floor_row VALUES (1, 1) ON CONFLICT (id) DO UPDATE "
                      "SET n = floor_row.n + 1 RETURNING 1) "
                      "SELECT pg_notify('strategic_cache', '{}') FROM u",
                      0, NULL));
    PGconn *source = open_connection(argv[1], "database");
    char command[512];
    snprintf(command, sizeof(command),
             "START_REPLICATION SLOT \"%s\" LOGICAL 0/0 (proto_version '1', publication_names "
             "'\"%s\"')",
             argv[2], argv[3]);
    PGresult *res = PQexec(source, command);
    if (PQresultStatus(res) != PGRES_COPY_BOTH)
        die(source, "START_REPLICATION");
    PQclear(res);
    printf("ready\n");
    fflush(stdout);
    while (!stop) {
        char *data = NULL;
        int n = PQgetCopyData(source, &data, 1);
        if (n > 25 && data[0] == 'w' && data[25] == 'I')
            upsert(sink);
        if (data)
            PQfreemem(data);
        if (n < 0)
            die(source, "stream");
        if (n > 0)
            continue;
        struct pollfd p = {PQsocket(source), POLLIN, 0};
        if (poll(&p, 1, 200) > 0 && PQconsumeInput(source) == 0)
            die(source, "read");
    }
    PQfinish(source);
    PQfinish(sink);
    return 0;
}

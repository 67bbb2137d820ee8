#include "tests/support/sql.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

PGconn *sql_open(const char *conninfo)
{
    PGconn *conn = PQconnectdb(conninfo);
    if (PQstatus(conn) != CONNECTION_OK)
        fail_msg("%s", PQerrorMessage(conn));
    PQclear(PQexec(conn, "SET client_min_messages = warning"));
    return conn;
}

void sql_close(PGconn *conn)
{
    PQfinish(conn);
}

static __attribute__((format(printf, 2, 0))) PGresult *execute(PGconn *conn, const char *fmt,
                                                               va_list args)
{
    char *query = NULL;
    if (vasprintf(&query, fmt, args) < 0)
        fail_msg("out of memory");
    PGresult *res = PQexec(conn, query);
    ExecStatusType status = PQresultStatus(res);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
        fail_msg("%s%s", PQresultErrorMessage(res), query);
    free(query);
    return res;
}

void sql_run(PGconn *conn, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    PQclear(execute(conn, fmt, args));
    va_end(args);
}

static char *text_of(const PGresult *res)
{
    char *out = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&out, &len);
    if (!f)
        fail_msg("out of memory");
    for (int row = 0; row < PQntuples(res); row++)
        for (int col = 0; col < PQnfields(res); col++)
            fprintf(f, "%s%s",
                    col   ? "|"
                    : row ? "\n"
                          : "",
                    PQgetisnull(res, row, col) ? "-" : PQgetvalue(res, row, col));
    fclose(f);
    return out;
}

char *sql_text(PGconn *conn, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    PGresult *res = execute(conn, fmt, args);
    va_end(args);
    char *out = text_of(res);
    PQclear(res);
    return out;
}

long sql_number(PGconn *conn, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    PGresult *res = execute(conn, fmt, args);
    va_end(args);
    if (PQntuples(res) != 1 || PQgetisnull(res, 0, 0))
        fail_msg("not one number: %s", fmt);
    long n = strtol(PQgetvalue(res, 0, 0), NULL, 10);
    PQclear(res);
    return n;
}

bool sql_wait_until(PGconn *conn, const char *fmt, ...)
{
    for (int i = 0; i < 3000; i++) {
        va_list args;
        va_start(args, fmt);
        PGresult *res = execute(conn, fmt, args);
        va_end(args);
        bool met = PQntuples(res) > 0 && *PQgetvalue(res, 0, 0) == 't';
        PQclear(res);
        if (met)
            return true;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return false;
}

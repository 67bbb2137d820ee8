/*
 * clients/c/example.c - prints what is known about one user and one bot, and how long it took to
 * know.
 *
 *     cc -O2 -I$(pg_config --includedir) clients/c/example.c -lpq -lm -o example
 *     ./example 'dbname=chat' user-7 elena
 */
#include "warmpath_read.h"

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void say(const char *what, const struct warmpath_row *row)
{
    printf("%-16s %-8s", what, warmpath_freshness_name(row->freshness));
    if (!isnan(row->confidence))
        printf(" confidence %.3f", row->confidence);
    printf("\n");
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: example CONNINFO USER BOT\n");
        return 64;
    }
    PGconn *conn = PQconnectdb(argv[1]);
    if (warmpath_prepare(conn, 5000) != WARMPATH_OK) {
        fprintf(stderr, "example: %s", PQerrorMessage(conn));
        PQfinish(conn);
        return 1;
    }
    struct warmpath_bundle b;
    double began = now_ms();
    enum warmpath_status st = warmpath_read(conn, argv[2], argv[3], 168, 100, &b);
    double took = now_ms() - began;
    if (st == WARMPATH_OK)
        printf("read in %.3f ms\n", took);
    else
        printf("fallback: %s\n", b.problem);
    say("memory health", &b.memory_health.row);
    say("personality", &b.personality.row);
    say("conversation", &b.conversation.row);
    say("memory behavior", &b.memory_behavior.row);
    say("engagement", &b.engagement.row);
    say("performance", &b.performance.row);
    if (isnan(b.conversation.predicted_switch_likelihood))
        printf("stay with the topic\n");
    else
        printf("the next message opens another topic: %.0f %%\n",
               100 * b.conversation.predicted_switch_likelihood);
    if (b.conversation.recent_topics_json)
        printf("topics: %s\n", b.conversation.recent_topics_json);
    warmpath_clear(&b);
    PQfinish(conn);
    return st == WARMPATH_OK ? 0 : 1;
}

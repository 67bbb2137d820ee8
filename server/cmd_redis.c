/* server/cmd_redis.c - fills Redis from the cache in PostgreSQL, whether or not `run` is at work.
 */
#include "server/output.h"
#include "server/redis_link.h"
#include "server/redis_writer.h"

#include <inttypes.h>
#include <signal.h>
#include <string.h>

#define SHOW_US (2 * US_PER_SECOND)
#define ROUNDS  3

static void show(struct cli *cli, const struct redis_writer *w, int64_t *shown_us)
{
    int64_t now_us = clock_mono_us(&clock_real);
    if (cli_has(cli, "json") || now_us - *shown_us < SHOW_US)
        return;
    *shown_us = now_us;
    fprintf(cli->err, "%" PRIu64 " values written, %" PRIu64 " removed so far\n", w->sets, w->dels);
}

/* Everything that is in the set now; what is heard meanwhile stays for the next time. */
static enum status write_set(struct cli *cli, struct redis_writer *w, int64_t *shown_us,
                             struct error *err)
{
    enum status st = STATUS_OK;
    for (size_t done = 0, n = w->pending.n; done < n && !st; done += REDIS_BATCH_KEYS) {
        st = redis_writer_write(w, err);
        show(cli, w, shown_us);
    }
    return st;
}

/*
 * What is written last must have been read after its last change: when everything committed before
 * has been heard and nothing is left to do, it was. With changes coming all the time there is
 * always something; then a running instance has the last word.
 */
static enum status sync_all(struct cli *cli, struct redis_writer *w, struct error *err)
{
    int64_t shown_us = clock_mono_us(&clock_real);
    enum status st = redis_writer_connect_pg(w, err);
    if (!st)
        st = redis_writer_connect_redis(w, err);
    redis_writer_sync_begin(w);
    while (!st && w->sync != SYNC_IDLE) {
        st = redis_writer_sync_step(w, err);
        if (!st)
            st = redis_writer_hear(w, err);
        if (!st)
            st = write_set(cli, w, &shown_us, err);
    }
    for (int i = 0; i < ROUNDS && !st; i++) {
        st = redis_writer_fence(w, err);
        if (!st && i + 1 == ROUNDS)
            st = redis_writer_hand_over(w, err);
        else if (!st)
            st = write_set(cli, w, &shown_us, err);
    }
    if (!st && w->sync_wanted)
        st = error_set(err, STATUS_LIMIT, "more changed meanwhile than could be kept: try again");
    return st;
}

int cmd_redis(struct cli *cli)
{
    const struct pg_wait wait = {.clock = &clock_real, .wake_fd = -1};
    struct redis_writer w;
    struct error err = {0};
    if (strcmp(cli->args[0], "sync") != 0)
        return cli_fail(cli, CLI_USAGE, "\"%s\" is not sync", cli->args[0]);
    if (!redis_link_built())
        return cli_fail(cli, CLI_FAILED, "this build has no Redis layer");
    if (!cli->config->redis.url[0])
        return cli_fail(cli, CLI_CONFIG, "redis.url is missing");
    signal(SIGPIPE, SIG_IGN);
    enum status st = redis_writer_init(&w, cli->config, "warmpath redis sync", &wait, &err);
    if (!st)
        st = sync_all(cli, &w, &err);
    uint64_t sets = w.sets, dels = w.dels;
    redis_writer_deinit(&w);
    if (st)
        return cli_fail(cli, CLI_FAILED, "%s", err.text);
    if (cli_has(cli, "json"))
        return output_json(
            cli, json_pack("{s:I, s:I}", "sets", (json_int_t)sets, "dels", (json_int_t)dels),
            CLI_OK);
    fprintf(cli->out, "%" PRIu64 " values written, %" PRIu64 " removed\n", sets, dels);
    return CLI_OK;
}

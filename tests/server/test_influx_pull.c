/*
 * tests/server/test_influx_pull.c - what was committed to the inbox when the process died, but not
 * noted yet, is noted by the next one before anything is read again.
 */
#include "server/influx_pull.h"

#include "core/clock.h"
#include "ingest/influx_event.h"
#include "server/config_door.h"
#include "state/inbox.h"
#include "state/seen.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/warmpath-influx-XXXXXX";

static bool known(struct str measurement)
{
    return measurement.len > 0;
}

static struct inbox *open_inbox(void)
{
    struct inbox *inbox = NULL;
    struct error err;
    struct inbox_config cfg = {.dir = dir,
                               .clock = &clock_real,
                               .commit_delay_us = 1000,
                               .keep_ids_us = US_PER_DAY,
                               .bytes_max = 64 << 20};
    if (inbox_open(&cfg, &inbox, &err))
        fail_msg("%s", err.text);
    return inbox;
}

static void deliver(struct inbox *inbox, const char *source, const struct influx_batch *b)
{
    struct inbox_delivery d = {.source = str_from(source),
                               .received_us = 1,
                               .events = {b->events.data, b->events.len},
                               .n_events = b->n_events};
    assert_int_equal(inbox_submit(inbox, &d, NULL, NULL, NULL), STATUS_OK);
}

static void take(struct influx_batch *b, const char *body)
{
    const struct influx_map map = {.where = {"influx:influx", 13}, .known = known};
    struct line_options o = {.unit_ns = 1};
    influx_batch_reset(b);
    assert_int_equal(influx_add_body(b, &map, str_from(body), &o, NULL), STATUS_OK);
}

static void assert_noted(struct seen *seen, const struct influx_batch *b, bool want)
{
    const struct seen_mark *marks = (const struct seen_mark *)(const void *)b->marks.data;
    assert_true(influx_batch_marks(b) > 0);
    for (size_t i = 0; i < influx_batch_marks(b); i++) {
        bool found = !want;
        assert_int_equal(seen_has(seen, &marks[i], &found, NULL), STATUS_OK);
        assert_int_equal(found, want);
    }
}

static void test_what_is_in_the_inbox_is_noted_before_anything_is_read(void **state)
{
    (void)state;
    struct config_influx *cfg = calloc(1, sizeof(*cfg));
    struct influx_batch ours, others;
    struct error err;
    char path[64];
    assert_non_null(cfg);
    assert_non_null(mkdtemp(dir));
    snprintf(cfg->name, sizeof(cfg->name), "influx");
    assert_int_equal(influx_batch_init(&ours, 1 << 20, NULL), STATUS_OK);
    assert_int_equal(influx_batch_init(&others, 1 << 20, NULL), STATUS_OK);
    take(&ours, "conversation_quality,bot=a v=1,w=2 5000\nconversation_quality,bot=b v=1 6001\n"
                "memory_access,bot=a,user_id=u,memory_id=m score=1 7000\n");
    take(&others, "conversation_quality,bot=c v=1 5000\n");

    struct inbox *inbox = open_inbox();
    deliver(inbox, "influx", &ours);
    deliver(inbox, "app", &others);
    inbox_close(inbox);

    inbox = open_inbox();
    for (int i = 0; i < 2; i++)
        if (influx_pull_recover(cfg, dir, inbox, &err))
            fail_msg("%s", err.text);
    inbox_close(inbox);
    struct seen *seen = NULL;
    bool lost = true;
    snprintf(path, sizeof(path), "%s/influx-influx.db", dir);
    assert_int_equal(seen_open(path, &seen, &lost, NULL), STATUS_OK);
    assert_false(lost);
    assert_noted(seen, &ours, true);
    assert_noted(seen, &others, false);
    seen_close(seen);
    influx_batch_deinit(&ours);
    influx_batch_deinit(&others);
    free(cfg);
}

static int remove_all(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_in_the_inbox_is_noted_before_anything_is_read),
    };
    return cmocka_run_group_tests_name("server/influx_pull", tests, NULL, remove_all);
}

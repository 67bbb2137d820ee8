/*
 * tests/ingest/test_influx_event.c - what points become: the events of ENGINES.md section 8, the
 * same ones however the point came, nothing of points that mean nothing, and a dead letter of each
 * that cannot be used.
 */
#include "ingest/influx_event.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#define NOW_NS INT64_C(1795387000123456789)

static bool known(struct str measurement)
{
    return str_equal(measurement, STR("conversation_quality")) ||
           str_equal(measurement, STR("re,sponse"));
}

static const struct influx_map map = {.where = {"influx:test", 11}, .known = known};
static struct influx_batch batch;
static struct event_arena *arena;
static struct event events[512];

static void decode(void)
{
    struct reader r = reader_of(batch.events.data, batch.events.len);
    event_arena_reset(arena);
    for (uint32_t i = 0; i < batch.n_events; i++) {
        assert_true(i < sizeof(events) / sizeof(events[0]));
        struct str bytes = reader_blob(&r);
        assert_false(r.bad);
        assert_int_equal(event_decode(bytes, arena, &events[i], NULL), STATUS_OK);
        if (events[i].type != EVENT_DEAD_LETTER)
            assert_int_equal(event_check(&events[i], NULL), STATUS_OK);
    }
    assert_int_equal(reader_left(&r), 0);
}

static void take(const char *body)
{
    struct line_options o = {.unit_ns = 1, .now_ns = NOW_NS};
    influx_batch_reset(&batch);
    assert_int_equal(influx_add_body(&batch, &map, str_from(body), &o, NULL), STATUS_OK);
    decode();
}

static int setup(void **state)
{
    (void)state;
    assert_int_equal(influx_batch_init(&batch, 1 << 20, NULL), STATUS_OK);
    return event_arena_new(&arena, NULL);
}

static int teardown(void **state)
{
    (void)state;
    influx_batch_deinit(&batch);
    event_arena_free(arena);
    return 0;
}

static void assert_text(struct str s, const char *want)
{
    assert_int_equal(s.len, strlen(want));
    assert_memory_equal(s.ptr ? s.ptr : "", want, s.len);
}

static void test_a_point_of_a_known_measurement_is_a_metric_with_all_its_numbers(void **state)
{
    (void)state;
    take("conversation_quality,bot=Elena\\ B,session=s\\,1,user_id=u1 "
         "engagement_score=0.5,turns=3i,done=true,note=\"x\" 1700000000000001000");
    assert_int_equal(batch.n_events, 1);
    assert_int_equal(batch.metrics, 1);
    const struct event *e = &events[0];
    assert_int_equal(e->type, EVENT_METRIC);
    assert_text(e->user_id, "u1");
    assert_text(e->bot_name, "elena_b");
    assert_int_equal(e->at_us, INT64_C(1700000000000001));
    assert_text(e->u.metric.measurement, "conversation_quality");
    assert_int_equal(e->u.metric.n_fields, 3);
    assert_text(e->u.metric.fields[0].name, "engagement_score");
    assert_true(e->u.metric.fields[0].value == 0.5);
    assert_true(e->u.metric.fields[1].value == 3);
    assert_text(e->u.metric.fields[2].name, "done");
    assert_true(e->u.metric.fields[2].value == 1);
    assert_int_equal(e->u.metric.n_tags, 1);
    assert_text(e->u.metric.tags[0].key, "session");
    assert_text(e->u.metric.tags[0].value, "s,1");
}

static void test_a_name_with_escapes_is_known_by_what_it_means(void **state)
{
    (void)state;
    take("re\\,sponse,bot_name=a val\\ ue=1 5");
    assert_int_equal(batch.metrics, 1);
    assert_text(events[0].u.metric.measurement, "re,sponse");
    assert_text(events[0].u.metric.fields[0].name, "val ue");
    assert_text(events[0].bot_name, "a");
    assert_int_equal(events[0].user_id.len, 0);
}

static void test_the_same_point_has_the_same_id_and_any_other_has_another(void **state)
{
    (void)state;
    take("conversation_quality,bot=a,x=1,y=2 v=1 5000\n"
         "conversation_quality,y=2,x=1,bot_name=A v=2,w=3 5000\n"
         "conversation_quality,bot=a,x=2,y=1 v=1 5000\n"
         "conversation_quality,bot=a,x=1,y=2,user_id=u v=1 5000\n"
         "conversation_quality,bot=b,x=1,y=2 v=1 5000\n"
         "re\\,sponse,bot=a,x=1,y=2 v=1 5000\n"
         "conversation_quality,bot=a,x=1,y=2 v=1 5001\n");
    assert_int_equal(batch.n_events, 7);
    assert_true(str_equal(events[0].id, events[1].id));
    for (int i = 1; i < 7; i++)
        for (int j = i + 1; j < 7; j++)
            assert_false(str_equal(events[i].id, events[j].id));
}

/* Engines know a point by measurement, tags, user and microsecond. */
static void test_points_within_one_microsecond_stay_apart(void **state)
{
    (void)state;
    take("conversation_quality,bot=a v=1 1700000000000000000\n"
         "conversation_quality,bot=a v=1 1700000000000000007\n"
         "conversation_quality,bot=a v=1 -1\n");
    assert_int_equal(batch.n_events, 3);
    assert_int_equal(events[0].at_us, events[1].at_us);
    assert_int_equal(events[0].u.metric.n_tags, 0);
    assert_int_equal(events[1].u.metric.n_tags, 1);
    assert_text(events[1].u.metric.tags[0].value, "7");
    assert_int_equal(events[2].at_us, -1);
    assert_text(events[2].u.metric.tags[0].value, "999");
}

static void test_a_memory_access_is_one(void **state)
{
    (void)state;
    take("memory_access,bot=a,user_id=u,memory_id=m1 score=0.25,grade=4i,outcome=\"hit\" 7000\n"
         "memory_access,bot=a,user_id=u memory_id=\"m\\\"2\",outcome=\"miss\" 8000\n");
    assert_int_equal(batch.memories, 2);
    assert_int_equal(events[0].type, EVENT_MEMORY);
    assert_int_equal(events[0].u.memory.op, MEMORY_ACCESS);
    assert_text(events[0].u.memory.memory_id, "m1");
    assert_true(events[0].u.memory.score == 0.25);
    assert_int_equal(events[0].u.memory.grade, 4);
    assert_int_equal(events[0].u.memory.outcome, OUTCOME_HIT);
    assert_true(isnan(events[0].u.memory.importance));
    assert_text(events[1].u.memory.memory_id, "m\"2");
    assert_int_equal(events[1].u.memory.outcome, OUTCOME_MISS);
    assert_true(isnan(events[1].u.memory.score));
    assert_false(str_equal(events[0].id, events[1].id));
}

static void test_outreach_is_what_its_fields_say(void **state)
{
    (void)state;
    take("proactive_outreach,bot=a,user_id=u,topic=music sent=true,replied=1i,id=\"o1\" 7000\n"
         "proactive_outreach,bot=a,user_id=u sent=false 8000\n"
         "proactive_outreach,bot=a,user_id=u opted_out=t 9000\n");
    assert_int_equal(batch.outreach, 3);
    assert_int_equal(batch.ignored, 1);
    assert_int_equal(batch.bad, 0);
    assert_int_equal(events[0].type, EVENT_OUTREACH);
    assert_int_equal(events[0].u.outreach.op, OUTREACH_SENT);
    assert_text(events[0].u.outreach.topic, "music");
    assert_text(events[0].id, "o1");
    assert_int_equal(events[1].u.outreach.op, OUTREACH_REPLIED);
    assert_text(events[1].id, "o1");
    assert_int_equal(events[2].u.outreach.op, OUTREACH_OPTED_OUT);
    assert_memory_equal(events[2].id.ptr, "influx:", 7);
}

static void test_what_nobody_knows_is_counted_and_ignored(void **state)
{
    (void)state;
    take("cpu,host=h usage=0.3 5\nconversation_quality,bot=a note=\"text alone\" 5\n# x\n\n");
    assert_int_equal(batch.n_events, 0);
    assert_int_equal(batch.ignored, 2);
    assert_int_equal(batch.bad, 0);
    assert_true(influx_batch_usable(&batch));
    take("");
    assert_true(influx_batch_usable(&batch));
}

static void test_what_cannot_be_used_is_a_dead_letter_beside_its_good_neighbours(void **state)
{
    (void)state;
    take("conversation_quality,bot=a v=1 5\n"
         "conversation_quality,bot=a v=x 5\n"
         "conversation_quality,host=h v=1 5\n"
         "memory_access,bot=a,user_id=u score=1 5\n"
         "memory_access,bot=a,memory_id=m score=1 5\n"
         "memory_access,bot=a,user_id=u,memory_id=m score=1,grade=7i 5\n"
         "memory_access,bot=a,user_id=u,memory_id=m outcome=\"maybe\" 5\n"
         "proactive_outreach,bot=a,user_id=u note=\"x\" 5\n");
    static const char *const reasons[] = {
        "line 2, byte 30: ",
        "line 3: conversation_quality: it has no tag bot or bot_name",
        "line 4: memory_access: it has no tag or string memory_id",
        "line 5: memory_access: user_id: ",
        "line 6: memory_access: grade must be",
        "line 7: memory_access: outcome must be",
        "line 8: proactive_outreach: it has no field sent",
    };
    assert_int_equal(batch.n_events, 8);
    assert_int_equal(batch.metrics, 1);
    assert_int_equal(batch.bad, 7);
    assert_true(influx_batch_usable(&batch));
    for (size_t i = 0; i < 7; i++) {
        const struct event *e = &events[i + 1];
        assert_int_equal(e->type, EVENT_DEAD_LETTER);
        assert_text(e->u.dead_letter.where, "influx:test");
        struct str reason = {e->u.dead_letter.reason.ptr, strlen(reasons[i])};
        if (e->u.dead_letter.reason.len < reason.len || !str_equal(reason, str_from(reasons[i])))
            fail_msg("\"%.*s\" is not \"%s\"", STR_ARGS(e->u.dead_letter.reason), reasons[i]);
        assert_int_equal(e->at_us, NOW_NS / 1000);
    }
    assert_text(events[1].u.dead_letter.bytes, "conversation_quality,bot=a v=x 5");
    take("nonsense\n");
    assert_false(influx_batch_usable(&batch));
    assert_int_equal(batch.n_events, 1);
}

static void test_a_body_of_nothing_but_garbage_makes_a_bounded_number_of_dead_letters(void **state)
{
    (void)state;
    char body[2 * 1000 + 1];
    for (size_t i = 0; i < 1000; i++)
        memcpy(body + 2 * i, "x\n", 2);
    body[2000] = '\0';
    take(body);
    assert_int_equal(batch.bad, 1000);
    assert_int_equal(batch.n_events, INFLUX_DEAD_LETTERS_MAX + 1);
    struct str last = events[INFLUX_DEAD_LETTERS_MAX].u.dead_letter.reason;
    assert_memory_equal(last.ptr, "900 more lines", 14);
}

static void test_a_wide_metric_is_several_events_of_one_point(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 16);
    assert_int_equal(buf_printf(&b, "conversation_quality,bot=a "), STATUS_OK);
    for (int i = 0; i < 70; i++)
        assert_int_equal(buf_printf(&b, "%sf%d=%d", i ? "," : "", i, i), STATUS_OK);
    assert_int_equal(buf_append(&b, "", 1), STATUS_OK);
    take(b.data);
    assert_int_equal(batch.n_events, 3);
    assert_int_equal(events[0].u.metric.n_fields, 32);
    assert_int_equal(events[2].u.metric.n_fields, 6);
    assert_text(events[2].u.metric.fields[5].name, "f69");
    assert_true(str_equal(events[0].id, events[2].id));
    buf_deinit(&b);
}

static struct seen_mark counted[16];
static size_t n_counted;

static bool was_counted(void *ctx, const struct seen_mark *mark)
{
    (void)ctx;
    for (size_t i = 0; i < n_counted; i++)
        if (counted[i].id == mark->id && counted[i].value == mark->value)
            return true;
    return false;
}

/* What was counted is left out value by value, however it was written the first time. */
static void test_of_a_point_that_is_read_again_only_what_is_new_counts(void **state)
{
    (void)state;
    struct influx_map again = map;
    struct line_options o = {.unit_ns = 1, .now_ns = NOW_NS};
    again.seen = was_counted;
    take("conversation_quality,bot=a,x=1 v=1,w=2,s=\"x\" 5000\nmemory_access,bot=a v=1\n");
    n_counted = influx_batch_marks(&batch);
    assert_int_equal(n_counted, 3); /* the bad one, too */
    assert_int_equal(batch.bad, 1);
    memcpy(counted, batch.marks.data, n_counted * sizeof(*counted));
    assert_int_equal(counted[0].at_us, 5);
    /* The events alone tell them, too. */
    struct buf marks;
    buf_init(&marks, 4096);
    for (uint32_t i = 0; i < batch.n_events; i++)
        assert_int_equal(influx_event_marks(&events[i], &marks), STATUS_OK);
    assert_int_equal(marks.len, 2 * sizeof(*counted));
    assert_memory_equal(marks.data, counted, marks.len);
    buf_deinit(&marks);
    influx_batch_reset(&batch);
    struct str body = STR("conversation_quality,bot_name=a,x=1 w=2.0,v=1i 5000\n"
                          "conversation_quality,bot=a,x=1 w=3,v=1,z=4 5000\n"
                          "conversation_quality,bot=a,x=1 w=2,v=1 5001\n"
                          "memory_access,bot=a v=1 1795387000123456789\n");
    assert_int_equal(influx_add_body(&batch, &again, body, &o, NULL), STATUS_OK);
    decode();
    assert_int_equal(batch.seen, 2);
    assert_int_equal(batch.bad, 0);
    assert_int_equal(batch.n_events, 2);
    assert_int_equal(events[0].u.metric.n_fields, 2);
    assert_text(events[0].u.metric.fields[0].name, "w");
    assert_text(events[0].u.metric.fields[1].name, "z");
    assert_int_equal(events[1].u.metric.n_fields, 2);
    assert_int_equal(influx_batch_marks(&batch), 4);
}

static void test_of_a_point_all_or_nothing_is_taken(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 16);
    assert_int_equal(buf_printf(&b, "conversation_quality,bot=a "), STATUS_OK);
    for (int i = 0; i < 40; i++)
        assert_int_equal(buf_printf(&b, "f%d=%d,", i, i), STATUS_OK);
    assert_int_equal(buf_printf(&b, "%0600d=1", 7), STATUS_OK); /* a name that is too long */
    assert_int_equal(buf_append(&b, "", 1), STATUS_OK);
    take(b.data);
    assert_int_equal(batch.n_events, 1);
    assert_int_equal(events[0].type, EVENT_DEAD_LETTER);
    assert_int_equal(influx_batch_marks(&batch), 1);
    assert_int_equal(batch.metrics, 0);
    buf_deinit(&b);
}

static void test_the_first_and_the_last_time_there_are_are_times(void **state)
{
    (void)state;
    take("conversation_quality,bot=a v=1 -9223372036854775806\n"
         "conversation_quality,bot=a v=1 -1\n"
         "conversation_quality,bot=a v=1 9223372036854775806\n");
    static const struct {
        int64_t at_us;
        const char *ns;
    } want[] = {
        {-INT64_C(9223372036854776), "194"}, {-1, "999"}, {INT64_C(9223372036854775), "806"}};
    assert_int_equal(batch.n_events, 3);
    for (size_t i = 0; i < 3; i++) {
        const struct event_metric *m = &events[i].u.metric;
        assert_true(events[i].at_us == want[i].at_us);
        assert_int_equal(m->n_tags, 1);
        assert_text(m->tags[0].key, "_ns");
        assert_text(m->tags[0].value, want[i].ns);
    }
}

static void test_a_full_batch_says_so(void **state)
{
    (void)state;
    struct influx_batch small;
    struct error err;
    struct line_options o = {.unit_ns = 1, .now_ns = NOW_NS};
    assert_int_equal(influx_batch_init(&small, 200, NULL), STATUS_OK);
    struct str body = STR("conversation_quality,bot=a v=1 5\nconversation_quality,bot=a v=1 6\n"
                          "conversation_quality,bot=a v=1 7\nconversation_quality,bot=a v=1 8\n");
    assert_int_equal(influx_add_body(&small, &map, body, &o, &err), STATUS_LIMIT);
    influx_batch_deinit(&small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_point_of_a_known_measurement_is_a_metric_with_all_its_numbers),
        cmocka_unit_test(test_a_name_with_escapes_is_known_by_what_it_means),
        cmocka_unit_test(test_the_same_point_has_the_same_id_and_any_other_has_another),
        cmocka_unit_test(test_points_within_one_microsecond_stay_apart),
        cmocka_unit_test(test_the_first_and_the_last_time_there_are_are_times),
        cmocka_unit_test(test_a_memory_access_is_one),
        cmocka_unit_test(test_outreach_is_what_its_fields_say),
        cmocka_unit_test(test_what_nobody_knows_is_counted_and_ignored),
        cmocka_unit_test(test_what_cannot_be_used_is_a_dead_letter_beside_its_good_neighbours),
        cmocka_unit_test(test_a_body_of_nothing_but_garbage_makes_a_bounded_number_of_dead_letters),
        cmocka_unit_test(test_a_wide_metric_is_several_events_of_one_point),
        cmocka_unit_test(test_of_a_point_that_is_read_again_only_what_is_new_counts),
        cmocka_unit_test(test_of_a_point_all_or_nothing_is_taken),
        cmocka_unit_test(test_a_full_batch_says_so),
    };
    return cmocka_run_group_tests_name("ingest/influx_event", tests, setup, teardown);
}

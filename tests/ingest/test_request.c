/*
 * tests/ingest/test_request.c - what is read from a logical message that asks for something, and
 * what is refused of what anybody could put there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "core/clock.h"
#include "ingest/request.h"

#define NOW INT64_C(1767600000000000)

static struct event_arena *arena;
static struct event e;
static struct error err;

static int setup(void **state)
{
    (void)state;
    return event_arena_new(&arena, NULL);
}

static int teardown(void **state)
{
    (void)state;
    event_arena_free(arena);
    return 0;
}

static enum status read_bytes(struct str content)
{
    event_arena_reset(arena);
    err.text[0] = '\0';
    return request_event(content, (struct position){0x200, 512}, NOW, arena, &e, &err);
}

static enum status read_text(const char *content)
{
    return read_bytes(str_from(content));
}

static void refused(const char *content, const char *why)
{
    assert_int_equal(read_text(content), STATUS_INVALID);
    assert_non_null(strstr(err.text, why));
    assert_null(strstr(err.text, "secret")); /* the reason is shown; the content is somebody's */
}

static void test_each_operation(void **state)
{
    static const char *const ops[] = {"invalidate", "recompute", "touch"};
    (void)state;
    for (int i = 0; i < 3; i++) {
        char text[160];
        snprintf(text, sizeof(text),
                 "{\"op\":\"%s\",\"user_id\":\"ann\",\"bot_name\":\"Elena B\",\"reason\":\"r\","
                 "\"at\":1767600000000000}",
                 ops[i]);
        assert_int_equal(read_text(text), STATUS_OK);
        assert_int_equal(e.type, EVENT_REQUEST);
        assert_int_equal(e.u.request.op, REQUEST_INVALIDATE + i);
        assert_true(str_equal(e.user_id, STR("ann")));
        assert_true(str_equal(e.bot_name, STR("elena_b")));
        assert_true(str_equal(e.u.request.reason, STR("r")));
        assert_true(str_equal(e.id, STR("request:0/200/512")));
        assert_int_equal(e.at_us, NOW);
    }
}

static void test_without_a_bot_all_of_them_are_meant(void **state)
{
    (void)state;
    assert_int_equal(
        read_text("{\"op\":\"forget\",\"user_id\":\"ann\",\"bot_name\":null,\"at\":1}"), STATUS_OK);
    assert_int_equal(e.type, EVENT_PRIVACY);
    assert_int_equal(e.u.privacy.op, PRIVACY_ERASE);
    assert_int_equal(e.bot_name.len, 0);
    assert_int_equal(read_text("{\"op\":\"touch\",\"user_id\":\"ann\",\"reason\":null,\"at\":1}"),
                     STATUS_OK);
    assert_int_equal(e.bot_name.len, 0);
    assert_null(e.u.request.reason.ptr);
    /* A name of which nothing is left must not become "all". */
    refused("{\"op\":\"forget\",\"user_id\":\"ann\",\"bot_name\":\"...\",\"at\":1}", "bot_name");
    refused("{\"op\":\"forget\",\"user_id\":\"ann\",\"bot_name\":7,\"at\":1}", "bot_name");
}

static void test_what_is_no_request(void **state)
{
    (void)state;
    refused("", "json");
    refused("secret", "json");
    refused("[]", "json");
    refused("{\"op\":\"touch\",\"op\":\"forget\",\"user_id\":\"secret\",\"at\":1}", "json");
    refused("{\"op\":\"touch\",\"user_id\":\"secret\",\"at\":1} {}", "json");
    refused("{\"op\":\"secret\",\"user_id\":\"ann\",\"at\":1}", "op:");
    refused("{\"op\":\"touch\\u0000\",\"user_id\":\"ann\",\"at\":1}", "op:");
    refused("{\"op\":3,\"user_id\":\"ann\",\"at\":1}", "op:");
    refused("{\"user_id\":\"ann\",\"at\":1}", "op:");
    refused("{\"op\":\"touch\",\"at\":1}", "user_id");
    refused("{\"op\":\"touch\",\"user_id\":\"\",\"at\":1}", "user_id");
    refused("{\"op\":\"touch\",\"user_id\":[\"secret\"],\"at\":1}", "user_id");
    refused("{\"op\":\"touch\",\"user_id\":\"a\\u0000secret\",\"at\":1}", "user_id");
    refused("{\"op\":\"touch\",\"user_id\":\"ann\",\"reason\":{},\"at\":1}", "reason");
    refused("{\"op\":\"touch\",\"user_id\":\"ann\"}", "at:");
    refused("{\"op\":\"touch\",\"user_id\":\"ann\",\"at\":1.5}", "at:");
    refused("{\"op\":\"touch\",\"user_id\":\"ann\",\"at\":\"1\"}", "at:");
    refused("{\"op\":\"touch\",\"user_id\":\"ann\",\"at\":99999999999999999999}", "json");
    refused("{\"op\":\"touch\",\"user_id\":\"ann\",\"at\":-9223372036854775808}", "at");
    refused("{\"op\":\"touch\",\"user_id\":\"ann\",\"at\":1,\"secret\":1}", "member");
    assert_int_equal(
        read_bytes((struct str){"{\"op\":\"touch\",\"user_id\":\"\xFF\",\"at\":1}", 36}),
        STATUS_INVALID);
}

static void test_what_is_too_long(void **state)
{
    static char text[2 * REQUEST_BYTES_MAX];
    (void)state;
    int n = snprintf(text, sizeof(text), "{\"op\":\"touch\",\"user_id\":\"%0*d\",\"at\":1}",
                     LIMIT_ID_BYTES, 0);
    assert_int_equal(read_bytes((struct str){text, (size_t)n}), STATUS_OK);
    n = snprintf(text, sizeof(text), "{\"op\":\"touch\",\"user_id\":\"%0*d\",\"at\":1}",
                 LIMIT_ID_BYTES + 1, 0);
    assert_int_equal(read_bytes((struct str){text, (size_t)n}), STATUS_INVALID);
    memset(text, ' ', sizeof(text));
    memcpy(text, "{\"op\":\"touch\",\"user_id\":\"ann\",\"at\":1}", 37);
    assert_int_equal(read_bytes((struct str){text, REQUEST_BYTES_MAX}), STATUS_OK);
    assert_int_equal(read_bytes((struct str){text, REQUEST_BYTES_MAX + 1}), STATUS_INVALID);
    memset(text, '[', sizeof(text));
    assert_int_equal(read_bytes((struct str){text, REQUEST_BYTES_MAX}), STATUS_INVALID);
}

/* It would make rows valid that are yet to be invalidated. */
static void test_a_token_of_tomorrow(void **state)
{
    char text[120];
    (void)state;
    for (int64_t ahead = REQUEST_AHEAD_US; ahead <= REQUEST_AHEAD_US + 1; ahead++) {
        snprintf(text, sizeof(text), "{\"op\":\"invalidate\",\"user_id\":\"ann\",\"at\":%lld}",
                 (long long)(NOW + ahead));
        assert_int_equal(read_text(text), ahead > REQUEST_AHEAD_US ? STATUS_INVALID : STATUS_OK);
    }
    refused("{\"op\":\"invalidate\",\"user_id\":\"ann\",\"at\":9223372036854775807}", "at:");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_operation),
        cmocka_unit_test(test_without_a_bot_all_of_them_are_meant),
        cmocka_unit_test(test_what_is_no_request),
        cmocka_unit_test(test_what_is_too_long),
        cmocka_unit_test(test_a_token_of_tomorrow),
    };
    return cmocka_run_group_tests_name("ingest/request", tests, setup, teardown);
}

/*
 * tests/server/test_redis.c - what the Redis layer is made of, without a server: addresses, names
 * of keys, the set of keys to write, and what the configuration says of it. By tables of examples;
 * names also by random owners that must come back.
 */
#include "server/config.h"
#include "server/redis_address.h"
#include "server/redis_keys.h"
#include "server/redis_link.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- addresses ---- */

static void test_addresses_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *url;
        struct redis_address want;
    } good[] = {
        {"redis://127.0.0.1:6379/0", {.host = "127.0.0.1", .port = 6379}},
        {"redis://localhost", {.host = "localhost", .port = 6379}},
        {"redis://h/", {.host = "h", .port = 6379}},
        {"redis://h:1/15", {.host = "h", .port = 1, .database = 15}},
        {"redis://[::1]:7000/2", {.host = "::1", .port = 7000, .database = 2}},
        {"redis://[fe80::1]", {.host = "fe80::1", .port = 6379}},
        {"redis://app@h:65535", {.host = "h", .user = "app", .port = 65535}},
        {"unix:///run/redis/redis.sock", {.path = "/run/redis/redis.sock"}},
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct redis_address a;
        struct error err = {0};
        if (redis_address_parse(good[i].url, &a, &err) != STATUS_OK)
            fail_msg("%s: %s", good[i].url, err.text);
        assert_string_equal(a.host, good[i].want.host);
        assert_string_equal(a.path, good[i].want.path);
        assert_string_equal(a.user, good[i].want.user);
        assert_int_equal(a.port, good[i].want.port);
        assert_int_equal(a.database, good[i].want.database);
    }
}

static void test_other_addresses_are_refused_without_being_shown(void **state)
{
    (void)state;
    static const struct {
        const char *url, *why;
    } bad[] = {
        {"localhost:6379", "is neither redis://HOST:PORT/DB nor unix:///PATH"},
        {"http://localhost", "is neither"},
        {"rediss://localhost", "asks for TLS"},
        {"redis://", "names no host"},
        {"redis://:6379", "names no host"},
        {"redis:///0", "names no host"},
        {"redis://h:0", "a port that is not"},
        {"redis://h:65536", "a port that is not"},
        {"redis://h:", "a port that is not"},
        {"redis://h:6x", "a port that is not"},
        {"redis://h/x", "no number of a database"},
        {"redis://h/-1", "no number of a database"},
        {"redis://h/999999", "no number of a database"},
        {"redis://::1", "in brackets"},
        {"redis://[::1", "in brackets"},
        {"redis://[::1]x", "between ]"},
        {"redis://:geheim@h", "must not hold a password"},
        {"redis://u:geheim@h", "must not hold a password"},
        {"redis://u:ge@heim@h", "must not hold a password"},
        {"redis://@h", "empty or too long user"},
        {"redis://h h", "holds blanks"},
        {"unix://run/redis", "an absolute path"},
        {"unix:/run/redis", "is neither"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct redis_address a;
        struct error err = {0};
        if (redis_address_parse(bad[i].url, &a, &err) != STATUS_INVALID)
            fail_msg("%s was taken", bad[i].url);
        if (!strstr(err.text, bad[i].why))
            fail_msg("%s: %s", bad[i].url, err.text);
        assert_null(strstr(err.text, "heim"));
    }
    char url[400];
    struct redis_address a;
    memset(url, 'x', sizeof(url) - 1);
    url[sizeof(url) - 1] = '\0';
    memcpy(url, "unix:///", 8);
    assert_int_equal(redis_address_parse(url, &a, NULL), STATUS_INVALID);
    memcpy(url, "redis://", 8);
    assert_int_equal(redis_address_parse(url, &a, NULL), STATUS_INVALID);
}

/* ---- names ---- */

static void print(const char *user, const char *bot, struct buf *out)
{
    buf_reset(out);
    const struct redis_owner o = {str_from(user), str_from(bot)};
    assert_int_equal(redis_key_print(&o, out), STATUS_OK);
    assert_int_equal(buf_append(out, "", 1), STATUS_OK);
}

static void test_keys_are_called_as_documented(void **state)
{
    (void)state;
    struct buf key;
    buf_init(&key, 4096);
    print("u-1", "elena", &key);
    assert_string_equal(key.data, "user:elena:u-1");
    print("a:b:c", "elena", &key);
    assert_string_equal(key.data, "user:elena:a:b:c");
    print(NULL, "elena", &key);
    assert_string_equal(key.data, "bot:elena");
    const struct redis_owner nameless[] = {
        {STR("u"), STR("a:b")}, {STR("u"), STR("")}, {STR(""), STR("b")}, {STR_NULL, STR("")}};
    for (size_t i = 0; i < 4; i++) {
        buf_reset(&key);
        assert_int_equal(redis_key_print(&nameless[i], &key), STATUS_INVALID);
        assert_int_equal(key.len, 0);
    }
    buf_deinit(&key);
}

static void test_other_keys_are_none_of_ours(void **state)
{
    (void)state;
    static const char *const others[] = {"",          "user",    "user:",   "user::u",
                                         "user:b",    "user:b:", "bot:",    "bot:a:b",
                                         "processor", "marker",  "USER:b:u"};
    struct redis_owner o;
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        if (redis_key_parse(str_from(others[i]), &o))
            fail_msg("\"%s\" was taken for a key of ours", others[i]);
}

/* Two owners never share a key: each comes back from its own. */
static void test_every_owner_comes_back_from_its_key(void **state)
{
    (void)state;
    static const char letters[] = "ab:_-*\\ \"";
    struct buf key;
    buf_init(&key, 4096);
    srandom(7);
    for (int round = 0; round < 20000; round++) {
        char user[8], bot[8];
        size_t n_user = 1 + (size_t)random() % sizeof(user);
        size_t n_bot = 1 + (size_t)random() % sizeof(bot);
        for (size_t i = 0; i < n_user; i++)
            user[i] = letters[(size_t)random() % (sizeof(letters) - 1)];
        for (size_t i = 0; i < n_bot; i++)
            bot[i] = "ab_-"[random() % 4];
        const struct redis_owner o = {random() % 4 ? (struct str){user, n_user} : STR_NULL,
                                      {bot, n_bot}};
        struct redis_owner back;
        buf_reset(&key);
        assert_int_equal(redis_key_print(&o, &key), STATUS_OK);
        assert_true(redis_key_parse((struct str){key.data, key.len}, &back));
        assert_true(str_equal(back.bot, o.bot));
        assert_true(str_equal(back.user, o.user));
        assert_true((back.user.ptr != NULL) == (o.user.ptr != NULL));
    }
    buf_deinit(&key);
}

/* ---- the set ---- */

static void assert_taken(struct redis_keys *k, const char *want)
{
    struct redis_key *key = redis_keys_take(k);
    if (!want) {
        assert_null(key);
        return;
    }
    assert_non_null(key);
    assert_int_equal(key->len, strlen(want));
    assert_memory_equal(key->text, want, key->len);
    free(key);
}

static void test_a_key_is_in_the_set_once_and_the_oldest_comes_first(void **state)
{
    (void)state;
    struct redis_keys k;
    redis_keys_init(&k, 3);
    assert_taken(&k, NULL);
    assert_int_equal(redis_keys_add(&k, STR("a")), STATUS_OK);
    assert_int_equal(redis_keys_add(&k, STR("b")), STATUS_OK);
    assert_int_equal(redis_keys_add(&k, STR("a")), STATUS_OK);
    assert_int_equal(k.n, 2);
    assert_taken(&k, "a");
    /* Taken out it is new again: what is heard while it is written counts. */
    assert_int_equal(redis_keys_add(&k, STR("a")), STATUS_OK);
    assert_taken(&k, "b");
    assert_taken(&k, "a");
    assert_taken(&k, NULL);
    assert_int_equal(k.n, 0);
    redis_keys_deinit(&k);
}

static void test_the_set_is_bounded(void **state)
{
    (void)state;
    struct redis_keys k;
    char text[16];
    redis_keys_init(&k, 40000); /* several in every bucket */
    for (int i = 0; i < 40000; i++) {
        int n = snprintf(text, sizeof(text), "%d", i);
        assert_int_equal(redis_keys_add(&k, (struct str){text, (size_t)n}), STATUS_OK);
    }
    assert_int_equal(redis_keys_add(&k, STR("one more")), STATUS_LIMIT);
    assert_int_equal(redis_keys_add(&k, STR("39999")), STATUS_OK);
    for (int i = 0; i < 20000; i++) {
        snprintf(text, sizeof(text), "%d", i);
        assert_taken(&k, text);
    }
    assert_int_equal(redis_keys_add(&k, STR("one more")), STATUS_OK);
    assert_int_equal(k.n, 20001);
    redis_keys_clear(&k);
    assert_int_equal(k.n, 0);
    assert_int_equal(redis_keys_add(&k, STR("again")), STATUS_OK);
    redis_keys_deinit(&k);
}

/* ---- the configuration ---- */

static void assert_config(const char *yaml, const char *problem)
{
    struct config *c = NULL;
    struct buf problems;
    struct error err;
    buf_init(&problems, CONFIG_PROBLEM_BYTES);
    enum status st = config_parse(str_from(yaml), "f.yaml", &(struct config_input){.file = NULL},
                                  &c, &problems, &err);
    assert_int_equal(buf_append(&problems, "", 1), STATUS_OK);
    if (!problem)
        assert_string_equal(problems.data, "");
    else if (!strstr(problems.data, problem))
        fail_msg("%s: %s", yaml, problems.data);
    assert_int_equal(st, problem ? STATUS_INVALID : STATUS_OK);
    config_free(c);
    buf_deinit(&problems);
}

static void test_the_configuration_is_checked(void **state)
{
    (void)state;
    assert_config("redis: {url: \"\", prefix: \"x:\", ttl: 1m}\n", NULL);
    if (!redis_link_built()) {
        assert_config("redis: {url: \"redis://h\"}\n", "redis.url: cannot be used: this build has "
                                                       "no Redis layer");
        return;
    }
    assert_config("redis: {url: \"redis://h:1/2\", password: p, prefix: \"x:\", ttl: 1m}\n", NULL);
    assert_config("redis: {url: \"rediss://h\"}\n", "redis.url: asks for TLS");
    assert_config("redis: {url: \"redis://h\", prefix: \"\"}\n", "redis.prefix: must not be empty");
    assert_config("redis: {url: \"redis://h\", ttl: 0s}\n", "redis.ttl: \"0s\" is not between");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses_are_read),
        cmocka_unit_test(test_other_addresses_are_refused_without_being_shown),
        cmocka_unit_test(test_keys_are_called_as_documented),
        cmocka_unit_test(test_other_keys_are_none_of_ours),
        cmocka_unit_test(test_every_owner_comes_back_from_its_key),
        cmocka_unit_test(test_a_key_is_in_the_set_once_and_the_oldest_comes_first),
        cmocka_unit_test(test_the_set_is_bounded),
        cmocka_unit_test(test_the_configuration_is_checked),
    };
    return cmocka_run_group_tests_name("server/redis", tests, NULL, NULL);
}

/*
 * tests/server/test_config_door.c - http, inbox, webhooks, influx and qdrant as they are written:
 * what every member becomes, what follows from the preset, the place of every problem, and that no
 * secret is ever shown.
 */
#include "core/clock.h"
#include "server/config.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LISTEN "http: {listen: \"127.0.0.1:0\"}\n"
#define ROW                                                                                        \
    "{relation: r, event: message, fields: {id: i, user_id: u, bot_name: b, role: {const: user}, " \
    "content: c}}"

static struct config *parse(const char *yaml, struct buf *problems)
{
    struct config *c = NULL;
    struct error err;
    buf_init(problems, CONFIG_PROBLEM_BYTES);
    enum status st = config_parse(str_from(yaml), "f.yaml", &(struct config_input){.file = NULL},
                                  &c, problems, &err);
    assert_int_equal(buf_append(problems, "", 1), STATUS_OK);
    assert_int_equal(st, problems->len > 1 ? STATUS_INVALID : STATUS_OK);
    return c;
}

/* What is not looked at stays out of the way. */
static struct config *parse_good(const char *yaml)
{
    struct buf problems;
    struct config *c = parse(yaml, &problems);
    assert_string_equal(problems.data, "");
    assert_non_null(c);
    buf_deinit(&problems);
    return c;
}

static const char whole[] =
    "http: {listen: \"[::1]:1\", private: \"unix:/x\", behind_proxy: true, trusted_proxies: "
    "\"::1\",\n"
    "  insecure_plain: true, tls_cert: c, tls_key: k, connections: 11, connections_per_address: "
    "12,\n"
    "  threads: 13, header_timeout: 14s, body_timeout: 15s, idle_timeout: 16s, answer_timeout: "
    "1700ms,\n"
    "  max_headers: 18KiB, max_body: 19KiB, max_write_body: 20KiB, rate_per_address: 21}\n"
    "inbox: {commit_delay: 22ms, keep_ids: 23h, max_size: 24MiB}\n"
    "webhooks:\n"
    "  - {name: app-1, preset: warmpath, rate: 25, secrets: [{value: geheim-1, not_after: "
    "\"2026-12-31T00:00:00+01:00\"}, {id: new, value: geheim-2}]}\n"
    "  - {name: any, preset: json, verify: shared-secret, header: X-Key, insecure_no_secret: true, "
    "delivery_id: a.b, each: c.d, tables: [" ROW "]}\n"
    "influx: {name: lines, secrets: [{value: geheim-3}], rate: 26,\n"
    "  catch_up: {url: \"http://h:8086\", database: d, user: u, password: geheim-4, interval: "
    "27s,\n"
    "    overlap: 28s, rescan: 29m, rescan_window: 30h, measurements: \"m,n\"}}\n"
    "qdrant:\n"
    "  - {name: q, url: \"https://h/x\", api_key: geheim-5, collection: Elena Two, mode: scroll, "
    "interval: 31s, overlap: 32s, sweep: 33m, page: 34}\n"
    "feed:\n"
    "  pub: \"tcp://[::1]:7710\"\n"
    "  history: 35\n"
    "  queue: 36\n"
    "  webhooks:\n"
    "  - {name: out, url: \"http://h/x?y=z\", insecure_plain: true, timeout: 37s, give_up: 38h,\n"
    "     bots: \"Elena Two, ada\", tables: \"strategic_memory_health, "
    "strategic_conversation_patterns\",\n"
    "     secrets: [{id: a, value: geheim-6}, {value: geheim-7, not_after: "
    "\"2026-12-31T00:00:00+01:00\"}]}\n"
    "  - {name: here, url: \"http://127.0.0.9:1\", secrets: [{value: geheim-8}]}\n";

static void test_http_and_inbox_fill_every_member(void **state)
{
    (void)state;
    struct config *c = parse_good(whole);
    const struct config_http *h = &c->http;
    assert_string_equal(h->listen, "[::1]:1");
    assert_string_equal(h->private_listen, "unix:/x");
    assert_true(h->behind_proxy && h->insecure_plain);
    assert_string_equal(h->trusted_proxies, "::1");
    assert_string_equal(h->tls_cert, "c");
    assert_string_equal(h->tls_key, "k");
    assert_int_equal(h->connections, 11);
    assert_int_equal(h->connections_per_address, 12);
    assert_int_equal(h->threads, 13);
    assert_int_equal(h->header_timeout_us, 14 * US_PER_SECOND);
    assert_int_equal(h->body_timeout_us, 15 * US_PER_SECOND);
    assert_int_equal(h->idle_timeout_us, 16 * US_PER_SECOND);
    assert_int_equal(h->answer_timeout_us, 1700000);
    assert_int_equal(h->max_headers, 18 << 10);
    assert_int_equal(h->max_body, 19 << 10);
    assert_int_equal(h->max_write_body, 20 << 10);
    assert_int_equal(h->rate_per_address, 21);
    assert_int_equal(c->inbox.commit_delay_us, 22000);
    assert_int_equal(c->inbox.keep_ids_us, 23 * US_PER_HOUR);
    assert_int_equal(c->inbox.max_size, 24 << 20);
    config_free(c);
}

static void test_the_lists_fill_every_member(void **state)
{
    (void)state;
    struct config *c = parse_good(whole);
    assert_int_equal(c->n_webhooks, 2);
    const struct config_webhook *w = &c->webhooks[0];
    assert_string_equal(w->name, "app-1");
    assert_int_equal(w->preset, WEBHOOK_WARMPATH);
    assert_int_equal(w->rate, 25);
    assert_int_equal(w->n_secrets, 2);
    assert_string_equal(w->secrets[0].id, "1");
    assert_string_equal(w->secrets[0].value, "geheim-1");
    int64_t not_after = 0;
    assert_int_equal(time_parse("2026-12-30T23:00:00Z", 20, &not_after), 0);
    assert_int_equal(w->secrets[0].not_after_us, not_after);
    assert_string_equal(w->secrets[1].id, "new");
    assert_int_equal(w->secrets[1].not_after_us, 0);
    w = &c->webhooks[1];
    assert_string_equal(w->header, "x-key");
    assert_true(w->insecure_no_secret);
    assert_string_equal(w->delivery_id, "a.b");
    assert_string_equal(w->each, "c.d");
    assert_int_equal(w->tables->n, 1);
    assert_string_equal(w->tables->tables[0].schema, "public");
    assert_string_equal(w->tables->tables[0].fields[FIELD_USER_ID].column, "u");
    assert_string_equal(w->tables->tables[0].fields[FIELD_AT].column, WEBHOOK_COLUMN_AT);
    assert_int_equal(c->mappings.n, 0);
    config_free(c);
}

static void test_the_pulls_fill_every_member(void **state)
{
    (void)state;
    struct config *c = parse_good(whole);
    const struct config_influx *i = &c->influx;
    assert_true(config_influx_is_open(i));
    assert_string_equal(i->name, "lines");
    assert_string_equal(i->secrets[0].value, "geheim-3");
    assert_int_equal(i->rate, 26);
    assert_string_equal(i->catch_up.url, "http://h:8086");
    assert_string_equal(i->catch_up.password, "geheim-4");
    assert_int_equal(i->catch_up.interval_us, 27 * US_PER_SECOND);
    assert_int_equal(i->catch_up.overlap_us, 28 * US_PER_SECOND);
    assert_int_equal(i->catch_up.rescan_us, 29 * US_PER_MINUTE);
    assert_int_equal(i->catch_up.rescan_window_us, 30 * US_PER_HOUR);
    assert_string_equal(i->catch_up.measurements, "m,n");
    assert_int_equal(c->n_qdrant, 1);
    const struct config_qdrant *q = &c->qdrant[0];
    assert_string_equal(q->api_key, "geheim-5");
    assert_string_equal(q->bot_name, ""); /* as each point says, or the collection */
    assert_int_equal(q->mode, QDRANT_SCROLL);
    assert_int_equal(q->interval_us, 31 * US_PER_SECOND);
    assert_int_equal(q->overlap_us, 32 * US_PER_SECOND);
    assert_int_equal(q->sweep_us, 33 * US_PER_MINUTE);
    assert_int_equal(q->page, 34);
    config_free(c);
}

static void test_the_feed_fills_every_member(void **state)
{
    (void)state;
    struct config *c = parse_good(whole);
    assert_string_equal(c->feed.pub, "tcp://[::1]:7710");
    assert_int_equal(c->feed.history, 35);
    assert_int_equal(c->feed.queue, 36);
    assert_int_equal(c->feed.n_webhooks, 2);
    const struct config_feed_webhook *w = &c->feed.webhooks[0];
    assert_string_equal(w->name, "out");
    assert_string_equal(w->url, "http://h/x?y=z");
    assert_true(w->insecure_plain);
    assert_int_equal(w->timeout_us, 37 * US_PER_SECOND);
    assert_int_equal(w->give_up_us, 38 * US_PER_HOUR);
    assert_string_equal(w->bots, "elena_two,ada");
    assert_string_equal(w->tables, "strategic_memory_health,strategic_conversation_patterns");
    assert_int_equal(w->n_secrets, 2);
    assert_string_equal(w->secrets[0].id, "a");
    assert_string_equal(w->secrets[1].value, "geheim-7");
    assert_true(w->secrets[1].not_after_us > 0);
    w = &c->feed.webhooks[1];
    assert_false(w->insecure_plain);
    assert_int_equal(w->timeout_us, 10 * US_PER_SECOND);
    assert_int_equal(w->give_up_us, US_PER_DAY);
    assert_string_equal(w->bots, "");
    config_free(c);
}

static void test_nothing_listens_unless_it_is_asked_to(void **state)
{
    (void)state;
    struct config *c = parse_good("qdrant: [{name: q, url: \"http://h\", collection: c}]\n");
    assert_string_equal(c->http.listen, "");
    assert_string_equal(c->http.private_listen, "");
    assert_false(config_influx_is_open(&c->influx));
    assert_int_equal(c->http.answer_timeout_us, 2 * US_PER_SECOND);
    assert_int_equal(c->inbox.keep_ids_us, 7 * US_PER_DAY);
    assert_int_equal(c->qdrant[0].page, 256);
    assert_int_equal(c->qdrant[0].mode, QDRANT_AUTO);
    config_free(c);
}

static void test_how_a_sender_proves_itself_follows_from_the_preset(void **state)
{
    (void)state;
    static const struct {
        const char *preset;
        enum signature_kind verify;
        const char *header;
    } rows[] = {
        {"standard", SIGNATURE_STANDARD_WEBHOOKS, ""},
        {"github", SIGNATURE_HMAC_BODY, ""},
        {"stripe", SIGNATURE_HMAC_TS_STRIPE, ""},
        {"slack", SIGNATURE_HMAC_TS_SLACK, ""},
        {"discord", SIGNATURE_ED25519_TS, ""},
        {"telegram", SIGNATURE_SHARED_SECRET, "x-telegram-bot-api-secret-token"},
        {"supabase", SIGNATURE_SHARED_SECRET, "authorization"},
        {"sequin", SIGNATURE_SHARED_SECRET, "authorization"},
        {"json", SIGNATURE_STANDARD_WEBHOOKS, ""},
        {"json, verify: hmac-body", SIGNATURE_HMAC_BODY, ""},
        {"github, verify: shared-secret", SIGNATURE_SHARED_SECRET, "authorization"},
        {"telegram, header: x-own", SIGNATURE_SHARED_SECRET, "x-own"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char yaml[1024];
        /* Keys in any order: what the preset decides is decided when all were read. */
        snprintf(yaml, sizeof(yaml),
                 LISTEN "webhooks: [{tables: [" ROW "], secrets: [{value: x}], preset: %s, "
                        "name: n}]\n",
                 rows[i].preset);
        struct config *c = parse_good(yaml);
        assert_int_equal(c->webhooks[0].verify, rows[i].verify);
        assert_string_equal(c->webhooks[0].header, rows[i].header);
        config_free(c);
    }
}

static void test_every_problem_names_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *yaml;
        const char *problem;
    } rows[] = {
        {"webhooks: {name: a}", "f.yaml:1:1: webhooks: must be a list"},
        {"webhooks:\n- nam: a", "f.yaml:2:3: webhooks[0].nam: unknown key (did you mean "
                                "\"name\"?)"},
        {"webhooks:\n- name: A", "f.yaml:2:9: webhooks[0].name: \"A\" may only hold"},
        {"webhooks:\n- name: ''", "f.yaml:2:9: webhooks[0].name: must not be empty"},
        {"webhooks:\n- preset: githb", "f.yaml:2:11: webhooks[0].preset: \"githb\" is not one of"},
        {"webhooks:\n- {name: a}", "f.yaml:2:3: webhooks[0]: preset is missing"},
        {"webhooks:\n- {name: a, preset: warmpath}",
         "f.yaml:2:3: webhooks[0]: secrets is missing: anyone could write here"},
        {"webhooks:\n- {preset: warmpath, insecure_no_secret: true}",
         "f.yaml:2:3: webhooks[0]: name is missing"},
        {"webhooks:\n- {name: a, preset: json, insecure_no_secret: true}",
         "f.yaml:2:3: webhooks[0]: tables is missing"},
        {"webhooks:\n- {name: a, preset: warmpath, insecure_no_secret: true, tables: [" ROW "]}",
         "preset warmpath has no tables"},
        {"webhooks:\n- {name: a, preset: sequin, insecure_no_secret: true, each: x, tables: [" ROW
         "]}",
         "each goes with presets whose bodies are mapped"},
        {"webhooks:\n- {name: a, preset: json, insecure_no_secret: true, each: x., tables: [" ROW
         "]}",
         "each and delivery_id are member names joined by dots"},
        {"webhooks:\n- {name: a, preset: github, header: x, secrets: [{value: x}], tables: [" ROW
         "]}",
         "header goes with verify: shared-secret"},
        {"webhooks:\n- {name: a, preset: sequin, header: 'a b', secrets: [{value: x}], tables: "
         "[" ROW "]}",
         "header is not the name of a header"},
        {LISTEN "webhooks:\n- {name: a, preset: warmpath, insecure_no_secret: true}\n"
                "- {name: a, preset: warmpath, insecure_no_secret: true}",
         "f.yaml:4:3: webhooks[1]: the name \"a\" is taken"},
        {LISTEN "webhooks: [{name: influx, preset: warmpath, insecure_no_secret: true}]",
         "f.yaml: influx.name: is also the name of a webhook"},
        {"webhooks: [{name: a, preset: warmpath, insecure_no_secret: true}]",
         "f.yaml: http.listen: is missing: webhooks need it"},
        {"webhooks:\n- secrets: [{value: a, not_after: tomorrow}]",
         "f.yaml:2:35: webhooks[0].secrets[0].not_after: \"tomorrow\" is not a time"},
        {"webhooks:\n- secrets: [{id: x}]", "f.yaml:2:13: webhooks[0].secrets[0]: value is"},
        {"webhooks:\n- secrets: [{value: a}, {id: '1', value: b}]",
         "f.yaml:2:25: webhooks[0].secrets[1]: another secret has the id \"1\""},
        {"webhooks:\n- secrets: [a]",
         "f.yaml:2:13: webhooks[0].secrets[0]: must hold keys, not a value"},
        {"webhooks:\n- tables:\n  - relation: x\n    event: message\n    fields: {iid: a}",
         "f.yaml:5:14: webhooks[0].tables[0].fields.iid: unknown event field (did you mean "
         "\"id\"?)"},
        {"webhooks:\n- tables:\n  - {relation: x, event: message, fields: {id: {path: a}}}",
         "webhooks[0].tables[0].fields.id: a path needs a column"},
        {"webhooks:\n- tables: [" ROW ", " ROW "]", "is mapped twice to the same events"},
        {"influx: {secrets: [{value: a}]}", "f.yaml: http.listen: is missing: influx needs it"},
        {"influx: {secrets: [{value: a, vale: b}]}",
         "influx.secrets[0].vale: unknown key (did you mean \"value\"?)"},
        {"feed: {pub: 'tcp://0.0.0.0:1'}", "f.yaml: feed.pub: must be on this machine"},
        {"feed: {pub: 'tcp://127.0.0.1'}", "feed.pub: must be on this machine"},
        {"feed: {pub: 'inproc://x'}", "feed.pub: is not a URL"},
        {"feed: {webhooks: [{name: a, url: 'http://h', secrets: [{value: x}]}]}",
         "f.yaml:1:19: feed.webhooks[0]: url must begin with https://"},
        {"feed: {webhooks: [{name: a, url: 'ftp://h', secrets: [{value: x}]}]}",
         "url must begin with http:// or https://"},
        {"feed: {webhooks: [{name: a, url: 'https://u:p@h', secrets: [{value: x}]}]}",
         "url holds a user name"},
        {"feed: {webhooks: [{name: a, url: 'https://h'}]}", "secrets is missing"},
        {"feed: {webhooks: [{url: 'https://h', secrets: [{value: x}]}]}", "name is missing"},
        {"feed: {webhooks: [{name: a, url: 'https://h', secrets: [{value: x}]}, {name: a, url: "
         "'https://h', secrets: [{value: x}]}]}",
         "another destination has the name \"a\""},
        {"feed: {webhooks: [{name: a, url: 'https://h', tables: nope, secrets: [{value: x}]}]}",
         "tables: \"nope\" is no cache table"},
        {"feed: {webhooks: [{name: a, url: 'https://h', bots: 'x,--', secrets: [{value: x}]}]}",
         "bots: \"--\" is not a bot name"},
        {"influx: {catch_up: {url: 'http://u:p@h', database: d}}",
         "f.yaml: influx.catch_up.url: must hold no user or password"},
        {"influx: {catch_up: {url: 'http://h'}}", "influx.catch_up.database: is missing"},
        {"influx: {catchup: {}}", "influx.catchup: unknown key (did you mean \"catch_up\"?)"},
        {"qdrant: [{name: q, collection: c}]", "f.yaml:1:10: qdrant[0]: url is missing"},
        {"qdrant: [{name: q, url: 'h:1', collection: c}]", "url is not a URL"},
        {"qdrant: [{name: q, url: 'http://h/?k=v', collection: c}]", "must not hold ? or #"},
        {"qdrant: [{name: q, url: 'http://h'}]", "qdrant[0]: collection is missing"},
        {"qdrant: [{name: q, url: 'http://h', collection: '--'}]", "bot_name is missing"},
        {"qdrant: [{mode: scrol}]", "qdrant[0].mode: \"scrol\" is not one of"},
        {"http: {tls_cert: x}", "f.yaml: http.tls_key: is missing"},
        {"http: {max_body: 1}", "f.yaml:1:18: http.max_body: \"1\" needs a unit"},
        {"inbox: {commit_delay: 51ms}", "\"51ms\" is not between 0s and 50ms"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct buf problems;
        struct config *c = parse(rows[i].yaml, &problems);
        if (c || !strstr(problems.data, rows[i].problem))
            fail_msg("%s gave: %s", rows[i].yaml, problems.data);
        buf_deinit(&problems);
    }
}

/* A list that may hold n elements holds n, and not one more. */
static void test_the_lists_have_their_bounds(void **state)
{
    (void)state;
    static const struct {
        const char *head, *element;
        int max;
        const char *tail, *problem;
    } rows[] = {
        {LISTEN "webhooks:\n", "- {name: w%d, preset: warmpath, insecure_no_secret: true}\n",
         CONFIG_WEBHOOKS_MAX, "", "webhooks[32]: there can be at most 32"},
        {LISTEN "webhooks:\n- {name: w, preset: warmpath, secrets: [", "{id: s%d, value: x},",
         CONFIG_SECRETS_MAX, "]}\n", "webhooks[0].secrets[8]: there can be at most 8"},
        {"qdrant:\n", "- {name: q%d, url: \"http://h\", collection: c}\n", CONFIG_QDRANT_MAX, "",
         "qdrant[8]: there can be at most 8"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (int more = 0; more < 2; more++) {
            char yaml[8192];
            size_t n = (size_t)snprintf(yaml, sizeof(yaml), "%s", rows[i].head);
            for (int k = 0; k < rows[i].max + more; k++) {
                char element[128];
                const char *at = strstr(rows[i].element, "%d");
                snprintf(element, sizeof(element), "%.*s%d%s", (int)(at - rows[i].element),
                         rows[i].element, k, at + 2);
                n += (size_t)snprintf(yaml + n, sizeof(yaml) - n, "%s", element);
            }
            snprintf(yaml + n, sizeof(yaml) - n, "%s", rows[i].tail);
            struct buf problems;
            struct config *c = parse(yaml, &problems);
            if (more)
                assert_non_null(strstr(problems.data, rows[i].problem));
            else
                assert_string_equal(problems.data, "");
            config_free(c);
            buf_deinit(&problems);
        }
}

/* What is printed loads to the same configuration, but for the secrets, which are not printed. */
static void test_a_printed_configuration_is_the_same_without_its_secrets(void **state)
{
    (void)state;
    struct config *c = parse_good(whole);
    struct buf text[2];
    struct error err;
    buf_init(&text[0], 1 << 20);
    buf_init(&text[1], 1 << 20);
    assert_int_equal(config_print(c, &text[0], &err), STATUS_OK);
    assert_int_equal(buf_append(&text[0], "", 1), STATUS_OK);
    assert_null(strstr(text[0].data, "geheim"));
    assert_non_null(strstr(text[0].data, "  catch_up:\n    url: \"http://h:8086\"  # line "));
    struct config *copy = parse_good(text[0].data);
    assert_memory_equal(&c->http, &copy->http, sizeof(c->http));
    assert_memory_equal(&c->inbox, &copy->inbox, sizeof(c->inbox));
    assert_int_equal(copy->n_webhooks, c->n_webhooks);
    for (size_t i = 0; i < c->n_webhooks; i++) {
        struct config_webhook *a = &c->webhooks[i], *b = &copy->webhooks[i];
        assert_memory_equal(a->tables, b->tables, sizeof(*a->tables));
        assert_int_equal(a->n_secrets, b->n_secrets);
        for (size_t k = 0; k < a->n_secrets; k++) {
            assert_string_equal(a->secrets[k].id, b->secrets[k].id);
            assert_int_equal(a->secrets[k].not_after_us, b->secrets[k].not_after_us);
            assert_string_equal(b->secrets[k].value, "****");
        }
        assert_int_equal(a->verify, b->verify);
        assert_string_equal(a->header, b->header);
        assert_string_equal(a->each, b->each);
        assert_string_equal(a->delivery_id, b->delivery_id);
    }
    assert_string_equal(copy->influx.catch_up.password, "****");
    assert_string_equal(copy->qdrant[0].api_key, "****");
    assert_int_equal(copy->qdrant[0].mode, c->qdrant[0].mode);
    assert_int_equal(copy->feed.n_webhooks, 2);
    assert_string_equal(copy->feed.pub, c->feed.pub);
    for (size_t i = 0; i < 2; i++) {
        struct config_feed_webhook *a = &c->feed.webhooks[i], *b = &copy->feed.webhooks[i];
        memset(a->secrets, 0, sizeof(a->secrets));
        memset(b->secrets, 0, sizeof(b->secrets));
        assert_memory_equal(a, b, sizeof(*a));
    }
    config_free(c);
    config_free(copy);
    buf_deinit(&text[0]);
    buf_deinit(&text[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_http_and_inbox_fill_every_member),
        cmocka_unit_test(test_the_lists_fill_every_member),
        cmocka_unit_test(test_the_pulls_fill_every_member),
        cmocka_unit_test(test_the_feed_fills_every_member),
        cmocka_unit_test(test_nothing_listens_unless_it_is_asked_to),
        cmocka_unit_test(test_how_a_sender_proves_itself_follows_from_the_preset),
        cmocka_unit_test(test_every_problem_names_its_place),
        cmocka_unit_test(test_the_lists_have_their_bounds),
        cmocka_unit_test(test_a_printed_configuration_is_the_same_without_its_secrets),
    };
    return cmocka_run_group_tests_name("server/config_door", tests, NULL, NULL);
}

/* tests/server/test_prometheus.c - the page of metrics, to the letter, in both of its forms. */
#include "server/prometheus.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "core/counters.h"

static char *page(enum prometheus_format format)
{
    struct buf out;
    buf_init(&out, PROMETHEUS_PAGE_BYTES);
    assert_int_equal(prometheus_page(format, &out, NULL), STATUS_OK);
    assert_int_equal(buf_append(&out, "", 1), STATUS_OK);
    return out.data;
}

/* The lines of one family, from its HELP to the next one. */
static char *family(enum prometheus_format format, const char *name)
{
    char *all = page(format);
    char head[128];
    snprintf(head, sizeof(head), "# HELP %s ", name);
    char *from = strstr(all, head);
    assert_non_null(from);
    char *to = strstr(from + 1, "# HELP ");
    if (!to)
        to = strstr(from + 1, "# EOF");
    char *found = strndup(from, to ? (size_t)(to - from) : strlen(from));
    free(all);
    return found;
}

static void assert_family(enum prometheus_format format, const char *name, const char *expected)
{
    char *found = family(format, name);
    assert_string_equal(found, expected);
    free(found);
}

static void test_counters_by_label(void **state)
{
    (void)state;
    metric_add(METRIC_WEBHOOK_REQUESTS, "app", "204", 3);
    metric_add(METRIC_WEBHOOK_REQUESTS, "app", "401", UINT64_C(18446744073709551615));
    assert_family(PROMETHEUS_TEXT, "warmpath_webhook_requests_total",
                  "# HELP warmpath_webhook_requests_total requests to the public listener's "
                  "routes by what was answered\n"
                  "# TYPE warmpath_webhook_requests_total counter\n"
                  "warmpath_webhook_requests_total{source=\"app\",code=\"204\"} 3\n"
                  "warmpath_webhook_requests_total{source=\"app\",code=\"401\"} "
                  "18446744073709551615\n");
    /* OpenMetrics: the family without the suffix, its samples with it. */
    assert_family(PROMETHEUS_OPENMETRICS, "warmpath_webhook_requests",
                  "# HELP warmpath_webhook_requests requests to the public listener's routes by "
                  "what was answered\n"
                  "# TYPE warmpath_webhook_requests counter\n"
                  "warmpath_webhook_requests_total{source=\"app\",code=\"204\"} 3\n"
                  "warmpath_webhook_requests_total{source=\"app\",code=\"401\"} "
                  "18446744073709551615\n");
}

static void test_labels_are_escaped(void **state)
{
    (void)state;
    metric_add(METRIC_DEAD_LETTERS, "a\"b\\c\nd\xC3\xA9", NULL, 1);
    const enum prometheus_format forms[] = {PROMETHEUS_TEXT, PROMETHEUS_OPENMETRICS};
    for (size_t i = 0; i < 2; i++) {
        char *all = page(forms[i]);
        assert_non_null(
            strstr(all, "\nwarmpath_dead_letters_total{where=\"a\\\"b\\\\c\\nd\xC3\xA9\"} 1\n"));
        free(all);
    }
}

static void test_buckets_add_up(void **state)
{
    (void)state;
    metric_observe(METRIC_WEBHOOK_DURATION, "app", NULL, 400);
    metric_observe(METRIC_WEBHOOK_DURATION, "app", NULL, 1500);
    metric_observe(METRIC_WEBHOOK_DURATION, "app", NULL, 90000000);
    char *found = family(PROMETHEUS_TEXT, "warmpath_webhook_request_duration_seconds");
    const char *expected[] = {
        "# TYPE warmpath_webhook_request_duration_seconds histogram\n",
        "_bucket{source=\"app\",le=\"0.0005\"} 1\n",
        "_bucket{source=\"app\",le=\"0.001\"} 1\n",
        "_bucket{source=\"app\",le=\"0.0025\"} 2\n",
        "_bucket{source=\"app\",le=\"1.0\"} 2\n",
        "_bucket{source=\"app\",le=\"60.0\"} 2\n",
        "_bucket{source=\"app\",le=\"+Inf\"} 3\n",
        "_sum{source=\"app\"} 90.001900000000006\n",
        "_count{source=\"app\"} 3\n",
    };
    const char *at = found;
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        at = strstr(at, expected[i]); /* in this order */
        assert_non_null(at);
    }
    free(found);
}

static void test_gauges_are_left_out_while_unknown(void **state)
{
    (void)state;
    char *all = page(PROMETHEUS_TEXT);
    assert_null(strstr(all, "warmpath_source_lag_seconds"));
    free(all);
    metric_set(METRIC_SOURCE_LAG, METRIC_SOURCE_POSTGRES, NULL, 0.25);
    assert_family(PROMETHEUS_TEXT, "warmpath_source_lag_seconds",
                  "# HELP warmpath_source_lag_seconds from the sending of a heartbeat through the "
                  "source to its being durable here; grows while none comes back\n"
                  "# TYPE warmpath_source_lag_seconds gauge\n"
                  "warmpath_source_lag_seconds{source=\"postgres\"} 0.25\n");
    metric_set(METRIC_CHECKPOINT_TIMESTAMP, "0", NULL, 1767621600.5);
    all = page(PROMETHEUS_TEXT);
    assert_non_null(strstr(all, "{worker=\"0\"} 1767621600.5\n"));
    free(all);
}

static void test_plain_counters_are_there_from_the_start(void **state)
{
    (void)state;
    COUNTER_ADD(commits, 2);
    COUNTER_ADD(flush_idle, 7);
    char *all = page(PROMETHEUS_TEXT);
    assert_non_null(strstr(all, "\n# TYPE warmpath_commits_total counter\n"
                                "warmpath_commits_total 2\n"));
    assert_non_null(strstr(all, "\nwarmpath_sink_retries_total 0\n"));
    assert_non_null(strstr(all, "\nwarmpath_rows_due_total{reason=\"idle\"} 7\n"));
    assert_non_null(strstr(all, "\nwarmpath_rows_due_total{reason=\"count\"} 0\n"));
    assert_null(strstr(all, "warmpath_flush_"));
    free(all);
}

static void test_the_kernel_knows_the_process(void **state)
{
    (void)state;
    char *all = page(PROMETHEUS_TEXT);
    const char *names[] = {"process_cpu_seconds_total",    "process_resident_memory_bytes",
                           "process_virtual_memory_bytes", "process_open_fds",
                           "process_start_time_seconds",   "process_threads"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char line[64];
        snprintf(line, sizeof(line), "\n%s ", names[i]);
        const char *at = strstr(all, line);
        assert_non_null(at);
        double value = strtod(at + strlen(line), NULL);
        assert_true(i == 0 ? value >= 0 : value >= 1);
    }
    const char *started = strstr(all, "\nprocess_start_time_seconds ");
    double age = (double)time(NULL) - strtod(started + 28, NULL);
    assert_true(age > -60 && age < 3600);
    free(all);
}

/* What promtool and Prometheus would refuse. */
static void test_every_family_comes_once_and_whole(void **state)
{
    (void)state;
    const enum prometheus_format forms[] = {PROMETHEUS_TEXT, PROMETHEUS_OPENMETRICS};
    for (size_t i = 0; i < 2; i++) {
        char *all = page(forms[i]);
        assert_null(strstr(all, "\n\n"));
        size_t len = strlen(all);
        assert_int_equal(all[len - 1], '\n');
        if (forms[i] == PROMETHEUS_OPENMETRICS)
            assert_string_equal(all + len - 6, "# EOF\n");
        for (char *type = strstr(all, "# TYPE "); type; type = strstr(type + 1, "# TYPE ")) {
            char head[128];
            snprintf(head, sizeof(head), "%.*s ", (int)strcspn(type + 7, " ") + 7, type);
            assert_null(strstr(type + 1, head)); /* a second one */
        }
        free(all);
    }
}

struct seen {
    char names[256][128];
    size_t n;
};

static void note_family(void *ctx, const char *name, enum metric_kind kind, const char *labels,
                        const char *help)
{
    struct seen *s = ctx;
    (void)labels;
    size_t n = strlen(name);
    assert_true(n < 128 && s->n < 256);
    assert_true((kind == METRIC_COUNTER) == (n > 6 && strcmp(name + n - 6, "_total") == 0));
    /* In OpenMetrics a counter's family is named without its suffix, and names are one space. */
    snprintf(s->names[s->n], 128, "%.*s", (int)(kind == METRIC_COUNTER ? n - 6 : n), name);
    for (size_t i = 0; i < s->n; i++)
        assert_string_not_equal(s->names[i], s->names[s->n]);
    s->n++;
    assert_true(*help && !strpbrk(help, "\"\\\n") && help[strlen(help) - 1] != '.');
}

static void test_names_are_unique_and_follow_the_rules(void **state)
{
    (void)state;
    struct seen *s = calloc(1, sizeof(*s));
    prometheus_families(note_family, s);
    assert_true(s->n > 60);
    free(s);
}

static void test_the_form_is_negotiated(void **state)
{
    (void)state;
    const struct {
        const char *accept;
        enum prometheus_format format;
    } cases[] = {
        {"", PROMETHEUS_TEXT},
        {"*/*", PROMETHEUS_TEXT},
        {"text/plain", PROMETHEUS_TEXT},
        {"application/openmetrics-text", PROMETHEUS_OPENMETRICS},
        {"Application/OpenMetrics-Text ; Version=1.0.0", PROMETHEUS_OPENMETRICS},
        {"application/openmetrics-text;version=0.0.1", PROMETHEUS_TEXT},
        {"application/openmetrics-text;version=2.0.0,text/plain;q=0.1", PROMETHEUS_TEXT},
        /* Prometheus 2.42 */
        {"application/openmetrics-text;version=1.0.0,"
         "application/openmetrics-text;version=0.0.1;q=0.75,"
         "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
         PROMETHEUS_OPENMETRICS},
        {"application/openmetrics-text;q=0.3, text/plain;q=0.5", PROMETHEUS_TEXT},
        {"application/openmetrics-text;q=0.5, text/plain;q=0.5", PROMETHEUS_OPENMETRICS},
        {"application/openmetrics-text;q=0", PROMETHEUS_TEXT},
        {"application/openmetrics-text;q=nonsense", PROMETHEUS_TEXT},
        {"application/openmetrics-text;q=1.5", PROMETHEUS_TEXT},
        {",,;;q=,=;", PROMETHEUS_TEXT},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(prometheus_negotiate(str_from(cases[i].accept)), cases[i].format);
    assert_int_equal(prometheus_negotiate(STR_NULL), PROMETHEUS_TEXT);
}

/* ---- docs/METRICS.md ---- */

static void format_line(char out[1024], const char *name, enum metric_kind kind, const char *labels,
                        const char *help)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    snprintf(out, 1024, "| `%s` | %s | %s | %s |\n", name, kinds[kind], labels, help);
}

static void print_family(void *ctx, const char *name, enum metric_kind kind, const char *labels,
                         const char *help)
{
    char line[1024];
    format_line(line, name, kind, labels, help);
    fputs(line, ctx);
}

struct doc {
    char *text;
    size_t n;
};

static void find_family(void *ctx, const char *name, enum metric_kind kind, const char *labels,
                        const char *help)
{
    struct doc *doc = ctx;
    char line[1024];
    format_line(line, name, kind, labels, help);
    if (!strstr(doc->text, line))
        fail_msg("docs/METRICS.md lacks the line (test_prometheus --table prints them all): %s",
                 line);
    doc->n++;
}

static void test_the_docs_list_every_family_and_no_other(void **state)
{
    (void)state;
    struct doc doc = {.text = calloc(1, 1 << 20)};
    FILE *f = fopen(SOURCE_ROOT "/docs/METRICS.md", "re");
    assert_non_null(f);
    assert_true(fread(doc.text, 1, (1 << 20) - 1, f) > 0);
    fclose(f);
    prometheus_families(find_family, &doc);
    size_t lines = 0;
    for (char *at = strstr(doc.text, "\n| `"); at; at = strstr(at + 1, "\n| `"))
        lines += !strncmp(at + 4, "warmpath_", 9) || !strncmp(at + 4, "process_", 8);
    assert_int_equal(lines, doc.n);
    free(doc.text);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--table") == 0) {
        prometheus_families(print_family, stdout);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gauges_are_left_out_while_unknown),
        cmocka_unit_test(test_counters_by_label),
        cmocka_unit_test(test_labels_are_escaped),
        cmocka_unit_test(test_buckets_add_up),
        cmocka_unit_test(test_plain_counters_are_there_from_the_start),
        cmocka_unit_test(test_the_kernel_knows_the_process),
        cmocka_unit_test(test_every_family_comes_once_and_whole),
        cmocka_unit_test(test_names_are_unique_and_follow_the_rules),
        cmocka_unit_test(test_the_form_is_negotiated),
        cmocka_unit_test(test_the_docs_list_every_family_and_no_other),
    };
    return cmocka_run_group_tests_name("server/prometheus", tests, NULL, NULL);
}

#include "server/prometheus.h"

#include "core/counters.h"
#include "server/process_view.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* After the first failure nothing is appended any more. */
struct page {
    struct buf *out;
    enum prometheus_format format;
    enum status st;
};

static void put(struct page *p, const char *text)
{
    if (!p->st)
        p->st = buf_append(p->out, text, strlen(text));
}

/* The three characters that end a label value or a line; in HELP of the text format quotes are
 * plain, which is no harm: no help has any. */
static void put_escaped(struct page *p, const char *text)
{
    for (const char *c = text; *c && !p->st; c++) {
        if (*c == '\n')
            put(p, "\\n");
        else if (*c == '"' || *c == '\\')
            p->st = buf_append(p->out, (char[]){'\\', *c}, 2);
        else
            p->st = buf_append(p->out, c, 1);
    }
}

/* Whole numbers in full; anything else with the digits that give it back. */
static void put_value(struct page *p, double value)
{
    if (!p->st)
        p->st = fabs(value) < 9e15 && value == trunc(value) ? buf_printf(p->out, " %.0f\n", value)
                                                            : buf_printf(p->out, " %.17g\n", value);
}

static void put_count(struct page *p, uint64_t value)
{
    if (!p->st)
        p->st = buf_printf(p->out, " %" PRIu64 "\n", value);
}

static const char *kind_name(enum metric_kind kind)
{
    return kind == METRIC_COUNTER ? "counter" : kind == METRIC_GAUGE ? "gauge" : "histogram";
}

/* OpenMetrics names a family of counters without the suffix of its samples. */
static void put_head(struct page *p, const char *prefix, const char *name, enum metric_kind kind,
                     const char *help)
{
    const char *suffix = kind == METRIC_COUNTER && p->format == PROMETHEUS_TEXT ? "_total" : "";
    if (!p->st)
        p->st = buf_printf(p->out, "# HELP %s%s%s ", prefix, name, suffix);
    put_escaped(p, help);
    if (!p->st)
        p->st = buf_printf(p->out, "\n# TYPE %s%s%s %s\n", prefix, name, suffix, kind_name(kind));
}

static void put_name(struct page *p, const char *prefix, const char *name, const char *suffix)
{
    put(p, prefix);
    put(p, name);
    put(p, suffix);
}

/* {a="x",b="y",last}: the labels that are there. */
static void put_labels(struct page *p, const char *const names[2], const char *const values[2],
                       const char *last)
{
    const char *between = "{";
    for (size_t i = 0; i < 2 && names[i]; i++) {
        put(p, between);
        put(p, names[i]);
        put(p, "=\"");
        put_escaped(p, values[i]);
        put(p, "\"");
        between = ",";
    }
    if (last) {
        put(p, between);
        put(p, last);
        between = ",";
    }
    if (*between == ',')
        put(p, "}");
}

/* ---- core/metrics.h ---- */

struct family_page {
    struct page *page;
    const struct metric_family *family;
    bool begun; /* its head is there: a family without samples is left out */
};

/* "0.0005", "1.0": OpenMetrics wants the point, and a bound must be the same text in both. */
static void bound_label(size_t i, char out[40])
{
    if (i == METRIC_BUCKETS) {
        snprintf(out, 40, "le=\"+Inf\"");
        return;
    }
    int64_t us = metric_bounds_us[i];
    int n = snprintf(out, 40, "le=\"%" PRId64 ".%06" PRId64, us / 1000000, us % 1000000);
    while (out[n - 1] == '0' && out[n - 2] != '.')
        n--;
    out[n] = '"';
    out[n + 1] = '\0';
}

static void put_histogram(struct page *p, const struct metric_family *f,
                          const struct metric_sample *s)
{
    uint64_t below = 0;
    for (size_t i = 0; i <= METRIC_BUCKETS; i++) {
        char bound[40];
        bound_label(i, bound);
        below += s->buckets[i];
        put_name(p, PROMETHEUS_PREFIX, f->name, "_bucket");
        put_labels(p, f->labels, s->labels, bound);
        put_count(p, below);
    }
    put_name(p, PROMETHEUS_PREFIX, f->name, "_sum");
    put_labels(p, f->labels, s->labels, NULL);
    put_value(p, (double)s->sum_us / 1e6);
    put_name(p, PROMETHEUS_PREFIX, f->name, "_count");
    put_labels(p, f->labels, s->labels, NULL);
    put_count(p, s->count);
}

static void put_sample(void *ctx, const struct metric_sample *s)
{
    struct family_page *fp = ctx;
    const struct metric_family *f = fp->family;
    struct page *p = fp->page;
    if (!fp->begun)
        put_head(p, PROMETHEUS_PREFIX, f->name, f->kind, f->help);
    fp->begun = true;
    if (f->kind == METRIC_HISTOGRAM) {
        put_histogram(p, f, s);
        return;
    }
    put_name(p, PROMETHEUS_PREFIX, f->name, f->kind == METRIC_COUNTER ? "_total" : "");
    put_labels(p, f->labels, s->labels, NULL);
    if (f->kind == METRIC_COUNTER)
        put_count(p, s->count);
    else
        put_value(p, s->value);
}

/* ---- core/counters.h ---- */

/* Why rows were due is one family; in core/counters.h each reason is a counter of its own. */
#define DUE_PREFIX "flush_"
#define DUE_NAME   "rows_due"
#define DUE_HELP   "cache rows that became due, by what made them so"

static const struct plain {
    const char *name;
    const char *help;
    _Atomic uint64_t *value;
} plain[] = {
#define X(name, help) {#name, help, &counters.name},
    COUNTERS(X)
#undef X
};
#define N_PLAIN (sizeof(plain) / sizeof(plain[0]))

static bool is_due(const struct plain *c)
{
    return strncmp(c->name, DUE_PREFIX, sizeof(DUE_PREFIX) - 1) == 0;
}

static void put_plain(struct page *p)
{
    static const char *const labels[2] = {"reason", NULL};
    for (size_t i = 0; i < N_PLAIN; i++) {
        if (is_due(&plain[i]))
            continue;
        put_head(p, PROMETHEUS_PREFIX, plain[i].name, METRIC_COUNTER, plain[i].help);
        put_name(p, PROMETHEUS_PREFIX, plain[i].name, "_total");
        put_count(p, atomic_load_explicit(plain[i].value, memory_order_relaxed));
    }
    put_head(p, PROMETHEUS_PREFIX, DUE_NAME, METRIC_COUNTER, DUE_HELP);
    for (size_t i = 0; i < N_PLAIN; i++) {
        if (!is_due(&plain[i]))
            continue;
        const char *values[2] = {plain[i].name + sizeof(DUE_PREFIX) - 1, NULL};
        put_name(p, PROMETHEUS_PREFIX, DUE_NAME, "_total");
        put_labels(p, labels, values, NULL);
        put_count(p, atomic_load_explicit(plain[i].value, memory_order_relaxed));
    }
}

/* ---- the process ---- */

/* Their names are Prometheus' own: without our prefix. */
static const struct {
    const char *name;
    const char *help;
    enum metric_kind kind;
    size_t offset;
} process[] = {
#define ROW(name, kind, member, help)                           \
    {                                                           \
        name, help, kind, offsetof(struct process_view, member) \
    }
    ROW("process_cpu_seconds", METRIC_COUNTER, cpu_seconds, "user and system time"),
    ROW("process_resident_memory_bytes", METRIC_GAUGE, resident_bytes, "memory in use"),
    ROW("process_virtual_memory_bytes", METRIC_GAUGE, virtual_bytes, "address space"),
    ROW("process_open_fds", METRIC_GAUGE, open_fds, "open file descriptors"),
    ROW("process_max_fds", METRIC_GAUGE, max_fds, "file descriptors that may be open"),
    ROW("process_start_time_seconds", METRIC_GAUGE, start_time_seconds,
        "when the process was started"),
    ROW("process_threads", METRIC_GAUGE, threads, "threads"),
#undef ROW
};
#define N_PROCESS (sizeof(process) / sizeof(process[0]))

static void put_process(struct page *p)
{
    struct process_view v = process_view();
    for (size_t i = 0; i < N_PROCESS; i++) {
        double value;
        memcpy(&value, (const char *)&v + process[i].offset, sizeof(value));
        if (isnan(value))
            continue;
        put_head(p, "", process[i].name, process[i].kind, process[i].help);
        put_name(p, "", process[i].name, process[i].kind == METRIC_COUNTER ? "_total" : "");
        put_value(p, value);
    }
}

#define BUILD_NAME "build_info"
#define BUILD_HELP "1, with the version as a label"

static void put_build(struct page *p)
{
    static const char *const labels[2] = {"version", NULL};
    static const char *const values[2] = {WARMPATH_VERSION, NULL};
    put_head(p, PROMETHEUS_PREFIX, BUILD_NAME, METRIC_GAUGE, BUILD_HELP);
    put_name(p, PROMETHEUS_PREFIX, BUILD_NAME, "");
    put_labels(p, labels, values, NULL);
    put_value(p, 1);
}

/* ---- the page ---- */

enum status prometheus_page(enum prometheus_format format, struct buf *out, struct error *err)
{
    struct page p = {.out = out, .format = format};
    put_build(&p);
    for (int m = 0; m < METRIC_IDS; m++) {
        struct family_page fp = {.page = &p, .family = metric_family((enum metric_id)m)};
        metric_each((enum metric_id)m, put_sample, &fp);
    }
    put_plain(&p);
    put_process(&p);
    if (format == PROMETHEUS_OPENMETRICS)
        put(&p, "# EOF\n");
    return p.st ? error_set(err, p.st, "could not write the page of metrics") : STATUS_OK;
}

const char *prometheus_content_type(enum prometheus_format format)
{
    return format == PROMETHEUS_OPENMETRICS
               ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
               : "text/plain; version=0.0.4; charset=utf-8";
}

void prometheus_families(void (*fn)(void *ctx, const char *name, enum metric_kind kind,
                                    const char *labels, const char *help),
                         void *ctx)
{
    char name[128], labels[128];
    fn(ctx, PROMETHEUS_PREFIX BUILD_NAME, METRIC_GAUGE, "version", BUILD_HELP);
    for (int m = 0; m < METRIC_IDS; m++) {
        const struct metric_family *f = metric_family((enum metric_id)m);
        snprintf(name, sizeof(name), PROMETHEUS_PREFIX "%s%s", f->name,
                 f->kind == METRIC_COUNTER ? "_total" : "");
        snprintf(labels, sizeof(labels), "%s%s%s", f->labels[0] ? f->labels[0] : "",
                 f->labels[1] ? ", " : "", f->labels[1] ? f->labels[1] : "");
        fn(ctx, name, f->kind, labels, f->help);
    }
    for (size_t i = 0; i < N_PLAIN; i++) {
        snprintf(name, sizeof(name), PROMETHEUS_PREFIX "%s_total", plain[i].name);
        if (!is_due(&plain[i]))
            fn(ctx, name, METRIC_COUNTER, "", plain[i].help);
    }
    fn(ctx, PROMETHEUS_PREFIX DUE_NAME "_total", METRIC_COUNTER, "reason", DUE_HELP);
    for (size_t i = 0; i < N_PROCESS; i++) {
        snprintf(name, sizeof(name), "%s%s", process[i].name,
                 process[i].kind == METRIC_COUNTER ? "_total" : "");
        fn(ctx, name, process[i].kind, "", process[i].help);
    }
}

/* ---- Accept (RFC 9110 12.5.1) ---- */

static struct str trim(struct str s)
{
    while (s.len && (*s.ptr == ' ' || *s.ptr == '\t')) {
        s.ptr++;
        s.len--;
    }
    while (s.len && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t'))
        s.len--;
    return s;
}

/* Takes what stands before the next `mark` off the front of *rest. */
static struct str next_part(struct str *rest, char mark)
{
    const char *end = rest->len ? memchr(rest->ptr, mark, rest->len) : NULL;
    size_t n = end ? (size_t)(end - rest->ptr) : rest->len;
    struct str part = {rest->ptr, n};
    size_t used = end ? n + 1 : n;
    rest->ptr += used;
    rest->len -= used;
    return trim(part);
}

static bool same_word(struct str s, const char *word)
{
    return s.len == strlen(word) && strncasecmp(s.ptr, word, s.len) == 0;
}

/* "0.75" in thousandths; 0 for anything that is no q. */
static int parse_q(struct str s)
{
    if (s.len == 0 || s.len > 5 || (s.ptr[0] != '0' && s.ptr[0] != '1') ||
        (s.len > 1 && s.ptr[1] != '.'))
        return 0;
    int q = 0;
    int unit = 1000;
    for (size_t i = 0; i < s.len; i++) {
        if (i == 1)
            continue;
        if (s.ptr[i] < '0' || s.ptr[i] > '9')
            return 0;
        q += (s.ptr[i] - '0') * unit;
        unit /= 10;
    }
    return q <= 1000 ? q : 0;
}

/* One media range: its type, q, and whether its version is `version` or not named. */
static struct str parse_range(struct str range, const char *version, int *ret_q, bool *ret_version)
{
    struct str type = next_part(&range, ';');
    *ret_q = 1000;
    *ret_version = true;
    while (range.len) {
        struct str value = next_part(&range, ';');
        struct str name = next_part(&value, '=');
        if (same_word(name, "q"))
            *ret_q = parse_q(value);
        else if (same_word(name, "version"))
            *ret_version = same_word(value, version);
    }
    return type;
}

enum prometheus_format prometheus_negotiate(struct str accept)
{
    int open = 0;
    int text = 0;
    while (accept.len) {
        struct str range = next_part(&accept, ',');
        int q = 0;
        bool version = false;
        struct str type = parse_range(range, "1.0.0", &q, &version);
        if (same_word(type, "application/openmetrics-text") && version && q > open)
            open = q;
        else if (same_word(type, "text/plain") && q > text)
            text = q;
    }
    return open > 0 && open >= text ? PROMETHEUS_OPENMETRICS : PROMETHEUS_TEXT;
}

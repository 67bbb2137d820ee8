#include "ingest/influx_rows.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

/* What is done with the series of a document. */
struct walk {
    enum status (*series)(struct walk *w, const json_t *series);
    enum status (*point)(void *ctx, const struct line_point *p, struct error *err);
    enum status (*name)(void *ctx, struct str name, struct error *err);
    void *ctx;
    struct error *err;
};

static struct str text_of(const json_t *value)
{
    return (struct str){json_string_value(value), json_string_length(value)};
}

static enum status odd(struct walk *w, const char *what)
{
    return error_set(w->err, STATUS_PROTOCOL, "not an answer of InfluxDB: %s", what);
}

/* Tags that a series does not have come as empty ones. */
static enum status read_tags(struct walk *w, const json_t *series, struct line_point *p)
{
    const char *key = NULL;
    json_t *value, *tags = json_object_get(series, "tags");
    json_object_foreach(tags, key, value)
    {
        if (!json_is_string(value))
            return odd(w, "a tag is no string");
        if (json_string_length(value) == 0)
            continue;
        if (p->n_tags == LINE_TAGS)
            p->tags_more++;
        else
            p->tags[p->n_tags++] = (struct line_tag){str_from(key), text_of(value)};
    }
    return STATUS_OK;
}

static enum status read_field(struct walk *w, const json_t *column, const json_t *value,
                              struct line_point *p)
{
    struct line_field f = {.key = text_of(column)};
    if (json_is_null(value))
        return STATUS_OK;
    if (json_is_integer(value)) {
        f.type = LINE_INTEGER;
        f.u.integer = json_integer_value(value);
    } else if (json_is_real(value)) {
        f.type = LINE_FLOAT;
        f.u.number = json_real_value(value);
    } else if (json_is_boolean(value)) {
        f.type = LINE_BOOLEAN;
        f.u.truth = json_is_true(value);
    } else if (json_is_string(value)) {
        f.type = LINE_STRING;
        f.u.text = text_of(value);
    } else {
        return odd(w, "a field is a list or an object");
    }
    if (p->n_fields == LINE_FIELDS)
        p->fields_more++;
    else
        p->fields[p->n_fields++] = f;
    return STATUS_OK;
}

/* The first column is the time. */
static enum status read_row(struct walk *w, const json_t *columns, const json_t *row,
                            struct line_point *p)
{
    size_t n = json_array_size(columns);
    const json_t *time = json_array_get(row, 0);
    if (json_array_size(row) != n || !json_is_integer(time))
        return odd(w, "a row is not as long as its columns, or has no integer as its time");
    p->time_ns = json_integer_value(time);
    p->n_fields = p->fields_more = 0;
    for (size_t i = 1; i < n; i++) {
        enum status st = read_field(w, json_array_get(columns, i), json_array_get(row, i), p);
        if (st)
            return st;
    }
    return p->n_fields ? w->point(w->ctx, p, w->err) : STATUS_OK;
}

static enum status read_points(struct walk *w, const json_t *series)
{
    struct line_point p;
    const json_t *columns = json_object_get(series, "columns");
    const json_t *rows = json_object_get(series, "values");
    if (!json_is_string(json_object_get(series, "name")) ||
        !json_is_string(json_array_get(columns, 0)) ||
        strcmp(json_string_value(json_array_get(columns, 0)), "time") != 0)
        return odd(w, "a series has no name, or no column of times");
    p.line = STR_NULL;
    p.number = 0;
    p.offset = 0;
    p.measurement = text_of(json_object_get(series, "name"));
    p.n_tags = p.tags_more = 0;
    p.plain = p.has_time = true;
    enum status st = read_tags(w, series, &p);
    for (size_t i = 0; i < json_array_size(rows) && !st; i++)
        st = read_row(w, columns, json_array_get(rows, i), &p);
    return st;
}

static enum status read_names(struct walk *w, const json_t *series)
{
    const json_t *rows = json_object_get(series, "values");
    enum status st = STATUS_OK;
    for (size_t i = 0; i < json_array_size(rows) && !st; i++) {
        const json_t *name = json_array_get(json_array_get(rows, i), 0);
        st = json_is_string(name) ? w->name(w->ctx, text_of(name), w->err)
                                  : odd(w, "a name is no string");
    }
    return st;
}

static enum status failed(struct walk *w, const json_t *of)
{
    const json_t *text = json_object_get(of, "error");
    return text ? error_set(w->err, STATUS_INVALID, "InfluxDB answers: %.300s",
                            json_is_string(text) ? json_string_value(text) : "an error")
                : STATUS_OK;
}

static enum status read_document(struct walk *w, const json_t *doc)
{
    const json_t *results = json_object_get(doc, "results");
    enum status st = failed(w, doc);
    if (!st && !json_is_array(results))
        return odd(w, "it has no results");
    for (size_t i = 0; i < json_array_size(results) && !st; i++) {
        const json_t *result = json_array_get(results, i);
        const json_t *series = json_object_get(result, "series");
        st = failed(w, result);
        for (size_t k = 0; k < json_array_size(series) && !st; k++)
            st = w->series(w, json_array_get(series, k));
    }
    return st;
}

static enum status walk(struct walk *w, struct str json)
{
    json_error_t why;
    json_t *doc = json_loadb(json.ptr ? json.ptr : "", json.len, JSON_ALLOW_NUL, &why);
    if (!doc) /* its text quotes the answer, and rows are nothing for a log */
        return error_set(w->err, STATUS_PROTOCOL,
                         "not an answer of InfluxDB: it is no JSON at byte %d", why.position);
    enum status st = read_document(w, doc);
    json_decref(doc);
    return st;
}

enum status influx_rows_read(struct str json,
                             enum status (*fn)(void *ctx, const struct line_point *p,
                                               struct error *err),
                             void *ctx, struct error *err)
{
    struct walk w = {.series = read_points, .point = fn, .ctx = ctx, .err = err};
    return walk(&w, json);
}

enum status influx_names_read(struct str json,
                              enum status (*fn)(void *ctx, struct str name, struct error *err),
                              void *ctx, struct error *err)
{
    struct walk w = {.series = read_names, .name = fn, .ctx = ctx, .err = err};
    return walk(&w, json);
}

enum status influx_select(struct str measurement, int64_t from_ns, int64_t to_ns, struct buf *out)
{
    enum status st = buf_append_str(out, STR("SELECT * FROM \""));
    for (size_t i = 0; i < measurement.len && !st; i++) {
        if (measurement.ptr[i] == '"' || measurement.ptr[i] == '\\')
            st = buf_append(out, "\\", 1);
        if (!st)
            st = buf_append(out, &measurement.ptr[i], 1);
    }
    if (!st)
        st = buf_printf(out, "\" WHERE time >= %" PRId64, from_ns);
    if (!st && to_ns != INT64_MAX)
        st = buf_printf(out, " AND time < %" PRId64, to_ns);
    return st ? st : buf_append_str(out, STR(" GROUP BY *"));
}

/* The bytes of a body to JSON documents. */
#include "ingest/webhook_internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum webhook_form webhook_form(struct str content_type)
{
    static const struct {
        const char *name;
        enum webhook_form form;
    } types[] = {
        {"", WEBHOOK_FORM_JSON},
        {"application/json", WEBHOOK_FORM_JSON},
        {"text/json", WEBHOOK_FORM_JSON},
        {"text/plain", WEBHOOK_FORM_JSON},
        {"application/octet-stream", WEBHOOK_FORM_JSON},
        {"application/x-ndjson", WEBHOOK_FORM_LINES},
        {"application/ndjson", WEBHOOK_FORM_LINES},
        {"application/jsonl", WEBHOOK_FORM_LINES},
        {"application/jsonlines", WEBHOOK_FORM_LINES},
        {"application/x-jsonlines", WEBHOOK_FORM_LINES},
        {"application/x-www-form-urlencoded", WEBHOOK_FORM_URLENCODED},
    };
    struct str type = content_type;
    const char *parameters = type.len ? memchr(type.ptr, ';', type.len) : NULL;
    if (parameters)
        type.len = (size_t)(parameters - type.ptr);
    while (type.len && (type.ptr[type.len - 1] == ' ' || type.ptr[type.len - 1] == '\t'))
        type.len--;
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if (strlen(types[i].name) == type.len &&
            (type.len == 0 || strncasecmp(types[i].name, type.ptr, type.len) == 0))
            return types[i].form;
    bool json = type.len > 17 && strncasecmp(type.ptr, "application/", 12) == 0 &&
                strncasecmp(type.ptr + type.len - 5, "+json", 5) == 0;
    return json ? WEBHOOK_FORM_JSON : WEBHOOK_FORM_UNKNOWN;
}

/* Counted before it is parsed: the parser calls itself for every level. */
static bool too_deep(struct str text)
{
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (quoted && c == '\\')
            i++;
        else if (c == '"')
            quoted = !quoted;
        else if (!quoted && (c == '{' || c == '['))
            depth++;
        else if (!quoted && (c == '}' || c == ']'))
            depth--;
        if (depth > WEBHOOK_DEPTH_MAX)
            return true;
    }
    return false;
}

static struct str trim(struct str s)
{
    while (s.len && strchr(" \t\r\n", s.ptr[0]))
        s = (struct str){s.ptr + 1, s.len - 1};
    while (s.len && strchr(" \t\r\n", s.ptr[s.len - 1]))
        s.len--;
    return s;
}

/* NULL: why says what is wrong. Only objects and arrays are documents. */
static json_t *parse(struct str text, char why[160])
{
    json_error_t problem;
    if (text.len == 0) {
        snprintf(why, 160, "json: there is none");
        return NULL;
    }
    if (too_deep(text)) {
        snprintf(why, 160, "json: has more than %d levels", WEBHOOK_DEPTH_MAX);
        return NULL;
    }
    json_t *root = json_loadb(text.ptr, text.len, JSON_REJECT_DUPLICATES, &problem);
    if (root)
        return root;
    /* The parser's text may quote what it stopped at. */
    snprintf(why, 160, "json: line %d, byte %d: %.100s", problem.line, problem.position,
             problem.text);
    for (char *c = why; *c; c++)
        if (!isprint((unsigned char)*c))
            *c = '?';
    return NULL;
}

/* One object is one event, which is read where it is made: the usual request is parsed once. */
static bool is_event(const struct webhook_reading *r, struct str text)
{
    const struct webhook *w = r->webhook;
    return w->preset == WEBHOOK_WARMPATH && !w->delivery_id[0] && text.len && text.ptr[0] == '{' &&
           !memchr(text.ptr, '\n', text.len) && !too_deep(text);
}

static enum status read_document(struct webhook_reading *r, const struct webhook_sink *sink,
                                 struct str text, struct error *err)
{
    char why[160];
    if (is_event(r, text))
        return sink->event(r, text, err);
    json_t *document = parse(text, why);
    if (!document)
        return sink->bad(r, text, why, err);
    enum status st = sink->document(r, document, err);
    json_decref(document);
    return st;
}

static struct str next_line(struct str *rest)
{
    const char *end = memchr(rest->ptr, '\n', rest->len);
    size_t len = end ? (size_t)(end - rest->ptr) : rest->len;
    struct str line = trim((struct str){rest->ptr, len});
    size_t used = end ? len + 1 : len;
    *rest = (struct str){rest->ptr + used, rest->len - used};
    return line;
}

static enum status read_lines(struct webhook_reading *r, const struct webhook_sink *sink,
                              struct str text, struct error *err)
{
    enum status st = STATUS_OK;
    bool any = false;
    while (text.len && !st) {
        struct str line = next_line(&text);
        if (line.len == 0)
            continue;
        any = true;
        st = read_document(r, sink, line, err);
    }
    return st || any ? st : read_document(r, sink, text, err);
}

/* One document, or, when it is none but its first line is, JSON Lines. */
static enum status read_json(struct webhook_reading *r, const struct webhook_sink *sink,
                             struct str text, struct error *err)
{
    char why[160], why_first[160];
    struct str rest = text;
    if (is_event(r, text))
        return sink->event(r, text, err);
    json_t *document = parse(text, why);
    if (document) {
        enum status st = sink->document(r, document, err);
        json_decref(document);
        return st;
    }
    struct str first = text.len ? next_line(&rest) : text;
    json_t *line = first.len < text.len ? parse(first, why_first) : NULL;
    if (!line)
        return sink->bad(r, text, why, err);
    json_decref(line);
    return read_lines(r, sink, text, err);
}

/* ---- forms ---- */

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Appends what "a%20b+c" stands for. */
static enum status decode_form_text(struct str s, struct buf *out)
{
    enum status st = STATUS_OK;
    for (size_t i = 0; i < s.len && !st; i++) {
        char c = s.ptr[i];
        if (c == '+')
            c = ' ';
        if (c == '%' && s.len - i > 2 && hex(s.ptr[i + 1]) >= 0 && hex(s.ptr[i + 2]) >= 0) {
            c = (char)(hex(s.ptr[i + 1]) << 4 | hex(s.ptr[i + 2]));
            i += 2;
        }
        st = buf_append(out, &c, 1);
    }
    return st;
}

/* name=value into the object; false when it is not text, or came before. */
static bool add_pair(json_t *form, struct str pair, struct buf *name, struct buf *value)
{
    const char *equals = memchr(pair.ptr, '=', pair.len);
    size_t n = equals ? (size_t)(equals - pair.ptr) : pair.len;
    buf_reset(name);
    buf_reset(value);
    struct str rest = {pair.ptr + n + (equals ? 1 : 0), pair.len - n - (equals ? 1 : 0)};
    if (decode_form_text((struct str){pair.ptr, n}, name) || decode_form_text(rest, value) ||
        buf_append(name, "", 1))
        return false;
    if (!str_is_text((struct str){name->data, name->len - 1}) || json_object_get(form, name->data))
        return false;
    struct str text = {value->len ? value->data : "", value->len};
    return str_is_text(text) &&
           json_object_set_new(form, name->data, json_stringn(text.ptr, text.len)) == 0;
}

static json_t *read_form(struct str text, struct buf *name, struct buf *value)
{
    json_t *form = json_object();
    bool ok = form != NULL;
    while (text.len && ok) {
        const char *end = memchr(text.ptr, '&', text.len);
        size_t len = end ? (size_t)(end - text.ptr) : text.len;
        if (len)
            ok = add_pair(form, (struct str){text.ptr, len}, name, value);
        size_t used = end ? len + 1 : len;
        text = (struct str){text.ptr + used, text.len - used};
    }
    if (ok && json_object_size(form))
        return form;
    json_decref(form);
    return NULL;
}

/* Slack sends its interactions as a form with one member, payload, which is JSON. */
static enum status read_urlencoded(struct webhook_reading *r, const struct webhook_sink *sink,
                                   struct str text, struct error *err)
{
    struct buf name, value;
    buf_init(&name, text.len + 16);
    buf_init(&value, text.len + 16);
    json_t *form = read_form(text, &name, &value);
    const json_t *payload = json_object_get(form, "payload");
    struct str inner = {json_string_value(payload), json_string_length(payload)};
    enum status st = STATUS_OK;
    if (!form)
        st = sink->bad(r, text, "form: is not one, or has a member twice or none", err);
    else if (inner.ptr)
        st = read_document(r, sink, trim(inner), err);
    else
        st = sink->document(r, form, err);
    json_decref(form);
    buf_deinit(&name);
    buf_deinit(&value);
    return st;
}

enum status webhook_read_body(struct webhook_reading *r, const struct webhook_sink *sink,
                              struct error *err)
{
    struct str text = r->in->body.ptr ? trim(r->in->body) : STR("");
    switch (r->in->form) {
    case WEBHOOK_FORM_LINES:
        return read_lines(r, sink, text, err);
    case WEBHOOK_FORM_URLENCODED:
        return read_urlencoded(r, sink, text, err);
    case WEBHOOK_FORM_JSON:
    case WEBHOOK_FORM_UNKNOWN:
        break;
    }
    return read_json(r, sink, text, err);
}

#include "ingest/line_protocol.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_BYTES 400 /* longer ones are refused: 309 digits are the largest double */
/* Times are held as nanoseconds; the outermost two values of each end mean "unset" to influxd. */
#define TIME_MAX_NS (INT64_MAX - 1)
#define TIME_MIN_NS (-TIME_MAX_NS)

/* The line being read, and what stopped it: NULL as long as nothing did. */
struct scan {
    const char *at, *end;
    const char *problem;
    const struct line_options *options;
};

bool line_precision(struct str name, int64_t *ret_ns)
{
    static const struct {
        const char *name;
        int64_t ns;
    } units[] = {
        {"", 1},
        {"n", 1},
        {"ns", 1},
        {"u", 1000},
        {"us", 1000},
        {"ms", 1000000},
        {"s", 1000000000},
        {"m", INT64_C(60) * 1000000000},
        {"\xc2\xb5", 1000},
        {"h", INT64_C(3600) * 1000000000},
    };
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (name.len == strlen(units[i].name) &&
            (name.len == 0 || memcmp(name.ptr, units[i].name, name.len) == 0)) {
            *ret_ns = units[i].ns;
            return true;
        }
    return false;
}

void line_reader_init(struct line_reader *r, struct str body, const struct line_options *options)
{
    assert(options->unit_ns > 0);
    const char *begin = body.ptr ? body.ptr : "";
    *r = (struct line_reader){
        .options = *options, .begin = begin, .at = begin, .end = begin + body.len};
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\0';
}

static const char *skip_blanks(const char *at, const char *end)
{
    while (at < end && is_blank(*at))
        at++;
    return at;
}

/* A line ends at a newline, but not at one within the quotes of a field's value: quotes count
 * behind an equals sign of the fields, which begin at the first blank that is not escaped. */
static const char *line_end(const char *at, const char *end)
{
    bool fields = false, value = false, quoted = false;
    for (; at < end; at++) {
        if (*at == '\\' && end - at > 2)
            at++;
        else if (quoted)
            quoted = *at != '"';
        else if (*at == '\n')
            break;
        else if (*at == ' ')
            fields = true;
        else if (fields && *at == '=')
            value = true;
        else if (fields && *at == ',')
            value = false;
        else if (*at == '"')
            quoted = value;
    }
    return at < end ? at : end;
}

/* ---- the parts of a line ---- */

static struct str until(const char *from, const struct scan *s)
{
    return (struct str){from, (size_t)(s->at - from)};
}

/* What ends a name, as bits. */
enum { BLANK = 1, COMMA = 2, EQUALS = 4 };
static inline unsigned kind_of(char c)
{
    return c == ' ' ? BLANK : c == ',' ? COMMA : c == '=' ? EQUALS : 0;
}

static bool one_of(char c, const char *set)
{
    return c != '\0' && strchr(set, c) != NULL;
}

/* A name of at least one byte up to one of `stops` that no backslash stands before. */
static struct str take_name(struct scan *s, unsigned never_first, unsigned stops,
                            const char *empty_problem)
{
    const char *from = s->at;
    if (s->at == s->end || kind_of(*s->at) & never_first) {
        s->problem = empty_problem;
        return STR_NULL;
    }
    s->at++;
    while (s->at < s->end && !(kind_of(*s->at) & stops && s->at[-1] != '\\'))
        s->at++;
    return until(from, s);
}

static void add_tag(struct scan *s, struct str key, struct str value, struct line_point *p)
{
    if (str_equal(key, STR("time"))) {
        s->problem = "a tag must not be named time";
        return;
    }
    for (size_t i = 0; i < p->n_tags; i++)
        if (str_equal(p->tags[i].key, key)) {
            s->problem = "a tag comes twice";
            return;
        }
    if (p->n_tags == LINE_TAGS)
        p->tags_more++;
    else
        p->tags[p->n_tags++] = (struct line_tag){key, value};
}

static void take_tags(struct scan *s, struct line_point *p)
{
    while (!s->problem && s->at < s->end && *s->at == ',') {
        s->at++;
        struct str key =
            take_name(s, BLANK | COMMA | EQUALS, BLANK | COMMA | EQUALS, "a tag has no key");
        if (!s->problem && (s->at == s->end || *s->at != '='))
            s->problem = "a tag has no value";
        if (s->problem)
            return;
        s->at++;
        struct str value =
            take_name(s, BLANK | COMMA, BLANK | COMMA | EQUALS, "a tag has no value");
        if (!s->problem && s->at < s->end && *s->at == '=')
            s->problem = "a tag's value has an equals sign without a backslash";
        if (!s->problem)
            add_tag(s, key, value, p);
    }
}

/* ---- values ---- */

static bool whole_number(struct str digits, uint64_t max, uint64_t *ret)
{
    uint64_t v = 0;
    for (size_t i = 0; i < digits.len; i++) {
        unsigned digit = (unsigned char)digits.ptr[i] - '0';
        if (digit > 9 || __builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, digit, &v) || v > max)
            return false;
    }
    *ret = v;
    return digits.len > 0;
}

static bool signed_number(struct str text, int64_t *ret)
{
    bool negative = text.len && text.ptr[0] == '-';
    struct str digits = {text.ptr + negative, text.len - negative};
    uint64_t v = 0;
    if (!whole_number(digits, (uint64_t)INT64_MAX + negative, &v))
        return false;
    *ret = (int64_t)(negative ? 0 - v : v);
    return true;
}

static size_t skip_digits(struct str text, size_t at)
{
    while (at < text.len && text.ptr[at] >= '0' && text.ptr[at] <= '9')
        at++;
    return at;
}

/* [-] digits [. digits] [e [sign] digits], with a digit before or behind the point. */
static bool float_number(struct str text, double *ret)
{
    char copy[NUMBER_BYTES];
    size_t whole = text.len && text.ptr[0] == '-';
    size_t at = skip_digits(text, whole);
    size_t n_digits = at - whole;
    if (at < text.len && text.ptr[at] == '.') {
        size_t fraction = at + 1;
        at = skip_digits(text, fraction);
        n_digits += at - fraction;
    }
    if (n_digits && at < text.len && (text.ptr[at] == 'e' || text.ptr[at] == 'E')) {
        at++;
        if (at < text.len && (text.ptr[at] == '+' || text.ptr[at] == '-'))
            at++;
        size_t exponent = at;
        at = skip_digits(text, exponent);
        if (at == exponent)
            return false;
    }
    if (n_digits == 0 || at != text.len || text.len >= sizeof(copy))
        return false;
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = '\0';
    *ret = strtod(copy, NULL);
    return isfinite(*ret);
}

static bool take_number(struct str text, bool unsigned_integers, struct line_field *f)
{
    char last = text.ptr[text.len - 1];
    struct str digits = {text.ptr, text.len - 1};
    if (last == 'i') {
        f->type = LINE_INTEGER;
        return signed_number(digits, &f->u.integer);
    }
    if (last == 'u' && unsigned_integers) {
        f->type = LINE_UNSIGNED;
        return whole_number(digits, UINT64_MAX, &f->u.natural);
    }
    f->type = LINE_FLOAT;
    return float_number(text, &f->u.number);
}

static bool take_boolean(struct str text, struct line_field *f)
{
    static const char *const words[] = {"t", "T", "true",  "True",  "TRUE",
                                        "f", "F", "false", "False", "FALSE"};
    f->type = LINE_BOOLEAN;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (str_equal(text, str_from(words[i]))) {
            f->u.truth = i < 5;
            return true;
        }
    return false;
}

/* From the opening quote. What stands between the closing one and the next comma or blank belongs
 * to the value, as influxd has it: the last byte is cut, whatever it is. */
static void take_string(struct scan *s, struct line_field *f)
{
    const char *from = s->at;
    bool quoted = false;
    for (; s->at < s->end; s->at++) {
        if (*s->at == '\\' && s->at + 1 < s->end)
            s->at++;
        else if (*s->at == '"')
            quoted = !quoted;
        else if (!quoted && (*s->at == ' ' || *s->at == ','))
            break;
    }
    if (quoted) {
        s->at = from;
        s->problem = "the closing quote is missing";
        return;
    }
    f->type = LINE_STRING;
    f->u.text = (struct str){from + 1, (size_t)(s->at - from) - 2};
}

static void take_value(struct scan *s, struct line_field *f)
{
    if (s->at == s->end || *s->at == ',' || *s->at == ' ') {
        s->problem = "a field has no value";
        return;
    }
    if (*s->at == '"') {
        take_string(s, f);
        return;
    }
    const char *from = s->at;
    while (s->at < s->end && *s->at != ',' && *s->at != ' ')
        s->at++;
    struct str text = until(from, s);
    if (one_of(*from, "0123456789.-")) {
        if (!take_number(text, s->options->unsigned_integers, f))
            s->problem = "not a number, or one that is too large";
    } else if (!take_boolean(text, f)) {
        s->problem = "neither a number nor true or false, and strings need double quotes";
    }
    if (s->problem)
        s->at = from;
}

/* ---- fields ---- */

/* A backslash takes the next byte with it. */
static struct str take_field_key(struct scan *s)
{
    const char *from = s->at;
    while (s->at < s->end && !kind_of(*s->at))
        s->at += *s->at == '\\' && s->at + 1 < s->end ? 2 : 1;
    struct str key = until(from, s);
    if (s->at == s->end || *s->at != '=')
        s->problem = "a field needs key=value";
    else if (key.len == 0)
        s->problem = "a field has no key";
    else if (s->at[-1] == '\\')
        s->problem = "a field's key ends in a backslash";
    if (s->problem)
        s->at = from;
    return key;
}

static void add_field(const struct line_field *f, struct line_point *p)
{
    for (size_t i = 0; i < p->n_fields; i++)
        if (str_equal(p->fields[i].key, f->key)) {
            p->fields[i] = *f;
            return;
        }
    if (p->n_fields == LINE_FIELDS)
        p->fields_more++;
    else
        p->fields[p->n_fields++] = *f;
}

/* A field named time is no field: influxd drops it. */
static void take_fields(struct scan *s, struct line_point *p)
{
    const char *from = s->at;
    for (;;) {
        struct line_field f = {.key = take_field_key(s)};
        if (s->problem)
            return;
        s->at++;
        take_value(s, &f);
        if (s->problem)
            return;
        if (!str_equal(f.key, STR("time")))
            add_field(&f, p);
        if (s->at == s->end || *s->at == ' ')
            break;
        s->at++; /* the comma */
    }
    if (p->n_fields == 0) {
        s->at = from;
        s->problem = "there is no field but time, which is none";
    }
}

static void take_time(struct scan *s, struct line_point *p)
{
    p->time_ns = s->options->now_ns;
    s->at = skip_blanks(s->at, s->end);
    const char *from = s->at;
    while (s->at < s->end && *s->at != ' ')
        s->at++;
    struct str text = until(from, s);
    if (text.len == 0)
        return;
    int64_t t = 0;
    if (!signed_number(text, &t) || __builtin_mul_overflow(t, s->options->unit_ns, &t) ||
        t > TIME_MAX_NS || t < TIME_MIN_NS) {
        s->at = from;
        s->problem = "not a time: an integer in the precision of the request, in the years 1677 to "
                     "2262";
        return;
    }
    p->has_time = true;
    p->time_ns = t;
    while (s->at < s->end && *s->at == ' ')
        s->at++;
    if (s->at < s->end)
        s->problem = "something follows the time";
}

static void take_point(struct scan *s, struct line_point *p)
{
    p->measurement = take_name(s, COMMA, BLANK | COMMA, "the measurement is missing");
    if (!s->problem)
        take_tags(s, p);
    if (s->problem)
        return;
    s->at = skip_blanks(s->at, s->end);
    if (s->at == s->end) {
        s->problem = "there are no fields";
        return;
    }
    take_fields(s, p);
    if (!s->problem)
        take_time(s, p);
}

/* The next line with its number; false at the end of the body. */
static bool next_line(struct line_reader *r, struct line_point *ret)
{
    while (r->at < r->end) {
        const char *first = skip_blanks(r->at, r->end);
        const char *end = NULL;
        if (first < r->end && *first == '#') {
            end = memchr(first, '\n', (size_t)(r->end - first));
            first = end = end ? end : r->end;
        } else {
            end = line_end(r->at, r->end);
        }
        ret->number = r->newlines + 1;
        ret->offset = (size_t)(r->at - r->begin);
        ret->line = (struct str){r->at, (size_t)(end - r->at)};
        for (const char *c = r->at; (c = memchr(c, '\n', (size_t)(end - c))) != NULL; c++)
            r->newlines++;
        r->newlines += end < r->end;
        r->at = end < r->end ? end + 1 : end;
        if (ret->line.len && end[-1] == '\r')
            ret->line.len--;
        if (first < ret->line.ptr + ret->line.len)
            return true;
    }
    return false;
}

enum status line_next(struct line_reader *r, struct line_point *ret, struct error *err)
{
    if (!next_line(r, ret))
        return STATUS_END;
    const char *end = ret->line.ptr + ret->line.len;
    struct scan s = {.at = skip_blanks(ret->line.ptr, end), .end = end, .options = &r->options};
    ret->n_tags = ret->tags_more = ret->n_fields = ret->fields_more = 0;
    ret->plain = ret->has_time = false;
    take_point(&s, ret);
    if (s.problem)
        return error_set(err, STATUS_INVALID, "line %llu, byte %zu: %s",
                         (unsigned long long)ret->number, (size_t)(s.at - ret->line.ptr) + 1,
                         s.problem);
    assert(ret->n_fields > 0);
    return STATUS_OK;
}

size_t line_unescape(struct str raw, enum line_part part, char *out)
{
    static const char *const escaped[] = {[LINE_NAME] = ",= ", [LINE_TEXT] = "\"\\"};
    size_t n = 0;
    for (size_t i = 0; i < raw.len; i++) {
        if (raw.ptr[i] == '\\' && i + 1 < raw.len && one_of(raw.ptr[i + 1], escaped[part]))
            i++;
        out[n++] = raw.ptr[i];
    }
    return n;
}

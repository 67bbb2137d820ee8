#include "ingest/influx_event.h"

#include "core/hash.h"
#include "core/limits.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#define METRIC_FIELDS (sizeof(((struct event_metric *)NULL)->fields) / sizeof(struct event_field))
#define METRIC_TAGS   16u
/* Tags that say what the event is of are none of its own; one place is for the nanoseconds. */
#define TAGS_MAX (METRIC_TAGS - 1)

_Static_assert(sizeof(((struct event_metric *)NULL)->tags) ==
                   METRIC_TAGS * (2 * sizeof(struct str)),
               "the tags of a metric event");

/* A point on its way to events: everything that may be unescaped is, in the arena. */
struct mapping {
    struct influx_batch *batch;
    const struct line_point *p;
    struct str measurement;
    const struct influx_map *map;
    uint64_t identity;    /* of measurement, tags and time */
    struct str bot, user; /* bot normalised */
    size_t n_tags;        /* the others */
    struct line_tag tags[LINE_TAGS];
    struct event event; /* id, user, bot and time set */
    struct error *err;
};

enum status influx_batch_init(struct influx_batch *b, size_t bytes_max, struct error *err)
{
    *b = (struct influx_batch){0};
    buf_init(&b->events, bytes_max);
    buf_init(&b->marks, bytes_max);
    buf_init(&b->scratch, LIMIT_EVENT_BYTES);
    return event_arena_new(&b->arena, err);
}

void influx_batch_deinit(struct influx_batch *b)
{
    buf_deinit(&b->events);
    buf_deinit(&b->marks);
    buf_deinit(&b->scratch);
    event_arena_free(b->arena);
    b->arena = NULL;
}

void influx_batch_reset(struct influx_batch *b)
{
    struct influx_batch old = *b;
    buf_reset(&old.events);
    buf_reset(&old.marks);
    *b = (struct influx_batch){
        .events = old.events, .marks = old.marks, .scratch = old.scratch, .arena = old.arena};
}

/* ---- out ---- */

static enum status put_event(struct influx_batch *b, const struct event *e, struct error *err)
{
    buf_reset(&b->scratch);
    enum status st = event_encode(e, &b->scratch, err);
    if (st)
        return st;
    st = buf_put_bytes(&b->events, (struct str){b->scratch.data, b->scratch.len});
    if (st)
        return error_set(err, st, "the events of one body take more than %zu bytes", b->events.max);
    b->n_events++;
    return STATUS_OK;
}

static enum status put_dead_letter(struct influx_batch *b, const struct influx_map *map,
                                   struct str bytes, const char *reason, int64_t received_us,
                                   struct error *err)
{
    char id[64];
    struct str cut = bytes.len > LIMIT_DEAD_LETTER_BYTES
                         ? (struct str){bytes.ptr, LIMIT_DEAD_LETTER_BYTES}
                         : bytes;
    int id_len = snprintf(id, sizeof(id), "influx:%016" PRIx64, hash64(cut));
    struct event e = {.type = EVENT_DEAD_LETTER,
                      .id = {id, (size_t)id_len},
                      .user_id = STR(""),
                      .bot_name = STR(""),
                      .at_us = received_us,
                      .u.dead_letter = {map->where, str_from(reason), cut}};
    return put_event(b, &e, err);
}

/* Counts it as bad; the first of them are kept. */
static enum status refuse(struct influx_batch *b, const struct influx_map *map, struct str bytes,
                          const struct error *why, int64_t received_us, struct error *err)
{
    b->bad++;
    if (b->bad <= INFLUX_DEAD_LETTERS_MAX)
        return put_dead_letter(b, map, bytes, why->text, received_us, err);
    if (b->undead++ == 0)
        b->dead = *why;
    return STATUS_OK;
}

/* ---- in ---- */

/* A name, tag or string as it is meant; ptr NULL: no memory. */
static struct str text_of(struct mapping *m, struct str raw, enum line_part part)
{
    if (m->p->plain || raw.len == 0 || !memchr(raw.ptr, '\\', raw.len))
        return raw.len ? raw : STR("");
    char *out = event_arena_alloc(m->batch->arena, raw.len);
    return out ? (struct str){out, line_unescape(raw, part, out)} : STR_NULL;
}

static const struct line_field *field_of(const struct line_point *p, const char *name)
{
    for (size_t i = 0; i < p->n_fields; i++)
        if (str_equal(p->fields[i].key, str_from(name)))
            return &p->fields[i];
    return NULL;
}

static double number_of(const struct line_field *f)
{
    if (!f || f->type == LINE_STRING)
        return NAN;
    switch (f->type) {
    case LINE_FLOAT:
        return f->u.number;
    case LINE_INTEGER:
        return (double)f->u.integer;
    case LINE_UNSIGNED:
        return (double)f->u.natural;
    case LINE_BOOLEAN:
        return f->u.truth;
    case LINE_STRING:
        break;
    }
    return NAN;
}

/* Of a tag, else of a string field; STR_NULL when neither is there. */
static struct str word_of(struct mapping *m, const char *name)
{
    for (size_t i = 0; i < m->n_tags; i++)
        if (str_equal(m->tags[i].key, str_from(name)))
            return m->tags[i].value;
    const struct line_field *f = field_of(m->p, name);
    return f && f->type == LINE_STRING ? text_of(m, f->u.text, LINE_TEXT) : STR_NULL;
}

static enum status invalid(struct mapping *m, const char *what)
{
    struct str name = str_cut(m->measurement, LIMIT_LABEL_BYTES);
    if (m->p->number == 0) /* from no line */
        return error_set(m->err, STATUS_INVALID, STR_FMT ": %s", STR_ARGS(name), what);
    return error_set(m->err, STATUS_INVALID, "line %" PRIu64 ": " STR_FMT ": %s", m->p->number,
                     STR_ARGS(name), what);
}

static enum status take_tags(struct mapping *m)
{
    struct str bot = STR_NULL;
    if (m->p->tags_more)
        return invalid(m, "there are more tags than can be kept");
    for (size_t i = 0; i < m->p->n_tags; i++) {
        struct line_tag t = {text_of(m, m->p->tags[i].key, LINE_NAME),
                             text_of(m, m->p->tags[i].value, LINE_NAME)};
        if (!t.key.ptr || !t.value.ptr)
            return error_set(m->err, STATUS_NOMEM, "could not allocate the tags of a point");
        bool is_bot = str_equal(t.key, STR("bot"));
        if (is_bot || (!bot.ptr && str_equal(t.key, STR("bot_name"))))
            bot = t.value;
        else if (str_equal(t.key, STR("user_id")))
            m->user = t.value;
        if (!is_bot && !str_equal(t.key, STR("bot_name")) && !str_equal(t.key, STR("user_id")))
            m->tags[m->n_tags++] = t;
    }
    char *normal = event_arena_alloc(m->batch->arena, LIMIT_ID_BYTES);
    if (!normal)
        return error_set(m->err, STATUS_NOMEM, "could not allocate the name of a bot");
    m->bot = (struct str){normal, bot.ptr ? event_bot_name(bot, normal) : 0};
    if (m->bot.len == 0)
        return invalid(m, "it has no tag bot or bot_name that names a bot");
    return STATUS_OK;
}

/* What a point is, apart from its fields: the same for the same measurement, tags and time. */
static enum status take_identity(struct mapping *m)
{
    enum { ID_BYTES = 32 };
    char *id = event_arena_alloc(m->batch->arena, ID_BYTES);
    if (!id)
        return error_set(m->err, STATUS_NOMEM, "could not allocate the id of a point");
    uint64_t h = hash64_mix(hash64(m->measurement)) + hash64(m->bot) + hash64_mix(hash64(m->user)) +
                 hash64_mix((uint64_t)m->p->time_ns);
    for (size_t i = 0; i < m->n_tags; i++)
        h += hash64_mix(hash64(m->tags[i].key) + hash64_mix(hash64(m->tags[i].value)));
    m->identity = hash64_mix(h);
    int len = snprintf(id, ID_BYTES, "influx:%016" PRIx64, m->identity);
    int64_t us = m->p->time_ns / 1000;
    m->event.id = (struct str){id, (size_t)len};
    m->event.user_id = m->user.ptr ? m->user : STR("");
    m->event.bot_name = m->bot;
    m->event.at_us = us - (m->p->time_ns % 1000 < 0); /* rounded down, also before 1970 */
    return STATUS_OK;
}

/* ---- metrics ---- */

static struct str nanoseconds_of(struct mapping *m)
{
    int64_t rest = m->p->time_ns % 1000;
    char *text = event_arena_alloc(m->batch->arena, 4);
    if (!text)
        return STR_NULL;
    int len = snprintf(text, 4, "%u", (unsigned)(rest < 0 ? rest + 1000 : rest) % 1000);
    return (struct str){text, (size_t)len};
}

/* Events have microseconds; that two points of one series within one of them are two is told by a
 * tag. */
static enum status metric_tags(struct mapping *m)
{
    struct event_metric *metric = &m->event.u.metric;
    if (m->n_tags > TAGS_MAX)
        return invalid(m, "there are more tags than can be kept");
    for (size_t i = 0; i < m->n_tags; i++) {
        metric->tags[metric->n_tags].key = m->tags[i].key;
        metric->tags[metric->n_tags++].value = m->tags[i].value;
    }
    struct str ns = nanoseconds_of(m);
    if (!ns.ptr)
        return error_set(m->err, STATUS_NOMEM, "could not allocate the tags of a point");
    if (!str_equal(ns, STR("0"))) {
        metric->tags[metric->n_tags].key = STR("_ns");
        metric->tags[metric->n_tags++].value = ns;
    }
    return STATUS_OK;
}

static enum status put_checked(struct mapping *m, uint64_t *count)
{
    struct error why;
    if (event_check(&m->event, &why))
        return invalid(m, why.text);
    (*count)++;
    return put_event(m->batch, &m->event, m->err);
}

static struct seen_mark mark_of(uint64_t identity, const struct event_field *f, int64_t at_us)
{
    struct str bytes = {(const char *)&f->value, sizeof(f->value)};
    return (struct seen_mark){
        .id = hash64_mix(identity + hash64(f->name)), .value = hash64(bytes), .at_us = at_us};
}

enum status influx_event_marks(const struct event *e, struct buf *out)
{
    char id[32];
    unsigned long long identity = 0;
    if (e->type != EVENT_METRIC || e->id.len >= sizeof(id))
        return STATUS_OK;
    memcpy(id, e->id.ptr, e->id.len);
    id[e->id.len] = '\0';
    if (sscanf(id, "influx:%16llx", &identity) != 1)
        return STATUS_OK;
    enum status st = STATUS_OK;
    for (uint32_t i = 0; i < e->u.metric.n_fields && !st; i++) {
        struct seen_mark mark = mark_of(identity, &e->u.metric.fields[i], e->at_us);
        st = buf_append(out, &mark, sizeof(mark));
    }
    return st;
}

/* OK: it counts, and is noted. END: it was counted before. */
static enum status note_value(struct mapping *m, const struct event_field *f)
{
    struct seen_mark mark = mark_of(m->identity, f, m->event.at_us);
    if (m->map->seen && m->map->seen(m->map->seen_ctx, &mark))
        return STATUS_END;
    enum status st = buf_append(&m->batch->marks, &mark, sizeof(mark));
    return st ? error_set(m->err, st, "one body has too many values") : STATUS_OK;
}

static enum status map_metric(struct mapping *m)
{
    struct event_metric *metric = &m->event.u.metric;
    m->event.type = EVENT_METRIC;
    metric->measurement = m->measurement;
    if (m->p->fields_more)
        return invalid(m, "there are more fields than can be kept");
    enum status st = metric_tags(m);
    bool any = false, fresh = false;
    for (size_t i = 0; i < m->p->n_fields && !st; i++) {
        double value = number_of(&m->p->fields[i]);
        if (isnan(value))
            continue;
        any = true;
        struct str name = text_of(m, m->p->fields[i].key, LINE_NAME);
        if (!name.ptr)
            return error_set(m->err, STATUS_NOMEM, "could not allocate the fields of a point");
        struct event_field field = {name, value};
        st = note_value(m, &field);
        if (st == STATUS_END) {
            st = STATUS_OK;
            continue;
        }
        fresh = true;
        metric->fields[metric->n_fields++] = field;
        if (!st && metric->n_fields == METRIC_FIELDS) {
            st = put_checked(m, &m->batch->metrics);
            metric->n_fields = 0;
        }
    }
    m->batch->ignored += !any;
    m->batch->seen += any && !fresh;
    return st || metric->n_fields == 0 ? st : put_checked(m, &m->batch->metrics);
}

/* ---- memories and outreach ---- */

static enum status map_memory_access(struct mapping *m)
{
    struct event_memory *memory = &m->event.u.memory;
    struct str outcome = word_of(m, "outcome");
    double grade = number_of(field_of(m->p, "grade"));
    m->event.type = EVENT_MEMORY;
    memory->op = MEMORY_ACCESS;
    memory->memory_id = word_of(m, "memory_id");
    memory->score = number_of(field_of(m->p, "score"));
    memory->importance = NAN;
    memory->memory_type = word_of(m, "memory_type");
    if (!memory->memory_id.ptr)
        return invalid(m, "it has no tag or string memory_id");
    if (!isnan(grade)) {
        if (!(grade >= 1 && grade <= 4) || grade != floor(grade))
            return invalid(m, "grade must be 1, 2, 3 or 4");
        memory->grade = (int)grade;
    }
    if (str_equal(outcome, STR("hit")))
        memory->outcome = OUTCOME_HIT;
    else if (str_equal(outcome, STR("miss")))
        memory->outcome = OUTCOME_MISS;
    else if (outcome.ptr)
        return invalid(m, "outcome must be hit or miss");
    return put_checked(m, &m->batch->memories);
}

static enum status map_outreach(struct mapping *m)
{
    static const struct {
        const char *field;
        enum outreach_op op;
    } ops[] = {
        {"sent", OUTREACH_SENT}, {"replied", OUTREACH_REPLIED}, {"opted_out", OUTREACH_OPTED_OUT}};
    bool said = false, any = false;
    struct str id = word_of(m, "id");
    enum status st = STATUS_OK;
    m->event.type = EVENT_OUTREACH;
    m->event.u.outreach.topic = word_of(m, "topic");
    if (id.ptr)
        m->event.id = id;
    for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]) && !st; i++) {
        double value = number_of(field_of(m->p, ops[i].field));
        said |= !isnan(value);
        if (isnan(value) || value == 0)
            continue;
        any = true;
        m->event.u.outreach.op = ops[i].op;
        st = put_checked(m, &m->batch->outreach);
    }
    if (!said)
        return invalid(m, "it has no field sent, replied or opted_out that is a number or boolean");
    m->batch->ignored += !any;
    return st;
}

/* ---- what cannot be used ---- */

/* A point that came from no line, as one: for people, so without escapes. */
static struct str render(struct mapping *m)
{
    struct buf *out = &m->batch->scratch;
    const struct line_point *p = m->p;
    buf_reset(out);
    enum status st = buf_append_str(out, p->measurement);
    for (size_t i = 0; i < p->n_tags && !st; i++)
        st = buf_printf(out, "," STR_FMT "=" STR_FMT, STR_ARGS(p->tags[i].key),
                        STR_ARGS(p->tags[i].value));
    for (size_t i = 0; i < p->n_fields && !st; i++) {
        const struct line_field *f = &p->fields[i];
        st = buf_printf(out, "%c" STR_FMT "=", i ? ',' : ' ', STR_ARGS(f->key));
        if (!st && f->type == LINE_STRING)
            st = buf_printf(out, "\"" STR_FMT "\"", STR_ARGS(f->u.text));
        else if (!st)
            st = buf_printf(out, "%.17g", number_of(f));
    }
    if (!st)
        st = buf_printf(out, " %" PRId64, p->time_ns);
    char *copy = st ? NULL : event_arena_alloc(m->batch->arena, out->len);
    if (!copy)
        return STR("");
    memcpy(copy, out->data, out->len);
    return (struct str){copy, out->len};
}

/* Once for each point, however often it is read. */
static enum status refuse_point(struct mapping *m, const struct error *why, int64_t received_us,
                                struct error *err)
{
    uint64_t h = hash64(m->measurement) + hash64_mix((uint64_t)m->p->time_ns);
    for (size_t i = 0; i < m->p->n_tags; i++)
        h += hash64_mix(hash64(text_of(m, m->p->tags[i].key, LINE_NAME)) +
                        hash64_mix(hash64(text_of(m, m->p->tags[i].value, LINE_NAME))));
    struct seen_mark mark = {.id = hash64_mix(h), .value = 0, .at_us = m->p->time_ns / 1000};
    if (m->map->seen && m->map->seen(m->map->seen_ctx, &mark)) {
        m->batch->seen++;
        return STATUS_OK;
    }
    enum status st = buf_append(&m->batch->marks, &mark, sizeof(mark));
    if (st)
        return error_set(err, st, "one body has too many values");
    struct str line = m->p->line.ptr ? m->p->line : render(m);
    return refuse(m->batch, m->map, line, why, received_us, err);
}

static enum status map_point(struct mapping *m, enum status (*map)(struct mapping *m))
{
    enum status st = take_tags(m);
    if (!st)
        st = take_identity(m);
    return st ? st : map(m);
}

enum status influx_add_point(struct influx_batch *b, const struct influx_map *map,
                             const struct line_point *p, int64_t received_us, struct error *err)
{
    struct error why = {0};
    struct mapping m = {.batch = b, .map = map, .p = p, .err = &why};
    enum status (*how)(struct mapping * m) = NULL;
    const struct influx_batch before = *b;
    event_arena_reset(b->arena);
    m.measurement = text_of(&m, p->measurement, LINE_NAME);
    if (!m.measurement.ptr)
        return error_set(err, STATUS_NOMEM, "could not allocate the name of a measurement");
    if (str_equal(m.measurement, STR("memory_access")))
        how = map_memory_access;
    else if (str_equal(m.measurement, STR("proactive_outreach")))
        how = map_outreach;
    else if (map->known(m.measurement))
        how = map_metric;
    if (!how) {
        b->ignored++;
        return STATUS_OK;
    }
    enum status st = map_point(&m, how);
    if (st == STATUS_OK)
        return STATUS_OK;
    /* All of a point or nothing of it. */
    b->events.len = before.events.len;
    b->marks.len = before.marks.len;
    b->n_events = before.n_events;
    b->metrics = before.metrics;
    b->outreach = before.outreach;
    if (st != STATUS_INVALID)
        return error_set(err, st, "%s", why.text);
    return refuse_point(&m, &why, received_us, err);
}

enum status influx_add_body(struct influx_batch *b, const struct influx_map *map, struct str body,
                            const struct line_options *options, struct error *err)
{
    struct line_reader r;
    struct line_point p;
    struct error why;
    const int64_t received_us = options->now_ns / 1000;
    line_reader_init(&r, body, options);
    for (;;) {
        enum status st = line_next(&r, &p, &why);
        if (st == STATUS_END)
            break;
        st = st ? refuse(b, map, p.line, &why, received_us, err)
                : influx_add_point(b, map, &p, received_us, err);
        if (st)
            return st;
    }
    if (b->undead == 0)
        return STATUS_OK;
    (void)error_set(&why, STATUS_INVALID,
                    "%" PRIu64 " more lines of one body could not be used; the first: %.500s",
                    b->undead, b->dead.text);
    b->undead = 0;
    return put_dead_letter(b, map, STR(""), why.text, received_us, err);
}

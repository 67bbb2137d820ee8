#include "engines/oracle/points.h"

#include "core/clock.h"

#include <stdlib.h>
#include <string.h>

void points_deinit(struct points *p)
{
    free(p->all);
}

bool point_is_live(const struct point *p, int64_t as_of_us)
{
    return p->counted && p->t_us >= time_floor_us(as_of_us, US_PER_HOUR) - 30 * US_PER_DAY;
}

static struct point_stream *find_stream(struct points *p, uint64_t id)
{
    for (size_t i = 0; i < p->n_streams; i++)
        if (p->streams[i].id == id)
            return &p->streams[i];
    return NULL;
}

static struct point_stream *make_stream(struct points *p, const struct metric_value *v,
                                        int64_t horizon_us)
{
    struct point_stream *s = find_stream(p, v->stream);
    if (s)
        return s;
    if (p->n_streams < POINTS_STREAMS) {
        s = &p->streams[p->n_streams++];
    } else {
        s = &p->streams[0];
        for (size_t i = 1; i < p->n_streams; i++) {
            struct point_stream *o = &p->streams[i];
            if (o->newest_us < s->newest_us || (o->newest_us == s->newest_us && o->id < s->id))
                s = o;
        }
        if (s->newest_us >= horizon_us)
            return NULL;
    }
    memset(s, 0, sizeof(*s));
    s->id = v->stream;
    s->metric = v->metric;
    s->newest_us = INT64_MIN;
    s->name_len = v->name_len;
    memcpy(s->name, v->name, v->name_len);
    detector_init(&s->detector);
    return s;
}

/* The point that this one replaces, if it is still remembered: of this generation of arrivals or
 * the one before. */
static struct point *find_point(struct points *p, const struct metric_feature *f,
                                const struct metric_value *v, int64_t t_us)
{
    size_t generation = p->n ? (p->n - 1) / POINTS_REMEMBER : 0;
    for (size_t i = p->n; i-- > 0 && i / POINTS_REMEMBER + 1 >= generation;) {
        struct point *o = &p->all[i];
        if (o->series == f->series && o->stream == v->stream && o->t_us == t_us)
            return o;
    }
    return NULL;
}

static enum status add_value(struct points *p, const struct metric_feature *f,
                             const struct metric_value *v, int64_t t_us, int64_t as_of_us)
{
    int64_t horizon_us = time_floor_us(as_of_us, US_PER_HOUR) - 30 * US_PER_DAY;
    struct point_stream *s = make_stream(p, v, horizon_us);
    if (!s)
        return STATUS_OK;
    if (t_us > s->newest_us)
        s->newest_us = t_us;
    struct point *known = find_point(p, f, v, t_us);
    if (known) {
        if (t_us >= horizon_us)
            known->value = v->value;
        return STATUS_OK;
    }
    if (t_us <= as_of_us + 5 * US_PER_MINUTE)
        detector_point(&s->detector, t_us, (double)v->value / 1000000);
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 64;
        struct point *grown = realloc(p->all, cap * sizeof(*grown));
        if (!grown)
            return STATUS_NOMEM;
        p->all = grown;
        p->cap = cap;
    }
    p->all[p->n++] = (struct point){f->series, f->user,  v->stream,         v->metric,
                                    t_us,      v->value, t_us >= horizon_us};
    return STATUS_OK;
}

enum status points_add(struct points *p, const struct feature *f, int64_t as_of_us)
{
    if (f->type == EVENT_CHARACTER) {
        const struct character_feature *c = &f->u.character;
        bool older =
            p->has_character && (f->t_us < p->character_us ||
                                 (f->t_us == p->character_us && c->version < p->character.version));
        if (!older) {
            p->has_character = true;
            p->character_us = f->t_us;
            p->character = *c;
        }
        return STATUS_OK;
    }
    enum status st = STATUS_OK;
    const struct metric_feature *m = &f->u.metric;
    for (size_t i = 0; !st && !m->refused && i < m->n_values; i++)
        st = add_value(p, m, &m->values[i], f->t_us, as_of_us);
    return st;
}

#include "engines/voice.h"

#include "core/clock.h"
#include "engines/codec.h"
#include "engines/kernels.h"

#include <math.h>
#include <stdlib.h>

#define HOUR_MAX (INT64_C(1) << 28)

int32_t voice_direction(int8_t weight, uint32_t norm2)
{
    return norm2 ? (int32_t)lround(weight * (double)VOICE_UNIT / sqrt(norm2)) : 0;
}

void voice_deinit(struct voice *v)
{
    free(v->hours);
    free(v->days);
    *v = (struct voice){0};
}

size_t voice_bytes(const struct voice *v)
{
    return v->cap_hours * sizeof(*v->hours) + v->cap_days * sizeof(*v->days);
}

/* Messages leave oldest first, so the hour is nearly always the last one. */
static struct voice_hour *hour_at(struct voice *v, int32_t hour)
{
    uint32_t at = v->n_hours;
    while (at > 0 && v->hours[at - 1].hour > hour)
        at--;
    if (at > 0 && v->hours[at - 1].hour == hour)
        return &v->hours[at - 1];
    if (v->n_hours == v->cap_hours) {
        uint32_t cap = v->cap_hours ? v->cap_hours * 2 : 4;
        struct voice_hour *grown = reallocarray(v->hours, cap, sizeof(*grown));
        if (!grown)
            return NULL;
        v->hours = grown;
        v->cap_hours = cap;
    }
    memmove(&v->hours[at + 1], &v->hours[at], (v->n_hours - at) * sizeof(*v->hours));
    v->hours[at] = (struct voice_hour){.hour = hour};
    v->n_hours++;
    return &v->hours[at];
}

static struct voice_day *day_at(struct voice *v, int32_t day)
{
    uint32_t at = v->n_days;
    while (at > 0 && v->days[at - 1].day > day)
        at--;
    if (at > 0 && v->days[at - 1].day == day)
        return &v->days[at - 1];
    if (v->n_days == v->cap_days) {
        uint32_t cap = v->cap_days ? v->cap_days * 2 : 2;
        struct voice_day *grown = reallocarray(v->days, cap, sizeof(*grown));
        if (!grown)
            return NULL;
        v->days = grown;
        v->cap_days = cap;
    }
    memmove(&v->days[at + 1], &v->days[at], (v->n_days - at) * sizeof(*v->days));
    v->days[at] = (struct voice_day){.day = day};
    v->n_days++;
    return &v->days[at];
}

static uint32_t name_index(struct voice *v, struct str name)
{
    for (uint32_t i = 0; i < v->n_names; i++)
        if (str_equal(name, (struct str){v->names[i].text, v->names[i].len}))
            return i;
    if (v->n_names == VOICE_TRAITS || name.len == 0 || name.len > RECORD_TRAIT_BYTES)
        return VOICE_TRAITS;
    struct voice_name *added = &v->names[v->n_names];
    *added = (struct voice_name){.len = (uint8_t)name.len};
    memcpy(added->text, name.ptr, name.len);
    return v->n_names++;
}

enum status voice_add(struct voice *v, const struct key_log *log, const struct msg_rec *m)
{
    size_t n = msg_trait_count(m);
    if (n > 0) {
        struct voice_hour *h =
            hour_at(v, (int32_t)(time_floor_us(m->t_us, US_PER_HOUR) / US_PER_HOUR));
        if (!h)
            return STATUS_NOMEM;
        for (size_t i = 0; i < n; i++)
            h->traits[name_index(v, key_log_label(log, m->traits.name[i]))]++;
    }
    if (m->n_vector == 0)
        return STATUS_OK;
    struct voice_day *d = day_at(v, kernel_day(m->t_us));
    if (!d)
        return STATUS_NOMEM;
    d->n++;
    for (size_t i = 0; i < m->n_vector; i++)
        d->sum[m->vector[i].bucket] += voice_direction(m->vector[i].weight, m->norm2);
    return STATUS_OK;
}

static void drop_name(struct voice *v, uint32_t name)
{
    v->n_names--;
    memmove(&v->names[name], &v->names[name + 1], (v->n_names - name) * sizeof(*v->names));
    for (uint32_t i = 0; i < v->n_hours; i++) {
        uint32_t *t = v->hours[i].traits;
        memmove(&t[name], &t[name + 1], (VOICE_TRAITS - 1 - name) * sizeof(*t));
        t[VOICE_TRAITS - 1] = 0;
    }
}

void voice_expire(struct voice *v, int32_t hour, int32_t day)
{
    uint32_t gone = 0;
    while (gone < v->n_days && v->days[gone].day < day)
        gone++;
    v->n_days -= gone;
    if (gone && v->n_days)
        memmove(v->days, v->days + gone, v->n_days * sizeof(*v->days));
    gone = 0;
    while (gone < v->n_hours && v->hours[gone].hour < hour)
        gone++;
    if (gone == 0)
        return;
    v->n_hours -= gone;
    if (v->n_hours)
        memmove(v->hours, v->hours + gone, v->n_hours * sizeof(*v->hours));
    for (uint32_t name = v->n_names; name-- > 0;) {
        bool used = false;
        for (uint32_t i = 0; i < v->n_hours; i++)
            used |= v->hours[i].traits[name] > 0;
        if (!used)
            drop_name(v, name);
    }
}

enum status voice_encode(const struct voice *v, struct buf *out)
{
    enum status st = buf_put_varint(out, v->n_names);
    for (uint32_t i = 0; i < v->n_names; i++)
        st = st ? st : buf_put_bytes(out, (struct str){v->names[i].text, v->names[i].len});
    st = st ? st : buf_put_varint(out, v->n_hours);
    for (uint32_t i = 0; i < v->n_hours; i++) {
        st = st ? st : buf_put_svarint(out, v->hours[i].hour);
        for (size_t k = 0; k < v->n_names; k++)
            st = st ? st : buf_put_varint(out, v->hours[i].traits[k]);
        st = st ? st : buf_put_varint(out, v->hours[i].traits[VOICE_TRAITS]);
    }
    st = st ? st : buf_put_varint(out, v->n_days);
    for (uint32_t i = 0; i < v->n_days; i++) {
        st = st ? st : buf_put_svarint(out, v->days[i].day);
        st = st ? st : buf_put_varint(out, v->days[i].n);
        for (size_t k = 0; k < VOICE_DIMS; k++)
            st = st ? st : buf_put_svarint(out, v->days[i].sum[k]);
    }
    return st;
}

static uint32_t get_count(struct reader *r, uint64_t max)
{
    uint64_t n = reader_varint_max(r, max);
    r->bad |= n > reader_left(r);
    return r->bad ? 0 : (uint32_t)n;
}

static int32_t get_number(struct reader *r, int64_t above)
{
    int64_t v = reader_svarint(r);
    r->bad |= v <= above || v < -HOUR_MAX || v > HOUR_MAX;
    return r->bad ? 0 : (int32_t)v;
}

static void get_names(struct reader *r, struct voice *v)
{
    uint32_t n = get_count(r, VOICE_TRAITS);
    for (; v->n_names < n && !r->bad; v->n_names++) {
        struct str name = reader_blob(r);
        r->bad |= name.len == 0 || name.len > RECORD_TRAIT_BYTES;
        if (r->bad)
            return;
        v->names[v->n_names].len = (uint8_t)name.len;
        memcpy(v->names[v->n_names].text, name.ptr, name.len);
    }
}

static enum status get_hours(struct reader *r, struct voice *v)
{
    uint32_t n = get_count(r, UINT32_MAX);
    v->hours = n ? calloc(n, sizeof(*v->hours)) : NULL;
    if (n && !v->hours)
        return STATUS_NOMEM;
    v->cap_hours = n;
    for (; v->n_hours < n && !r->bad; v->n_hours++) {
        struct voice_hour *h = &v->hours[v->n_hours];
        h->hour = get_number(r, v->n_hours ? h[-1].hour : INT64_MIN);
        for (size_t k = 0; k < v->n_names; k++)
            h->traits[k] = (uint32_t)reader_varint_max(r, UINT32_MAX);
        h->traits[VOICE_TRAITS] = (uint32_t)reader_varint_max(r, UINT32_MAX);
    }
    return STATUS_OK;
}

static enum status get_days(struct reader *r, struct voice *v)
{
    uint32_t n = get_count(r, 64);
    v->days = n ? calloc(n, sizeof(*v->days)) : NULL;
    if (n && !v->days)
        return STATUS_NOMEM;
    v->cap_days = n;
    for (; v->n_days < n && !r->bad; v->n_days++) {
        struct voice_day *d = &v->days[v->n_days];
        d->day = get_number(r, v->n_days ? d[-1].day : INT64_MIN);
        d->n = (uint32_t)reader_varint_max(r, UINT32_MAX);
        for (size_t k = 0; k < VOICE_DIMS; k++) {
            int64_t sum = reader_svarint(r);
            r->bad |= sum < INT32_MIN || sum > INT32_MAX;
            d->sum[k] = r->bad ? 0 : (int32_t)sum;
        }
    }
    return STATUS_OK;
}

enum status voice_decode(struct reader *r, struct voice *v)
{
    get_names(r, v);
    enum status st = get_hours(r, v);
    return st ? st : get_days(r, v);
}

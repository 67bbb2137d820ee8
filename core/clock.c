#include "core/clock.h"

#include <stdbool.h>
#include <stdio.h>
#include <time.h>

static int64_t read_clock(clockid_t id)
{
    struct timespec ts = {0};
    (void)clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * US_PER_SECOND + ts.tv_nsec / 1000;
}

static int64_t real_wall_us(void *ctx)
{
    (void)ctx;
    return read_clock(CLOCK_REALTIME);
}

static int64_t real_mono_us(void *ctx)
{
    (void)ctx;
    return read_clock(CLOCK_MONOTONIC);
}

const struct clock clock_real = {real_wall_us, real_mono_us, NULL};

static int64_t virtual_us(void *ctx)
{
    const int64_t *now_us = ctx;
    return *now_us;
}

struct clock clock_virtual(int64_t *now_us)
{
    return (struct clock){virtual_us, virtual_us, now_us};
}

int64_t time_floor_us(int64_t t_us, int64_t unit_us)
{
    int64_t rest = t_us % unit_us;
    return rest < 0 ? t_us - rest - unit_us : t_us - rest;
}

/*
 * Days between 1970-01-01 and a date of the proleptic Gregorian calendar, years 1..9999. The year
 * is taken to begin in March, so that the leap day is its last day and the months before it have
 * the lengths 31,30,31,30,31 over and over: (153 * m + 2) / 5 days for m months.
 */
static int64_t days_from_date(int year, int month, int day)
{
    int64_t y = month > 2 ? year : year - 1;
    int64_t m = month > 2 ? month - 3 : month + 9;
    int64_t leap_days = y / 4 - y / 100 + y / 400;
    /* 719469 days from 0000-03-01 to 1970-01-01, counting the first day as 1. */
    return y * 365 + leap_days + (153 * m + 2) / 5 + day - 719469;
}

struct date {
    int year;
    int month;
    int day;
};

/* The inverse: guess the year from the mean length, correct it by at most one. */
static struct date date_from_days(int64_t days)
{
    int year = (int)((days * 400) / 146097) + 1970;
    while (days_from_date(year, 1, 1) > days)
        year--;
    while (days_from_date(year + 1, 1, 1) <= days)
        year++;
    int month = 12;
    while (days_from_date(year, month, 1) > days)
        month--;
    return (struct date){year, month, (int)(days - days_from_date(year, month, 1)) + 1};
}

int time_format(int64_t t_us, int micros, char out[40])
{
    if (t_us < TIME_MIN_US)
        t_us = TIME_MIN_US;
    if (t_us > TIME_MAX_US)
        t_us = TIME_MAX_US;
    int64_t midnight_us = time_floor_us(t_us, US_PER_DAY);
    struct date d = date_from_days(midnight_us / US_PER_DAY);
    int second = (int)((t_us - midnight_us) / US_PER_SECOND);
    int fraction = (int)((t_us - midnight_us) % US_PER_SECOND);
    char tail[12] = "";
    if (micros && fraction)
        (void)snprintf(tail, sizeof(tail), ".%06d", fraction);
    return snprintf(out, 40, "%04d-%02d-%02dT%02d:%02d:%02d%sZ", d.year, d.month, d.day,
                    second / 3600, second / 60 % 60, second % 60, tail);
}

struct scan {
    const char *at;
    const char *end;
};

static bool scan_is(struct scan *s, char c)
{
    if (s->at == s->end || *s->at != c)
        return false;
    s->at++;
    return true;
}

/* Exactly n digits with a value of low..high. */
static bool scan_number(struct scan *s, int n, int low, int high, int *ret)
{
    int value = 0;
    for (int i = 0; i < n; i++, s->at++) {
        if (s->at == s->end || *s->at < '0' || *s->at > '9')
            return false;
        value = value * 10 + (*s->at - '0');
    }
    if (value < low || value > high)
        return false;
    *ret = value;
    return true;
}

/* ".5" as microseconds; digits after the sixth are cut, so that no time moves into the future. */
static bool scan_fraction(struct scan *s, int *ret_us)
{
    int unit = 100000;
    int value = 0;
    const char *first = s->at;
    for (; s->at < s->end && *s->at >= '0' && *s->at <= '9'; s->at++) {
        value += (*s->at - '0') * unit;
        unit /= 10;
    }
    *ret_us = value;
    return s->at > first;
}

/* "Z", "+hh", "+hh:mm" or "+hh:mm:ss" (PostgreSQL prints the last for old local mean times). */
static bool scan_zone(struct scan *s, int *ret_seconds)
{
    if (scan_is(s, 'Z') || scan_is(s, 'z')) {
        *ret_seconds = 0;
        return true;
    }
    int sign = scan_is(s, '+') ? 1 : scan_is(s, '-') ? -1 : 0;
    int hour = 0;
    int minute = 0;
    int second = 0;
    if (!sign || !scan_number(s, 2, 0, 23, &hour))
        return false;
    if (scan_is(s, ':')) {
        if (!scan_number(s, 2, 0, 59, &minute))
            return false;
        if (scan_is(s, ':') && !scan_number(s, 2, 0, 59, &second))
            return false;
    }
    *ret_seconds = sign * (hour * 3600 + minute * 60 + second);
    return true;
}

static bool scan_date(struct scan *s, int64_t *ret_days)
{
    int year = 0;
    int month = 0;
    int day = 0;
    if (!scan_number(s, 4, 1, 9999, &year) || !scan_is(s, '-') ||
        !scan_number(s, 2, 1, 12, &month) || !scan_is(s, '-') || !scan_number(s, 2, 1, 31, &day))
        return false;
    int64_t days = days_from_date(year, month, day);
    /* A day that the month does not have comes back as another date. */
    if (date_from_days(days).month != month)
        return false;
    *ret_days = days;
    return true;
}

int time_parse(const char *text, unsigned long len, int64_t *ret_us)
{
    struct scan s = {text, text + len};
    int64_t days = 0;
    int hour = 0;
    int minute = 0;
    int second = 0;
    int fraction_us = 0;
    int zone_s = 0;
    if (!scan_date(&s, &days) || !(scan_is(&s, 'T') || scan_is(&s, 't') || scan_is(&s, ' ')))
        return -1;
    /* Second 60 is a leap second: the first moment of the next minute, as in PostgreSQL. */
    if (!scan_number(&s, 2, 0, 23, &hour) || !scan_is(&s, ':') ||
        !scan_number(&s, 2, 0, 59, &minute) || !scan_is(&s, ':') ||
        !scan_number(&s, 2, 0, 60, &second))
        return -1;
    if (scan_is(&s, '.') && !scan_fraction(&s, &fraction_us))
        return -1;
    bool has_zone = s.at != s.end;
    if (has_zone && (!scan_zone(&s, &zone_s) || s.at != s.end))
        return -1;
    int64_t t_us = days * US_PER_DAY +
                   (hour * INT64_C(3600) + minute * INT64_C(60) + second - zone_s) * US_PER_SECOND +
                   fraction_us;
    if (t_us < TIME_MIN_US || t_us > TIME_MAX_US)
        return -1;
    *ret_us = t_us;
    return has_zone ? 0 : -2;
}

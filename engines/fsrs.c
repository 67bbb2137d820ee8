#include "engines/fsrs.h"

#include <assert.h>
#include <math.h>

/* w0..w20, the published defaults of FSRS-6. */
static const double w[21] = {0.212,  1.2931, 2.3065, 8.2956, 6.4133, 0.8334, 3.0194,
                             0.001,  1.8722, 0.1666, 0.796,  1.4835, 0.0614, 0.2629,
                             1.6483, 0.6014, 1.8729, 0.5425, 0.0912, 0.0658, 0.1542};

#define DAY_US 86400e6
/* Below this a review is of the same day: it moves stability by the short-term rule. */
#define SAME_DAY 0.5

static double clamp(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

static double clamp_stability(double s)
{
    return clamp(s, FSRS_STABILITY_MIN_DAYS, FSRS_STABILITY_MAX_DAYS);
}

static double first_difficulty(int grade)
{
    return clamp(w[4] - exp(w[5] * (grade - 1)) + 1, 1, 10);
}

/* 0.9^(-1/w20) - 1: scales the curve so that R(S) = 0.9 whatever the exponent. A literal, because
 * a compiler may fold pow() to another last bit than the one it has at run time. */
#define CURVE_FACTOR 0.98034649441348004522

static double retention(double days, double stability)
{
    return pow(1 + CURVE_FACTOR * days / stability, -w[20]);
}

static double next_stability(double d, double s, double days, int grade)
{
    if (days < SAME_DAY) {
        double factor = exp(w[17] * (grade - 3 + w[18])) * pow(s, -w[19]);
        return s * (grade >= 3 ? fmax(factor, 1) : factor);
    }
    double r = retention(days, s);
    if (grade == 1) {
        double forgot = w[11] * pow(d, -w[12]) * (pow(s + 1, w[13]) - 1) * exp(w[14] * (1 - r));
        return fmin(forgot, s / exp(w[17] * w[18]));
    }
    double grade_factor = grade == 2 ? w[15] : grade == 4 ? w[16] : 1;
    return s *
           (1 + exp(w[8]) * (11 - d) * pow(s, -w[9]) * (exp(w[10] * (1 - r)) - 1) * grade_factor);
}

static double next_difficulty(double d, int grade)
{
    double moved = d - w[6] * (grade - 3) * (10 - d) / 9;
    return clamp(w[7] * first_difficulty(4) + (1 - w[7]) * moved, 1, 10);
}

/* Records come from a durable page: a grade outside 1..4 would index past the weights. */
static int sane_grade(uint8_t grade)
{
    return grade >= 1 && grade <= 4 ? grade : 3;
}

void fsrs_start(struct fsrs_state *ret, const struct mem_rec *m)
{
    int grade = sane_grade(m->grade);
    double scale = m->importance == UINT32_MAX ? 1 : 0.5 + (double)m->importance / 1e6;

    *ret = (struct fsrs_state){
        .difficulty = first_difficulty(grade),
        .stability_days = clamp_stability(w[grade - 1] * scale),
        .last_us = m->created_us,
    };
}

void fsrs_fold(struct fsrs_state *s, const struct mem_rec *m, const struct access_rec *a)
{
    if (s->reps == 0)
        fsrs_start(s, m);

    int grade = sane_grade(a->grade);
    int64_t passed_us = a->t_us > s->last_us ? a->t_us - s->last_us : 0;
    double d = s->difficulty;

    s->stability_days =
        clamp_stability(next_stability(d, s->stability_days, (double)passed_us / DAY_US, grade));
    s->difficulty = next_difficulty(d, grade);
    s->last_us += passed_us;
    s->reps++;
    s->lapses += grade == 1;
    s->last_spaced = passed_us >= FSRS_SPACED_US;
    s->spaced += s->last_spaced;
}

double fsrs_retention(const struct fsrs_state *s, int64_t t_us)
{
    assert(s->stability_days >= FSRS_STABILITY_MIN_DAYS);

    if (t_us <= s->last_us)
        return 1;
    return retention((double)(t_us - s->last_us) / DAY_US, s->stability_days);
}

double fsrs_days_until(const struct fsrs_state *s, double target)
{
    assert(target > 0 && target <= 1);

    return s->stability_days / CURVE_FACTOR * (pow(target, -1 / w[20]) - 1);
}

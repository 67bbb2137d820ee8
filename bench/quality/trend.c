/*
 * trend POINTS - the trend kernel alone, for bench/quality/quality.py.
 *
 * stdin: a line a series, its values separated by spaces. A series of more than POINTS values is
 * first reduced to the means of POINTS stretches of equal length (to within one value). stdout: a
 * line a series, "<S> <variance> <z> <slope>", the slope for one step of the series as given.
 */
#include "engines/kernels.h"

#include <stdio.h>
#include <stdlib.h>

/* Means of the stretches; returns how many. */
static size_t reduce(const double *values, size_t n, double *means, size_t points)
{
    if (n < points)
        points = n;
    for (size_t i = 0; i < points; i++) {
        size_t from = i * n / points, to = (i + 1) * n / points;
        double sum = 0.0;
        for (size_t j = from; j < to; j++)
            sum += values[j];
        means[i] = sum / (double)(to - from);
    }
    return points;
}

static void print_trend(const double *values, size_t n, size_t points)
{
    double means[TREND_POINTS_MAX];
    size_t m = reduce(values, n, means, points);
    struct trend t = kernel_trend(means, m);
    printf("%lld %.17g %.17g %.17g\n", (long long)t.s, t.variance, t.z,
           n ? t.slope * (double)m / (double)n : 0.0);
}

int main(int argc, char **argv)
{
    size_t points = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    if (points < 2 || points > TREND_POINTS_MAX) {
        fprintf(stderr, "usage: trend POINTS (2..%d) < series\n", TREND_POINTS_MAX);
        return 64;
    }
    char *line = NULL;
    size_t room = 0, cap = 0;
    double *values = NULL;
    while (getline(&line, &room, stdin) > 0) {
        size_t n = 0;
        char *at = line, *end = NULL;
        for (double v = strtod(at, &end); end != at; v = strtod(at, &end)) {
            if (n == cap) {
                cap = cap ? 2 * cap : 1024;
                double *grown = realloc(values, cap * sizeof(*values));
                if (!grown)
                    return 1;
                values = grown;
            }
            values[n++] = v;
            at = end;
        }
        print_trend(values, n, points);
    }
    free(values);
    free(line);
    return 0;
}

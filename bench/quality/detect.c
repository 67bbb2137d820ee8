/*
 * detect - runs the anomaly detector alone over one series.
 *
 * stdin: a line a point, "<unix seconds> <value>"; stdout: a line a point, "<score> <alarm 0|1>",
 * what the points BEFORE it say, as `warmpath replay --trace character_performance` has it.
 */
#include "engines/detector.h"

#include <math.h>
#include <stdio.h>

int main(void)
{
    static struct detector d;
    detector_init(&d);
    double t = 0.0, value = 0.0;
    while (scanf("%lf %lf", &t, &value) == 2) {
        printf("%.6f %d\n", detector_score(&d), detector_alarm(&d));
        detector_point(&d, llrint(t * 1e6), value);
    }
    fprintf(stderr, "%zu bytes of state\n", sizeof(d));
    return feof(stdin) ? 0 : 1;
}

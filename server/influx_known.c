#include "server/influx_known.h"

#include "engines/measurement.h"

bool influx_known(struct str measurement)
{
    return measurement_known(measurement);
}

bool influx_used(struct str measurement)
{
    return measurement_known(measurement) || str_equal(measurement, STR("memory_access")) ||
           str_equal(measurement, STR("proactive_outreach"));
}

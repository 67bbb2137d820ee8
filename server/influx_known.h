/*
 * server/influx_known.h - which measurements of InfluxDB anything is made of: what ingest/ cannot
 * ask engines/ itself.
 */
#pragma once

#include "core/buf.h"

#include <stdbool.h>

/* Its numbers are metrics. For struct influx_map. */
bool influx_known(struct str measurement);
/* Metrics, memories or outreach. */
bool influx_used(struct str measurement);

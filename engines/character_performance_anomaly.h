/*
 * engines/character_performance_anomaly.h - what stands out in a bot's metrics: the column
 * recent_anomalies (ENGINES.md E2, A3, K7).
 *
 * The union of four looks at each stream: hours far from the median (mad), a level that moved and
 * stayed (cusum), slots that the streaming detector found odd, and hours without points (silence).
 */
#pragma once

#include "engines/character_performance_row.h"

/* Fills PF_RECENT_ANOMALIES of the row: at most 16, newest first; NULL while no stream has history
 * enough to say that nothing stands out. */
MUST_CHECK enum status pf_put_anomalies(const struct pf_counts *c, struct row *row);

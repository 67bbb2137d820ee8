/* server/output.h - how commands print JSON and measures. */
#pragma once

#include "server/cli.h"

#include <jansson.h>

/* Prints and drops root; NULL stands for an allocation that failed. Returns code, or CLI_FAILED. */
int output_json(struct cli *cli, json_t *root, int code);
/* "12 s ago" and "1.5 MiB", into out. */
void output_age(int64_t age_us, char out[32]);
void output_bytes(int64_t bytes, char out[32]);
/* RFC 3339, or null when t_us is 0. */
json_t *output_time(int64_t t_us);
/* Any bytes as a JSON string: what is not UTF-8 becomes U+FFFD. */
json_t *output_text(struct str s);

#include "server/suggest.h"

#define WORD_MAX 63

/* Edit distance with insert, delete, replace; both words are at most WORD_MAX bytes. */
static size_t distance(struct str a, struct str b)
{
    size_t row[WORD_MAX + 1];
    for (size_t j = 0; j <= b.len; j++)
        row[j] = j;
    for (size_t i = 1; i <= a.len; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b.len; j++) {
            size_t best = diagonal + (a.ptr[i - 1] != b.ptr[j - 1]);
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[b.len];
}

struct suggest suggest_for(struct str given)
{
    return (struct suggest){.given = given, .best = STR_NULL, .distance = SIZE_MAX};
}

void suggest_offer(struct suggest *s, struct str name)
{
    if (s->given.len > WORD_MAX || name.len > WORD_MAX)
        return;
    size_t d = distance(s->given, name), same = 0;
    while (same < s->given.len && same < name.len && s->given.ptr[same] == name.ptr[same])
        same++;
    /* Somebody who typed the beginning, up to a last slip, meant this however long the rest is. */
    if (same >= 3 && same + 1 >= s->given.len && d > 1)
        d = 1;
    if (d < s->distance) {
        s->distance = d;
        s->best = name;
    }
}

struct str suggest_result(const struct suggest *s)
{
    size_t tolerated = s->given.len <= 4 ? 1 : s->given.len <= 8 ? 2 : 3;
    return s->distance <= tolerated ? s->best : STR_NULL;
}

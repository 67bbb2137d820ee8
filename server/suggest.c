#include "server/suggest.h"

#define WORD_MAX 63

static uint8_t smaller(uint8_t a, uint8_t b)
{
    return a < b ? a : b;
}

/* Edit distance with insert, delete, replace and swap of neighbours; words of at most WORD_MAX. */
static size_t distance(struct str a, struct str b)
{
    uint8_t d[WORD_MAX + 1][WORD_MAX + 1];
    for (size_t i = 0; i <= a.len; i++)
        d[i][0] = (uint8_t)i;
    for (size_t j = 0; j <= b.len; j++)
        d[0][j] = (uint8_t)j;
    for (size_t i = 1; i <= a.len; i++)
        for (size_t j = 1; j <= b.len; j++) {
            uint8_t replaced = (uint8_t)(d[i - 1][j - 1] + (a.ptr[i - 1] != b.ptr[j - 1]));
            uint8_t moved = (uint8_t)(smaller(d[i - 1][j], d[i][j - 1]) + 1);
            d[i][j] = smaller(replaced, moved);
            if (i > 1 && j > 1 && a.ptr[i - 1] == b.ptr[j - 2] && a.ptr[i - 2] == b.ptr[j - 1])
                d[i][j] = smaller(d[i][j], (uint8_t)(d[i - 2][j - 2] + 1));
        }
    return d[a.len][b.len];
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

/* tests/sim/sim_link.c - pipeline/link.h in memory: frames wait until their reader is given time,
 * those of a closed end are gone. */
#include "pipeline/link.h"

#include "tests/sim/sim.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define ENDS_MAX   64
#define FRAMES_MAX 512

struct frame {
    char *bytes;
    size_t len;
};

struct link {
    char url[96];
    struct link *peer;
    struct frame in[FRAMES_MAX]; /* in flight to this end */
    size_t n;
    struct frame lent;
};

static struct link *ends[ENDS_MAX];
static size_t n_ends;

void sim_link_reset(void)
{
    assert(n_ends == 0);
}

static struct link *open_end(const char *url)
{
    struct link *l = calloc(1, sizeof(*l));
    assert(l && n_ends < ENDS_MAX && strlen(url) < sizeof(l->url));
    memcpy(l->url, url, strlen(url) + 1);
    ends[n_ends++] = l;
    return l;
}

enum status link_listen(const char *url, struct link **ret, struct error *err)
{
    (void)err;
    *ret = open_end(url);
    return STATUS_OK;
}

enum status link_dial(const char *url, struct link **ret, struct error *err)
{
    for (size_t i = 0; i < n_ends; i++) {
        if (strcmp(ends[i]->url, url) != 0 || ends[i]->peer)
            continue;
        struct link *l = open_end(url);
        l->peer = ends[i];
        ends[i]->peer = l;
        *ret = l;
        return STATUS_OK;
    }
    return error_set(err, STATUS_IO, "nobody listens on \"%s\"", url);
}

void link_close(struct link *l)
{
    if (!l)
        return;
    for (size_t i = 0; i < l->n; i++)
        free(l->in[i].bytes);
    free(l->lent.bytes);
    if (l->peer)
        l->peer->peer = NULL;
    for (size_t i = 0; i < n_ends; i++)
        if (ends[i] == l)
            ends[i] = ends[--n_ends];
    free(l);
}

enum status link_send(struct link *l, struct str head, struct str body, int timeout_ms,
                      struct error *err)
{
    (void)timeout_ms;
    struct link *to = l->peer;
    if (!to) /* queued for nobody, as nng does */
        return STATUS_OK;
    if (to->n == FRAMES_MAX)
        return error_set(err, STATUS_AGAIN, "the link is full");
    struct frame f = {malloc(head.len + body.len), head.len + body.len};
    assert(f.bytes);
    memcpy(f.bytes, head.ptr, head.len);
    if (body.len)
        memcpy(f.bytes + head.len, body.ptr, body.len);
    to->in[to->n++] = f;
    return STATUS_OK;
}

static struct frame take(struct link *l)
{
    struct frame f = l->in[0];
    l->n--;
    memmove(&l->in[0], &l->in[1], l->n * sizeof(l->in[0]));
    return f;
}

enum status link_receive(struct link *l, int timeout_ms, struct str *ret, struct error *err)
{
    (void)timeout_ms;
    if (l->n == 0)
        return error_set(err, STATUS_AGAIN, "no frame");
    free(l->lent.bytes);
    l->lent = take(l);
    *ret = (struct str){l->lent.bytes, l->lent.len};
    return STATUS_OK;
}

bool sim_link_lose(struct sim_random *r)
{
    if (n_ends == 0)
        return false;
    struct link *l = ends[sim_below(r, (uint32_t)n_ends)];
    if (l->n == 0)
        return false;
    free(take(l).bytes);
    return true;
}

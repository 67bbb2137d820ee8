#include "server/private_routes.h"

#include "server/prometheus.h"

#include <string.h>

/* Only what failed, or everything when asked for. */
static enum status put_checks(struct buf *out, const struct readiness *r, bool verbose)
{
    enum status st = STATUS_OK;
    for (size_t i = 0; i < r->n && !st; i++) {
        const struct ready_check *c = &r->checks[i];
        if (!c->ok && (verbose || !c->note))
            st = buf_printf(out, "[%c]%s %s: %s\n", c->note ? '!' : '-', c->name,
                            c->note ? "away" : "failed", c->why);
        else if (c->ok && verbose)
            st = buf_printf(out, "[+]%s ok\n", c->name);
    }
    return st;
}

static void answer_health(struct http_request *q, const char *name, const struct readiness *r)
{
    bool ok = true;
    for (size_t i = 0; i < r->n; i++)
        ok &= r->checks[i].ok || r->checks[i].note;
    bool verbose = http_query(q, "verbose").ptr != NULL;
    CLEANUP(buf_deinit) struct buf text;
    buf_init(&text, sizeof(*r) + 1024);
    enum status st = put_checks(&text, r, verbose);
    if (!st && ok)
        st = verbose ? buf_printf(&text, "%s check passed\n", name) : buf_printf(&text, "ok\n");
    else if (!st)
        st = buf_printf(&text, "%s check failed\n", name);
    if (st) {
        http_answer_status(q, 503);
        return;
    }
    http_answer(q, &(struct http_answer){.status = ok ? 200 : 503,
                                         .type = "text/plain; charset=utf-8",
                                         .body = {text.data, text.len}});
}

static void handle_live(void *ctx, struct http_request *q)
{
    struct readiness r = private_board_read(ctx, false);
    answer_health(q, "livez", &r);
}

static void handle_ready(void *ctx, struct http_request *q)
{
    struct readiness r = private_board_read(ctx, true);
    answer_health(q, "readyz", &r);
}

/* ---- metrics ---- */

static void handle_metrics(void *ctx, struct http_request *q)
{
    (void)ctx;
    enum prometheus_format format = prometheus_negotiate(http_header(q, "accept"));
    CLEANUP(buf_deinit) struct buf page;
    buf_init(&page, PROMETHEUS_PAGE_BYTES);
    if (prometheus_page(format, &page, NULL)) {
        http_answer_problem(q, 503, "The metrics could not be written.");
        return;
    }
    http_answer(q, &(struct http_answer){.status = 200,
                                         .type = prometheus_content_type(format),
                                         .body = {page.data, page.len}});
}

void private_routes(struct private_board *b, struct http_route out[PRIVATE_ROUTES])
{
    const struct http_route routes[PRIVATE_ROUTES] = {
        {.path = "/livez", .methods = HTTP_GET, .handle = handle_live, .ctx = b},
        {.path = "/healthz", .methods = HTTP_GET, .handle = handle_live, .ctx = b},
        {.path = "/readyz", .methods = HTTP_GET, .handle = handle_ready, .ctx = b},
        {.path = "/metrics", .methods = HTTP_GET, .handle = handle_metrics, .ctx = b},
    };
    memcpy(out, routes, sizeof(routes));
}

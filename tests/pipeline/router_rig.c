#include "router_rig.h"

#include <setjmp.h> /* cmocka needs these four */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "core/hash.h"

void worker_send(struct world *w, uint32_t worker, const struct frame_header *h,
                 const struct frame_applied *applied)
{
    struct buf b;
    buf_init(&b, 4096);
    assert_int_equal(frame_put_header(&b, h), STATUS_OK);
    for (uint32_t i = 0; applied && i < h->n; i++)
        assert_int_equal(frame_put_applied(&b, &applied[i]), STATUS_OK);
    assert_int_equal(link_send(w->down[worker], (struct str){b.data, b.len}, STR(""), 1000, NULL),
                     STATUS_OK);
    router_expect(w->router, worker);
    buf_deinit(&b);
}

void ack(struct world *w, uint32_t worker, uint64_t number, lsn_t covered)
{
    struct frame_header h = {.kind = FRAME_ACK, .number = number, .covered = {covered}};
    worker_send(w, worker, &h, NULL);
}

void hello(struct world *w, uint32_t worker, lsn_t covered, const struct frame_applied *applied,
           uint32_t n)
{
    struct frame_header h = {.kind = FRAME_HELLO, .as_of_us = T0, .covered = {covered}, .n = n};
    worker_send(w, worker, &h, applied);
}

int rig_setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    static int serial;
    w->now = T0;
    w->clock = clock_virtual(&w->now);
    for (int i = 0; i < 2; i++) {
        char url[64];
        snprintf(url, sizeof(url), "inproc://router-test-%d-%d", ++serial, i);
        assert_int_equal(link_listen(url, &w->up[i], NULL), STATUS_OK);
        assert_int_equal(link_dial(url, &w->down[i], NULL), STATUS_OK);
    }
    struct router_config rc = {2, w->up, &w->clock};
    assert_int_equal(router_new(&rc, &w->router, NULL), STATUS_OK);
    assert_int_equal(frame_reader_init(&w->reader), STATUS_OK);
    *state = w;
    return 0;
}

int rig_teardown(void **state)
{
    struct world *w = *state;
    router_free(w->router);
    for (int i = 0; i < 2; i++) {
        link_close(w->down[i]);
        link_close(w->up[i]);
    }
    frame_reader_deinit(&w->reader);
    free(w);
    return 0;
}

void greet_both(struct world *w)
{
    hello(w, 0, 100, NULL, 0);
    hello(w, 1, 100, NULL, 0);
    assert_int_equal(router_handshake(w->router, US_PER_SECOND, NULL), STATUS_OK);
}

/* A user whose partition belongs to the worker. */
struct event event_for(uint32_t worker, char user[32])
{
    for (int i = 0;; i++) {
        snprintf(user, 32, "user-%d", i);
        if (route_worker((uint32_t)(hash64(str_from(user)) % LIMIT_PARTITIONS), 2) == worker)
            break;
    }
    return (struct event){
        .type = EVENT_MESSAGE,
        .id = STR("m"),
        .user_id = str_from(user),
        .bot_name = STR("elena"),
        .at_us = T0,
        .u.message = {.role = ROLE_USER, .op = MESSAGE_INSERT, .content = STR("hi")},
    };
}

struct frame_header receive(struct world *w, uint32_t worker)
{
    struct frame_header h;
    assert_int_equal(link_receive(w->down[worker], 1000, &w->frame, NULL), STATUS_OK);
    assert_int_equal(frame_open(&w->reader, w->frame, &h, NULL), STATUS_OK);
    return h;
}

/* Lets the router work until the worker has a frame. */
struct frame_header next_frame(struct world *w, uint32_t worker)
{
    struct frame_header h;
    enum status st = STATUS_AGAIN;
    for (int i = 0; i < 10000000 && st == STATUS_AGAIN; i++) {
        w->now++;
        router_drained(w->router);
        st = link_receive(w->down[worker], 0, &w->frame, NULL);
    }
    assert_int_equal(st, STATUS_OK);
    assert_int_equal(frame_open(&w->reader, w->frame, &h, NULL), STATUS_OK);
    return h;
}

/*
 * pipeline/link.h - one nng pair0 socket between the router and one worker.
 *
 * A sent frame is only queued: nng loses what is in flight when a peer dies, which is harmless
 * because truth is the slot and the store (DESIGN.md section 3). pair0 serves one peer; a second
 * dialler's frames vanish, so nobody sends before the worker's HELLO has arrived. Blocking calls
 * with time-outs on own threads, no aio (facts: nng 1.5 has several aio shutdown defects).
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/status.h"

#include <stdint.h>

struct link;

/* The router listens, the worker dials. url: inproc://, ipc:// or tcp://. */
MUST_CHECK enum status link_listen(const char *url, struct link **ret, struct error *err);
MUST_CHECK enum status link_dial(const char *url, struct link **ret, struct error *err);
/* NULL is a no-op. Not while another thread is in a call: nng 1.5 may leave that thread waiting for
 * ever, or use what it has freed. */
void link_close(struct link *l);
CLEANUP_FREEP(struct link, link_close);

/* Sends head and body as one frame. AGAIN: the queue was full for timeout_ms. Copies the bytes. */
MUST_CHECK enum status link_send(struct link *l, struct str head, struct str body, int timeout_ms,
                                 struct error *err);
/* timeout_ms 0 does not wait. AGAIN: nothing came. END: closed. *ret is borrowed until the next
 * receive on this link. */
MUST_CHECK enum status link_receive(struct link *l, int timeout_ms, struct str *ret,
                                    struct error *err);

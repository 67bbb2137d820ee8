#include "pipeline/link.h"

#include <assert.h>
#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#include <stdlib.h>

#include "core/limits.h"

struct link {
    nng_socket socket;
    nng_msg *received; /* lent to the caller of link_receive() */
    int receive_timeout_ms;
    int send_timeout_ms;
};

/* Frames queued inside nng per direction. The byte bound is the credit of the router. */
#define LINK_QUEUE_FRAMES 256

static enum status link_open(const char *url, struct link **ret, struct error *err)
{
    struct link *l = calloc(1, sizeof(*l));
    if (!l)
        return error_set(err, STATUS_NOMEM, "could not allocate a link");
    l->receive_timeout_ms = -1;
    l->send_timeout_ms = -1;
    int rc = nng_pair0_open(&l->socket);
    if (rc) {
        free(l);
        return error_set(err, STATUS_IO, "could not open a socket for \"%s\": %s", url,
                         nng_strerror(rc));
    }
    rc = nng_socket_set_int(l->socket, NNG_OPT_SENDBUF, LINK_QUEUE_FRAMES);
    if (!rc)
        rc = nng_socket_set_int(l->socket, NNG_OPT_RECVBUF, LINK_QUEUE_FRAMES);
    if (!rc)
        rc = nng_socket_set_size(l->socket, NNG_OPT_RECVMAXSZ, 2 * (size_t)LIMIT_FRAME_MAX_BYTES);
    if (rc) {
        link_close(l);
        return error_set(err, STATUS_IO, "could not configure the link \"%s\": %s", url,
                         nng_strerror(rc));
    }
    *ret = l;
    return STATUS_OK;
}

enum status link_listen(const char *url, struct link **ret, struct error *err)
{
    struct link *l = NULL;
    enum status st = link_open(url, &l, err);
    if (st)
        return st;
    assert(l);
    int rc = nng_listen(l->socket, url, NULL, 0);
    if (rc) {
        link_close(l);
        return error_set(err, STATUS_IO, "could not listen on \"%s\": %s", url, nng_strerror(rc));
    }
    *ret = l;
    return STATUS_OK;
}

enum status link_dial(const char *url, struct link **ret, struct error *err)
{
    struct link *l = NULL;
    enum status st = link_open(url, &l, err);
    if (st)
        return st;
    assert(l);
    int rc = nng_dial(l->socket, url, NULL, 0);
    if (rc) {
        link_close(l);
        return error_set(err, STATUS_IO, "could not connect to \"%s\": %s", url, nng_strerror(rc));
    }
    *ret = l;
    return STATUS_OK;
}

void link_close(struct link *l)
{
    if (!l)
        return;
    nng_close(l->socket);
    if (l->received)
        nng_msg_free(l->received);
    free(l);
}

static enum status link_failed(int rc, const char *what, struct error *err)
{
    if (rc == NNG_ETIMEDOUT || rc == NNG_EAGAIN)
        return STATUS_AGAIN;
    if (rc == NNG_ECLOSED)
        return STATUS_END;
    return error_set(err, rc == NNG_ENOMEM ? STATUS_NOMEM : STATUS_IO, "could not %s a frame: %s",
                     what, nng_strerror(rc));
}

enum status link_send(struct link *l, struct str head, struct str body, int timeout_ms,
                      struct error *err)
{
    if (timeout_ms > 0 && l->send_timeout_ms != timeout_ms) {
        nng_socket_set_ms(l->socket, NNG_OPT_SENDTIMEO, timeout_ms);
        l->send_timeout_ms = timeout_ms;
    }
    nng_msg *msg = NULL;
    if (nng_msg_alloc(&msg, 0) || nng_msg_append(msg, head.ptr, head.len) ||
        nng_msg_append(msg, body.ptr, body.len)) {
        nng_msg_free(msg);
        return error_set(err, STATUS_NOMEM, "could not allocate a frame of %zu bytes",
                         head.len + body.len);
    }
    int rc = nng_sendmsg(l->socket, msg, timeout_ms > 0 ? 0 : NNG_FLAG_NONBLOCK);
    if (rc) {
        nng_msg_free(msg); /* ours again after a failed send */
        return link_failed(rc, "send", err);
    }
    return STATUS_OK;
}

enum status link_receive(struct link *l, int timeout_ms, struct str *ret, struct error *err)
{
    if (l->received) {
        nng_msg_free(l->received);
        l->received = NULL;
    }
    if (timeout_ms > 0 && l->receive_timeout_ms != timeout_ms) {
        nng_socket_set_ms(l->socket, NNG_OPT_RECVTIMEO, timeout_ms);
        l->receive_timeout_ms = timeout_ms;
    }
    int rc = nng_recvmsg(l->socket, &l->received, timeout_ms > 0 ? 0 : NNG_FLAG_NONBLOCK);
    if (rc) {
        l->received = NULL;
        return link_failed(rc, "receive", err);
    }
    *ret = (struct str){nng_msg_body(l->received), nng_msg_len(l->received)};
    return STATUS_OK;
}

/*
 * server/http_listen.h - the listening socket of an address as it is written in the configuration:
 * "127.0.0.1:8080", "[::1]:8080", "localhost:8080", ":8080" (every address), "unix:/path/socket".
 */
#pragma once

#include "core/status.h"

#include <stdbool.h>
#include <sys/types.h>

struct http_listener {
    int fd;
    unsigned port;  /* 0 for a unix socket */
    bool local;     /* nobody outside of this machine can reach it */
    char path[108]; /* of a unix socket, else "" */
    dev_t device;   /* of the file of the socket */
    ino_t inode;
};
/* INVALID: not such an address. IO: it cannot be had. A socket file that a dead process left is
 * taken over, that of a living one is not. */
MUST_CHECK enum status http_listen(const char *address, struct http_listener *ret,
                                   struct error *err);
/* Closes it, and removes the file of a unix socket if it is still this one. */
void http_listener_close(struct http_listener *l);

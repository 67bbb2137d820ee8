/* server/feed_internal.h - what the files of the feed (server/feed*.c) share. */
#pragma once

#include "server/feed.h"
#include "server/feed_sender.h"
#include "state/feed_queue.h"

#include <nng/nng.h>
#include <pthread.h>

/* One announcement as the streams give it; text holds all three strings. */
struct feed_entry {
    char *text; /* NULL: erased */
    struct str bot, user, json;
};

struct feed {
    struct feed_open open;
    nng_socket pub;
    bool publishes;
    struct feed_destination destinations[CONFIG_FEED_WEBHOOKS_MAX];
    struct feed_queue *queue; /* NULL: there are none */
    struct feed_sender *senders[CONFIG_FEED_WEBHOOKS_MAX];

    pthread_mutex_t wake_lock; /* guards server; taken before that server's own lock */
    struct http_server *server;

    pthread_mutex_t lock; /* guards the rest; never held while another is taken */
    struct feed_entry *ring;
    size_t size;
    uint64_t next; /* number of the next announcement, from 1; entry n is at n % size */
    char mark[9];  /* of this process: numbers of another mean nothing here */
    unsigned clients;
};

/* The oldest number that can still be given. Under the lock. */
uint64_t feed_first(const struct feed *f);

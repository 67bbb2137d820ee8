/* feed_sub URL [PREFIX]: prints what the feed's PUB socket says, a line per announcement: the
 * example of docs/FEED.md. */
#include <nng/nng.h>
#include <nng/protocol/pubsub0/sub.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    const char *prefix = argc > 2 ? argv[2] : "";
    nng_socket feed;
    nng_msg *msg = NULL;
    if (argc < 2 || nng_sub0_open(&feed) ||
        nng_socket_set_int(feed, NNG_OPT_RECVBUF, 8192) || /* announcements kept while we work */
        nng_socket_set(feed, NNG_OPT_SUB_SUBSCRIBE, prefix, strlen(prefix)) ||
        nng_dial(feed, argv[1], NULL, 0))
        return 1;
    while (nng_recvmsg(feed, &msg, 0) == 0) {
        printf("%.*s\n", (int)nng_msg_len(msg), (const char *)nng_msg_body(msg));
        fflush(stdout);
        nng_msg_free(msg);
    }
    return 0;
}

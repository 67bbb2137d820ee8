#include "server/http_listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 4096

/* A socket file is left behind by a process that was killed; one that somebody answers on is not
 * ours to take. */
static enum status clear_stale_socket(const struct sockaddr_un *at, struct error *err)
{
    struct stat st;
    if (lstat(at->sun_path, &st) != 0)
        return errno == ENOENT ? STATUS_OK
                               : error_set(err, STATUS_IO, "could not look at \"%s\": %s",
                                           at->sun_path, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return error_set(err, STATUS_IO,
                         "could not listen on \"unix:%s\": there is a file that is not a socket; "
                         "choose another path or remove it",
                         at->sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set(err, STATUS_IO, "could not make a socket: %s", strerror(errno));
    bool dead = connect(fd, (const struct sockaddr *)at, sizeof(*at)) != 0 && errno == ECONNREFUSED;
    close(fd);
    if (!dead)
        return error_set(err, STATUS_IO,
                         "could not listen on \"unix:%s\": another process listens there; stop it "
                         "or choose another path",
                         at->sun_path);
    if (unlink(at->sun_path) != 0 && errno != ENOENT)
        return error_set(err, STATUS_IO, "could not remove the stale socket \"%s\": %s",
                         at->sun_path, strerror(errno));
    return STATUS_OK;
}

static enum status listen_unix(const char *path, struct http_listener *l, struct error *err)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    if (!*path || strlen(path) >= sizeof(at.sun_path))
        return error_set(err, STATUS_INVALID,
                         "could not listen on \"unix:%s\": the path must have 1 to %zu bytes", path,
                         sizeof(at.sun_path) - 1);
    snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
    enum status st = clear_stale_socket(&at, err);
    if (st)
        return st;
    l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0)
        return error_set(err, STATUS_IO, "could not make a socket: %s", strerror(errno));
    struct stat seen;
    /* The mode of the socket is that of the file which bind() makes: never wider, not even for a
     * moment. */
    if (fchmod(l->fd, 0660) != 0 || bind(l->fd, (struct sockaddr *)&at, sizeof(at)) != 0 ||
        stat(path, &seen) != 0 || listen(l->fd, BACKLOG) != 0)
        return error_set(err, STATUS_IO, "could not listen on \"unix:%s\": %s", path,
                         strerror(errno));
    snprintf(l->path, sizeof(l->path), "%s", path);
    l->device = seen.st_dev;
    l->inode = seen.st_ino;
    l->local = true;
    return STATUS_OK;
}

static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
    const struct in6_addr *six = &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(six) || (IN6_IS_ADDR_V4MAPPED(six) && six->s6_addr[12] == 127);
}

static enum status listen_at(const struct addrinfo *ai, const char *address,
                             struct http_listener *l, struct error *err)
{
    int on = 1, off = 0;
    l->fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0)
        return error_set(err, STATUS_IO, "could not listen on \"%s\": %s", address,
                         strerror(errno));
    (void)setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (ai->ai_family == AF_INET6) /* "every address" means both families */
        (void)setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (bind(l->fd, ai->ai_addr, ai->ai_addrlen) != 0 || listen(l->fd, BACKLOG) != 0) {
        enum status st =
            error_set(err, STATUS_IO, "could not listen on \"%s\": %s", address, strerror(errno));
        close(l->fd);
        l->fd = -1;
        return st;
    }
    struct sockaddr_in6 bound = {0}; /* the port is at the same place in both families */
    socklen_t len = sizeof(bound);
    (void)getsockname(l->fd, (struct sockaddr *)&bound, &len);
    l->port = ntohs(bound.sin6_port);
    l->local = is_loopback(ai->ai_addr);
    return STATUS_OK;
}

/* "host:port", "[host]:port" or ":port". */
static enum status split(const char *address, char host[256], const char **ret_port,
                         struct error *err)
{
    const char *colon = strrchr(address, ':');
    const char *from = address;
    size_t n = colon ? (size_t)(colon - address) : 0;
    if (n >= 2 && from[0] == '[' && from[n - 1] == ']') {
        from++;
        n -= 2;
    } else if (colon && memchr(from, ':', n)) {
        colon = NULL; /* an IPv6 address without brackets */
    }
    char *end = NULL;
    unsigned long port =
        colon && colon[1] >= '0' && colon[1] <= '9' ? strtoul(colon + 1, &end, 10) : 65536;
    if (port > 65535 || *end || n >= 256)
        return error_set(err, STATUS_INVALID,
                         "could not listen on \"%s\": it must be HOST:PORT, [IPV6]:PORT, :PORT or "
                         "unix:/PATH",
                         address);
    memcpy(host, from, n);
    host[n] = '\0';
    *ret_port = colon + 1;
    return STATUS_OK;
}

static enum status listen_tcp(const char *address, struct http_listener *l, struct error *err)
{
    char host[256] = "";
    const char *port = NULL;
    enum status st = split(address, host, &port, err);
    if (st)
        return st;
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(*host ? host : NULL, port, &hints, &found);
    if (rc)
        return error_set(err, STATUS_INVALID, "could not listen on \"%s\": %s", address,
                         gai_strerror(rc));
    st = STATUS_IO;
    /* Every address: IPv6 first, as [::] takes IPv4 as well. A name: what most clients try. */
    int families[] = {*host ? AF_INET : AF_INET6, *host ? AF_INET6 : AF_INET};
    for (size_t i = 0; st && i < 2; i++)
        for (struct addrinfo *ai = found; st && ai; ai = ai->ai_next)
            if (ai->ai_family == families[i])
                st = listen_at(ai, address, l, err);
    freeaddrinfo(found);
    return st;
}

enum status http_listen(const char *address, struct http_listener *ret, struct error *err)
{
    struct http_listener l = {.fd = -1};
    enum status st = strncmp(address, "unix:", 5) == 0 ? listen_unix(address + 5, &l, err)
                                                       : listen_tcp(address, &l, err);
    if (st)
        http_listener_close(&l);
    else
        *ret = l;
    return st;
}

void http_listener_close(struct http_listener *l)
{
    struct stat st;
    if (*l->path && lstat(l->path, &st) == 0 && st.st_dev == l->device && st.st_ino == l->inode)
        (void)unlink(l->path);
    if (l->fd >= 0)
        close(l->fd);
    *l = (struct http_listener){.fd = -1};
}

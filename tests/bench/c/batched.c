/* The practical limit: etltd's batched design in C, for benchmarks only.
 *
 * One epoll loop, one buffer, one join per tick, one send per recipient and tick, bounded outboxes
 * that hold references to shared batches, both modes, the same wire. What it leaves out is what a
 * daemon owes its users: metrics, limits on connections and lines, a stop that delivers, notices
 * other than that of dropped messages. So it is a bound for the daemon, not a rival.
 *
 * Usage: batched lt|et eagain|short-read; it prints its port and serves until it is killed.
 * A line longer than LINE_MAX ends its connection (the daemon discards the line and goes on).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    RECV_BYTES = 65536,
    LINE_MAX_BYTES = 8192,
    HIGH_WATER_BYTES = 1 << 20,
    MAX_EVENTS = 1024,
    BUDGET_ET = 16, /* reads per event, as the daemon's */
    BUDGET_LT = 1,
    PREFIX_BYTES = 24,
};

/* What was read in one tick, shared by everybody who is still owed some of it. */
struct batch {
    size_t references, size, room, messages;
    char *bytes;
};

/* Bytes of a batch that one peer is owed. */
struct piece {
    struct batch *batch;
    size_t start, end;
    struct piece *next;
};

struct peer {
    int fd;
    uint32_t mask, hung_up; /* RDHUP, HUP, ERR as reported so far */
    unsigned long id;
    bool gone, unfinished, wants_read;
    size_t tail_size;
    char *tail; /* an unfinished line; only while there is one */
    struct piece *first, *last;
    size_t owed, withheld;
    size_t span_start, span_end, span_messages; /* its own lines in this tick's batch */
    int prefix_size;
    char prefix[PREFIX_BYTES];
};

static bool edge_triggered, stop_on_short_read;
static int poller, listener;
static unsigned long ids;
static struct peer **peers; /* dense, so that the fan-out walks memory in order */
static size_t peer_count, peer_room;
static struct peer **revisit;
static size_t revisit_count;
static bool somebody_went;
static struct batch *batch;
static char buffer[RECV_BYTES];

static void *must(void *memory)
{
    if (!memory)
        abort();
    return memory;
}

static struct batch *new_batch(size_t room)
{
    struct batch *made = must(calloc(1, sizeof *made));
    made->references = 1;
    made->room = room;
    made->bytes = must(malloc(room));
    return made;
}

static void release(struct batch *shared)
{
    if (--shared->references)
        return;
    free(shared->bytes);
    free(shared);
}

static char *reserve(size_t size)
{
    if (batch->size + size > batch->room) {
        batch->room = 2 * (batch->size + size);
        batch->bytes = must(realloc(batch->bytes, batch->room));
    }
    return batch->bytes + batch->size;
}

static void append(const char *bytes, size_t size)
{
    memcpy(reserve(size), bytes, size);
    batch->size += size;
}

/* -- what peers are owed ------------------------------------------------------------------- */

static void synchronise(struct peer *peer)
{
    uint32_t wanted = (peer->wants_read ? EPOLLIN | EPOLLRDHUP : 0) | (peer->owed ? EPOLLOUT : 0);
    if (edge_triggered || wanted == peer->mask)
        return;
    struct epoll_event event = {.events = wanted, .data.ptr = peer};
    epoll_ctl(poller, EPOLL_CTL_MOD, peer->fd, &event);
    peer->mask = wanted;
}

static void owe(struct peer *peer, struct batch *shared, size_t start, size_t end)
{
    if (start == end)
        return;
    struct piece *piece = must(malloc(sizeof *piece));
    *piece = (struct piece){shared, start, end, NULL};
    shared->references++;
    *(peer->first ? &peer->last->next : &peer->first) = piece;
    peer->last = piece;
    peer->owed += end - start;
}

static void forget(struct peer *peer, size_t sent)
{
    peer->owed -= sent;
    while (sent) {
        struct piece *piece = peer->first;
        size_t size = piece->end - piece->start;
        if (size > sent) {
            piece->start += sent;
            return;
        }
        sent -= size;
        peer->first = piece->next;
        release(piece->batch);
        free(piece);
    }
}

static void say_what_was_missed(struct peer *peer)
{
    struct batch *notice = new_batch(64);
    notice->size = (size_t)sprintf(notice->bytes, "[etltd] %zu messages dropped\n", peer->withheld);
    peer->withheld = 0;
    owe(peer, notice, 0, notice->size);
    release(notice);
}

static void flush(struct peer *peer)
{
    while (peer->owed && !peer->gone) {
        struct iovec parts[64];
        size_t count = 0, size = 0;
        for (struct piece *p = peer->first; p && count < 64; p = p->next) {
            parts[count++] = (struct iovec){p->batch->bytes + p->start, p->end - p->start};
            size += p->end - p->start;
        }
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
        ssize_t sent = sendmsg(peer->fd, &message, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN)
                peer->gone = somebody_went = true;
            break;
        }
        forget(peer, (size_t)sent);
        if ((size_t)sent < size)
            break;
        if (!peer->owed && peer->withheld)
            say_what_was_missed(peer);
    }
    synchronise(peer);
}

static void deliver(struct peer *peer)
{
    size_t start = peer->span_start, end = peer->span_end, own = end - start;
    size_t messages = batch->messages - peer->span_messages;
    peer->span_start = peer->span_end = peer->span_messages = 0;
    if (!messages || peer->gone)
        return;
    if (peer->owed) {
        if (peer->withheld || peer->owed + batch->size > HIGH_WATER_BYTES) {
            peer->withheld += messages;
            return;
        }
        owe(peer, batch, 0, start);
        owe(peer, batch, end, batch->size);
        return;
    }
    struct iovec parts[2] = {{batch->bytes, start}, {batch->bytes + end, batch->size - end}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t sent = own ? sendmsg(peer->fd, &message, MSG_NOSIGNAL)
                       : send(peer->fd, batch->bytes, batch->size, MSG_NOSIGNAL);
    if (sent == (ssize_t)(batch->size - own))
        return;
    if (sent < 0 && errno != EAGAIN) {
        peer->gone = somebody_went = true;
        return;
    }
    size_t done = sent < 0 ? 0 : (size_t)sent;
    owe(peer, batch, done < start ? done : start, start);
    owe(peer, batch, end + (done > start ? done - start : 0), batch->size);
    synchronise(peer);
}

static void fan_out(void)
{
    for (size_t i = 0; i < peer_count; i++)
        deliver(peers[i]);
    if (batch->references == 1) {
        batch->size = batch->messages = 0;
        return;
    }
    release(batch);
    batch = new_batch(1 << 16);
}

/* -- what peers say ------------------------------------------------------------------------ */

static void take_line(struct peer *peer, const char *line, size_t size)
{
    append(peer->prefix, (size_t)peer->prefix_size);
    append(peer->tail, peer->tail_size);
    append(line, size);
    peer->tail_size = 0;
    batch->messages++;
    peer->span_messages++;
}

static void take_in(struct peer *peer, const char *bytes, size_t size)
{
    const char *newline;
    if (peer->span_end == peer->span_start)
        peer->span_start = batch->size;
    while ((newline = memchr(bytes, '\n', size))) {
        size_t line = (size_t)(newline - bytes) + 1;
        take_line(peer, bytes, line);
        bytes += line;
        size -= line;
    }
    peer->span_end = batch->size;
    if (peer->tail_size + size > LINE_MAX_BYTES) {
        peer->gone = somebody_went = true;
    } else if (size) {
        peer->tail = must(realloc(peer->tail, peer->tail_size + size));
        memcpy(peer->tail + peer->tail_size, bytes, size);
        peer->tail_size += size;
    }
}

static void read_from(struct peer *peer, uint32_t flags)
{
    peer->hung_up |= flags & (uint32_t)(EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    peer->unfinished = false;
    for (int i = 0; i < (edge_triggered ? BUDGET_ET : BUDGET_LT); i++) {
        if (peer->gone || !peer->wants_read)
            return;
        ssize_t size = recv(peer->fd, buffer, RECV_BYTES, 0);
        if (size < 0) {
            if (errno != EAGAIN)
                peer->gone = somebody_went = true;
            return;
        }
        if (!size) {
            peer->wants_read = false;
            if (peer->hung_up & (EPOLLHUP | EPOLLERR))
                peer->gone = somebody_went = true;
            synchronise(peer);
            return;
        }
        take_in(peer, buffer, (size_t)size);
        if (size < RECV_BYTES && stop_on_short_read && !peer->hung_up)
            return;
    }
    if (edge_triggered) {
        peer->unfinished = true;
        revisit[revisit_count++] = peer;
    }
}

/* -- who is here ---------------------------------------------------------------------------- */

static void admit(int fd)
{
    struct peer *peer = must(calloc(1, sizeof *peer));
    peer->fd = fd;
    peer->id = ++ids;
    peer->wants_read = true;
    peer->prefix_size = sprintf(peer->prefix, "[USER%lu] ", peer->id);
    peer->mask = EPOLLIN | EPOLLRDHUP | (edge_triggered ? EPOLLOUT | (uint32_t)EPOLLET : 0);
    struct epoll_event event = {.events = peer->mask, .data.ptr = peer};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
        abort();
    if (peer_count == peer_room) {
        peer_room = 2 * peer_room + 64;
        peers = must(realloc(peers, peer_room * sizeof *peers));
        revisit = must(realloc(revisit, peer_room * sizeof *revisit));
    }
    peers[peer_count++] = peer;
}

static void reap(void)
{
    size_t kept = 0, kept_revisits = 0;
    for (size_t i = 0; i < revisit_count; i++)
        if (!revisit[i]->gone)
            revisit[kept_revisits++] = revisit[i];
    revisit_count = kept_revisits;
    for (size_t i = 0; i < peer_count; i++) {
        struct peer *peer = peers[i];
        if (!peer->gone) {
            peers[kept++] = peer;
            continue;
        }
        forget(peer, peer->owed);
        close(peer->fd);
        free(peer->tail);
        free(peer);
    }
    peer_count = kept;
    somebody_went = false;
}

static void tick(void)
{
    static struct epoll_event events[MAX_EVENTS];
    static struct peer *again[1 << 16];
    size_t again_count = revisit_count;
    int count = epoll_wait(poller, events, MAX_EVENTS, revisit_count ? 0 : -1);
    memcpy(again, revisit, again_count * sizeof *again);
    revisit_count = 0;
    for (int i = 0; i < count; i++) {
        struct peer *peer = events[i].data.ptr;
        if (!peer) {
            int fd;
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
                admit(fd);
        } else if (events[i].events & ~(uint32_t)EPOLLOUT) {
            read_from(peer, events[i].events);
        }
    }
    for (size_t i = 0; i < again_count; i++)
        if (again[i]->unfinished)
            read_from(again[i], 0);
    if (batch->messages)
        fan_out();
    for (int i = 0; i < count; i++) {
        struct peer *peer = events[i].data.ptr;
        if (peer && events[i].events & EPOLLOUT && peer->owed)
            flush(peer);
    }
    if (somebody_went)
        reap();
}

static int listen_somewhere(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int one = 1;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* accepted sockets inherit */
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096))
        abort();
    getsockname(listener, (struct sockaddr *)&address, &size);
    return ntohs(address.sin_port);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: batched lt|et eagain|short-read\n");
        return 2;
    }
    edge_triggered = !strcmp(argv[1], "et");
    stop_on_short_read = !strcmp(argv[2], "short-read");
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    poller = epoll_create1(EPOLL_CLOEXEC);
    batch = new_batch(1 << 16);
    int port = listen_somewhere();
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    printf("%d\n", port);
    fflush(stdout);
    for (;;)
        tick();
}

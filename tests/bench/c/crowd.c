/* A crowd of clients on one epoll loop, for benchmarks: it counts every copy that arrives.
 *
 * Two workloads. A rate: send times are fixed in advance and latency runs from the intended time.
 * A window: a message is sent only while fewer than W messages' copies are outstanding, so that
 * nothing may be lost and the server sets the pace. They are counted over all receivers: whether
 * each had its own is seen at the end.
 *
 * Every message is `xxx...x;`, and one in `sample_every` carries `^` and its intended time instead
 * of some x. `;` and `^` are in nothing else on any of the wires below, so that counting `;` counts
 * copies, split over reads or not, and looking for `^` finds the samples.
 *
 * Wires: plain (a line is echoed to all others), redis (RESP3: one connection subscribes and
 * publishes), nats, irc. What is owed for a message: a copy to everybody else; redis echoes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    BUFFER_BYTES = 1 << 18,
    MAX_EVENTS = 1024,
    SAMPLE_EVERY = 61, /* prime: no sender and no place in a burst is sampled alone */
    LAG_EVERY = 16,
    FEW = 6000,        /* messages of a run, which are all sampled */
    STAMP_BYTES = 18,  /* ^ and the ns in 17 digits of hex */
    MOST_SAMPLES = 1 << 22,
    DRAIN_SECONDS = 3, /* at the end: what is owed after that is late for ever */
};

struct workload {
    double rate, seconds, warmup; /* messages a second and talker */
    unsigned long window;
    bool aligned; /* all talkers at the same moment, not spread over the interval */
};

struct client {
    int fd;
    unsigned long copies;
    size_t unsent_size, kept_size;
    char *unsent;              /* what our own kernel did not take */
    char kept[STAMP_BYTES];    /* a sample that was split over two reads */
    bool armed, gone;
};

static struct client *clients;
static int poller, conns = 2, talkers, payload_bytes = 64;
static bool echoes, stamping;
static const char *wire = "plain";
static char buffer[BUFFER_BYTES + STAMP_BYTES];
static unsigned long copies, sent, stamped, left_over, hang_ups;
static unsigned long sample_every = SAMPLE_EVERY, lag_every = LAG_EVERY;
static double *samples, *lags;
static size_t sample_count, lag_count;
static char message[70000], *stamp;
static size_t message_size;

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static double cpu_of(clockid_t clock)
{
    struct timespec t = {0};
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *what)
{
    fprintf(stderr, "crowd: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* -- receiving ------------------------------------------------------------------------------- */

static unsigned long count(const char *bytes, size_t size)
{
    unsigned long found = 0;
    while (size) { /* in chunks short enough for a vectorised 8-bit count */
        size_t chunk = size < 255 ? size : 255;
        unsigned char here = 0;
        for (size_t i = 0; i < chunk; i++)
            here = (unsigned char)(here + (bytes[i] == ';'));
        found += here;
        bytes += chunk;
        size -= chunk;
    }
    return found;
}

static void look_for_samples(struct client *client, const char *bytes, size_t size)
{
    long long arrived = 0;
    const char *end = bytes + size, *at;
    client->kept_size = 0;
    while ((at = memchr(bytes, '^', (size_t)(end - bytes)))) {
        if (end - at < STAMP_BYTES) {
            client->kept_size = (size_t)(end - at);
            memcpy(client->kept, at, client->kept_size);
            return;
        }
        char digits[STAMP_BYTES];
        memcpy(digits, at + 1, STAMP_BYTES - 1);
        digits[STAMP_BYTES - 1] = 0;
        if (!arrived)
            arrived = now();
        if (sample_count < MOST_SAMPLES)
            samples[sample_count++] = (double)(arrived - strtoll(digits, NULL, 16)) / 1e9;
        bytes = at + STAMP_BYTES;
    }
}

static void receive(struct client *client)
{
    memcpy(buffer, client->kept, client->kept_size);
    ssize_t size = recv(client->fd, buffer + client->kept_size, BUFFER_BYTES, 0);
    if (size < 0 && errno == EAGAIN)
        return;
    if (size <= 0) { /* it was thrown out: what it misses from now on is lost */
        client->gone = true;
        hang_ups++;
        close(client->fd);
        return;
    }
    unsigned long found = count(buffer + client->kept_size, (size_t)size);
    client->copies += found;
    copies += found;
    if (stamping)
        look_for_samples(client, buffer, client->kept_size + (size_t)size);
}

/* -- sending --------------------------------------------------------------------------------- */

static void arm(struct client *client, bool wants_write)
{
    struct epoll_event event = {.events = EPOLLIN | (wants_write ? (uint32_t)EPOLLOUT : 0),
                                .data.ptr = client};
    if (client->armed != wants_write)
        epoll_ctl(poller, EPOLL_CTL_MOD, client->fd, &event);
    client->armed = wants_write;
}

static void push(struct client *client)
{
    ssize_t done = send(client->fd, client->unsent, client->unsent_size, MSG_NOSIGNAL);
    if (done > 0) {
        client->unsent_size -= (size_t)done;
        memmove(client->unsent, client->unsent + done, client->unsent_size);
    }
    arm(client, client->unsent_size > 0);
}

static void say(struct client *client, const char *bytes, size_t size)
{
    if (client->gone)
        return;
    ssize_t done = client->unsent_size ? 0 : send(client->fd, bytes, size, MSG_NOSIGNAL);
    if (done == (ssize_t)size)
        return; /* an error is reported with the next read */
    size_t left = size - (size_t)(done > 0 ? done : 0);
    client->unsent = realloc(client->unsent, client->unsent_size + left);
    memcpy(client->unsent + client->unsent_size, bytes + size - left, left);
    client->unsent_size += left;
    arm(client, true);
}

/* Lay out the message once; only its stamp changes. */
static void compose(void)
{
    char head[64] = "", *tail = !strcmp(wire, "plain") ? "\n" : "\r\n";
    int payload = payload_bytes - (!strcmp(wire, "plain") ? 1 : 0); /* plain: newline included */
    if (!strcmp(wire, "redis"))
        sprintf(head, "*3\r\n$7\r\nPUBLISH\r\n$4\r\nchat\r\n$%d\r\n", payload);
    else if (!strcmp(wire, "nats"))
        sprintf(head, "PUB chat %d\r\n", payload);
    else if (!strcmp(wire, "irc"))
        sprintf(head, "PRIVMSG #chat :");
    size_t size = strlen(head);
    memcpy(message, head, size);
    stamp = message + size;
    memset(stamp, 'x', (size_t)payload - 1);
    stamp[payload - 1] = ';';
    strcpy(stamp + payload, tail);
    message_size = size + (size_t)payload + strlen(tail);
}

static void say_message(struct client *client, long long intended)
{
    bool is_sample = stamping && sent % sample_every == 0;
    if (is_sample) {
        char digits[32];
        sprintf(digits, "^%017llx", intended);
        memcpy(stamp, digits, STAMP_BYTES);
    }
    say(client, message, message_size);
    if (is_sample) {
        memset(stamp, 'x', STAMP_BYTES);
        stamped++;
    }
    sent++;
}

/* -- the loop -------------------------------------------------------------------------------- */

/* Wait to the microsecond: who spins instead keeps a core from the server, and shows no limit. */
static int turn(long long timeout_ns)
{
    static struct epoll_event events[MAX_EVENTS];
    struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    int ready = epoll_pwait2(poller, events, MAX_EVENTS, &timeout, NULL);
    for (int i = 0; i < ready; i++) {
        struct client *client = events[i].data.ptr;
        if (events[i].events & ~(uint32_t)EPOLLOUT)
            receive(client);
        if (events[i].events & EPOLLOUT && !client->gone)
            push(client);
    }
    return ready;
}

static void settle(int quiet_ms)
{
    while (turn(quiet_ms * 1000000LL))
        ;
}

static unsigned long owed(unsigned long messages)
{
    return messages * (unsigned long)(echoes ? conns : conns - 1);
}

/* -- before ---------------------------------------------------------------------------------- */

static void introduce(struct client *client, int number)
{
    char words[256] = "";
    if (!strcmp(wire, "redis"))
        sprintf(words, "HELLO 3\r\nSUBSCRIBE chat\r\n");
    else if (!strcmp(wire, "nats"))
        sprintf(words, "CONNECT {\"verbose\":false,\"echo\":false}\r\nSUB chat 1\r\n");
    else if (!strcmp(wire, "irc"))
        sprintf(words, "NICK u%d\r\nUSER u%d 0 * :u\r\nJOIN #chat\r\n", number, number);
    if (*words)
        say(client, words, strlen(words));
}

static void connect_all(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    for (int i = 0; i < conns; i++) {
        struct client *client = &clients[i];
        client->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&address, sizeof address))
            fail("connect");
        setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(client->fd, F_SETFL, O_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
        epoll_ctl(poller, EPOLL_CTL_ADD, client->fd, &event);
        introduce(client, i);
        if (i % 64 == 63)
            settle(0); /* an accept queue has an end */
    }
}

static void forget_all(void)
{
    for (int i = 0; i < conns; i++)
        clients[i].copies = 0;
    sent = stamped = copies = 0;
    sample_count = lag_count = 0;
}

/* Speak until everybody has heard something: then all are known to the server. */
static void wait_for_all(void)
{
    long long deadline = now() + 60000000000LL;
    for (int i = 1; i < conns;) {
        if (now() > deadline)
            fail("not everybody hears");
        say_message(&clients[0], 0);
        settle(200);
        while (i < conns && (clients[i].copies || clients[i].gone))
            i++;
    }
    settle(300);
    forget_all();
}

/* -- the two workloads ------------------------------------------------------------------------ */

static void speak_at_rate(double rate, bool aligned, double seconds)
{
    long long start = now();
    double step = 1e9 / rate; /* between two messages of one talker */
    unsigned long total = (unsigned long)(seconds * rate) * (unsigned long)talkers;
    while (sent < total) {
        unsigned long k = (unsigned long)talkers;
        double at = aligned ? (double)(sent / k) * step : (double)sent * step / (double)k;
        long long due = start + (long long)at, late = now() - due;
        if (late >= 0) {
            if (sent % lag_every == 0)
                lags[lag_count++] = (double)late / 1e9;
            say_message(&clients[sent % k], due);
            if (sent % 32)
                continue; /* reading has its turn between sends */
        }
        turn(late < 0 ? -late : 0);
    }
}

static bool has_room(unsigned long window)
{
    return sent - copies / owed(1) < window;
}

static void speak_in_window(unsigned long window, double seconds)
{
    long long end = now() + (long long)(seconds * 1e9);
    while (now() < end) {
        for (int burst = 0; burst < 256 && has_room(window); burst++)
            say_message(&clients[sent % (unsigned long)talkers], now());
        turn(has_room(window) ? 0 : 100000000);
    }
}

/* -- after ----------------------------------------------------------------------------------- */

/* Wait for what is owed, but not for ever; return when the last copy came. */
static long long drain(void)
{
    long long last = now(), deadline = last + DRAIN_SECONDS * 1000000000LL;
    while (copies < owed(sent) && now() < deadline) {
        unsigned long before = copies;
        turn(100000000);
        if (copies != before)
            last = now();
    }
    return last;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Print the percentiles of what was to be *expected* values; one that never came is the longest. */
static void print_percentiles(const char *name, double *values, size_t number, size_t expected)
{
    static const double at[] = {0.5, 0.9, 0.99, 0.999, 1};
    static const char *names[] = {"p50", "p90", "p99", "p999", "max"};
    qsort(values, number, sizeof *values, by_value);
    printf(", \"%s\": {", name);
    for (int i = 0; expected && i < 5; i++) {
        size_t place = (size_t)(at[i] * (double)(expected - 1));
        if (place < number)
            printf("%s\"%s\": %.9f", i ? ", " : "", names[i], values[place]);
    }
    printf("}");
}

static bool is_whole(void)
{
    for (int i = 0; i < conns; i++) {
        unsigned long own = sent / (unsigned long)talkers + ((unsigned long)i < sent % (unsigned long)talkers);
        if (clients[i].copies != sent - (echoes || i >= talkers ? 0 : own))
            return false;
    }
    return true;
}

static void speak(const struct workload *load, double seconds)
{
    if (load->window)
        speak_in_window(load->window, seconds);
    else
        speak_at_rate(load->rate, load->aligned, seconds);
}

static void measure(const struct workload *load, clockid_t server)
{
    speak(load, load->warmup);
    drain();
    left_over = owed(sent) - copies; /* it will come, if it comes, among what is measured */
    forget_all();
    stamping = true;
    long long began = now();
    double server_began = cpu_of(server), own_began = cpu_of(CLOCK_PROCESS_CPUTIME_ID);
    speak(load, load->seconds);
    double elapsed = (double)(now() - began) / 1e9;
    double server_cpu = cpu_of(server) - server_began;
    double own_cpu = cpu_of(CLOCK_PROCESS_CPUTIME_ID) - own_began;
    unsigned long in_time = copies;
    double drained = (double)(drain() - began) / 1e9;
    size_t expected = stamped * owed(1);
    printf("{\"sent\": %lu, \"owed\": %lu, \"copies\": %lu, \"in_time\": %lu, \"whole\": %s", sent,
           owed(sent) + left_over, copies, in_time, is_whole() ? "true" : "false");
    printf(", \"left_over\": %lu, \"hang_ups\": %lu", left_over, hang_ups);
    printf(", \"to_others\": %.6f", echoes ? (double)(conns - 1) / conns : 1.0);
    printf(", \"seconds\": %.6f, \"drained\": %.6f", elapsed, drained);
    printf(", \"server_cpu\": %.6f, \"client_cpu\": %.6f", server_cpu, own_cpu);
    printf(", \"server_cpu_drained\": %.6f", cpu_of(server) - server_began);
    print_percentiles("latency", samples, sample_count,
                      expected < MOST_SAMPLES ? expected : sample_count);
    print_percentiles("lag", lags, lag_count, lag_count);
    printf("}\n");
}

/* Sit there: what one idle connection costs is the growth of the server's memory. */
static void sit(void)
{
    printf("seated\n");
    fflush(stdout);
    getchar();
}

int main(int argc, char **argv)
{
    int port = 0, option;
    bool idle = false;
    struct workload load = {.seconds = 2, .warmup = 0.5};
    clockid_t server = CLOCK_MONOTONIC;
    while ((option = getopt(argc, argv, "p:c:t:b:r:w:s:u:W:P:ai")) != -1) {
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'c': conns = atoi(optarg); break;
        case 't': talkers = atoi(optarg); break;
        case 'b': payload_bytes = atoi(optarg); break;
        case 'r': load.rate = atof(optarg); break;
        case 'w': load.window = strtoul(optarg, NULL, 10); break;
        case 's': load.seconds = atof(optarg); break;
        case 'u': load.warmup = atof(optarg); break;
        case 'W': wire = optarg; break;
        case 'a': load.aligned = true; break;
        case 'i': idle = true; break;
        case 'P':
            if (clock_getcpuclockid(atoi(optarg), &server))
                fail("the server's CPU clock");
            break;
        default: return 2;
        }
    }
    if (!port || (!idle && (server == CLOCK_MONOTONIC || !load.rate == !load.window)) ||
        payload_bytes < 32 || payload_bytes > 65536) {
        fprintf(stderr, "usage: crowd -p PORT [-c CONNS] [-t TALKERS] [-b BYTES] [-W WIRE] "
                        "-i | -P SERVER_PID [-s SECONDS] [-u WARMUP] -r RATE [-a] | -w WINDOW\n");
        return 2;
    }
    talkers = talkers && talkers < conns ? talkers : conns;
    if (load.rate && load.rate * load.seconds * talkers < FEW)
        sample_every = lag_every = 1;
    prctl(PR_SET_TIMERSLACK, 1UL); /* ns; 50,000 by default */
    echoes = !strcmp(wire, "redis");
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    clients = calloc((size_t)conns, sizeof *clients);
    samples = malloc(MOST_SAMPLES * sizeof *samples);
    lags = malloc(((size_t)(load.rate * (load.seconds + load.warmup)) * (size_t)talkers + 64) *
                  sizeof *lags);
    poller = epoll_create1(EPOLL_CLOEXEC);
    compose();
    connect_all(port);
    if (idle) {
        sit();
        return 0;
    }
    wait_for_all();
    measure(&load, server);
    return 0;
}

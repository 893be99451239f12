/* Gives a process another wall clock, for tests: loaded with LD_PRELOAD, it adds CLOCK_OFFSET_SECONDS to
 * what the C library says the time is. The monotonic clock stays as it is, and so does how long a wait
 * with an absolute end takes: a machine whose clock is wrong, not one on which time runs differently. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>

static int (*real_clock)(clockid_t, struct timespec *);
static int (*real_wait)(cnd_t *, mtx_t *, const struct timespec *);
static time_t offset;

__attribute__((constructor)) static void prepare(void) {
    const char *seconds = getenv("CLOCK_OFFSET_SECONDS");
    offset = seconds ? atol(seconds) : 0;
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    real_wait = dlsym(RTLD_NEXT, "cnd_timedwait");
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_clock)
        prepare();
    int result = real_clock(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += offset;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return result;
}

int timespec_get(struct timespec *now, int base) {
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, now) == 0 ? base : 0;
}

time_t time(time_t *kept) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (kept)
        *kept = precise.tv_sec;
    return precise.tv_sec;
}

static struct timespec without_offset(const struct timespec *until) {
    struct timespec real = *until;
    real.tv_sec -= offset;
    return real;
}

/* librdkafka waits with this one (which libfaketime does not know, and so stops it). */
int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex,
                  const struct timespec *restrict until) {
    struct timespec real = without_offset(until);
    return real_wait(condition, mutex, &real);
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    struct timespec real = without_offset(until);
    return pthread_cond_clockwait(condition, mutex, CLOCK_REALTIME, &real);
}

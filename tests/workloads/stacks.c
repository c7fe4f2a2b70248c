/* Stops itself (SIGSTOP) on a stack that the argument names, again and again; stop_here writes its return address. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef WITH_LIBRARY
int exported_two_sites(int (*)(int), int);
int exported_recursion(int (*)(int), int);
#endif

__attribute__((noinline)) int stop_here(int value)
{
    printf("%p\n", __builtin_return_address(0));
    fflush(stdout);
    syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGSTOP);
    return value + 1;
}

__attribute__((noinline)) int wrapper(int value)
{
    volatile int kept = value;
    return stop_here(value) + kept;
}

__attribute__((noinline)) int caller_of_wrapper(int value)
{
    volatile int kept = value;
    return wrapper(value) + kept;
}

static void on_signal(int number)
{
    volatile int kept = number;
    kept = stop_here(number) + kept;
}

__attribute__((noinline)) int interrupted(int value)
{
    volatile int kept = value;
    raise(SIGUSR1);
    return kept;
}

static void *in_thread(void *argument)
{
    volatile int kept = stop_here(1);
    (void)kept;
    return argument;
}

int main(int count, char **arguments)
{
    volatile int kept = 0;
    const char *what = count > 1 ? arguments[1] : "wrapper";
    puts("ready");
    fflush(stdout);
    for (;;) {
        if (!strcmp(what, "wrapper"))
            kept += caller_of_wrapper(1);
        if (!strcmp(what, "signal")) {
            signal(SIGUSR1, on_signal);
            kept += interrupted(1);
        }
        if (!strcmp(what, "thread")) {
            pthread_t thread;
            pthread_create(&thread, NULL, in_thread, NULL);
            pthread_join(thread, NULL);
        }
#ifdef WITH_LIBRARY
        if (!strcmp(what, "sites")) {
            kept += exported_two_sites(stop_here, 0);
            kept += exported_two_sites(stop_here, 1);
        }
        if (!strcmp(what, "recursion"))
            kept += exported_recursion(stop_here, 20);
#endif
    }
}

/* Shows another program than its own: forged PROGRAM FILE MODE. Maps itself away, names PROGRAM as what it runs, see
 * PR_SET_MM_MAP of prctl(2), and makes FILE. MODE is `own`: in a user namespace of its own; `fork`: the same in a child
 * that is only forked; `shared`: in its own namespace, by a child in another one that has the same memory. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct work {
    struct prctl_mm_map map;
    unsigned long from[32], to[32];
    int parts, shared;
    volatile int done;
    char path[512];
};

static inline __attribute__((always_inline)) long call(long number, long a, long b, long c, long d, long e)
{
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
#else
    (void)number, (void)a, (void)b, (void)c, (void)d, (void)e;
    return -38;
#endif
}

/* Runs as a copy outside of the program. */
__attribute__((noinline, section(".stage"))) static void stage(struct work *work)
{
    long child = 0, result = -1, file;
    for (int i = 0; i < work->parts; i++)
        call(SYS_munmap, work->from[i], work->to[i] - work->from[i], 0, 0, 0);
    if (work->shared)
        child = call(SYS_clone, CLONE_VM | CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        result = call(SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, (long)&work->map, sizeof work->map, 0);
        work->done = result == 0 ? 1 : 2;
        if (work->shared)
            call(SYS_exit, 0, 0, 0, 0, 0);
    }
    while (child > 0 && !work->done)
        call(SYS_sched_yield, 0, 0, 0, 0, 0);
    if (work->done != 1)
        call(SYS_exit_group, 77, 0, 0, 0, 0);
    file = call(SYS_openat, AT_FDCWD, (long)work->path, O_WRONLY | O_CREAT, 0644, 0);
    call(SYS_write, file, (long)work->path, 1, 0, 0);
    call(SYS_close, file, 0, 0, 0, 0);
    /* Until it was asked what it is. */
    long second[2] = {1, 0};
    call(SYS_nanosleep, (long)second, 0, 0, 0, 0);
    for (;;)
        call(SYS_exit_group, 0, 0, 0, 0, 0);
}

int main(int count, char **arguments)
{
    char line[1024], own[512];
    unsigned long stack = 0;
    if (count != 4)
        return 64;
    if (!strcmp(arguments[3], "fork")) {
        pid_t child = fork();
        int status = 0;
        if (child > 0)
            return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    }
    struct work *work = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *code =
        mmap(0, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(code, (void *)stage, 2048);
    work->shared = !strcmp(arguments[3], "shared");
    if (!work->shared && unshare(CLONE_NEWUSER))
        return 77;
    strncpy(work->path, arguments[2], sizeof work->path - 1);
    int program = open(arguments[1], O_RDONLY | O_CLOEXEC);
    ssize_t length = readlink("/proc/self/exe", own, sizeof own - 1);
    own[length > 0 ? length : 0] = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        char path[600] = "";
        sscanf(line, "%lx-%lx %*s %*s %*s %*s %599s", &from, &to, path);
        if (!strcmp(path, own) && work->parts < 32)
            work->from[work->parts] = from, work->to[work->parts++] = to;
        if (!strcmp(path, "[stack]"))
            stack = from;
    }
    unsigned long data = (unsigned long)work;
    work->map = (struct prctl_mm_map){
        .start_code = data, .end_code = data + 64, .start_data = data, .end_data = data + 64,
        .start_brk = data + 64, .brk = data + 128, .start_stack = stack, .arg_start = stack,
        .arg_end = stack + 8, .env_start = stack + 8, .env_end = stack + 16, .exe_fd = program,
    };
    ((void (*)(struct work *))code)(work);
    return 1;
}

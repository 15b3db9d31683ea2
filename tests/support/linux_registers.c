/* Loaded in front of User-Mode Linux, for processors with more vector registers than its kernel 6.1 knows.
 *
 * That kernel has room for the registers of AVX. It saves a thread's with PTRACE_GETREGSET, which gives as much as is
 * asked for, and puts them back with PTRACE_SETREGSET, which fails for less than the whole: on a processor with AVX-512
 * no process gets to its first instruction (mended in Linux 6.10). So the whole is kept here, beside each place that
 * the kernel saves to, and what it puts back from there is completed with that.
 *
 * What a thread was doing when a signal came is the exception: its registers went to its stack in between, and those
 * beyond AVX are lost. tests/support/linux_init.sh tells the C library inside to leave these alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define ALL_REGISTERS ((void *)0x202) /* NT_X86_XSTATE */
#define WHICH_ARE_IN_USE 512          /* where the area's header begins: one bit a set of registers */
#define KNOWN_SETS UINT64_C(7)        /* x87, SSE, AVX */
#define PLACES 1021
#define MOST_BYTES (1 << 14)

static struct {
    const void *saved_to;
    size_t bytes;
    char whole[MOST_BYTES] __attribute__((aligned(64)));
} kept[PLACES]; /* two places that fall together take turns; whose turn it is not has only what the kernel saved */

static unsigned place_of(const void *saved_to) { return ((uintptr_t)saved_to >> 6) % PLACES; }

static long get_registers(int process, struct iovec *known)
{
    unsigned place = place_of(known->iov_base);
    struct iovec all = {kept[place].whole, MOST_BYTES};

    kept[place].saved_to = 0;
    if (syscall(SYS_ptrace, PTRACE_GETREGSET, process, ALL_REGISTERS, &all) < 0)
        return -1;
    if (known->iov_len > all.iov_len)
        known->iov_len = all.iov_len;
    memcpy(known->iov_base, kept[place].whole, known->iov_len);
    kept[place].saved_to = known->iov_base;
    kept[place].bytes = all.iov_len;
    return 0;
}

static long set_registers(int process, const struct iovec *known)
{
    static char whole[MOST_BYTES] __attribute__((aligned(64)));
    unsigned place = place_of(known->iov_base);
    struct iovec all = {kept[place].whole, kept[place].bytes};

    if (kept[place].saved_to != known->iov_base || memcmp(kept[place].whole, known->iov_base, known->iov_len)) {
        uint64_t in_use;
        all = (struct iovec){whole, MOST_BYTES};
        if (syscall(SYS_ptrace, PTRACE_GETREGSET, process, ALL_REGISTERS, &all) < 0)
            return -1;
        memcpy(whole, known->iov_base, known->iov_len < all.iov_len ? known->iov_len : all.iov_len);
        memcpy(&in_use, whole + WHICH_ARE_IN_USE, sizeof in_use);
        in_use &= KNOWN_SETS;
        memcpy(whole + WHICH_ARE_IN_USE, &in_use, sizeof in_use);
    }
    return syscall(SYS_ptrace, PTRACE_SETREGSET, process, ALL_REGISTERS, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    int process = va_arg(arguments, int);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (address == ALL_REGISTERS && request == PTRACE_GETREGSET)
        return get_registers(process, data);
    if (address == ALL_REGISTERS && request == PTRACE_SETREGSET)
        return set_registers(process, data);
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        long word; /* the C library's ptrace gives the word, the system call writes it */
        if (syscall(SYS_ptrace, request, process, address, &word) < 0)
            return -1;
        errno = 0;
        return word;
    }
    return syscall(SYS_ptrace, request, process, address, data);
}

/* Loaded in front of User-Mode Linux, for processors with more vector registers than its kernel 6.1 knows.
 *
 * That kernel has room for the registers of AVX. It saves them with PTRACE_GETREGSET, which gives as much as it asks
 * for, and puts them back with PTRACE_SETREGSET, which fails for less than the whole: on a processor with AVX-512 no
 * process gets to its first instruction (mended in Linux 6.10). Here the rest is taken from the process as it is. The
 * C library inside leaves those registers alone: tests/support/linux_init.sh tells it so.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define X86_REGISTERS ((void *)0x202) /* NT_X86_XSTATE */
#define WHICH_ARE_IN_USE 512          /* where the area's header begins: one bit a set of registers */
#define KNOWN 7UL                     /* x87, SSE, AVX */

static char whole[1 << 16] __attribute__((aligned(64)));

static long set_registers(int process, const struct iovec *known)
{
    struct iovec all = {whole, sizeof whole};
    unsigned long before, wanted;

    if (syscall(SYS_ptrace, PTRACE_GETREGSET, process, X86_REGISTERS, &all) < 0)
        return -1;
    memcpy(&before, whole + WHICH_ARE_IN_USE, sizeof before);
    memcpy(whole, known->iov_base, known->iov_len < all.iov_len ? known->iov_len : all.iov_len);
    memcpy(&wanted, whole + WHICH_ARE_IN_USE, sizeof wanted);
    wanted = (wanted & KNOWN) | (before & ~KNOWN);
    memcpy(whole + WHICH_ARE_IN_USE, &wanted, sizeof wanted);
    return syscall(SYS_ptrace, PTRACE_SETREGSET, process, X86_REGISTERS, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    int process = va_arg(arguments, int);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (request == PTRACE_SETREGSET && address == X86_REGISTERS)
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

/* Puts itself under a seccomp filter that kills the process for the system call by which a return
 * probe comes back (uretprobe, 335 on x86-64), and allows everything else. */
#include "protocol.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

enum { NR_URETPROBE = 335 };

NOINLINE static void leak_here(void)
{
    keep(malloc(4096));
}

int main(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NR_URETPROBE, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof code / sizeof *code, .filter = code};
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
    must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0, "seccomp");
    say("ready");
    await_line();
    for (int i = 0; i < 3; i++)
        leak_here();
    say("done leaked_bytes=12288 leaked_blocks=3");
    await_line();
    return 0;
}

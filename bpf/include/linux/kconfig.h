/* bcc asks whether the kernel has bpf(2). */
#pragma once
#define CONFIG_BPF_SYSCALL 1

"""What the kernel offers to keep a program in: namespaces, Landlock, seccomp and limits, by ctypes alone."""

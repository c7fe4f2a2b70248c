/* A library without frame pointers, built stripped: what it calls back is a stranger to it. */
typedef int (*callback)(int);

__attribute__((noinline)) static int hidden_step(callback call, int value)
{
    volatile int padding[13] = {value};
    return call(value) + padding[0];
}

/* Two calls of one function from frames of the same size: only the return addresses differ. */
__attribute__((noinline)) int exported_two_sites(callback call, int which)
{
    if (which == 0)
        return hidden_step(call, 10) + 1;
    return hidden_step(call, 20) + 2;
}

__attribute__((noinline)) int exported_recursion(callback call, int depth)
{
    volatile int padding = depth;
    if (depth > 1)
        return exported_recursion(call, depth - 1) + padding;
    return call(0) + padding;
}

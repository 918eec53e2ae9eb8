/* Loaded before a program, hands out its aligned blocks at addresses that differ from process to process: before each
   of them it takes a number of bytes that depends on SHIFT_SEED, and gives back what it took 64 blocks ago. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

#define HELD 64

int posix_memalign(void **block, size_t alignment, size_t size) {
    static int (*real)(void **, size_t, size_t);
    static __thread void *held[HELD];
    static __thread unsigned long long number, count;
    if (!real) real = dlsym(RTLD_NEXT, "posix_memalign");
    if (!count) {
        const char *seed = getenv("SHIFT_SEED");
        number = seed ? strtoull(seed, 0, 10) : 0;
    }
    number = number * 6364136223846793005ULL + 1442695040888963407ULL;
    free(held[count % HELD]);
    held[count++ % HELD] = malloc(1 + (number >> 33) % 9999);
    return real(block, alignment, size);
}

/* A profiler's NVTX library, as small as it can be: it writes the name of every range that begins, and a number for each that ends,
 * to the file named by NVTX_RANGES. The numbers and types are those of NVTX 3. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef void (*function)(void);
struct functions {
    size_t bytes;
    int (*of_module)(unsigned module, function ***table, unsigned *length);
};

static uint64_t last;

static void say(const char *what, const char *name, uint64_t range) {
    FILE *file = fopen(getenv("NVTX_RANGES"), "a");
    fprintf(file, "%d %s %llu %s\n", (int)getpid(), what, (unsigned long long)range, name);
    fclose(file);
}

static uint64_t start(const char *name) {
    uint64_t range = __atomic_add_fetch(&last, 1, __ATOMIC_SEQ_CST);
    say("begin", name, range);
    return range;
}

static void end(uint64_t range) { say("end", "", range); }

int InitializeInjectionNvtx2(const void *(*export_table)(uint32_t)) {
    const struct functions *functions = export_table(1);
    function **table;
    unsigned length;
    if (!functions || functions->bytes < sizeof *functions || !functions->of_module(1, &table, &length) || length < 16) return 0;
    *table[5] = (function)start;
    *table[7] = (function)end;
    return 1;
}

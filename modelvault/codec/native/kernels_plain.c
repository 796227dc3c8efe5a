/* For any machine: what the compiler makes of the loops with the instructions that all have. */

#include "kernels_blocks.h"
#include "kernels_coder.h"
#include "crc.h"

const Kernels kernels_plain = {.name = "plain", LOOPS, .encode = encode_plain, .decode = decode_plain,
                              .pack32 = pack32, .pack16 = pack16, .unpack32 = unpack32, .unpack16 = unpack16,
                              .crc = crc_plain};

const Kernels *kernels_best(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool has_products = __builtin_cpu_supports("pclmul"); /* without carries: for checksums */
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") && has_products) {
        return &kernels_avx512;
    }
    if (__builtin_cpu_supports("avx2") && has_products) return &kernels_avx2;
#endif
    return &kernels_plain;
}

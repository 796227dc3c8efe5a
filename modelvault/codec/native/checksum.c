#include "checksum.h"

#if defined(__x86_64__)
#pragma GCC target("pclmul,sse4.1")
#include <immintrin.h>

bool checksum_is_fast(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
}

/* One byte after the other; the polynomial is that of the format, reflected. */
static uint32_t byte_by_byte(uint32_t sum, const uint8_t *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        sum ^= data[i];
        for (int bit = 0; bit < 8; bit++) sum = sum >> 1 ^ (0xEDB88320u & (0u - (sum & 1)));
    }
    return sum;
}

static inline __m128i load(const uint8_t *at) { return _mm_loadu_si128((const __m128i *)at); }

/* The remainder of 128 bits followed by as many as the two constants are for, plus what stands there. */
static inline __m128i fold(__m128i bits, __m128i constants, __m128i next) {
    __m128i low = _mm_clmulepi64_si128(bits, constants, 0x00), high = _mm_clmulepi64_si128(bits, constants, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/* V. Gopal, E. Ozturk et al., Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction, Intel 2009. The
   constants are powers of x modulo the polynomial, reflected: x^(512+32), x^(512-32); x^(128+32), x^(128-32); x^64; the
   quotient of x^64 and the polynomial itself. */
uint32_t checksum(uint32_t sum, const uint8_t *data, size_t size) {
    const __m128i by_64 = _mm_set_epi64x(0x1c6e41596, 0x154442bd4), by_16 = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
    const __m128i by_8 = _mm_set_epi64x(0, 0x163cd6124), barrett = _mm_set_epi64x(0x1f7011641, 0x1db710641);
    const __m128i low = _mm_set_epi32(0, -1, 0, -1);
    sum = ~sum;
    if (size < 64) return ~byte_by_byte(sum, data, size);
    const uint8_t *end = data + size;
    __m128i one = _mm_xor_si128(load(data), _mm_cvtsi32_si128((int)sum));
    __m128i two = load(data + 16), three = load(data + 32), four = load(data + 48);
    for (data += 64; end - data >= 64; data += 64) {
        one = fold(one, by_64, load(data));
        two = fold(two, by_64, load(data + 16));
        three = fold(three, by_64, load(data + 32));
        four = fold(four, by_64, load(data + 48));
    }
    one = fold(fold(fold(one, by_16, two), by_16, three), by_16, four);
    for (; end - data >= 16; data += 16) one = fold(one, by_16, load(data));
    one = _mm_xor_si128(_mm_srli_si128(one, 8), _mm_clmulepi64_si128(one, by_16, 0x10));
    one = _mm_xor_si128(_mm_srli_si128(one, 4), _mm_clmulepi64_si128(_mm_and_si128(one, low), by_8, 0x00));
    __m128i quotient = _mm_and_si128(_mm_clmulepi64_si128(_mm_and_si128(one, low), barrett, 0x10), low);
    one = _mm_xor_si128(one, _mm_clmulepi64_si128(quotient, barrett, 0x00));
    return ~byte_by_byte((uint32_t)_mm_extract_epi32(one, 1), data, (size_t)(end - data));
}

#else

bool checksum_is_fast(void) { return false; }

uint32_t checksum(uint32_t sum, const uint8_t *data, size_t size) {
    (void)data;
    (void)size;
    return sum;
}

#endif

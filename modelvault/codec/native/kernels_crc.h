/* Checksums by multiplication without carries: 64 bytes at a time are multiplied to where the next 64 are, and added
   (Gopal et al., Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction, Intel 2009). */

#ifndef MODELVAULT_KERNELS_CRC_H
#define MODELVAULT_KERNELS_CRC_H

#include "crc.h"

static inline __m128i sixteen_at(const uint8_t *at) { return _mm_loadu_si128((const __m128i *)at); }

static inline __m128i fold(__m128i bytes, __m128i by, __m128i more) {
    const __m128i low = _mm_clmulepi64_si128(bytes, by, 0x00), high = _mm_clmulepi64_si128(bytes, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), more);
}

static uint32_t crc_folded(uint32_t sum, const uint8_t *bytes, size_t n) {
    if (n < 64) return crc_plain(sum, bytes, n);
    /* x^(d + 32) and x^(d - 32) by the polynomial, bits reversed, for a distance of d bits: 512 and 128. */
    const __m128i by_64 = _mm_set_epi64x(0x1C6E41596, 0x154442BD4), by_16 = _mm_set_epi64x(0x0CCAA009E, 0x1751997D0);
    __m128i folded[4];
    for (int j = 0; j < 4; j++) folded[j] = sixteen_at(bytes + 16 * j);
    folded[0] = _mm_xor_si128(folded[0], _mm_cvtsi32_si128((int)~sum));
    for (bytes += 64, n -= 64; n >= 64; bytes += 64, n -= 64) {
        for (int j = 0; j < 4; j++) folded[j] = fold(folded[j], by_64, sixteen_at(bytes + 16 * j));
    }
    for (int j = 1; j < 4; j++) folded[j] = fold(folded[j - 1], by_16, folded[j]);
    uint8_t left[16];
    _mm_storeu_si128((__m128i *)left, folded[3]);
    return crc_plain(crc_plain(~0u, left, sizeof left), bytes, n);
}

#endif

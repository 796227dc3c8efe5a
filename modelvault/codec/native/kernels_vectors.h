/* What the files for AVX2 and AVX-512 have in common: vectors of 128 bits, and tables they are filled from. */

#include <immintrin.h>

#include "numbers.h"

/* The table that each context belongs to. */
static inline void find_tables(const uint8_t *bounds, int tables, uint8_t table[CONTEXTS]) {
    for (int j = 0; j < tables; j++) {
        const int end = j + 1 < tables ? bounds[j + 1] : CONTEXTS;
        for (int context = bounds[j]; context < end; context++) table[context] = (uint8_t)j;
    }
}

static inline int highest_of_sixteen(__m128i bytes) {
    const __m128i of_two = _mm_max_epu8(bytes, _mm_srli_epi16(bytes, 8)), low = _mm_set1_epi16(255);
    return 255 - _mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(_mm_and_si128(of_two, low), low)), 0);
}

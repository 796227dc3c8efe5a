/* For machines with AVX2, and products without carries (PCLMULQDQ). */

#if defined(__x86_64__)
#pragma GCC target("avx2,bmi,bmi2,popcnt,lzcnt,pclmul")
#include <immintrin.h>

#include "kernels_blocks.h"
#include "kernels_coder.h"
#include "kernels_crc.h"

/* For each of eight lanes: which of the next words it takes, if its bit is set. */
static inline __m256i spread(unsigned mask) {
    /* A byte a lane: how many bits of the mask are below it. */
    uint64_t bytes = _pdep_u64(mask, 0x0101010101010101u);
    bytes = (bytes * 0x0101010101010101u) - bytes;
    return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes));
}

/* Lanes whose bit is set, in order. */
static inline __m256i gather_order(unsigned mask) {
    uint64_t taken = _pdep_u64(mask, 0x0101010101010101u) * 0xFF;
    return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)_pext_u64(0x0706050403020100u, taken)));
}

static inline __m256i eight_bytes(const uint8_t *at) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)at));
}

static inline __m256i encode_eight(__m256i state, const uint8_t *tokens, const uint8_t *tables,
                                   const Division *divisions, int stride_log, uint16_t **at) {
    __m256i symbol = _mm256_or_si256(_mm256_slli_epi32(eight_bytes(tables), stride_log), eight_bytes(tokens));
    __m256i reciprocal = _mm256_i32gather_epi32((const int *)&divisions->reciprocal, symbol, sizeof *divisions);
    __m256i rest = _mm256_i32gather_epi32((const int *)&divisions->rest, symbol, sizeof *divisions);
    __m256i frequency = _mm256_srli_epi32(rest, 16);
    /* States are below 2^31, and so is this: the signed comparison serves. */
    __m256i most = _mm256_sub_epi32(_mm256_slli_epi32(frequency, 20), _mm256_set1_epi32(1));
    __m256i due = _mm256_cmpgt_epi32(state, most);
    unsigned mask = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(due));
    unsigned count = (unsigned)_mm_popcnt_u32(mask);
    __m256i front = _mm256_and_si256(_mm256_permutevar8x32_epi32(state, gather_order(mask)), _mm256_set1_epi32(0xFFFF));
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(front), _mm256_extracti128_si256(front, 1));
    uint16_t eight[8];
    _mm_storeu_si128((__m128i *)eight, words);
    *at -= count;
    memcpy(*at, eight, count * sizeof *eight);
    state = _mm256_srlv_epi32(state, _mm256_and_si256(due, _mm256_set1_epi32(16)));
    __m256i shift = _mm256_and_si256(_mm256_srli_epi32(rest, 11), _mm256_set1_epi32(15));
    __m256i more = _mm256_add_epi32(shift, _mm256_set1_epi32(31));
    __m256i even = _mm256_srlv_epi64(_mm256_mul_epu32(state, reciprocal),
                                     _mm256_and_si256(more, _mm256_set1_epi64x(0xFFFFFFFF)));
    __m256i odd = _mm256_srlv_epi64(_mm256_mul_epu32(_mm256_srli_epi64(state, 32), _mm256_srli_epi64(reciprocal, 32)),
                                    _mm256_srli_epi64(more, 32));
    __m256i quotient = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
    __m256i others = _mm256_sub_epi32(_mm256_set1_epi32(FREQUENCIES), frequency);
    __m256i start = _mm256_and_si256(rest, _mm256_set1_epi32(FREQUENCIES - 1));
    return _mm256_add_epi32(_mm256_add_epi32(state, start), _mm256_mullo_epi32(quotient, others));
}

static uint16_t *encode_avx2(const uint8_t *tokens, const uint8_t *tables, size_t n, const Division *divisions,
                             int stride, uint32_t *states, int lanes, uint16_t *end) {
    if (lanes != 32) return encode_plain(tokens, tables, n, divisions, stride, states, lanes, end);
    size_t whole = n & ~(size_t)31;
    end = encode_plain(tokens + whole, tables + whole, n - whole, divisions, stride, states, lanes, end);
    const int stride_log = floor_log2((uint32_t)stride);
    __m256i state[4];
    for (int j = 0; j < 4; j++) state[j] = _mm256_loadu_si256((const __m256i *)(states + 8 * j));
    for (size_t i = whole; i > 0;) {
        i -= 32;
        for (int j = 3; j >= 0; j--) {
            state[j] = encode_eight(state[j], tokens + i + 8 * j, tables + i + 8 * j, divisions, stride_log, &end);
        }
    }
    for (int j = 0; j < 4; j++) _mm256_storeu_si256((__m256i *)(states + 8 * j), state[j]);
    return end;
}

static inline __m256i decode_eight(__m256i state, uint8_t *tokens, const uint8_t *tables, const uint32_t *slots,
                                   const uint8_t **at) {
    const __m256i low = _mm256_set1_epi32(FREQUENCIES - 1);
    __m256i index = _mm256_or_si256(_mm256_slli_epi32(eight_bytes(tables), FREQUENCY_BITS), _mm256_and_si256(state, low));
    __m256i slot = _mm256_i32gather_epi32((const int *)slots, index, sizeof *slots);
    __m256i symbol = _mm256_srli_epi32(slot, 23);
    __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(symbol), _mm256_extracti128_si256(symbol, 1));
    _mm_storel_epi64((__m128i *)tokens, _mm_packus_epi16(half, half));
    __m256i frequency = _mm256_and_si256(_mm256_srli_epi32(slot, 11), _mm256_set1_epi32(0xFFF));
    state = _mm256_add_epi32(_mm256_mullo_epi32(frequency, _mm256_srli_epi32(state, FREQUENCY_BITS)),
                             _mm256_and_si256(slot, low));
    __m256i due = _mm256_cmpgt_epi32(_mm256_set1_epi32(STATE_LOW), state);
    unsigned mask = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(due));
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)*at));
    words = _mm256_and_si256(_mm256_permutevar8x32_epi32(words, spread(mask)), due);
    *at += 2 * (unsigned)_mm_popcnt_u32(mask);
    return _mm256_or_si256(_mm256_sllv_epi32(state, _mm256_and_si256(due, _mm256_set1_epi32(16))), words);
}

static const uint8_t *decode_avx2(uint8_t *tokens, const uint8_t *tables, size_t n, const uint32_t *slots,
                                  uint32_t *states, int lanes, const uint8_t *at, const uint8_t *end) {
    if (lanes != 32) return decode_plain(tokens, tables, n, slots, states, lanes, at, end);
    size_t whole = n & ~(size_t)31;
    __m256i state[4];
    for (int j = 0; j < 4; j++) state[j] = _mm256_loadu_si256((const __m256i *)(states + 8 * j));
    for (size_t i = 0; i < whole; i += 32) {
        if (at > end) return NULL;
        for (int j = 0; j < 4; j++) state[j] = decode_eight(state[j], tokens + i + 8 * j, tables + i + 8 * j, slots, &at);
    }
    for (int j = 0; j < 4; j++) _mm256_storeu_si256((__m256i *)(states + 8 * j), state[j]);
    return decode_plain(tokens + whole, tables + whole, n - whole, slots, states, lanes, at, end);
}

const Kernels kernels_avx2 = {.name = "avx2", LOOPS, .encode = encode_avx2, .decode = decode_avx2,
                             .unpack32 = unpack32, .unpack16 = unpack16, .crc = crc_folded};

#else
typedef int not_for_this_machine;
#endif

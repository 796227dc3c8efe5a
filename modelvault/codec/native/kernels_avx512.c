/* For machines with AVX-512 (F, BW, VL, DQ, CD). */

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,bmi,bmi2,popcnt,lzcnt,prefer-vector-width=512")
#include <immintrin.h>

#include "kernels_coder.h"
#include "kernels_loops.h"

static inline __m512i sixteen_bytes(const uint8_t *at) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)at));
}

static inline __m512i encode_sixteen(__m512i state, const uint8_t *tokens, const uint8_t *tables,
                                     const Division *divisions, int stride_log, uint16_t **at) {
    __m512i symbol =
        _mm512_or_si512(_mm512_slli_epi32(sixteen_bytes(tables), (unsigned)stride_log), sixteen_bytes(tokens));
    __m512i reciprocal = _mm512_i32gather_epi32(symbol, &divisions->reciprocal, sizeof *divisions);
    __m512i rest = _mm512_i32gather_epi32(symbol, &divisions->rest, sizeof *divisions);
    __m512i frequency = _mm512_srli_epi32(rest, 16);
    __m512i most = _mm512_sub_epi32(_mm512_slli_epi32(frequency, 20), _mm512_set1_epi32(1));
    __mmask16 due = _mm512_cmpgt_epu32_mask(state, most);
    unsigned count = (unsigned)_mm_popcnt_u32(due);
    __m256i words = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(due, state));
    *at -= count;
    _mm256_mask_storeu_epi16(*at, (__mmask16)((1u << count) - 1), words);
    state = _mm512_mask_srli_epi32(state, due, state, 16);
    __m512i shift = _mm512_and_si512(_mm512_srli_epi32(rest, 11), _mm512_set1_epi32(15));
    __m512i more = _mm512_add_epi32(shift, _mm512_set1_epi32(31));
    __m512i even = _mm512_srlv_epi64(_mm512_mul_epu32(state, reciprocal),
                                     _mm512_and_si512(more, _mm512_set1_epi64(0xFFFFFFFF)));
    __m512i odd = _mm512_srlv_epi64(
        _mm512_mul_epu32(_mm512_srli_epi64(state, 32), _mm512_srli_epi64(reciprocal, 32)), _mm512_srli_epi64(more, 32));
    __m512i quotient = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
    __m512i others = _mm512_sub_epi32(_mm512_set1_epi32(FREQUENCIES), frequency);
    __m512i start = _mm512_and_si512(rest, _mm512_set1_epi32(FREQUENCIES - 1));
    return _mm512_add_epi32(_mm512_add_epi32(state, start), _mm512_mullo_epi32(quotient, others));
}

static uint16_t *encode_avx512(const uint8_t *tokens, const uint8_t *tables, size_t n, const Division *divisions,
                               int stride, uint32_t *states, int lanes, uint16_t *end) {
    if (lanes != 32) return encode_plain(tokens, tables, n, divisions, stride, states, lanes, end);
    size_t whole = n & ~(size_t)31;
    end = encode_plain(tokens + whole, tables + whole, n - whole, divisions, stride, states, lanes, end);
    const int stride_log = floor_log2((uint32_t)stride);
    __m512i low = _mm512_loadu_si512(states), high = _mm512_loadu_si512(states + 16);
    for (size_t i = whole; i > 0;) {
        i -= 32;
        high = encode_sixteen(high, tokens + i + 16, tables + i + 16, divisions, stride_log, &end);
        low = encode_sixteen(low, tokens + i, tables + i, divisions, stride_log, &end);
    }
    _mm512_storeu_si512(states, low);
    _mm512_storeu_si512(states + 16, high);
    return end;
}

static inline __m512i decode_sixteen(__m512i state, uint8_t *tokens, const uint8_t *tables, const uint32_t *slots,
                                     const uint8_t **at) {
    const __m512i low = _mm512_set1_epi32(FREQUENCIES - 1);
    __m512i index = _mm512_or_si512(_mm512_slli_epi32(sixteen_bytes(tables), FREQUENCY_BITS),
                                    _mm512_and_si512(state, low));
    __m512i slot = _mm512_i32gather_epi32(index, slots, sizeof *slots);
    _mm_storeu_si128((__m128i *)tokens, _mm512_cvtepi32_epi8(_mm512_srli_epi32(slot, 23)));
    __m512i frequency = _mm512_and_si512(_mm512_srli_epi32(slot, 11), _mm512_set1_epi32(0xFFF));
    state = _mm512_add_epi32(_mm512_mullo_epi32(frequency, _mm512_srli_epi32(state, FREQUENCY_BITS)),
                             _mm512_and_si512(slot, low));
    __mmask16 due = _mm512_cmplt_epu32_mask(state, _mm512_set1_epi32(STATE_LOW));
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)*at));
    *at += 2 * (unsigned)_mm_popcnt_u32(due);
    return _mm512_mask_or_epi32(state, due, _mm512_slli_epi32(state, 16), _mm512_maskz_expand_epi32(due, words));
}

static const uint8_t *decode_avx512(uint8_t *tokens, const uint8_t *tables, size_t n, const uint32_t *slots,
                                    uint32_t *states, int lanes, const uint8_t *at, const uint8_t *end) {
    if (lanes != 32) return decode_plain(tokens, tables, n, slots, states, lanes, at, end);
    size_t whole = n & ~(size_t)31;
    __m512i low = _mm512_loadu_si512(states), high = _mm512_loadu_si512(states + 16);
    for (size_t i = 0; i < whole; i += 32) {
        if (at > end) return NULL;
        low = decode_sixteen(low, tokens + i, tables + i, slots, &at);
        high = decode_sixteen(high, tokens + i + 16, tables + i + 16, slots, &at);
    }
    _mm512_storeu_si512(states, low);
    _mm512_storeu_si512(states + 16, high);
    return decode_plain(tokens + whole, tables + whole, n - whole, slots, states, lanes, at, end);
}

const Kernels kernels_avx512 = {.name = "avx512", LOOPS, .encode = encode_avx512, .decode = decode_avx512};

#else
typedef int not_for_this_machine;
#endif

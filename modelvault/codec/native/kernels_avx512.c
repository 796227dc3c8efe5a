/* For machines with AVX-512 (F, BW, VL, DQ, CD), and products without carries (PCLMULQDQ). */

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,bmi,bmi2,popcnt,lzcnt,pclmul,prefer-vector-width=512")
#include "kernels_vectors.h"

#define BYTE_VECTORS /* what is here in vectors is left out of the loops */
#define SHORT_VECTORS

/* A bit for each of sixty-four bytes that is not 0. */
static inline uint64_t present(const uint8_t *bytes) {
    const __m512i all = _mm512_loadu_si512(bytes);
    return _cvtmask64_u64(_mm512_test_epi8_mask(all, all));
}

#include "kernels_coder.h"
#include "kernels_crc.h"
#include "kernels_loops.h"

/* The first n of sixty-four bytes. */
static inline __mmask64 first_bytes(size_t n) {
    return n < 64 ? _cvtu64_mask64(((uint64_t)1 << n) - 1) : ~(__mmask64)0;
}

/* Sixty-four bytes, zeros behind the last of n. */
static inline __m512i bytes_at(const uint8_t *at, size_t n) {
    return _mm512_maskz_loadu_epi8(first_bytes(n), at);
}

/* Of 64 contexts, by four tables of sixteen. */
static void assign(uint8_t *contexts, size_t n, const uint8_t *bounds, int tables) {
    uint8_t table[CONTEXTS];
    find_tables(bounds, tables, table);
    __m512i quarter[4];
    for (int j = 0; j < 4; j++) quarter[j] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(table + 16 * j)));
    for (size_t i = 0; i < n; i += 64) {
        const __m512i context = bytes_at(contexts + i, n - i);
        const __mmask64 is_odd = _mm512_test_epi8_mask(context, _mm512_set1_epi8(16));
        const __mmask64 is_high = _mm512_test_epi8_mask(context, _mm512_set1_epi8(32));
        const __m512i low = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(quarter[0], context), is_odd, quarter[1], context);
        const __m512i high = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(quarter[2], context), is_odd, quarter[3], context);
        _mm512_mask_storeu_epi8(contexts + i, first_bytes(n - i), _mm512_mask_blend_epi8(is_high, low, high));
    }
}

static uint32_t sum(const uint8_t *tokens, size_t n) {
    __m512i total = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 64) {
        total = _mm512_add_epi64(total, _mm512_sad_epu8(bytes_at(tokens + i, n - i), _mm512_setzero_si512()));
    }
    return (uint32_t)_mm512_reduce_add_epi64(total);
}

static inline int highest_level(const uint8_t *levels, size_t n) {
    __m512i most = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 64) most = _mm512_max_epu8(most, bytes_at(levels + i, n - i));
    __m256i half = _mm256_max_epu8(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64(most, 1));
    __m128i few = _mm_max_epu8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    return highest_of_sixteen(few);
}

static inline uint32_t sum_below(const uint8_t *levels, size_t n, int highest) {
    const __m512i top = _mm512_set1_epi8((char)highest), most = _mm512_set1_epi8(31);
    __m512i total = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 64) {
        const __m512i below = _mm512_maskz_sub_epi8(first_bytes(n - i), top, bytes_at(levels + i, n - i));
        total = _mm512_add_epi64(total, _mm512_sad_epu8(_mm512_min_epu8(below, most), _mm512_setzero_si512()));
    }
    return (uint32_t)_mm512_reduce_add_epi64(total);
}

static inline void count_levels(const uint8_t *levels, size_t n, int highest, uint32_t counts[32], int *last) {
    size_t left = n;
    int level = 0;
    _mm512_storeu_si512(counts, _mm512_setzero_si512());
    _mm512_storeu_si512(counts + 16, _mm512_setzero_si512());
    for (; level < 31; level++) {
        const __m512i wanted = _mm512_set1_epi8((char)(highest - level));
        size_t found = 0;
        for (size_t i = 0; i < n; i += 64) {
            const __mmask64 there = first_bytes(n - i);
            found += (size_t)_mm_popcnt_u64(_mm512_mask_cmpeq_epi8_mask(there, _mm512_maskz_loadu_epi8(there, levels + i), wanted));
        }
        counts[level] = (uint32_t)found;
        left -= found;
        if (!left) break;
    }
    if (level == 31) counts[level] = (uint32_t)left;
    *last = level;
}

static inline uint32_t expected_tokens(const uint32_t counts[32], int last, int context) {
    const uint16_t *expected = EXPECTED + (context - LEAST_CONTEXT);
    const __m512i even = _mm512_set1_epi32(0xFFFF); /* of two neighbours, every other one */
    __m512i total = _mm512_mullo_epi32(_mm512_loadu_si512(counts), _mm512_and_si512(_mm512_loadu_si512(expected), even));
    if (last > 15) {
        __m512i more = _mm512_and_si512(_mm512_loadu_si512(expected + 32), even);
        total = _mm512_add_epi32(total, _mm512_mullo_epi32(_mm512_loadu_si512(counts + 16), more));
    }
    return (uint32_t)_mm512_reduce_add_epi32(total);
}

static inline int expect_around(const uint32_t counts[32], int last, int start, uint32_t wanted, uint32_t sums[GUESSES]) {
    const uint16_t *expected = EXPECTED + (start - LEAST_CONTEXT);
    __m512i even = _mm512_setzero_si512(), odd = even; /* two sums, which do not wait for each other */
    for (int level = 0; level <= last; level += 2) {
        const __m512i one = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(expected + 2 * level)));
        const __m512i other = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(expected + 2 * level + 2)));
        even = _mm512_add_epi32(even, _mm512_mullo_epi32(one, _mm512_set1_epi32((int)counts[level])));
        odd = _mm512_add_epi32(odd, _mm512_mullo_epi32(other, _mm512_set1_epi32((int)counts[level + 1])));
    }
    const __m512i all = _mm512_add_epi32(even, odd);
    _mm512_storeu_si512(sums, all);
    return _mm_popcnt_u32(_mm512_cmplt_epu32_mask(all, _mm512_set1_epi32((int)wanted)));
}

static inline void set_contexts(const uint8_t *levels, size_t n, int highest, int context, uint8_t *contexts) {
    for (size_t i = 0; i < n; i += 64) {
        const __mmask64 there = first_bytes(n - i);
        __m512i below = _mm512_sub_epi8(_mm512_set1_epi8((char)highest), _mm512_maskz_loadu_epi8(there, levels + i));
        below = _mm512_min_epu8(below, _mm512_set1_epi8(CONTEXTS - 1));
        __m512i found = _mm512_adds_epi8(_mm512_add_epi8(below, below), _mm512_set1_epi8((char)context));
        found = _mm512_max_epi8(found, _mm512_setzero_si512());
        _mm512_mask_storeu_epi8(contexts + i, there, _mm512_min_epi8(found, _mm512_set1_epi8(CONTEXTS - 1)));
    }
}

static uint64_t token_bits(const uint32_t *one, const uint32_t *other, size_t n, uint32_t total) {
    const __m512i whole = _mm512_set1_epi32((int)logarithm(total)), most = _mm512_set1_epi32(MOST_BITS);
    __m512i sum = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 there = (__mmask16)(n - i < 16 ? (1u << (n - i)) - 1 : 0xFFFF);
        const __m512i count = _mm512_add_epi32(_mm512_maskz_loadu_epi32(there, one + i),
                                               _mm512_maskz_loadu_epi32(there, other + i));
        const __m512i zeros = _mm512_lzcnt_epi32(count);
        const __m512i behind = _mm512_srli_epi32(_mm512_slli_epi32(_mm512_sllv_epi32(count, zeros), 1), 24);
        const __m512i part = _mm512_and_si512(_mm512_i32gather_epi32(behind, LOGARITHM, 1), _mm512_set1_epi32(255));
        const __m512i power = _mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(31), zeros), 8);
        const __m512i bits = _mm512_min_epu32(_mm512_sub_epi32(whole, _mm512_add_epi32(power, part)), most);
        const __m512i cost = _mm512_mullo_epi32(count, bits);
        sum = _mm512_add_epi64(sum, _mm512_and_si512(cost, _mm512_set1_epi64(0xFFFFFFFF)));
        sum = _mm512_add_epi64(sum, _mm512_srli_epi64(cost, 32));
    }
    return (uint64_t)_mm512_reduce_add_epi64(sum);
}

#include "kernels_blocks.h"

static void restore16(uint16_t *predictions, const uint8_t *tokens, const uint16_t *rests, size_t n, int shift) {
    const __m512i one = _mm512_set1_epi16(1), top = _mm512_set1_epi16((short)0x8000);
    const __m512i kept = _mm512_set1_epi16((short)(~0u << shift));
    const __m128i by = _mm_cvtsi32_si128(shift);
    for (size_t i = 0; i < n; i += 32) {
        const __mmask32 there = n - i < 32 ? ((__mmask32)1 << (n - i)) - 1 : ~(__mmask32)0;
        const __m512i token = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(there, tokens + i));
        const __m512i rest = _mm512_maskz_loadu_epi16(there, rests + i);
        const __m512i word = _mm512_maskz_loadu_epi16(there, predictions + i);
        /* What has a tail: its two highest bits, and the tail. */
        const __m512i length = _mm512_sub_epi16(_mm512_srli_epi16(token, 1), one);
        const __m512i high = _mm512_sllv_epi16(_mm512_or_si512(_mm512_and_si512(token, one), _mm512_add_epi16(one, one)), length);
        const __mmask32 has_tail = _mm512_cmpgt_epu16_mask(token, _mm512_set1_epi16(3));
        const __m512i residual = _mm512_mask_add_epi16(token, has_tail, high, rest);
        const __m512i sign = _mm512_sub_epi16(_mm512_setzero_si512(), _mm512_and_si512(residual, one));
        const __m512i difference = _mm512_xor_si512(_mm512_srli_epi16(residual, 1), sign);
        __m512i place = _mm512_xor_si512(word, _mm512_or_si512(_mm512_srai_epi16(word, 15), top));
        place = _mm512_add_epi16(place, _mm512_sll_epi16(difference, by));
        const __m512i back = _mm512_or_si512(_mm512_andnot_si512(_mm512_srai_epi16(place, 15), _mm512_set1_epi16(-1)), top);
        _mm512_mask_storeu_epi16(predictions + i, there, _mm512_and_si512(_mm512_xor_si512(place, back), kept));
    }
}

static inline __m512i sixteen_bytes(const uint8_t *at) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)at));
}

static inline __m512i encode_sixteen(__m512i state, const Division *divisions, uint16_t **at) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i first = _mm512_loadu_si512(divisions), second = _mm512_loadu_si512(divisions + 8);
    __m512i reciprocal = _mm512_permutex2var_epi32(first, even, second);
    __m512i rest = _mm512_permutex2var_epi32(first, _mm512_add_epi32(even, _mm512_set1_epi32(1)), second);
    __m512i frequency = _mm512_srli_epi32(rest, 16);
    __m512i most = _mm512_sub_epi32(_mm512_slli_epi32(frequency, 20), _mm512_set1_epi32(1));
    __mmask16 due = _mm512_cmpgt_epu32_mask(state, most);
    unsigned count = (unsigned)_mm_popcnt_u32(due);
    __m256i words = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(due, state));
    *at -= count;
    _mm256_mask_storeu_epi16(*at, (__mmask16)((1u << count) - 1), words);
    state = _mm512_mask_srli_epi32(state, due, state, 16);
    __m512i even_products = _mm512_mul_epu32(state, reciprocal);
    __m512i odd_products = _mm512_mul_epu32(_mm512_srli_epi64(state, 32), _mm512_srli_epi64(reciprocal, 32));
    __m512i high = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even_products, 32), odd_products);
    __m512i shift = _mm512_and_si512(_mm512_srli_epi32(rest, 12), _mm512_set1_epi32(15));
    __m512i quotient = _mm512_srlv_epi32(high, shift);
    __m512i others = _mm512_sub_epi32(_mm512_set1_epi32(FREQUENCIES), frequency);
    __m512i start = _mm512_and_si512(rest, _mm512_set1_epi32(0xFFF));
    return _mm512_add_epi32(_mm512_add_epi32(state, start), _mm512_mullo_epi32(quotient, others));
}

/* What the encoder needs to know of each token, of a multiple of 8. */
static inline void look_up(const uint8_t *tokens, const uint8_t *tables, size_t n, const Division *divisions, int stride,
                           Division *found) {
    uint16_t place[CODED_TILE];
    find_places(tokens, tables, n, stride, place);
    for (size_t i = 0; i < n; i += 8) {
#pragma GCC unroll 8
        for (size_t j = 0; j < 8; j++) found[i + j] = divisions[place[i + j]];
    }
}

static uint16_t *encode_avx512(const uint8_t *tokens, const uint8_t *tables, size_t n, const Division *divisions,
                               int stride, uint32_t *states, int lanes, uint16_t *end) {
    if (lanes < 16) return encode_plain(tokens, tables, n, divisions, stride, states, lanes, end);
    const size_t whole = n & ~(size_t)(lanes - 1);
    end = encode_plain(tokens + whole, tables + whole, n - whole, divisions, stride, states, lanes, end);
    __m512i low = _mm512_loadu_si512(states), high = _mm512_loadu_si512(lanes > 16 ? states + 16 : states);
    for (size_t stop = whole; stop > 0;) {
        /* Looked up one by one, which is faster than gathering. */
        Division tile[CODED_TILE];
        const size_t start = (stop - 1) / CODED_TILE * CODED_TILE;
        look_up(tokens + start, tables + start, stop - start, divisions, stride, tile);
        if (lanes > 16) {
            for (size_t i = stop - start; i > 0;) {
                i -= 32;
                high = encode_sixteen(high, tile + i + 16, &end);
                low = encode_sixteen(low, tile + i, &end);
            }
        } else {
            for (size_t i = stop - start; i > 0;) {
                i -= 16;
                low = encode_sixteen(low, tile + i, &end);
            }
        }
        stop = start;
    }
    _mm512_storeu_si512(states, low);
    if (lanes > 16) _mm512_storeu_si512(states + 16, high);
    return end;
}

/* The slots of four places. Loaded one by one, because AMD's processors take longer to gather them: in all of the decoder
   0.70 and 0.56 ns a token on Zen 5. */
static inline __m128i look_up_four(__m128i places, const uint32_t *slots) {
    const uint64_t low = (uint64_t)_mm_cvtsi128_si64(places), high = (uint64_t)_mm_extract_epi64(places, 1);
    const __m128i one = _mm_unpacklo_epi32(_mm_cvtsi32_si128((int)slots[(uint32_t)low]), _mm_cvtsi32_si128((int)slots[low >> 32]));
    const __m128i other = _mm_unpacklo_epi32(_mm_cvtsi32_si128((int)slots[(uint32_t)high]), _mm_cvtsi32_si128((int)slots[high >> 32]));
    return _mm_unpacklo_epi64(one, other);
}

static inline __m512i look_up_sixteen(__m512i places, const uint32_t *slots) {
    const __m256i low = _mm512_castsi512_si256(places), high = _mm512_extracti64x4_epi64(places, 1);
    const __m128i one = look_up_four(_mm256_castsi256_si128(low), slots);
    const __m128i two = look_up_four(_mm256_extracti128_si256(low, 1), slots);
    const __m128i three = look_up_four(_mm256_castsi256_si128(high), slots);
    const __m128i four = look_up_four(_mm256_extracti128_si256(high, 1), slots);
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set_m128i(two, one)), _mm256_set_m128i(four, three), 1);
}

static inline __m512i decode_sixteen(__m512i state, uint8_t *tokens, const uint8_t *tables, const uint32_t *slots,
                                     const uint8_t **at) {
    const __m512i low = _mm512_set1_epi32(FREQUENCIES - 1);
    __m512i index = _mm512_or_si512(_mm512_slli_epi32(sixteen_bytes(tables), FREQUENCY_BITS),
                                    _mm512_and_si512(state, low));
    __m512i slot = look_up_sixteen(index, slots);
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
    if (lanes < 16) return decode_plain(tokens, tables, n, slots, states, lanes, at, end);
    const size_t whole = n & ~(size_t)(lanes - 1);
    __m512i low = _mm512_loadu_si512(states), high = _mm512_loadu_si512(lanes > 16 ? states + 16 : states);
    if (lanes > 16) {
        for (size_t i = 0; i < whole; i += 32) {
            if (at > end) return NULL;
            low = decode_sixteen(low, tokens + i, tables + i, slots, &at);
            high = decode_sixteen(high, tokens + i + 16, tables + i + 16, slots, &at);
        }
        _mm512_storeu_si512(states + 16, high);
    } else {
        for (size_t i = 0; i < whole; i += 16) {
            if (at > end) return NULL;
            low = decode_sixteen(low, tokens + i, tables + i, slots, &at);
        }
    }
    _mm512_storeu_si512(states, low);
    return decode_plain(tokens + whole, tables + whole, n - whole, slots, states, lanes, at, end);
}

/* As `crc_folded`, 256 bytes at a time, where the machine multiplies four pairs at once: 57 GB/s in place of 16. */
#pragma GCC push_options
#pragma GCC target("vpclmulqdq")
static inline __m512i fold_four(__m512i bytes, __m512i by, __m512i more) {
    const __m512i low = _mm512_clmulepi64_epi128(bytes, by, 0x00), high = _mm512_clmulepi64_epi128(bytes, by, 0x11);
    return _mm512_ternarylogic_epi64(low, high, more, 0x96);
}

static uint32_t crc_by_256(uint32_t sum, const uint8_t *bytes, size_t n) {
    const __m512i by_256 = _mm512_broadcast_i32x4(_mm_set_epi64x(0x1322D1430, 0x11542778A));
    const __m512i by_64 = _mm512_broadcast_i32x4(_mm_set_epi64x(0x1C6E41596, 0x154442BD4));
    __m512i folded[4];
    for (int j = 0; j < 4; j++) folded[j] = _mm512_loadu_si512(bytes + 64 * j);
    folded[0] = _mm512_xor_si512(folded[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)~sum)));
    for (bytes += 256, n -= 256; n >= 256; bytes += 256, n -= 256) {
        for (int j = 0; j < 4; j++) folded[j] = fold_four(folded[j], by_256, _mm512_loadu_si512(bytes + 64 * j));
    }
    for (int j = 1; j < 4; j++) folded[j] = fold_four(folded[j - 1], by_64, folded[j]);
    uint8_t left[64];
    _mm512_storeu_si512(left, folded[3]);
    return crc_folded(crc_plain(~0u, left, sizeof left), bytes, n);
}
#pragma GCC pop_options

static uint32_t crc_avx512(uint32_t sum, const uint8_t *bytes, size_t n) {
    return n < 256 || !__builtin_cpu_supports("vpclmulqdq") ? crc_folded(sum, bytes, n) : crc_by_256(sum, bytes, n);
}

/* Sixteen numbers out of a stream of bits: where each begins is the sum of the lengths before it, which a product gives
   for eight at once (none is above 31: sums fit bytes). Four bytes from there on hold it, unless it is long. By pairs,
   one after the other, that takes twice as long. */
#pragma GCC push_options
#pragma GCC target("avx512vbmi")
#define EACH_BYTE UINT64_C(0x0101010101010101)
enum { NUMBERS_AT_ONCE = 16, NOT_LONG = 25 };

static inline __m512i sixteen_numbers(uint64_t low, uint64_t high, const uint8_t *lengths, __m512i bytes, unsigned bit,
                                      bool are_long) {
    const __m512i first_of_four = _mm512_broadcast_i32x4(_mm_set_epi32(0x0C0C0C0C, 0x08080808, 0x04040404, 0));
    const __m512i from = _mm512_mask_blend_epi32(0xFF00, _mm512_set1_epi32((int)bit),
                                                 _mm512_set1_epi32((int)(bit + (unsigned)(low >> 56))));
    const __m128i before = _mm_set_epi64x((long long)(high << 8), (long long)(low << 8));
    const __m512i begin = _mm512_add_epi32(_mm512_cvtepu8_epi32(before), from);
    const __m512i skip = _mm512_and_si512(begin, _mm512_set1_epi32(7));
    __m512i byte = _mm512_shuffle_epi8(_mm512_srli_epi32(begin, 3), first_of_four);
    byte = _mm512_add_epi8(byte, _mm512_set1_epi32(0x03020100));
    __m512i number = _mm512_srlv_epi32(_mm512_permutexvar_epi8(byte, bytes), skip);
    if (are_long) {
        byte = _mm512_add_epi8(byte, _mm512_set1_epi8(4));
        const __m512i fifth = _mm512_maskz_permutexvar_epi8(0x1111111111111111, byte, bytes);
        number = _mm512_or_si512(number, _mm512_sllv_epi32(fifth, _mm512_sub_epi32(_mm512_set1_epi32(32), skip)));
    }
    return _mm512_andnot_si512(_mm512_sllv_epi32(_mm512_set1_epi32(-1), sixteen_bytes(lengths)), number);
}

static size_t unpack32_by_16(uint32_t *restrict values, const uint8_t *restrict lengths, size_t n, const uint8_t *stream,
                             size_t bit) {
    size_t i = 0;
    for (; i + NUMBERS_AT_ONCE <= n; i += NUMBERS_AT_ONCE) {
        uint64_t one, other;
        memcpy(&one, lengths + i, sizeof one);
        memcpy(&other, lengths + i + 8, sizeof other);
        const uint64_t low = one * EACH_BYTE, high = other * EACH_BYTE, longer = (0x7F - NOT_LONG) * EACH_BYTE;
        const __m512i bytes = _mm512_loadu_si512(stream + bit / 8);
        const bool are_long = ((one + longer) | (other + longer)) & 0x80 * EACH_BYTE;
        const __m512i numbers = are_long ? sixteen_numbers(low, high, lengths + i, bytes, bit % 8, true)
                                         : sixteen_numbers(low, high, lengths + i, bytes, bit % 8, false);
        _mm512_storeu_si512(values + i, numbers);
        bit += (low >> 56) + (high >> 56);
    }
    return unpack32(values + i, lengths + i, n - i, stream, bit);
}

static size_t unpack16_by_16(uint16_t *restrict values, const uint8_t *restrict lengths, size_t n, const uint8_t *stream,
                             size_t bit) {
    size_t i = 0;
    if (unpack_bytes(values, lengths, n, stream, bit)) return bit + 8 * n;
    for (; i + NUMBERS_AT_ONCE <= n; i += NUMBERS_AT_ONCE) {
        uint64_t one, other;
        memcpy(&one, lengths + i, sizeof one);
        memcpy(&other, lengths + i + 8, sizeof other);
        const uint64_t low = one * EACH_BYTE, high = other * EACH_BYTE;
        const __m512i bytes = _mm512_loadu_si512(stream + bit / 8);
        const __m512i numbers = sixteen_numbers(low, high, lengths + i, bytes, bit % 8, false);
        _mm256_storeu_si256((__m256i *)(values + i), _mm512_cvtepi32_epi16(numbers));
        bit += (low >> 56) + (high >> 56);
    }
    return unpack16(values + i, lengths + i, n - i, stream, bit);
}
#pragma GCC pop_options

static size_t unpack32_avx512(uint32_t *restrict values, const uint8_t *restrict lengths, size_t n,
                              const uint8_t *stream, size_t bit) {
    return __builtin_cpu_supports("avx512vbmi") ? unpack32_by_16(values, lengths, n, stream, bit)
                                                : unpack32(values, lengths, n, stream, bit);
}

static size_t unpack16_avx512(uint16_t *restrict values, const uint8_t *restrict lengths, size_t n,
                              const uint8_t *stream, size_t bit) {
    return __builtin_cpu_supports("avx512vbmi") ? unpack16_by_16(values, lengths, n, stream, bit)
                                                : unpack16(values, lengths, n, stream, bit);
}

const Kernels kernels_avx512 = {.name = "avx512", LOOPS, .encode = encode_avx512, .decode = decode_avx512,
                                .pack32 = pack32, .pack16 = pack16, .unpack32 = unpack32_avx512, .unpack16 = unpack16_avx512,
                                .crc = crc_avx512};

#else
typedef int not_for_this_machine;
#endif
